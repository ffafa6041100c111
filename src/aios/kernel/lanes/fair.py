"""The policy `fair`: who was served least is next, counted in weighted tokens, whatever anybody's number of calls.

Sheng et al. 2024, "Fairness in Serving Large Language Models" (the virtual token counter), with the virtual time of Goyal et al.
1996, "Start-time Fair Queueing". What a call will cost is not known when it starts: its share is charged what its calls cost on
average, and the difference when it has ended.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from aios.kernel.lanes.policy import Dispatch, Load, Policy, Ticket
from aios.kernel.lanes.queue import Queue, dispatch

UNKNOWN_COST = 1.0
"""Weighted tokens that a call is taken to cost before any has ended. Little: whoever comes meanwhile begins where others were
charged to, and what those get back would let them go first for as long."""
LEARNING = 0.1
"""Of a mean, what the last call counts."""
KEPT_IDLE = 64
"""Shares that are remembered without having anything to do."""


def cost_of(input_tokens: int, cached_tokens: int, output_tokens: int) -> float:
    """What a call came to, in weighted tokens: one that was read counts once, one that was known 0.1 times, a new one twice."""
    return input_tokens - cached_tokens + 0.1 * cached_tokens + 2 * output_tokens


LEAST_SERVED = "least served"


class Fair(Policy):
    """Each share of the work gets as much as every other one that wants it, times its weight.

    `weights`: by agent, 1 where nothing is said. A share that had nothing to do begins where the one stands that was served last:
    idling earns nothing, and who makes one call now and then is next. Of one share's calls the first comes first.
    """

    name = "fair"

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = weights or {}
        self._waiting: dict[str, Queue] = {}
        self._places: dict[str, int] = {}
        self._line: list[tuple[float, int, str]] = []
        self._count = itertools.count()
        self._running: Counter[str] = Counter()
        self._served: dict[str, float] = {}
        self._charged: dict[Ticket, float] = {}
        self._means: dict[str, float] = {}
        self._mean = 0.0
        self._floor = 0.0

    def add(self, ticket: Ticket) -> None:
        share = ticket.share
        if share not in self._waiting:
            self._lift(share)
            self._waiting[share], self._places[share] = Queue(), next(self._count)
            self._line_up(share)
        self._waiting[share].add(ticket)

    def remove(self, ticket: Ticket) -> None:
        queue = self._waiting[ticket.share]
        queue.remove(ticket)
        if not queue:
            del self._waiting[ticket.share], self._places[ticket.share]

    def pick(self, idle: dict[str, float], now: float, kept: Collection[str] = ()) -> Dispatch | None:
        passed = []
        ticket = None
        while self._line and ticket is None:
            place = heapq.heappop(self._line)
            if self._is_current(place):
                passed.append(place)
                ticket = self._waiting[place[2]].first(idle)
        for place in passed:
            heapq.heappush(self._line, place)
        if ticket is None:
            return None
        self.remove(ticket)
        if ticket not in self._charged:  # else it goes on
            self._charge(ticket)
        return dispatch(ticket, idle, LEAST_SERVED)

    def started(self, ticket: Ticket) -> None:
        if ticket not in self._charged:  # it was not picked: a server was free
            self._lift(ticket.share)
            self._charge(ticket)

    def settled(self, ticket: Ticket, cost: float, at_least: bool = False) -> None:
        estimate = self._charged.pop(ticket, None)
        if estimate is None:
            return  # it had its turn of another policy
        share = ticket.share
        self._running[share] -= 1
        if at_least:
            cost = max(cost, estimate)
        elif cost:
            self._mean = self._mean or cost
            self._means[share] = self._means.get(share, self._mean)
            self._means[share] += LEARNING * (cost - self._means[share])
            self._mean += LEARNING * (cost - self._mean)
        self._served[share] += (cost - estimate) / self._weight(share)
        self._line_up(share)
        if not self._charged and not self._waiting:
            self._start_afresh()

    def load(self, ticket: Ticket) -> Load:
        """Its share's calls, at what those cost, in the part of the lane that its share gets beside the others."""
        share, mine = ticket.share, self._weight(ticket.share)
        own = self._waiting.get(share)
        others = sum(self._weight(other) for other in self._waiting if other != share)
        cost = self._estimate(share) / self._mean if self._mean > 0 else 1.0
        return Load(cost * own.beside(ticket) if own is not None else 0.0, mine / (mine + others))

    def order(self, now: float) -> Iterable[Ticket]:
        return (picked.ticket for picked in self.foresee(now))

    def foresee(self, now: float) -> Iterable[Dispatch]:
        """As it would be if each call cost what is expected of it."""
        heads = []
        for share, queue in self._waiting.items():
            tickets = iter(queue)
            heads.append((self._served[share], self._places[share], next(tickets), tickets))
        heapq.heapify(heads)
        while heads:
            served, place, ticket, tickets = heapq.heappop(heads)
            yield Dispatch(ticket, "", LEAST_SERVED)
            following = next(tickets, None)
            if following is not None:
                served += self._estimate(ticket.share) / self._weight(ticket.share)
                heapq.heappush(heads, (served, place, following, tickets))

    def _line_up(self, share: str) -> None:
        """A share that waits stands in line by what it was served, and of equals the one that has waited longer first.

        Where it stood before stays in the line until it is met there, or until most of the line is such.
        """
        if share in self._waiting:
            heapq.heappush(self._line, (self._served[share], self._places[share], share))
            if len(self._line) > 2 * len(self._waiting) + KEPT_IDLE:
                self._line = [(self._served[share], place, share) for share, place in self._places.items()]
                heapq.heapify(self._line)

    def _is_current(self, place: tuple[float, int, str]) -> bool:
        served, number, share = place
        return self._places.get(share) == number and self._served[share] == served

    def _lift(self, share: str) -> None:
        """A share has something to do again: it stands no lower than who was served last did then."""
        if len(self._served) > 2 * len(self._waiting) + KEPT_IDLE:
            self._forget_idle()
        self._served[share] = max(self._served.get(share, 0.0), self._floor)

    def _charge(self, ticket: Ticket) -> None:
        self._floor = self._served[ticket.share]  # lower than it was where calls came to less than was expected of them
        estimate = self._charged[ticket] = self._estimate(ticket.share)
        self._running[ticket.share] += 1
        self._served[ticket.share] += estimate / self._weight(ticket.share)
        self._line_up(ticket.share)

    def _estimate(self, share: str) -> float:
        return self._means.get(share, self._mean or UNKNOWN_COST)

    def _weight(self, share: str) -> float:
        return self._weights.get(share.rpartition("/")[2], 1.0)

    def _forget_idle(self) -> None:
        """Forget those that have nothing to do and were served least; who comes anew gains nothing by that."""
        idle = [share for share in self._served if share not in self._waiting and not self._running[share]]
        idle.sort(key=lambda share: self._served[share])
        for share in idle[: -KEPT_IDLE // 2]:
            self._floor = max(self._floor, self._served.pop(share))
            self._means.pop(share, None)
            del self._running[share]

    def _start_afresh(self) -> None:
        """Nobody runs and nobody waits: nobody was kept from anything, so nobody is owed anything."""
        self._served.clear()
        self._running.clear()
        self._line.clear()
        self._floor = 0.0
        if len(self._means) > KEPT_IDLE:
            self._means.clear()
