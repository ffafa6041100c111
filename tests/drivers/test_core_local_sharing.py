"""Calls of the local core that share what others have read, stand aside, are frozen and go on: what they say stays the same."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.abi.llm import Completion, Delta, Generate
from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig
from aios.ports.core import CoreCall

pytestmark = [pytest.mark.real, pytest.mark.slow]

COMMON = "The harbour keeps a book of all ships: their names, their masters, what they carry, where they come from. " * 4
OTHER = "Nobody in the valley had ever seen the sea, but all of them spoke of it as if it lay behind the next hill. " * 4
LONG = 16


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for the module: the model file is read, and exactness proved, once."""
    return tmp_path_factory.mktemp("home")


@asynccontextmanager
async def local(home: Path, **settings: Any) -> AsyncIterator[LocalCore]:
    core = LocalCore(LocalCoreConfig(home=home, threads=1, probe_s=0, **{"slots": 4, "reserve": 0, "window": 512, **settings}))
    await core.start(lambda _: None)
    try:
        yield core
    finally:
        await core.close()


class Listener:
    """Hears a call; `wait_for(n)` returns when so many pieces have come. While it is `deaf`, it takes nothing more."""

    def __init__(self) -> None:
        self.pieces = 0
        self.deaf = asyncio.Event()
        self._hears = asyncio.Condition()

    async def __call__(self, delta: Delta) -> None:
        async with self._hears:
            self.pieces += 1
            self._hears.notify_all()
        if self.deaf.is_set():
            await asyncio.Event().wait()

    async def wait_for(self, pieces: int) -> None:
        async with asyncio.timeout(60), self._hears:
            await self._hears.wait_for(lambda: self.pieces >= pieces)


async def ask(
    core: LocalCore, prompt: str, emit: Any = None, tenant: str = "acme", id: str = "", tokens: int = LONG
) -> Completion:
    request = Generate(prompt=prompt, max_tokens=tokens, temperature=0.8)
    call = CoreCall(id=id or prompt[-20:], model=core.config.name, request=request, seed=len(prompt), tenant=tenant)
    return await core.generate(call, emit or (lambda _: None))


def prompts(number: int, common: str = COMMON) -> list[str]:
    return [f"{common}\nShip number {at} is called" for at in range(number)]


ALONE: dict[str, str] = {}


async def texts_alone(home: Path, asked: list[str]) -> list[str]:
    """What a core says that shares nothing, one call after the other; asked once."""
    if missing := [prompt for prompt in asked if prompt not in ALONE]:
        async with local(home, share=False, slots=1) as core:
            ALONE.update({prompt: (await ask(core, prompt)).text for prompt in missing})
    return [ALONE[prompt] for prompt in asked]


async def test_who_begins_together_reads_the_common_part_once(home: Path) -> None:
    asked = prompts(3)
    async with local(home) as core:
        together = await asyncio.gather(*(ask(core, prompt) for prompt in asked))
        later = await ask(core, asked[2])
    first, *others = sorted(done.usage.cache_read for done in together)
    size = together[0].usage.input_tokens
    assert first == 0 and all(size - cached < 16 for cached in others)
    assert later.usage.input_uncached == 1, "all of it was read; the last token is read again for its logits"
    assert [done.text for done in together] == await texts_alone(home, asked)
    assert later.text == together[2].text


async def test_nobody_profits_from_another_tenant(home: Path, tmp_path: Path) -> None:
    text = tmp_path / "public"
    text.write_text(COMMON)
    for public in ((), (text,)):
        async with local(home, public=public) as core:
            own = await ask(core, prompts(1)[0], tenant="acme")
            foreign = await ask(core, prompts(1)[0], tenant="zeta")
            again = await ask(core, prompts(1)[0], tenant="zeta")
            assert (foreign.text, again.text) == (own.text, own.text)
            assert again.usage.input_uncached == 1
            if public:
                assert 0 < foreign.usage.input_uncached < 16, "what follows the public text"
            else:
                assert foreign.usage.cache_read == 0


@pytest.mark.parametrize("store_bytes", [64 << 20, 0], ids=["stored", "no store"])
async def test_what_lost_its_slot_is_found_in_the_store(home: Path, store_bytes: int) -> None:
    asked = [prompts(1)[0], prompts(1, OTHER)[0], prompts(2)[1]]
    async with local(home, slots=1, store_bytes=store_bytes) as core:
        done = [await ask(core, prompt) for prompt in asked]
    assert [each.text for each in done] == await texts_alone(home, asked)
    assert done[1].usage.cache_read == 0
    assert (done[2].usage.input_uncached < 16) is bool(store_bytes)


