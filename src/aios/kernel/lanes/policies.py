"""The simple policies. Each keeps waiting tickets and picks one: a decision is a value."""

from __future__ import annotations

import collections
import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter, itemgetter

from aios.abi.request import CLASSES, Class
from aios.kernel.lanes.lane import Dispatch, Policy, Ticket, least_loaded

PATIENCE_S: dict[Class, float] = {"interactive": 20.0, "standard": 120.0, "batch": 600.0}
"""How long a call of each class waits before it is overdue."""
AGEING_EVERY = 4
"""Of so many dispatches of a server one is for the oldest overdue call, whatever its class."""

AGED = "age"


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

    def __iter__(self) -> Iterator[Ticket]:
        kinds = (tickets.items() for tickets in self._kinds.values())
        return map(itemgetter(0), heapq.merge(*kinds, key=itemgetter(1)))


class Fifo:
    """Who came first is served first."""

    name = "fifo"

    def __init__(self) -> None:
        self._waiting = Queue()

    def add(self, ticket: Ticket) -> None:
        self._waiting.add(ticket)

    def remove(self, ticket: Ticket) -> None:
        self._waiting.remove(ticket)

    def pick(self, idle: dict[str, float], now: float) -> Dispatch | None:
        ticket = self._waiting.first(idle)
        if ticket is None:
            return None
        self.remove(ticket)
        return dispatch(ticket, idle, "arrival")

    def order(self, now: float) -> Iterable[Ticket]:
        return iter(self._waiting)


class Priority:
    """The higher class first, then who came first; after three dispatches of a server the oldest overdue call is next.

    Counted per server: else the turns of the overdue could all fall to a server that they cannot use.
    """

    name = "priority"

    def __init__(self) -> None:
        self._waiting: dict[Class, Queue] = {cls: Queue() for cls in CLASSES}
        self._since_aged: dict[str, int] = {}

    def add(self, ticket: Ticket) -> None:
        self._waiting[ticket.cls].add(ticket)

    def remove(self, ticket: Ticket) -> None:
        self._waiting[ticket.cls].remove(ticket)

    def pick(self, idle: dict[str, float], now: float) -> Dispatch | None:
        chosen = self._aged(idle, now) or self._highest(idle)
        if chosen is not None:
            server = chosen.server
            self._since_aged[server] = 0 if chosen.reason == AGED else self._since_aged.get(server, 0) + 1
            self.remove(chosen.ticket)
        return chosen

    def _highest(self, idle: dict[str, float]) -> Dispatch | None:
        for cls, queue in self._waiting.items():
            ticket = queue.first(idle)
            if ticket is not None:
                return dispatch(ticket, idle, f"class {cls}")
        return None

    def _aged(self, idle: dict[str, float], now: float) -> Dispatch | None:
        """The oldest overdue ticket, on a server whose turn for one has come."""
        due = {name: load for name, load in idle.items() if self._since_aged.get(name, 0) >= AGEING_EVERY - 1}
        if not due:
            return None
        oldest: Ticket | None = None
        for queue in self._waiting.values():
            first = queue.first(due)
            if first is not None and overdue(first, now) and (oldest is None or first.asked < oldest.asked):
                oldest = first
        return dispatch(oldest, due, AGED) if oldest is not None else None

    def order(self, now: float) -> Iterable[Ticket]:
        """As of one server; with several, ageing may exchange neighbours."""
        since = max(self._since_aged.values(), default=0)
        late, by_class = self._overdue(now), itertools.chain.from_iterable(self._waiting[cls] for cls in CLASSES)
        served: set[Ticket] = set()
        while True:
            ticket = next((t for t in late if t not in served), None) if since >= AGEING_EVERY - 1 else None
            since = 0 if ticket is not None else since + 1
            ticket = ticket or next((t for t in by_class if t not in served), None)
            if ticket is None:
                return
            served.add(ticket)
            yield ticket

    def _overdue(self, now: float) -> Iterator[Ticket]:
        """The overdue of all classes, the oldest first."""
        late = (itertools.takewhile(lambda ticket: overdue(ticket, now), queue) for queue in self._waiting.values())
        return heapq.merge(*late, key=attrgetter("asked"))


def overdue(ticket: Ticket, now: float) -> bool:
    """Whether a ticket has waited for longer than those of its class should."""
    return now - ticket.asked > PATIENCE_S[ticket.cls]


def dispatch(ticket: Ticket, idle: dict[str, float], reason: str) -> Dispatch:
    """The decision for a ticket: on the idle server with the least load."""
    server = least_loaded(idle, ticket)
    assert server is not None, "none of the idle servers can do it"
    return Dispatch(ticket, server, reason)


POLICIES: dict[str, type[Policy]] = {"fifo": Fifo, "priority": Priority}
"""By the name that the configuration uses."""
