"""The policy `round-robin`: one call of each process in turn."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator

from aios.kernel.lanes.policy import Dispatch, Load, Policy, Ticket
from aios.kernel.lanes.queue import Queue, dispatch

ITS_TURN = "its turn"


class RoundRobin(Policy):
    """Who had a turn goes behind all the others that wait: between two of its turns each of them has one.

    A process whose next call no idle server can do keeps its place. Where calls can stand back, a turn is a quantum long.
    """

    name = "round-robin"

    def __init__(self) -> None:
        self._waiting: collections.OrderedDict[str, Queue] = collections.OrderedDict()

    def add(self, ticket: Ticket) -> None:
        self._waiting.setdefault(ticket.pid, Queue()).add(ticket)

    def remove(self, ticket: Ticket) -> None:
        queue = self._waiting[ticket.pid]
        queue.remove(ticket)
        if not queue:
            del self._waiting[ticket.pid]

    def pick(self, idle: dict[str, float], now: float, kept: Collection[str] = ()) -> Dispatch | None:
        for queue in self._waiting.values():
            ticket = queue.first(idle)
            if ticket is not None:
                self.remove(ticket)
                self.started(ticket)
                return dispatch(ticket, idle, ITS_TURN)
        return None

    def started(self, ticket: Ticket) -> None:
        if ticket.pid in self._waiting:
            self._waiting.move_to_end(ticket.pid)

    def yields(self, ticket: Ticket, server: str, now: float) -> bool:
        return any(pid != ticket.pid and queue.first((server,)) is not None for pid, queue in self._waiting.items())

    def load(self, ticket: Ticket) -> Load:
        own = self._waiting.get(ticket.pid)
        processes = len(self._waiting) + (own is None)
        return Load(own.beside(ticket) if own is not None else 0.0, 1 / processes)

    def foresee(self, now: float) -> Iterable[Dispatch]:
        return (Dispatch(ticket, "", ITS_TURN) for ticket in self.order(now))

    def order(self, now: float) -> Iterable[Ticket]:
        rounds: list[Iterator[Ticket]] = [iter(queue) for queue in self._waiting.values()]
        while rounds:
            left = []
            for tickets in rounds:
                ticket = next(tickets, None)
                if ticket is not None:
                    yield ticket
                    left.append(tickets)
            rounds = left