@pytest.mark.parametrize("store_bytes", [64 << 20, 0], ids=["stored", "forgotten"])
async def test_a_frozen_call_gives_its_slot_and_goes_on_unchanged(home: Path, store_bytes: int) -> None:
    points = random.Random(5)
    asked = [prompts(1)[0], prompts(1, OTHER)[0]]
    alone = await texts_alone(home, asked)
    async with local(home, slots=1, store_bytes=store_bytes) as core:
        for _ in range(2):
            heard = Listener()
            first = asyncio.create_task(ask(core, asked[0], heard, id="first"))
            await heard.wait_for(points.randrange(1, LONG - 4))
            core.freeze("first")
            assert (await ask(core, asked[1])).text == alone[1]
            assert not first.done(), "it had no slot to go on in"
            core.thaw("first")
            assert (await first).text == alone[0]


async def test_a_call_that_is_frozen_between_its_answers_stands_still(home: Path) -> None:
    async with local(home) as core:
        request = Generate(prompt=COMMON, max_tokens=4, temperature=0.8, n=2)
        call = CoreCall(id="both", model=core.config.name, request=request, seed=5, tenant="acme")
        whole = await core.generate(call, lambda _: None)
        heard: list[int] = []

        def emit(delta: Delta) -> None:
            heard.append(delta.index)
            if delta.finish and delta.index == 0:
                core.freeze("both")

        running = asyncio.create_task(core.generate(call, emit))
        while 0 not in heard:
            await asyncio.sleep(0)
        await ask(core, OTHER, id="other", tokens=3 * LONG)
        assert 1 not in heard
        core.thaw("both")
        assert (await running).choices == whole.choices
        assert not core._frozen


async def test_a_call_that_nobody_reads_gives_its_slot_to_others(home: Path) -> None:
    asked = [prompts(1)[0], prompts(1, OTHER)[0]]
    async with local(home, slots=1, backlog=4) as core:
        slow = Listener()
        slow.deaf.set()
        standing = asyncio.create_task(ask(core, asked[0], slow))
        await slow.wait_for(1)
        other = await ask(core, asked[1])
        assert not standing.done() and core.statistics().in_flight == 1
        standing.cancel()
        await asyncio.wait({standing})
        again = await ask(core, asked[0])
    assert [again.text, other.text] == await texts_alone(home, asked)


async def test_frozen_and_following_calls_go_on_in_a_new_host(home: Path) -> None:
    asked = prompts(3)
    alone = await texts_alone(home, asked)
    async with local(home) as core:
        heard = Listener()
        first = asyncio.create_task(ask(core, asked[0], heard, id="first"))
        await heard.wait_for(6)
        core.freeze("first")
        others = [asyncio.create_task(ask(core, prompt)) for prompt in asked[1:]]
        pid = core.health().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert [(await other).text for other in others] == alone[1:]
        assert not first.done() and core.health().restarts == 1
        core.thaw("first")
        assert (await first).text == alone[0]


async def test_cancelled_while_frozen_or_following_leaves_nothing(home: Path) -> None:
    asked = prompts(3)
    async with local(home, slots=2) as core:
        heard = Listener()
        frozen = asyncio.create_task(ask(core, asked[0], heard, id="frozen"))
        await heard.wait_for(2)
        core.freeze("frozen")
        leader = asyncio.create_task(ask(core, f"{OTHER} {asked[1]}", id="leader"))
        follower = asyncio.create_task(ask(core, f"{OTHER} {asked[2]}"))
        await asyncio.sleep(0)
        for call in (leader, frozen):
            call.cancel()
        await asyncio.wait({leader, frozen})
        done = await follower
        assert core.statistics().in_flight == 0
    assert [done.text] == await texts_alone(home, [f"{OTHER} {asked[2]}"])


async def test_several_answers_read_their_question_once_and_survive_their_host(home: Path) -> None:
    request = Generate(prompt=COMMON, max_tokens=LONG, temperature=0.8, n=3)
    async with local(home) as core:
        call = CoreCall(id="three", model=core.config.name, request=request, seed=3)
        heard = Listener()
        answers = asyncio.create_task(core.generate(call, heard))
        await heard.wait_for(12)
        pid = core.health().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        disturbed = await answers
        before = core.statistics().cached_tokens
        undisturbed = await core.generate(call, lambda _: None)
        assert core.statistics().cached_tokens - before >= 2 * (undisturbed.usage.input_tokens - 1)
    assert disturbed.choices == undisturbed.choices
    assert len({choice.text for choice in undisturbed.choices}) == 3
