"""The kernel's own lanes in virtual time: programs of calls whose cores take as long as a remote model would.

A policy sees the tickets of a live kernel, and nothing of how long a call will take.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from aios.kernel import programs
from aios.kernel.lanes.lane import Lane, Server, Turn
from aios.kernel.lanes.policy import Accounts, Policy, Ticket, Waiter
from aios.testing.kernel import VirtualClock
from aios.testing.virtual import run_virtual, time
from benchmarks.rig.mixes import Call, Program

ENDLESS_QUEUE = 1_000_000
CORE = "core"
ANY = frozenset([CORE])
WINDOW_S = 60.0
SAMPLE_S = 5.0
"""How often is looked who waits."""


@dataclasses.dataclass(slots=True, eq=False)
class Progress:
    """A program under way. `live`: what the kernel knows of it.

    `left_s`: the service that it will still need, `served_s`: that it had, `waited_s`: how long its calls waited.
    """

    program: Program
    live: programs.Program
    left_s: float
    left_calls: int
    served_s: float = 0.0
    waited_s: float = 0.0
    ended_s: float | None = None


@dataclasses.dataclass(slots=True)
class Seen:
    """What came about.

    `waits_s`: of each call, by class. `served_s`: seconds of service by window and tenant. `waited`: samples in which a
    tenant had calls waiting, by window.
    """

    progress: list[Progress]
    waits_s: dict[str, list[float]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    served_s: dict[int, dict[str, float]] = dataclasses.field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    waited: dict[int, Counter[str]] = dataclasses.field(default_factory=lambda: defaultdict(Counter))

    def serve(self, tenant: str, from_s: float, until_s: float) -> None:
        """A tenant was served from then until then."""
        while from_s < until_s:
            window = int(from_s // WINDOW_S)
            end_s = min(until_s, (window + 1) * WINDOW_S)
            self.served_s[window][tenant] += end_s - from_s
            from_s = end_s


class Core(Protocol):
    """What gives calls their turns."""

    async def turn(self, ticket: Ticket) -> Turn:
        """Wait for the turn of a call."""
        ...

    async def end(self, turn: Turn, cost: float) -> None:
        """The call has come to so many weighted tokens; returns when its caller hears so."""
        ...


class LaneCore:
    """A lane of the kernel over a core of so many slots."""

    def __init__(self, policy: Policy, slots: int) -> None:
        self.lane = Lane("core", policy, VirtualClock(), ENDLESS_QUEUE)
        self.lane.add_server(Server(CORE, slots))

    async def turn(self, ticket: Ticket) -> Turn:
        turn = self.lane.try_turn(ticket)
        if turn is None:
            self.lane.enter(ticket)
            turn = await self.lane.wait(ticket)
        return turn

    async def end(self, turn: Turn, cost: float) -> None:
        turn.settle(cost)
        turn.release()


Declare = Callable[[Progress], float | None]
"""What a program says that it will still need, in seconds of service."""


def silent(progress: Progress) -> None:
    """It says nothing."""


class Simulation:
    """One run of a mix. `calls`: those that wait or run, by their tickets; `waiting`: the tickets that wait."""

    def __init__(self, offered: Sequence[Program], declare: Declare = silent) -> None:
        history = programs.History()
        self.progress = {
            program: Progress(program, programs.Program(program.kind, history), program.work_s, len(program.calls))
            for program in offered
        }
        self.seen = Seen(list(self.progress.values()))
        self.calls: dict[Ticket, Call] = {}
        self.waiting: dict[Ticket, None] = {}
        self._declare = declare
        self._needs = {call: call.needs for program in offered for call in program.calls}
        self._path_s: dict[Call, float] = defaultdict(float)

    def progress_of(self, ticket: Ticket) -> Progress:
        return self.progress[self.calls[ticket].program]

    def run(self, core: Core, watch: Coroutine[None, None, None] | None = None) -> Seen:
        """Until all is done. `watch`: runs beside it until then."""
        run_virtual(self._run(core, watch))
        return self.seen

    async def _run(self, core: Core, watch: Coroutine[None, None, None] | None) -> None:
        async with asyncio.TaskGroup() as beside:
            others = [beside.create_task(self._sample())]
            if watch is not None:
                others.append(beside.create_task(watch))
            async with asyncio.TaskGroup() as running:
                for program in self.progress:
                    for call in program.calls:
                        if not call.needs:
                            running.create_task(self._begin(call, core, running))
            for other in others:
                other.cancel()

    async def _sample(self) -> None:
        """Look who waits, again and again."""
        while True:
            waited = self.seen.waited[int(time() // WINDOW_S)]
            waited.update({ticket.tenant for ticket in self.waiting})
            await asyncio.sleep(SAMPLE_S)

    async def _begin(self, call: Call, core: Core, running: asyncio.TaskGroup) -> None:
        await asyncio.sleep(call.program.arrives_s)
        await self._follow(call, core, running)

    async def _follow(self, call: Call | None, core: Core, running: asyncio.TaskGroup) -> None:
        """A call and what comes after it; what can be done side by side has tasks of its own."""
        while call is not None:
            if call.gap_s:
                await asyncio.sleep(call.gap_s)
            await self._serve(call, core)
            ready = self._ready_after(call)
            call = ready.pop(0) if ready else None
            for other in ready:
                running.create_task(self._follow(other, core, running))

    async def _serve(self, call: Call, core: Core) -> None:
        progress, path_s = self.progress[call.program], self._path_s[call]
        ticket = self._ticket(call, progress)
        self.calls[ticket] = call
        self.waiting[ticket] = None
        turn = await core.turn(ticket)
        began_s = time()
        del self.waiting[ticket]
        progress.waited_s += began_s - ticket.asked
        self.seen.waits_s[ticket.cls].append(began_s - ticket.asked)
        await asyncio.sleep(call.takes_s)
        self.seen.serve(ticket.tenant, began_s, time())
        self._path_s[call] = progress.live.ran(path_s, call.takes_s)
        progress.left_s -= call.takes_s
        progress.served_s += call.takes_s
        await core.end(turn, call.cost)
        del self.calls[ticket]

    def _ready_after(self, call: Call) -> list[Call]:
        """The calls that needed only this one still. Its program may have come to its end."""
        progress = self.progress[call.program]
        progress.left_calls -= 1
        if not progress.left_calls:
            progress.ended_s = time()
            progress.live.ended()
        ready = []
        for other in call.then:
            self._path_s[other] = max(self._path_s[other], self._path_s[call])
            self._needs[other] -= 1
            if not self._needs[other]:
                ready.append(other)
        return ready

    def _ticket(self, call: Call, progress: Progress) -> Ticket:
        program, now = call.program, time()
        name = str(program.number)
        return Ticket(
            program.tenant, program.cls, name, name, now, round(now * 1e9), ANY, program.tenant, "", accounts_of(program),
            progress.live, self._declare(progress), program.deadline_s, tuple(map(self._waiter, program.waiters)),
        )  # fmt: skip

    def _waiter(self, program: Program) -> Waiter:
        progress = self.progress[program]
        return Waiter(program.cls, accounts_of(program), progress.live, self._declare(progress), program.deadline_s)


def accounts_of(program: Program) -> Accounts:
    return ((program.tenant, 1.0),)
