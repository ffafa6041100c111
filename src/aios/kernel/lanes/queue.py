"""What policies are made of: tickets in the order in which they came, and a decision as a value."""

from __future__ import annotations

import collections
import heapq
import itertools
from collections.abc import Iterator, Mapping
from operator import itemgetter

from aios.kernel.lanes.lane import Dispatch, Ticket, least_loaded


class Queue:
    """Tickets in the order in which they came.

    They are kept apart by the servers that can do them: what is next is found among the first of each kind, however many wait
    for servers that are full.
    """

    __slots__ = ("_count", "_kinds")

    def __init__(self) -> None:
        self._kinds: dict[frozenset[str], collections.OrderedDict[Ticket, int]] = {}
        self._count = itertools.count()

    def add(self, ticket: Ticket) -> None:
        self._kinds.setdefault(ticket.feasible, collections.OrderedDict())[ticket] = next(self._count)

    def remove(self, ticket: Ticket) -> None:
        kind = self._kinds[ticket.feasible]
        del kind[ticket]
        if not kind:
            del self._kinds[ticket.feasible]

    def first(self, idle: Mapping[str, float]) -> Ticket | None:
        """The first ticket that one of the idle servers can do."""
        first, first_number = None, 0
        for servers, tickets in self._kinds.items():
            if not servers.isdisjoint(idle):
                ticket, number = next(iter(tickets.items()))
                if first is None or number < first_number:
                    first, first_number = ticket, number
        return first

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def __iter__(self) -> Iterator[Ticket]:
        kinds = (tickets.items() for tickets in self._kinds.values())
        return map(itemgetter(0), heapq.merge(*kinds, key=itemgetter(1)))


def dispatch(ticket: Ticket, idle: dict[str, float], reason: str) -> Dispatch:
    """The decision for a ticket: on the idle server with the least load."""
    server = least_loaded(idle, ticket)
    assert server is not None, "none of the idle servers can do it"
    return Dispatch(ticket, server, reason)
