"""A limit that comes while calls wait and run for which nothing was reserved, as there was none and they cost nothing."""

import asyncio

import pytest

from aios.abi.account import AccountState, SetLimit, ShowAccounts
from aios.abi.errors import CoreFailed, OverBudget
from aios.abi.llm import Generate
from aios.abi.process import SignalProcess, WaitFor
from aios.kernel.amounts import Bound
from aios.kernel.cores.calls import CoreCalls
from aios.kernel.process import Call
from aios.ports.core import CoreCall, Price
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import RunningKernel, kernel_for_tests

hello = Generate(prompt="hello", max_tokens=4)


async def state(k: RunningKernel) -> AccountState:
    return (await k.operator.call(ShowAccounts(account="/local/client"))).accounts[0]


async def limit(k: RunningKernel, calls: int) -> AccountState:
    return await k.operator.call(SetLimit(account="/local/client", unit="calls", amount=calls))


@pytest.mark.parametrize("steps", range(24))
@pytest.mark.parametrize("wait_s", [0.0, 1.0])
async def test_at_whatever_step_it_comes_no_call_is_lost_and_none_begins_beyond_it(steps: int, wait_s: float) -> None:
    def answer(call: CoreCall) -> Script:
        return Script(text="one two", first_s=wait_s, fail_after=0 if len(core.calls) % 4 == 2 else None)

    core = ScriptedCore(answer, slots=2)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        calls = [asyncio.ensure_future(gate.call(hello)) for _ in range(8)]
        await asyncio.sleep(wait_s * steps / 8)
        for _ in range(steps):
            await asyncio.sleep(0)
        now = await limit(k, 3)
        (most,) = now.limits
        begun = most.spent + most.reserved
        assert len(core.calls) <= begun and most.amount == max(3, begun)
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, CoreFailed | OverBudget) for each in ended if isinstance(each, BaseException))
        after = await state(k)
        assert after.spent["lifetime"]["calls"] == len(core.calls) <= max(3, begun)
        assert set(after.reserved.values()) == {0} and after.waiting == 0


async def test_for_calls_of_a_held_process_and_those_that_are_given_up_nothing_is_reserved() -> None:
    async def work(gate: Gate) -> None:
        first, second, third = (asyncio.ensure_future(gate.call(hello)) for _ in range(3))
        await asyncio.sleep(0.5)
        third.cancel()
        await asyncio.gather(first, second)

    async with kernel_for_tests([ScriptedCore(Script(text="one", first_s=1), slots=1)], {"work": work}) as k:
        agent = await k.spawn("work")
        await asyncio.sleep(0.7)
        await k.operator.call(SignalProcess(pid=agent.pid, signal="suspend"))
        await asyncio.sleep(1)
        (most,) = (await k.operator.call(SetLimit(account="/local/work", unit="calls", amount=5))).limits
        assert (most.spent, most.reserved) == (1, 0)
        await k.operator.call(SignalProcess(pid=agent.pid, signal="resume"))
        await k.operator.call(WaitFor(pid=agent.pid))
        (account,) = (await k.operator.call(ShowAccounts(account="/local/work"))).accounts
        assert account.spent["lifetime"]["calls"] == 2 and account.reserved["calls"] == 0


@pytest.mark.parametrize("price", [None, Price(10, 1, 100)])
@pytest.mark.parametrize("ahead", [0, 1])
async def test_a_call_that_was_on_its_way_when_it_came_is_told_what_is_left_of_it(price: Price | None, ahead: int) -> None:
    async with kernel_for_tests([ScriptedCore(Script(text="one", first_s=1), slots=1, price=price)]) as k:
        gate, other = await k.session(), await k.session("other")
        before = [asyncio.ensure_future(other.call(hello)) for _ in range(ahead)]
        await asyncio.sleep(0.2)
        call = asyncio.ensure_future(gate.answer(hello))
        await asyncio.sleep(0.2)
        await limit(k, 10)
        assert [left.free for left in (await call).quota] == [9]
        await asyncio.gather(*before)


async def test_nothing_is_reserved_for_calls_below_another_account() -> None:
    async with kernel_for_tests([ScriptedCore(Script(text="one", first_s=1), slots=4)]) as k:
        gate, other = await k.session(), await k.session("other")
        calls = [asyncio.ensure_future(each.call(hello)) for each in (gate, other)]
        await asyncio.sleep(0.5)
        (most,) = (await limit(k, 1)).limits
        assert most.reserved == 1
        (tenant,) = (await k.operator.call(SetLimit(account="/local", unit="calls", amount=9))).limits
        assert tenant.reserved == 2
        await asyncio.gather(*calls)
        assert (await state(k)).spent["lifetime"]["calls"] == 1


async def test_of_calls_that_wait_nothing_is_reckoned_before_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a first limit would take the longer, the more of them wait, in one step of the loop."""
    reckoned: list[str] = []

    def bound(self: CoreCalls, call: Call, core: str) -> Bound:
        reckoned.append(call.id)
        return reckon(self, call, core)

    reckon = CoreCalls._bound
    monkeypatch.setattr(CoreCalls, "_bound", bound)
    async with kernel_for_tests([ScriptedCore(Script(text="one", first_s=1), slots=2)]) as k:
        gate = await k.session()
        calls = [asyncio.ensure_future(gate.call(hello)) for _ in range(100)]
        await asyncio.sleep(0.5)
        (most,) = (await limit(k, 50)).limits
        assert most.reserved == 2 == len(reckoned)
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(each, OverBudget) for each in ended) == 50
