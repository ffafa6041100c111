"""Preemption of real generations: a kernel over the local core, urgent calls among others, and hosts killed in their midst."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.abi.event import Preempted, ReadEvents
from aios.abi.llm import Completion, Delta, Generate
from aios.abi.request import CallOptions, Class
from aios.abi.system import CoreState, ListCores
from aios.drivers.core.local import models
from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig
from aios.drivers.core.local.engine import BrokenOff, Engine, Feed
from aios.drivers.core.local.llama import Llama
from aios.kernel.lanes.lane import LaneConfig, Server
from aios.ports.gate import Gate
from aios.testing.kernel import RunningKernel, kernel_for_tests

pytestmark = [pytest.mark.real, pytest.mark.slow]

STORIES = tuple(f"The keeper of lighthouse number {number} wrote in the book that evening:" for number in range(4))
QUESTIONS = tuple(f"A traveller asks at gate {number} when the ship leaves. The clerk says:" for number in range(3))
STORY, REPLY = 40, 6
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for the module: the model file is read once."""
    return tmp_path_factory.mktemp("home")


@asynccontextmanager
async def running(home: Path, policy: str = "elas", **settings: Any) -> AsyncIterator[tuple[RunningKernel, LocalCore]]:
    """The host is never more than 8 tokens ahead of a caller: however busy the machine, nobody is through unheard."""
    core = LocalCore(LocalCoreConfig(home=home, threads=1, probe_s=0, backlog=8, **{"slots": 2, "window": 256, **settings}))
    async with kernel_for_tests([core], lane=LaneConfig(policy=policy)) as k, asyncio.timeout(PATIENCE_S):
        yield k, core


class Caller:
    """A call and what its caller was told; `wait_for(n)` returns when that were so many pieces, or it is over."""

    def __init__(self, gate: Gate, prompt: str, tokens: int, cls: Class = "batch") -> None:
        self.pieces: list[str] = []
        self._more = asyncio.Event()
        request = Generate(prompt=prompt, max_tokens=tokens, temperature=0.8, seed=len(prompt))
        self.task = asyncio.create_task(self._listen(gate, request, cls))

    async def _listen(self, gate: Gate, request: Generate, cls: Class) -> str:
        try:
            async for event in gate.stream(request, CallOptions(cls=cls)):
                if isinstance(event, Delta):
                    self.pieces.append(event.text)
                    self._more.set()
                elif isinstance(event, Completion):
                    assert "".join(self.pieces) == event.text, "what was told is what was said"
                    return event.text
            raise AssertionError("it had no end")
        finally:
            self._more.set()

    async def wait_for(self, pieces: int) -> None:
        while len(self.pieces) < pieces and not self.task.done():
            self._more.clear()
            await self._more.wait()


ALONE: dict[str, str] = {}


async def said_alone(home: Path) -> None:
    """What each prompt is answered with nothing beside it."""
    if not ALONE:
        async with running(home, "fifo", slots=1, reserve=0) as (k, _):
            gate = await k.session()
            for prompt, tokens in (*((story, STORY) for story in STORIES), *((question, REPLY) for question in QUESTIONS)):
                ALONE[prompt] = await Caller(gate, prompt, tokens).task


async def state_of(k: RunningKernel) -> CoreState:
    return (await k.operator.call(ListCores())).cores[0]


def server_of(k: RunningKernel, core: LocalCore) -> Server:
    """What the lane knows of the core just now."""
    return k.kernel.pool.lane.server(core.config.name)


async def changes(k: RunningKernel) -> list[str]:
    page = await k.operator.call(ReadEvents(kinds=("preempt",)))
    return [event.change for event in page.events if isinstance(event, Preempted)]


