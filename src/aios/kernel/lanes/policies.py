"""The simple policies. Each keeps waiting tickets and picks one: a decision is a value."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator

from aios.abi.request import CLASSES, Class
from aios.kernel.lanes.lane import Dispatch, Policy, Ticket, least_loaded

PATIENCE_S: dict[Class, float] = {"interactive": 20.0, "standard": 120.0, "batch": 600.0}
"""How long a call of each class waits before it is overdue."""
AGEING_EVERY = 4
"""Of so many dispatches of a server one is for the oldest overdue call, whatever its class."""

AGED = "age"


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

    def order(self, now: float) -> Iterable[Ticket]:
        return iter(self._waiting)


class Priority:
    """The higher class first, then who came first; after three dispatches of a server the oldest overdue call is next.

    Counted per server: else the turns of the overdue could all fall to a server that they cannot use.
    """

    name = "priority"

    def __init__(self) -> None:
        self._waiting: dict[Class, dict[Ticket, None]] = {cls: {} for cls in CLASSES}
        self._since_aged: dict[str, int] = {}

    def add(self, ticket: Ticket) -> None:
        self._waiting[ticket.cls][ticket] = None

    def remove(self, ticket: Ticket) -> None:
        del self._waiting[ticket.cls][ticket]

    def pick(self, idle: dict[str, float], now: float) -> Dispatch | None:
        due = {name: load for name, load in idle.items() if self._since_aged.get(name, 0) >= AGEING_EVERY - 1}
        dispatch = first_able(self._overdue(now), due, AGED) if due else None
        for cls in CLASSES:
            dispatch = dispatch or first_able(self._waiting[cls], idle, f"class {cls}")
        if dispatch is not None:
            server = dispatch.server
            self._since_aged[server] = 0 if dispatch.reason == AGED else self._since_aged.get(server, 0) + 1
            self.remove(dispatch.ticket)
        return dispatch

    def order(self, now: float) -> Iterable[Ticket]:
        """As of one server; with several, ageing may exchange neighbours."""
        since = max(self._since_aged.values(), default=0)
        overdue, by_class = self._overdue(now), itertools.chain.from_iterable(self._waiting[cls] for cls in CLASSES)
        served: set[Ticket] = set()
        while True:
            ticket = next((t for t in overdue if t not in served), None) if since >= AGEING_EVERY - 1 else None
            since = 0 if ticket is not None else since + 1
            ticket = ticket or next((t for t in by_class if t not in served), None)
            if ticket is None:
                return
            served.add(ticket)
            yield ticket

    def _overdue(self, now: float) -> Iterator[Ticket]:
        """The overdue of all classes, the oldest first."""
        late = (
            itertools.takewhile(lambda ticket, cls=cls: now - ticket.asked > PATIENCE_S[cls], queue)  # type: ignore[misc]
            for cls, queue in self._waiting.items()
        )
        return heapq.merge(*late, key=lambda ticket: ticket.asked)


def first_able(waiting: Iterable[Ticket], idle: dict[str, float], reason: str) -> Dispatch | None:
    """The first ticket that an idle server can do."""
    for ticket in waiting:
        server = least_loaded(idle, ticket)
        if server is not None:
            return Dispatch(ticket, server, reason)
    return None


POLICIES: dict[str, type[Policy]] = {"fifo": Fifo, "priority": Priority}
"""By the name that the configuration uses."""
