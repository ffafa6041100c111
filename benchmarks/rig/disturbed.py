"""The local core when something happens to it: its host is killed or stopped, calls are aborted, readers stop reading."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aios.abi.llm import Completion, Delta, Generate
from aios.drivers.core.local import models
from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig
from aios.drivers.core.local.host import Host
from aios.drivers.core.local.protocol import VERSION, Abort, Gone, Hello, Open, Prompt, Report, Step
from aios.ports.core import CoreCall, CoreEvent, Emit
from benchmarks.rig.child import Failed

AT_ONCE, TOKENS = 4, 10
LATEST_S = 0.03
"""After the piece that a strike waits for, at most: so it falls anywhere in a pass."""

STRIKES_EACH = 2
PATIENCE_S = 120.0


@asynccontextmanager
async def local(config: LocalCoreConfig) -> AsyncIterator[LocalCore]:
    """A core that runs, as long as the block does."""
    core = LocalCore(config)
    await core.start(lambda _: None)
    try:
        yield core
    finally:
        await core.close()


@contextmanager
def empty_home() -> Iterator[Path]:
    """A folder in which nothing is known of a model."""
    with tempfile.TemporaryDirectory(prefix="aios-bench-") as folder:
        yield Path(folder)


async def ask(core: LocalCore, prompt: str, tokens: int, seed: int, emit: Emit) -> Completion:
    """One call of a tenant's."""
    request = Generate(prompt=prompt, max_tokens=tokens, temperature=0.8, top_p=0.9)
    return await core.generate(CoreCall(id=str(seed), model=core.config.name, request=request, seed=seed, tenant="acme"), emit)


@dataclass(slots=True)
class Struck:
    """What came of killing and stopping hosts: seconds until the next piece of an answer came, and answers that were not as they
    are when nothing happens: shorter, told twice, changed.
    """

    killed_back_s: list[float] = field(default_factory=list)
    stopped_back_s: list[float] = field(default_factory=list)
    wrong: int = 0

    @property
    def points(self) -> int:
        return len(self.killed_back_s) + len(self.stopped_back_s)


class Striker:
    """Strikes the host of a core after given numbers of pieces, and says how long each time until one came again."""

    def __init__(self) -> None:
        self.struck = Struck()
        self._pieces = 0
        self._points: list[tuple[int, float, signal.Signals]] = []
        self._blow: asyncio.TimerHandle | None = None
        self._struck_at = 0.0
        self._with = signal.SIGKILL
        self._pid: int | None = None
        self._back = True

    def plan(self, points: list[tuple[int, float, signal.Signals]]) -> None:
        """For the next answers: after so many pieces, so many seconds later, with this signal."""
        self._points, self._pieces = points, 0

    def changed(self, event: CoreEvent) -> None:
        """The core's host has come or gone."""
        self._pid = event.pid if event.change == "up" else None

    def piece(self) -> None:
        """A piece of some answer has come."""
        self._pieces += 1
        if not self._back and self._pid is not None:
            self._back = True
            found = self.struck.killed_back_s if self._with is signal.SIGKILL else self.struck.stopped_back_s
            found.append(time.monotonic() - self._struck_at)
        if self._back and self._blow is None and self._points and self._pieces >= self._points[0][0]:
            _, delay_s, self._with = self._points.pop(0)
            self._blow = asyncio.get_running_loop().call_later(delay_s, self._strike)

    def rest(self) -> None:
        """The answers are there: what has not been struck is not."""
        if self._blow is not None:
            self._blow.cancel()
        self._blow, self._points = None, []

    def _strike(self) -> None:
        self._blow = None
        if self._pid is not None:
            self._struck_at, self._back = time.monotonic(), False
            os.kill(self._pid, self._with)
            self._pid = None


async def strike(config: LocalCoreConfig, kills: int, stops: int, seed: int) -> Struck:
    """Kill and stop hosts at seeded points of answers, until so many were tried. Raises `Failed` if they cannot be placed."""
    chance = random.Random(seed)
    striker = Striker()
    core = LocalCore(config)
    await core.start(striker.changed)
    try:
        undisturbed = await answers(core, striker)
        pieces = sum(tokens for _, tokens in undisturbed)
        while (left := missing(striker.struck, kills, stops)) and striker.struck.points < 10 * (kills + stops):
            at = sorted(chance.sample(range(1, pieces - AT_ONCE), STRIKES_EACH))
            blows = chance.sample(left, min(STRIKES_EACH, len(left)))
            striker.plan([(after, chance.uniform(0, LATEST_S), blow) for after, blow in zip(at, blows, strict=False)])
            found = await answers(core, striker)
            striker.struck.wrong += sum(one != other for one, other in zip(found, undisturbed, strict=True))
    finally:
        await core.close()
    return striker.struck


