"""What policies are made of: tickets in the order in which they came, and a decision as a value."""

from __future__ import annotations

import collections
import heapq
import itertools
from collections.abc import Collection, Iterator
from operator import itemgetter

from aios.kernel.lanes.policy import Dispatch, Ticket, least_loaded

Place = tuple[int, float]
"""Where a ticket stands; the least is first."""


class Queue:
    """Tickets in the order in which they came.

    Those that stand back and wait to go on are before all others. They are kept apart by the servers that can do them: what is
    next is found among the first of each kind, however many wait for servers that are full.
    """

    __slots__ = ("_count", "_kinds")

    def __init__(self) -> None:
        self._kinds: dict[frozenset[str], collections.OrderedDict[Ticket, Place]] = {}
        self._count = itertools.count()

    def add(self, ticket: Ticket) -> None:
        kind = self._kinds.setdefault(ticket.feasible, collections.OrderedDict())
        place = kind[ticket] = (-1, ticket.asked) if ticket.frozen else (0, next(self._count))
        if ticket.frozen:
            before = [other for other, at in itertools.takewhile(lambda each: each[1][0] < 0, kind.items()) if at < place]
            for other in (ticket, *reversed(before)):
                kind.move_to_end(other, last=False)

    def remove(self, ticket: Ticket) -> None:
        kind = self._kinds[ticket.feasible]
        del kind[ticket]
        if not kind:
            del self._kinds[ticket.feasible]

    def first(self, idle: Collection[str]) -> Ticket | None:
        """The first ticket that one of the idle servers can do."""
        first, first_place = None, (0, 0.0)
        for servers, tickets in self._kinds.items():
            if not servers.isdisjoint(idle):
                ticket, place = next(iter(tickets.items()))
                if first is None or place < first_place:
                    first, first_place = ticket, place
        return first

    def beside(self, ticket: Ticket) -> int:
        """How many tickets wait that a server can do which can do this one too."""
        return sum(len(tickets) for servers, tickets in self._kinds.items() if not servers.isdisjoint(ticket.feasible))

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def __iter__(self) -> Iterator[Ticket]:
        kinds = (tickets.items() for tickets in self._kinds.values())
        return map(itemgetter(0), heapq.merge(*kinds, key=itemgetter(1)))


def dispatch(ticket: Ticket, idle: dict[str, float], reason: str) -> Dispatch:
    """The decision for a ticket: on the idle server with the least load."""
    if len(idle) == 1:
        return Dispatch(ticket, next(iter(idle)), reason, idle)
    server = least_loaded(idle, ticket)
    assert server is not None, "none of the idle servers can do it"
    return Dispatch(ticket, server, reason, idle)
