"""`ScriptedCore` keeps the promises of the port, and does what its script says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aios.abi.errors import CoreFailed, Unavailable
from aios.abi.llm import ToolCall
from aios.ports.core import FEATURES, CoreEvent
from aios.testing import Script, ScriptedCore, time
from aios.testing.cores import EXAMINATION, Candidate, Case, Heard, ignore


@asynccontextmanager
async def candidate_of(core: ScriptedCore) -> AsyncIterator[Candidate]:
    events: list[CoreEvent] = []
    await core.start(events.append)
    yield Candidate(core, running=lambda: core.statistics().running, events=events)
    await core.close()


@pytest.mark.parametrize("case", EXAMINATION, ids=lambda case: case.__name__)
async def test_it_keeps_the_promises_of_the_port(case: Case) -> None:
    async with candidate_of(ScriptedCore(counts=True)) as candidate:
        await case(candidate)


async def test_answers_are_taken_in_their_order_and_again() -> None:
    async with candidate_of(ScriptedCore(["one", "two"])) as candidate:
        texts = [(await candidate.core.generate(candidate.call(), ignore)).text for _ in range(3)]
    assert texts == ["one", "two", "one"]


async def test_answers_may_depend_on_the_call() -> None:
    async with candidate_of(ScriptedCore(lambda call: call.request.messages[0].content.upper())) as candidate:  # type: ignore[union-attr]
        assert (await candidate.core.generate(candidate.call("hello"), ignore)).text == "HELLO"


async def test_delays_are_the_loops() -> None:
    async with candidate_of(ScriptedCore(Script(text="a b c", first_s=10, token_s=1))) as candidate:
        before = time()
        await candidate.core.generate(candidate.call(), ignore)
        assert time() - before == pytest.approx(12)


@pytest.mark.parametrize("tokens", [0, 1, 3])
async def test_it_fails_after_so_many_tokens(tokens: int) -> None:
    heard = Heard()
    core = ScriptedCore(Script(text="a b c", fail_after=tokens))
    async with candidate_of(core) as candidate:
        with pytest.raises(CoreFailed):
            await core.generate(candidate.call(), heard)
    assert len(heard.deltas) == tokens
    assert core.statistics().failed == 1


async def test_it_hangs_until_it_is_cancelled() -> None:
    core = ScriptedCore(Script(text="a b", hang=True))
    async with candidate_of(core) as candidate:
        heard = Heard()
        call = asyncio.create_task(core.generate(candidate.call(), heard))
        await heard.wait_for(2)
        await asyncio.sleep(3600)
        assert not call.done()
        call.cancel()
        await asyncio.wait({call})
    assert core.statistics().aborted == 1
    assert core.statistics().running == 0


async def test_calls_beyond_the_slots_wait() -> None:
    core = ScriptedCore(Script(text="a", first_s=1), slots=2)
    async with candidate_of(core) as candidate:
        before = time()
        await asyncio.gather(*(core.generate(candidate.call(), ignore) for _ in range(5)))
        assert time() - before == pytest.approx(3)
    assert core.statistics().most_running == 2


async def test_while_it_is_down_it_fails_what_runs_and_refuses_what_comes() -> None:
    core = ScriptedCore(Script(text="a b", token_s=10))
    async with candidate_of(core) as candidate:
        heard = Heard()
        call = asyncio.create_task(core.generate(candidate.call(), heard))
        await heard.wait_for(1)
        core.go_down("its plug was pulled")
        with pytest.raises(CoreFailed, match="plug"):
            await call
        with pytest.raises(Unavailable, match="plug"):
            await core.generate(candidate.call(), ignore)
        core.come_up()
        assert (await core.generate(candidate.call(), ignore)).text == "a b"
        assert [event.change for event in candidate.events] == ["up", "down", "up"]


async def test_tool_calls_come_as_pieces_and_whole() -> None:
    tool = ToolCall("id1", "weather", '{"city": "Rome"}')
    core = ScriptedCore(Script(text="", tool_calls=(tool,)), features=frozenset(FEATURES))
    async with candidate_of(core) as candidate:
        heard = Heard()
        done = await core.generate(candidate.call(), heard)
    assert done.choices[0].tool_calls == (tool,)
    assert done.choices[0].finish == "tool_calls"
    assert heard.deltas[-1].tool_calls[0].arguments == tool.arguments


async def test_several_answers_have_an_index_each() -> None:
    async with candidate_of(ScriptedCore("a b")) as candidate:
        heard = Heard()
        done = await candidate.core.generate(candidate.call(n=2), heard)
    assert [choice.text for choice in done.choices] == ["a b", "a b"]
    assert {delta.index for delta in heard.deltas} == {0, 1}