def missing(struck: Struck, kills: int, stops: int) -> list[signal.Signals]:
    """The blows that are still to be struck."""
    killed, stopped = kills - len(struck.killed_back_s), stops - len(struck.stopped_back_s)
    return [signal.SIGKILL] * killed + [signal.SIGSTOP] * stopped


async def answers(core: LocalCore, striker: Striker) -> list[tuple[str, int]]:
    """Some answers at once: what each caller was told, and how many tokens those are. Raises `Failed` if they do not come."""
    told = [""] * AT_ONCE
    sizes = [0] * AT_ONCE

    async def one(number: int) -> Completion:
        def emit(delta: Delta) -> None:
            told[number] += delta.text
            sizes[number] += delta.tokens
            striker.piece()

        return await ask(core, f"Here is what happened to ship number {number} in the storm:", TOKENS, number, emit)

    try:
        async with asyncio.timeout(PATIENCE_S):
            done = await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
    except TimeoutError:
        raise Failed(f"answers did not come back within {PATIENCE_S:g} s: {core.health()}") from None
    striker.rest()
    texts = [each.text for each in done]
    return [(text if text == one else f"{text} but told {one}", size) for text, one, size in zip(texts, told, sizes, strict=True)]


class Bystander:
    """Hears a host, and aborts one call of it after so many passes; `gone` says how many passes came before that was done."""

    def __init__(self) -> None:
        self.host: Host | None = None
        self._left = 0
        self._call = 0
        self._passes = -1
        self.gone: asyncio.Future[int]

    def plan(self, call: int, passes: int) -> None:
        """Abort this call when so many passes have come."""
        self._call, self._left, self._passes = call, passes, -1
        self.gone = asyncio.get_running_loop().create_future()

    def hear(self, report: Report) -> None:
        """What the host says."""
        match report:
            case Step():
                self._left -= 1
                self._passes += self._passes >= 0
                if self._left == 0 and self.host is not None:
                    self._passes = 0
                    self.host.say(Abort(self._call))
            case Gone(call) if call == self._call:
                self.gone.set_result(self._passes)


async def aborts(home: Path, attempts: int, seed: int) -> list[int]:
    """The passes that a host still makes after each abort, with two calls that go on beside it."""
    chance = random.Random(seed)
    hears = Bystander()
    hello = Hello(
        VERSION, str(models.find(models.EMBEDDED)), slots=4, window=1024, threads=1, chunk=64, backlog=1000, home=str(home),
        probe_s=0, store_bytes=0, public=(), share=False,
    )  # fmt: skip
    host, _ = await Host.start(hello, hears.hear, PATIENCE_S)
    hears.host = host
    found = []
    try:
        for attempt in range(attempts):
            first = 3 * attempt
            hears.plan(first, chance.randrange(1, 12))
            for call in (first, first + 1, first + 2):
                host.say(Open(call, Prompt("The sea was calm, and the ships lay still. " * 8), call, 0.8, 0.9))
            async with asyncio.timeout(PATIENCE_S):
                found.append(await hears.gone)
            host.say(Abort(first + 1))
            host.say(Abort(first + 2))
    finally:
        await host.end(grace_s=1)
    return found


async def slow_readers(home: Path, readers: int, rounds: int) -> tuple[float, float]:
    """Seconds that an answer takes its caller, alone, and beside so many callers who have stopped reading theirs."""
    config = LocalCoreConfig(home=home, slots=8, reserve=0, window=256, threads=1, probe_s=0, backlog=8)
    never = asyncio.Event()

    async def deaf(_delta: Delta) -> None:
        await never.wait()

    async with local(config) as core:
        alone = await fast(core, rounds)
        callers = [asyncio.ensure_future(ask(core, QUESTION, 200, number, deaf)) for number in range(1, readers + 1)]
        try:
            await stand_still(core)
            beside = await fast(core, rounds)
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.wait(callers)
        alone += await fast(core, rounds)
    return sorted(alone)[len(alone) // 2], sorted(beside)[len(beside) // 2]


QUESTION = "The old sailor sat down and began to tell of the north:"


async def fast(core: LocalCore, rounds: int) -> list[float]:
    """Seconds of an answer, several times, after one that makes it all alike."""
    took = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        await ask(core, QUESTION, 48, 0, lambda _: None)
        took.append(time.perf_counter() - begun)
    return took[1:]


async def stand_still(core: LocalCore) -> None:
    """Return when no answer makes a token any more. Raises `Failed` if one always does."""
    before = -1
    give_up = time.monotonic() + PATIENCE_S
    while (now := core.statistics().tokens) != before:
        if time.monotonic() > give_up:
            raise Failed("callers who do not read are still answered")
        before = now
        await asyncio.sleep(0.7)
