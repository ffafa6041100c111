"""The policies by name, and the simple ones of them. Each keeps waiting tickets and picks one: a decision is a value."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from operator import attrgetter

from aios.abi.errors import Invalid
from aios.abi.request import CLASSES, Class, is_above
from aios.abi.wire import nearest
from aios.kernel.lanes.ageing import AGED, AGEING_EVERY, overdue
from aios.kernel.lanes.elas import Elas
from aios.kernel.lanes.fair import Fair
from aios.kernel.lanes.policy import Dispatch, Load, Policy, Ticket
from aios.kernel.lanes.queue import Queue, dispatch
from aios.kernel.lanes.round_robin import RoundRobin

ARRIVAL = "arrival"


class Fifo(Policy):
    """Who came first is served first."""

    name = "fifo"

    def __init__(self) -> None:
        self._waiting = Queue()

    def add(self, ticket: Ticket) -> None:
        self._waiting.add(ticket)

    def remove(self, ticket: Ticket) -> None:
        self._waiting.remove(ticket)

    def pick(self, idle: dict[str, float], now: float, kept: Collection[str] = ()) -> Dispatch | None:
        ticket = self._waiting.first(idle)
        if ticket is None:
            return None
        self.remove(ticket)
        return dispatch(ticket, idle, ARRIVAL)

    def load(self, ticket: Ticket) -> Load:
        return Load(self._waiting.beside(ticket), 1.0)

    def order(self, now: float) -> Iterable[Ticket]:
        return iter(self._waiting)

    def foresee(self, now: float) -> Iterable[Dispatch]:
        return (Dispatch(ticket, "", ARRIVAL) for ticket in self._waiting)


class Priority(Policy):
    """The higher class first, then who came first; after three dispatches of a server the oldest overdue call is next.

    Counted per server: else the turns of the overdue could all fall to a server that they cannot use.
    Where calls can stand back, those of other classes do for interactive ones.
    """

    name = "priority"
    preempts = True

    def __init__(self) -> None:
        self._waiting: dict[Class, Queue] = {cls: Queue() for cls in CLASSES}
        self._since_aged: dict[str, int] = {}

    def add(self, ticket: Ticket) -> None:
        self._waiting[ticket.cls].add(ticket)

    def remove(self, ticket: Ticket) -> None:
        self._waiting[ticket.cls].remove(ticket)

    def urgent(self, ticket: Ticket) -> bool:
        return ticket.cls == "interactive"

    def yields(self, ticket: Ticket, server: str, now: float) -> bool:
        """To a call of a higher class; not when it was overdue itself."""
        above = CLASSES[: CLASSES.index(ticket.cls)]
        return not overdue(ticket, ticket.cls, now) and any(self._waiting[cls].first((server,)) is not None for cls in above)

    def pick(self, idle: dict[str, float], now: float, kept: Collection[str] = ()) -> Dispatch | None:
        for_all = {name: load for name, load in idle.items() if name not in kept} if kept else idle
        chosen = self._aged(for_all, now) or self._highest(idle, for_all)
        if chosen is not None:
            server = chosen.server
            self._since_aged[server] = 0 if chosen.reason == AGED else self._since_aged.get(server, 0) + 1
            self.remove(chosen.ticket)
        return chosen

    def _highest(self, idle: dict[str, float], for_all: dict[str, float]) -> Dispatch | None:
        for cls, queue in self._waiting.items():
            usable = idle if cls == "interactive" else for_all
            ticket = queue.first(usable)
            if ticket is not None:
                return dispatch(ticket, usable, f"class {cls}")
        return None

    def _aged(self, idle: dict[str, float], now: float) -> Dispatch | None:
        """The oldest overdue ticket, on a server whose turn for one has come."""
        due = {name: load for name, load in idle.items() if self._since_aged.get(name, 0) >= AGEING_EVERY - 1}
        if not due:
            return None
        oldest: Ticket | None = None
        for queue in self._waiting.values():
            first = queue.first(due)
            if first is not None and overdue(first, first.cls, now) and (oldest is None or first.asked < oldest.asked):
                oldest = first
        return dispatch(oldest, due, AGED) if oldest is not None else None

    def load(self, ticket: Ticket) -> Load:
        return Load(sum(self._waiting[cls].beside(ticket) for cls in CLASSES if not is_above(ticket.cls, cls)), 1.0)

    def order(self, now: float) -> Iterable[Ticket]:
        return (picked.ticket for picked in self.foresee(now))

    def foresee(self, now: float) -> Iterable[Dispatch]:
        """As of one server; with several, ageing may exchange neighbours."""
        since = max(self._since_aged.values(), default=0)
        late, by_class = self._overdue(now), itertools.chain.from_iterable(self._waiting[cls] for cls in CLASSES)
        served: set[Ticket] = set()
        while True:
            ticket = next((t for t in late if t not in served), None) if since >= AGEING_EVERY - 1 else None
            reason, since = (AGED, 0) if ticket is not None else ("", since + 1)
            ticket = ticket or next((t for t in by_class if t not in served), None)
            if ticket is None:
                return
            served.add(ticket)
            yield Dispatch(ticket, "", reason or f"class {ticket.cls}")

    def _overdue(self, now: float) -> Iterator[Ticket]:
        """The overdue of all classes, the oldest first."""
        late = (itertools.takewhile(lambda ticket: overdue(ticket, ticket.cls, now), queue) for queue in self._waiting.values())
        return heapq.merge(*late, key=attrgetter("asked"))


POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (Fifo, RoundRobin, Priority, Fair, Elas)}
"""By the name that the configuration uses."""


def policy_of(name: str, weights: Mapping[str, float]) -> Policy:
    """A new policy. `weights`: of shares, for the one that has such. Raises `Invalid` with the nearest name."""
    if name not in POLICIES:
        known = ", ".join(f"`{known}`" for known in POLICIES)
        raise Invalid(f"`policy` must be one of {known}{nearest(name, POLICIES)}", field="policy")
    return Fair(weights) if name == Fair.name else POLICIES[name]()
