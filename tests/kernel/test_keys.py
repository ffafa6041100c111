"""A call with a key happens once: asked again, it is answered from the record."""

import pytest
from scenes import ask, begin, error_of, nothing_is_held, slow, turns

from aios.abi.errors import Conflict, CoreFailed
from aios.abi.llm import Completion, Started
from aios.abi.process import WaitFor
from aios.abi.request import CallOptions
from aios.abi.system import RandomBytes
from aios.ports.core import CoreCall
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import ScriptedHost, kernel_for_tests

KEY = CallOptions(key="mine")


async def test_the_same_call_asked_again_is_answered_from_the_record() -> None:
    core = ScriptedCore()
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        first = await client.answer(ask(), KEY)
        second = await client.answer(ask(), KEY)
        assert second.value == first.value and second.label == first.label
        assert core.statistics().started == 1


async def test_without_a_key_it_happens_again() -> None:
    core = ScriptedCore()
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        await client.call(ask())
        await client.call(ask())
        assert core.statistics().started == 2


async def test_another_request_under_the_same_key_is_refused_and_harms_nothing() -> None:
    core = ScriptedCore()
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        first = await client.call(ask(), KEY)
        for _ in range(3):
            with pytest.raises(Conflict, match="another request") as refused:
                await client.call(ask("something else"), KEY)
            assert refused.value.field == "key"
        assert await client.call(ask(), KEY) == first
        assert core.statistics().started == 1
        await nothing_is_held(k)


async def test_two_at_once_with_one_key_do_not_both_act() -> None:
    core = slow()
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        first = begin(client, ask(), KEY)
        await turns()
        error = await error_of(begin(client, ask(), KEY))
        assert type(error) is Conflict and error.field == "key"
        assert (await first) == await client.call(ask(), KEY)
        assert core.statistics().started == 1


async def test_a_key_belongs_to_its_process() -> None:
    core = ScriptedCore()
    async with kernel_for_tests([core]) as k:
        one, two = await k.session(), await k.session()
        await one.call(ask(), KEY)
        await two.call(ask("another question"), KEY)
        assert core.statistics().started == 2


async def test_a_call_that_failed_may_be_tried_again_under_its_key_and_its_stream_begins_as_any() -> None:
    def answers(call: CoreCall) -> Script:
        return Script(text="fine", fail_after=None if core.statistics().started > 2 else 0)

    core = ScriptedCore(answers)
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        assert type(await error_of(begin(client, ask(), KEY))) is CoreFailed
        heard = [event async for event in client.stream(ask(), KEY)]
        assert type(heard[0]) is Started and type(heard[-1]) is Completion and heard[0].id == heard[-1].id
        kinds = [(record.kind, record.attempt) for record in k.store.tail(client.process.pid)]
        assert kinds == [("intent", 1), ("intent", 2), ("error", 2), ("intent", 3), ("result", 3)]


async def test_a_call_that_was_cancelled_may_be_tried_again_under_its_key() -> None:
    async with kernel_for_tests([slow()]) as k:
        client = await k.session()
        for steps in (1, 3, 30):
            call = begin(client, ask(), KEY)
            await turns(steps)
            call.cancel()
            await turns()
        assert (await client.call(ask(), KEY)).text


async def test_a_replayed_stream_is_its_reply() -> None:
    async with kernel_for_tests([ScriptedCore("a b c")]) as k:
        client = await k.session()
        first = await client.call(ask(), KEY)
        assert [event async for event in client.stream(ask(), KEY)] == [first]


async def test_a_default_written_out_is_the_same_request() -> None:
    async with kernel_for_tests([ScriptedCore()]) as k:
        client = await k.session()
        assert await client.call(ask(), KEY) == await client.call(ask(model="default", n=1, stop=()), KEY)


async def test_an_agent_that_begins_again_finds_what_it_had_done_under_its_keys() -> None:
    drawn: list[bytes] = []

    async def work(gate: Gate) -> None:
        drawn.append((await gate.call(RandomBytes(), KEY)).data)
        if len(drawn) == 1:
            host: ScriptedHost = k.hosts.hosts[0]
            host.die()
            await turns(100)

    async with kernel_for_tests(agents={"work": work}) as k:
        agent = await k.spawn("work")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).outcome == "result"
        assert len(drawn) == 2 and drawn[0] == drawn[1]
