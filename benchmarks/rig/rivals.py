"""What the kernel's policies are measured against: one of the literature, one that knows the future, and the classic AIOS."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable

from aios.abi.request import CLASSES
from aios.kernel.lanes.lane import Dispatch, Policy, Ticket, Turn
from aios.kernel.lanes.policies import Fifo
from aios.kernel.lanes.queue import dispatch
from aios.kernel.programs import Program
from benchmarks.rig.simulator import LaneCore, Progress

Look = Callable[[Program], Progress]
"""How a rival sees what the kernel does not: the progress of a program."""


class Least(Policy):
    """Who has the least rank when it comes is first, and of equals who came first. For one core."""

    name = "least"

    def __init__(self, rank: Callable[[Ticket], float]) -> None:
        self._rank = rank
        self._waiting: list[tuple[float, int, Ticket]] = []
        self._arrivals = itertools.count()

    def add(self, ticket: Ticket) -> None:
        heapq.heappush(self._waiting, (self._rank(ticket), next(self._arrivals), ticket))

    def pick(self, idle: dict[str, float], now: float) -> Dispatch | None:
        if not self._waiting:
            return None
        rank, _, ticket = heapq.heappop(self._waiting)
        return dispatch(ticket, idle, f"rank {rank:g}")

    def remove(self, ticket: Ticket) -> None:
        self._waiting = [one for one in self._waiting if one[2] is not ticket]
        heapq.heapify(self._waiting)

    def order(self, now: float) -> Iterable[Ticket]:
        return [ticket for _, _, ticket in sorted(self._waiting)]


def static_priority() -> Least:
    """The class, then arrival, without ageing."""
    return Least(lambda ticket: CLASSES.index(ticket.cls))


def shortest_remaining(look: Look) -> Least:
    """The program that will need the least service still: nobody can know that."""
    return Least(lambda ticket: look(ticket.program).left_s)


class Plas(Policy):
    """Program-level least attained service (Autellix, Luo et al. 2025): levels that double in the service that a program had, and
    who waited for `STARVING` times as long as it was served goes first. For one core.
    """

    name = "plas"
    FIRST_LEVEL_S, LEVELS, STARVING, STARVING_S = 8.0, 10, 8.0, 30.0

    def __init__(self, look: Look) -> None:
        self._look = look
        self._levels: list[deque[Ticket]] = [deque() for _ in range(self.LEVELS + 1)]

    def add(self, ticket: Ticket) -> None:
        progress = self._look(ticket.program)
        starves = progress.served_s > 0 and progress.waited_s / progress.served_s >= self.STARVING
        self._levels[0 if starves else self._level(progress.served_s)].append(ticket)

    def _level(self, served_s: float) -> int:
        return min(self.LEVELS, 0 if served_s < self.FIRST_LEVEL_S else int(math.log2(served_s / self.FIRST_LEVEL_S)) + 1)

    def pick(self, idle: dict[str, float], now: float) -> Dispatch | None:
        starving = (level for level in self._levels[1:] if level and self._starves(level[0], now))
        level = next(starving, None) or next(filter(None, self._levels), None)
        return dispatch(level.popleft(), idle, "attained") if level else None

    def _starves(self, ticket: Ticket, now: float) -> bool:
        progress, waits_s = self._look(ticket.program), now - ticket.asked
        return waits_s > self.STARVING_S and (progress.waited_s + waits_s) / max(progress.served_s, 1.0) >= self.STARVING

    def remove(self, ticket: Ticket) -> None:
        for level in self._levels:
            if ticket in level:
                level.remove(ticket)

    def order(self, now: float) -> Iterable[Ticket]:
        return itertools.chain.from_iterable(self._levels)


class BatchBarrier:
    """The loop of the classic AIOS, as its source reads (agiresearch/AIOS, `FIFOScheduler`): sleep, take all that waits, run it, and
    give no result before the slowest has ended. A model of it, not a run; with as many slots as the others have.
    """

    INTERVAL_S = 1.1

    def __init__(self, slots: int) -> None:
        self._core = LaneCore(Fifo(), slots)
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
