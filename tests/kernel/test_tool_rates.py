"""Rates of tools: calls per minute and at once, reserved before the tool is told of a call, as a model's are."""

import asyncio
from typing import Any

import msgspec
import pytest

from aios.abi.account import AccountState, SetLimit, ShowAccounts, Window
from aios.abi.errors import AiosError, OutcomeUnknown, OverBudget, RateLimited
from aios.abi.event import ReadEvents
from aios.abi.llm import Generate
from aios.abi.process import Explain, SignalProcess, WaitFor
from aios.abi.record import Reserved, Settled
from aios.abi.request import CallOptions
from aios.abi.system import AddToken
from aios.abi.tool import ExecuteTool, RegisterTools, ToolManifest
from aios.ports.gate import Gate
from aios.testing import ScriptedCore, time
from aios.testing.kernel import EPOCH_NS, RunningKernel, kernel_for_tests

TO_NEXT_S = 60 - EPOCH_NS // 10**9 % 60
SEARCH = ToolManifest(name="search", repeat="repeatable", parameters={"type": "object"})
ONCE = ToolManifest(name="search", repeat="once", parameters={"type": "object"})
search = ExecuteTool(tool="search")
begun: list[float] = []


async def seconds_1() -> str:
    begun.append(time())
    await asyncio.sleep(1)
    return "found"


async def limit(k: RunningKernel, amount: int | None, window: Window) -> AccountState:
    return await k.operator.call(SetLimit(account="tool:search", unit="calls", amount=amount, window=window))


async def state(k: RunningKernel, account: str = "tool:search") -> AccountState:
    return (await k.operator.call(ShowAccounts(account=account))).accounts[0]


def opened(work: Any) -> Any:
    begun.clear()
    return kernel_for_tests([ScriptedCore("one")], {"work": work}, tools={"search": seconds_1})


async def five(gate: Gate) -> list[str]:
    await gate.call(RegisterTools(tools=(SEARCH,)))
    ended = await asyncio.gather(*(gate.call(search) for _ in range(5)), return_exceptions=True)
    return [each.code if isinstance(each, AiosError) else each.value for each in ended]  # type: ignore[union-attr]  # a result


async def test_calls_of_a_tool_beyond_its_rate_wait_for_the_next_minute_whoever_makes_them() -> None:
    async with opened(five) as k:
        await limit(k, 7, "minute")
        agents = [await k.spawn("work") for _ in range(2)]
        await asyncio.sleep(2)
        now = await state(k)
        assert (len(begun), now.waiting, now.limits[0].spent, now.account) == (7, 3, 7, "tool:local/search")
        explained = await k.operator.call(Explain(pid=agents[1].name))
        waits = [call.wait for call in explained.calls if call.wait is not None]
        assert {wait.code for wait in waits} == {"R"}
        assert "`aios budget tool:local/search --calls AMOUNT --per minute` raises it" in waits[0].on
        assert explained.moves == ("the next minute, or a higher rate of `tool:local/search`",)
        for agent in agents:
            assert (await k.operator.call(WaitFor(pid=agent.pid))).result == ["found"] * 5
        assert len([at for at in begun if at >= TO_NEXT_S]) == 3 and len(begun) == 10
        assert (await state(k, "/")).spent["lifetime"]["calls"] == 0, "accounts of processes are of models"


async def test_calls_of_a_tool_at_once_are_limited_and_a_limit_begins_with_those_under_way() -> None:
    async with opened(five) as k:
        agents = [await k.spawn("work") for _ in range(2)]
        await asyncio.sleep(0.5)
        now = await limit(k, 4, "now")
        assert (now.reserved["calls"], now.limits[0].amount) == (10, 10)
        late = await k.spawn("work")
        await asyncio.sleep(0.4)
        assert (await state(k)).waiting == 5 and len(begun) == 10
        explained = await k.operator.call(Explain(pid=late.name))
        assert {call.wait.code for call in explained.calls if call.wait is not None} == {"B"}
        for agent in (*agents, late):
            assert (await k.operator.call(WaitFor(pid=agent.pid))).result == ["found"] * 5
        assert [round(at) for at in begun] == [0] * 10 + [1] * 4 + [2]
        assert (await state(k)).reserved["calls"] == 0


async def test_models_are_as_free_as_before_and_a_tool_of_another_tenant_too() -> None:
    async def work(gate: Gate) -> str:
        await gate.call(RegisterTools(tools=(SEARCH,)))
        await gate.call(Generate(prompt="hello", max_tokens=4))
        return (await gate.call(search)).value

    async with opened(work) as k:
        await k.operator.call(SetLimit(account="tool:acme/search", unit="calls", amount=0))
        agent = await k.spawn("work")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "found"
        made = await k.operator.call(AddToken(agent="client", tenant="acme", grants=("use /llm/*", "spawn /agents/*")))
        other = await k.spawn("work", by=k.attach(made.value))
        await asyncio.sleep(1)
        refused = await k.operator.call(Explain(pid=other.pid))
        assert "`tool:acme/search` has a limit of 0 calls" in refused.reason
        assert not any(record.kind == "reservation" for record in k.store.tail(agent.pid))


