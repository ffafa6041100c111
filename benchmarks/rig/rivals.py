"""What the kernel's policies are measured against: two of the literature, one that knows the future, and the classic AIOS.

They look into the simulation for what a kernel does not know, or does not keep. Each is for one core.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable

from aios.kernel.lanes.lane import Turn
from aios.kernel.lanes.policies import policy_of
from aios.kernel.lanes.policy import Dispatch, Policy, Ticket
from aios.kernel.lanes.queue import Queue, dispatch
from benchmarks.rig.mixes import SAID_COST
from benchmarks.rig.simulator import LaneCore, Simulation


class Least(Policy):
    """Who has the least rank when it comes is first, and of equals who came first."""

    name = "least"

    def __init__(self, rank: Callable[[Ticket], float]) -> None:
        self._rank = rank
        self._waiting: list[tuple[float, int, Ticket]] = []
        self._arrivals = itertools.count()

    def add(self, ticket: Ticket) -> None:
        heapq.heappush(self._waiting, (self._rank(ticket), next(self._arrivals), ticket))

    def pick(self, idle: dict[str, float], now: float, kept: Collection[str] = ()) -> Dispatch | None:
        if not self._waiting:
            return None
        rank, _, ticket = heapq.heappop(self._waiting)
        return dispatch(ticket, idle, f"rank {rank:g}")

    def started(self, ticket: Ticket) -> None:
        """It does not matter."""

    def settled(self, ticket: Ticket, cost: float, at_least: bool = False) -> None:
        """It does not matter."""

    def remove(self, ticket: Ticket) -> None:
        self._waiting = [one for one in self._waiting if one[2] is not ticket]
        heapq.heapify(self._waiting)

    def order(self, now: float) -> Iterable[Ticket]:
        return [ticket for _, _, ticket in sorted(self._waiting)]


def shortest_remaining(simulation: Simulation) -> Least:
    """The program that will need the least service still: nobody can know that."""
    return Least(lambda ticket: simulation.progress_of(ticket).left_s)


class Vtc(Policy):
    """The virtual token counter as published (Sheng et al. 2024): the tenant that was served the fewest weighted tokens is next.

    What is read is charged at once, what is said as it is said. Who comes back stands no lower than the least of those who wait.
    """

    name = "vtc"

    def __init__(self, simulation: Simulation) -> None:
        self._calls = simulation.calls
        self._served: defaultdict[str, float] = defaultdict(float)
        self._waiting: dict[str, Queue] = {}
        self._running: dict[Ticket, float] = {}

    def add(self, ticket: Ticket) -> None:
        tenant = ticket.tenant
        if tenant not in self._waiting:
            least = min((self._served[other] for other in self._waiting), default=0.0)
            self._served[tenant] = max(self._served[tenant], least)
            self._waiting[tenant] = Queue()
        self._waiting[tenant].add(ticket)

    def pick(self, idle: dict[str, float], now: float, kept: Collection[str] = ()) -> Dispatch | None:
        if not self._waiting:
            return None
        served = self._served.copy()
        for ticket, began_s in self._running.items():
            served[ticket.tenant] += SAID_COST * self._calls[ticket].said_by(now - began_s)
        least = min(self._waiting, key=served.__getitem__)
        first = self._waiting[least].first(idle)
        assert first is not None, "there is one core"
        self.remove(first)
        self._start(first, now)
        return dispatch(first, idle, f"least served, {served[least]:.0f}")

    def started(self, ticket: Ticket) -> None:
        if ticket not in self._running:  # it was not picked: a server was free
            self._start(ticket, ticket.asked)

    def _start(self, ticket: Ticket, now: float) -> None:
        self._running[ticket] = now
        self._served[ticket.tenant] += self._calls[ticket].input_tokens

    def settled(self, ticket: Ticket, cost: float, at_least: bool = False) -> None:
        del self._running[ticket]
        self._served[ticket.tenant] += cost - self._calls[ticket].input_tokens

    def remove(self, ticket: Ticket) -> None:
        queue = self._waiting[ticket.tenant]
        queue.remove(ticket)
        if not queue:
            del self._waiting[ticket.tenant]

    def order(self, now: float) -> Iterable[Ticket]:
        return itertools.chain.from_iterable(self._waiting.values())


class Plas(Policy):
    """Program-level least attained service (Autellix, Luo et al. 2025): levels that double in the service that a program had.

    Who waited for `STARVING` times as long as it was served goes first.
    """

    name = "plas"
    FIRST_LEVEL_S, LEVELS, STARVING, STARVING_S = 8.0, 10, 8.0, 30.0

    def __init__(self, simulation: Simulation) -> None:
        self._look = simulation.progress_of
        self._levels: list[deque[Ticket]] = [deque() for _ in range(self.LEVELS + 1)]

    def add(self, ticket: Ticket) -> None:
        progress = self._look(ticket)
        starves = progress.served_s > 0 and progress.waited_s / progress.served_s >= self.STARVING
        self._levels[0 if starves else self._level(progress.served_s)].append(ticket)

    def _level(self, served_s: float) -> int:
        return min(self.LEVELS, 0 if served_s < self.FIRST_LEVEL_S else int(math.log2(served_s / self.FIRST_LEVEL_S)) + 1)

    def pick(self, idle: dict[str, float], now: float, kept: Collection[str] = ()) -> Dispatch | None:
        starving = (level for level in self._levels[1:] if level and self._starves(level[0], now))
        level = next(starving, None) or next(filter(None, self._levels), None)
        return dispatch(level.popleft(), idle, "attained") if level else None

    def _starves(self, ticket: Ticket, now: float) -> bool:
        progress, waits_s = self._look(ticket), now - ticket.asked
        return waits_s > self.STARVING_S and (progress.waited_s + waits_s) / max(progress.served_s, 1.0) >= self.STARVING

    def started(self, ticket: Ticket) -> None:
        """It does not matter."""

    def settled(self, ticket: Ticket, cost: float, at_least: bool = False) -> None:
        """What it had is looked at when it comes again."""

    def remove(self, ticket: Ticket) -> None:
        for level in self._levels:
            if ticket in level:
                level.remove(ticket)

    def order(self, now: float) -> Iterable[Ticket]:
        return itertools.chain.from_iterable(self._levels)


class BatchBarrier:
    """The loop of the classic AIOS, as its source reads (agiresearch/AIOS, `FIFOScheduler`).

    It sleeps, takes all that waits, runs it, and gives no result before the slowest has ended. A model of it, not a run; with as
    many slots as the others have.
    """

    INTERVAL_S = 1.1

    def __init__(self, slots: int) -> None:
        self._core = LaneCore(policy_of("fifo", {}), slots)
        self._next: deque[asyncio.Future[None]] = deque()
        self._some = asyncio.Event()
        self._left = 0
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Batch after batch, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(self.INTERVAL_S)
            self._some.clear()
            self._over.clear()
            batch, self._next = self._next, deque()
            self._left = len(batch)
            for joined in batch:
                joined.set_result(None)
            await self._over.wait()

    async def turn(self, ticket: Ticket) -> Turn:
        joined = asyncio.get_running_loop().create_future()
        self._next.append(joined)
        self._some.set()
        await joined
        return await self._core.turn(ticket)

    async def end(self, turn: Turn, cost: float) -> None:
        await self._core.end(turn, cost)
        self._left -= 1
        if not self._left:
            self._over.set()
        await self._over.wait()
