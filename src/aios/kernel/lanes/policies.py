"""The simple policies. Each keeps waiting tickets and picks one: a decision is a value."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from aios.abi.request import CLASSES, Class
from aios.kernel.lanes.lane import Dispatch, Policy, Ticket, least_loaded

PATIENCE_S: dict[Class, float] = {"interactive": 20.0, "standard": 120.0, "batch": 600.0}
"""How long a call of each class waits before it is overdue."""
AGEING_EVERY = 4
"""Every so many dispatches the oldest overdue call goes first, whatever its class."""


class Fifo:
    """Who came first is served first."""

    name = "fifo"

    def __init__(self) -> None:
        self._waiting: dict[Ticket, None] = {}

    def add(self, ticket: Ticket) -> None:
        self._waiting[ticket] = None

    def remove(self, ticket: Ticket) -> None:
        del self._waiting[ticket]

    def pick(self, idle: dict[str, float], now: float) -> Dispatch | None:
        dispatch = first_able(self._waiting, idle, "arrival")
        if dispatch is not None:
            self.remove(dispatch.ticket)
        return dispatch

    def order(self) -> Iterable[Ticket]:
        return iter(self._waiting)


class Priority:
    """The higher class first, then who came first; every fourth dispatch serves the oldest overdue call."""

    name = "priority"

    def __init__(self) -> None:
        self._waiting: dict[Class, dict[Ticket, None]] = {cls: {} for cls in CLASSES}
        self._dispatches = 0

    def add(self, ticket: Ticket) -> None:
        self._waiting[ticket.cls][ticket] = None

    def remove(self, ticket: Ticket) -> None:
        del self._waiting[ticket.cls][ticket]

    def pick(self, idle: dict[str, float], now: float) -> Dispatch | None:
        ageing = (self._dispatches + 1) % AGEING_EVERY == 0
        dispatch = first_able(self._overdue(now), idle, "age") if ageing else None
        for cls in CLASSES:
            dispatch = dispatch or first_able(self._waiting[cls], idle, f"class {cls}")
        if dispatch is not None:
            self._dispatches += 1
            self.remove(dispatch.ticket)
        return dispatch

    def order(self) -> Iterable[Ticket]:
        return itertools.chain.from_iterable(self._waiting[cls] for cls in CLASSES)

    def _overdue(self, now: float) -> list[Ticket]:
        """The oldest of each class, if it is overdue, oldest first."""
        heads = [next(iter(queue)) for queue in self._waiting.values() if queue]
        return sorted((t for t in heads if now - t.asked > PATIENCE_S[t.cls]), key=lambda t: t.asked)


def first_able(waiting: Iterable[Ticket], idle: dict[str, float], reason: str) -> Dispatch | None:
    """The first ticket that an idle server can do."""
    for ticket in waiting:
        server = least_loaded(idle, ticket)
        if server is not None:
            return Dispatch(ticket, server, reason)
    return None


POLICIES: dict[str, type[Policy]] = {"fifo": Fifo, "priority": Priority}
"""By the name that the configuration uses."""