@pytest.mark.parametrize(
    "settings", [{}, {"reserve": 0}, {"reserve": 0, "slots": 1, "store_bytes": 0}, {"share": False}], ids=str
)
async def test_who_stood_back_says_what_it_says_alone(home: Path, settings: dict[str, Any]) -> None:
    """With a slot to spare, with none, where what was read is forgotten, and where nothing is shared."""
    await said_alone(home)
    async with running(home, **settings) as (k, _):
        client = await k.session(cls="interactive")
        stories = [Caller(client, story, STORY) for story in STORIES[:3]]
        for number, question in enumerate(QUESTIONS):
            await stories[0].wait_for(4 + 9 * number)
            assert await Caller(client, question, REPLY, "interactive").task == ALONE[question]
        assert [await one.task for one in stories] == [ALONE[story] for story in STORIES[:3]]
        assert (await changes(k)).count("frozen") == (await changes(k)).count("resumed") >= len(QUESTIONS)
        assert ((await state_of(k)).frozen, (await state_of(k)).running) == (0, 0)


async def test_turns_of_a_quantum_go_round_and_change_nothing(home: Path) -> None:
    await said_alone(home)
    async with running(home, "round-robin", slots=1, reserve=0) as (k, _):
        stories = [Caller(await k.session(f"keeper-{number}"), story, STORY) for number, story in enumerate(STORIES)]
        assert [await one.task for one in stories] == [ALONE[story] for story in STORIES]
        assert (await state_of(k)).preemptions >= 2 * len(STORIES) - 1


async def test_a_frozen_call_that_is_given_up_leaves_nothing_at_the_host(home: Path) -> None:
    await said_alone(home)
    async with running(home) as (k, core):
        client = await k.session(cls="interactive")
        stories = [Caller(client, story, STORY) for story in STORIES[:2]]
        await stories[0].wait_for(3)
        urgent = Caller(client, QUESTIONS[0], STORY, "interactive")
        await urgent.wait_for(1)
        assert len(server_of(k, core).frozen) == 2
        stories[0].task.cancel()
        await asyncio.wait({stories[0].task})
        assert core.statistics().in_flight == 2 and len(server_of(k, core).frozen) <= 1
        assert (await urgent.task).startswith(ALONE[QUESTIONS[0]]) and await stories[1].task == ALONE[STORIES[1]]
        assert core.statistics().in_flight == 0


@pytest.mark.parametrize("seed", range(3))
async def test_a_host_that_is_killed_while_calls_are_frozen_loses_changes_and_repeats_nothing(home: Path, seed: int) -> None:
    await said_alone(home)
    chance = random.Random(seed)
    async with running(home) as (k, core):
        client = await k.session(cls="interactive")
        stories = [Caller(client, story, STORY) for story in STORIES]
        for question in QUESTIONS:
            begun = len(stories[0].pieces)
            await stories[0].wait_for(begun + chance.randrange(1, 8))
            urgent = Caller(client, question, REPLY, "interactive")
            await urgent.wait_for(chance.randrange(1, 4))
            server = server_of(k, core)
            assert server.frozen or not any(holder.urgent for holder in server.holders)
            pid = core.health().pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            assert await urgent.task == ALONE[question]
        assert [await one.task for one in stories] == [ALONE[story] for story in STORIES]
        assert core.health().restarts >= 2
        assert ((await state_of(k)).frozen, (await state_of(k)).running, core.statistics().in_flight) == (0, 0, 0)


class Interrupted(Exception):
    """What goes wrong in the midst of a pass."""


def test_a_pass_that_is_broken_off_leaves_no_trace(home: Path) -> None:
    """Beside another sequence, in the midst of a prompt and at its end, at any step of the model."""
    engine = Engine(Llama(), models.find(models.EMBEDDED), slots=3, window=256, threads=1, batch=64)
    tokens = engine.encode(STORIES[0] * 3)[:40]

    def rows(slot: int, breaks: list[int]) -> list[bytes]:
        found = []
        for start, end in ((0, 24), (24, 39), (39, 40)):
            feeds = [Feed(slot, start, tokens[start:end], True), Feed(2, start, tokens[start:end], True)]
            for asked in breaks:
                left = iter(range(asked))
                with pytest.raises(BrokenOff):
                    engine.run(feeds, lambda left=left: next(left, None) is None)  # type: ignore[misc]
            found.append(engine.run(feeds)[0].tobytes())
        engine.forget(2)
        return found

    undisturbed = rows(0, [])
    assert rows(1, [0, 5, 1]) == undisturbed

    def fails() -> bool:
        raise Interrupted

    with pytest.raises(Interrupted):
        engine.run([Feed(0, 40, tokens[:20], True)], fails)
    engine.close()