async def test_who_cannot_wait_is_refused_and_a_tool_that_is_not_to_be_used_parks_or_refuses() -> None:
    async def work(gate: Gate) -> list[str]:
        await gate.call(RegisterTools(tools=(SEARCH,)))
        await gate.call(search)
        with pytest.raises(RateLimited) as refused:
            await gate.call(search, CallOptions(deadline_s=5.0))
        assert refused.value.retry_after_s == pytest.approx(TO_NEXT_S, abs=2)
        await gate.call(search)
        try:
            return [(await gate.call(search)).value]
        except OverBudget as over:
            return [over.message]

    async with opened(work) as k:
        await limit(k, 1, "minute")
        await limit(k, 2, "day")
        refused = await k.spawn("work", on_budget="fail")
        (said,) = (await k.operator.call(WaitFor(pid=refused.pid))).result
        assert said.startswith("`tool:local/search` has spent 2 calls of 2 calls per day")
        parked = await k.spawn("work")
        await asyncio.sleep(200)
        told: Any = (await k.operator.call(ReadEvents(kinds=("account",)))).events
        assert (told[-1].change, told[-1].account, told[-1].tenant) == ("parked", "tool:local/search", "local")
        assert (await state(k)).waiting == 1 and len(begun) == 2
        await k.operator.call(SignalProcess(pid=parked.pid, signal="kill"))
        await asyncio.sleep(1)
        assert (await state(k)).waiting == 0


async def test_a_tool_that_fails_or_is_killed_has_been_used_and_gives_its_place_back() -> None:
    async def work(gate: Gate) -> Any:
        await gate.call(RegisterTools(tools=(ONCE,)))
        with pytest.raises(OutcomeUnknown):
            await gate.call(search, CallOptions(deadline_s=0.5))
        await gate.call(search)

    async with opened(work) as k:
        await limit(k, 1, "now")
        agent = await k.spawn("work")
        await asyncio.sleep(0.6)
        assert (await state(k)).reserved["calls"] == 1
        await k.operator.call(SignalProcess(pid=agent.pid, signal="kill"))
        await asyncio.sleep(1)
        now = await state(k)
        assert (now.reserved["calls"], now.spent["lifetime"]["calls"]) == (0, 2)
        of_calls: dict[str, list[str]] = {}
        records = k.store.tail(agent.pid)
        for record in records:
            of_calls.setdefault(record.path, []).append(record.kind)
        first = next(kinds for kinds in of_calls.values() if "reservation" in kinds)
        assert first == ["reservation", "intent", "settlement", "error"]
        bodies = [msgspec.msgpack.decode(r.body, type=Reserved) for r in records if r.kind == "reservation"]
        assert bodies[0] == Reserved("", ("tool:local/search",), 0, 0, 1)
        settled = [msgspec.msgpack.decode(r.body, type=Settled) for r in records if r.kind == "settlement"]
        assert settled == [Settled(0, 0, 1, True)] * 2


async def test_who_gives_up_waiting_for_a_tool_is_gone_and_who_is_held_does_not_use_it() -> None:
    async def work(gate: Gate) -> str:
        await gate.call(RegisterTools(tools=(SEARCH,)))
        first = asyncio.ensure_future(gate.call(search))
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(gate.call(search))
        await asyncio.sleep(0.1)
        second.cancel()
        await asyncio.wait((first, second))
        return (await gate.call(search)).value

    async with opened(work) as k:
        await limit(k, 1, "now")
        agent = await k.spawn("work")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "found" and len(begun) == 2
        one, held = await k.spawn("work"), await k.spawn("work")
        await asyncio.sleep(0.5)
        assert (await state(k)).waiting == 1
        await k.operator.call(SignalProcess(pid=held.pid, signal="suspend"))
        await k.operator.call(WaitFor(pid=one.pid))
        await asyncio.sleep(20)
        now = await state(k)
        assert (len(begun), now.reserved["calls"]) == (4, 0), "a use is not kept for who is held"
        await k.operator.call(SignalProcess(pid=held.pid, signal="resume"))
        assert (await k.operator.call(WaitFor(pid=held.pid))).result == "found" and len(begun) == 6


@pytest.mark.parametrize("account", ["tool:", "tool:a b", "tool:a/b/c", "tool:\uff4c", "tool:" + "x" * 65, "tool:a.b"])
def test_what_cannot_be_the_name_of_a_tool_is_refused(account: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="account"):
        msgspec.convert({"account": account, "unit": "calls", "amount": 5}, SetLimit)


@pytest.mark.parametrize("unit", ["money", "tokens"])
def test_a_tool_comes_to_calls_alone(unit: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="`unit` must be `calls`"):
        msgspec.convert({"account": "tool:search", "unit": unit, "amount": 5}, SetLimit)


def test_calls_of_a_tool_have_no_class_to_be_lowered() -> None:
    with pytest.raises(msgspec.ValidationError, match="`soft` must be left out"):
        msgspec.convert({"account": "tool:search", "unit": "calls", "amount": 5, "soft": 4}, SetLimit)
