"""Rates and calls at once: limits of an account like any other, beyond which a call waits for the next minute or for its turn."""

import asyncio
import math
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from aios.abi.account import AccountState, SetLimit, ShowAccounts, Unit, Window
from aios.abi.errors import NotFound, OverBudget, RateLimited
from aios.abi.event import ReadEvents
from aios.abi.llm import Completion, Generate, Usage
from aios.abi.process import Explain, Renice, SignalProcess, WaitFor
from aios.abi.request import CallOptions
from aios.abi.system import AddToken
from aios.kernel.ledger import admission
from aios.kernel.ledger.accounts import Account
from aios.kernel.ledger.windows import DAY_NS, MINUTE_NS, begun_ns, ends_ns
from aios.ports.core import CoreCall, Emit
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import EPOCH_NS, RunningKernel, kernel_for_tests

hello = Generate(prompt="hello", max_tokens=4)
TO_NEXT_S = 60 - EPOCH_NS // 10**9 % 60
"""From the start of a test to the end of the minute in which it starts."""


async def limit(
    k: RunningKernel, account: str, amount: int | None, unit: Unit = "calls", window: Window = "minute"
) -> AccountState:
    return await k.operator.call(SetLimit(account=account, unit=unit, amount=amount, window=window))


async def state(k: RunningKernel, account: str) -> AccountState:
    return (await k.operator.call(ShowAccounts(account=account))).accounts[0]


async def test_a_call_beyond_a_rate_waits_for_the_next_minute_and_why_says_so() -> None:
    cores = ScriptedCore("one two", slots=8)
    async with kernel_for_tests([cores]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 2)
        calls = [asyncio.ensure_future(gate.call(hello)) for _ in range(5)]
        await asyncio.wait(calls[:2])
        await asyncio.sleep(1)
        explained = await k.operator.call(Explain(pid=gate.process.name))
        waits = [call.wait for call in explained.calls]
        assert len(cores.calls) == 2 and {wait.code for wait in waits if wait is not None} == {"R"} and len(waits) == 3
        assert waits[0] is not None and waits[0].holder == "/local/client" and waits[0].eta_s is not None
        assert waits[0].on == (
            "`/local/client` has spent 2 calls of 2 calls per minute, and this call may come to 1 call; it begins anew at "
            "2023-11-14 22:14 UTC: `aios budget /local/client --calls AMOUNT --per minute` raises it"
        )
        assert explained.moves == ("the next minute, or a higher rate of `/local/client`",)
        assert explained.reason == f"`llm.generate` waits, as {waits[0].on}"
        assert explained.process.word == "blocked" and (await state(k, "/local/client")).waiting == 3
        await asyncio.gather(*calls)
        assert TO_NEXT_S + 60 <= time() < TO_NEXT_S + 61


@pytest.mark.parametrize("above", [False, True])
async def test_who_has_spent_a_rate_and_a_day_hears_of_the_day_at_once(above: bool) -> None:
    """And does not wait for a minute that helps nothing."""
    async with kernel_for_tests([ScriptedCore("one two")]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 1)
        await limit(k, "/" if above else "/local/client", 1, window="day")
        await gate.call(hello)
        with pytest.raises(OverBudget, match="1 call per day"):
            await gate.call(hello)
        assert time() < 1


async def test_a_rate_of_tokens_counts_what_came_of_them_and_is_not_used_up_by_a_clipped_answer() -> None:
    cores = ScriptedCore("one two", slots=8)
    async with kernel_for_tests([cores]) as k:
        gate = await k.session()
        await limit(k, "/local", 4000, "tokens")
        for _ in range(3):
            await gate.call(Generate(prompt="hello", max_tokens=400))
        assert time() < TO_NEXT_S and [call.request.max_tokens for call in cores.calls] == [400] * 3
        asked = [asyncio.ensure_future(gate.call(Generate(prompt="hello", max_tokens=2500))) for _ in range(4)]
        await asyncio.gather(*asked)
        assert min(call.request.max_tokens or 0 for call in cores.calls[3:]) >= (4000 - 517) // 4


async def test_calls_at_once_are_limited_per_agent_process_user_and_tenant() -> None:
    for account in ("/", "/acme", "/acme/@ann", "/acme/@ann/client", "/acme/@ann/client/client-1"):
        cores = ScriptedCore(Script(text="one two", first_s=1), slots=8)
        async with kernel_for_tests([cores]) as k:
            made = await k.operator.call(AddToken(agent="client", tenant="acme", user="ann"))
            gate, began = k.attach(made.value), time()
            await gate.call(hello)
            await limit(k, account, 2, window="now")
            calls = [asyncio.ensure_future(gate.call(hello)) for _ in range(6)]
            await asyncio.sleep(0.5)
            now = await state(k, account)
            assert (now.reserved["calls"], now.waiting, now.limits[0].free, now.limits[0].spent) == (2, 4, 0, 0)
            explained = await k.operator.call(Explain(pid=gate.process.pid))
            assert [call.wait.code for call in explained.calls if call.wait is not None] == ["B"] * 4
            await asyncio.gather(*calls)
            assert time() - began == pytest.approx(4, abs=0.1) and (await state(k, account)).limits[0].free == 2


async def test_a_model_has_limits_of_its_own_whoever_calls_it_and_others_are_as_free_as_before() -> None:
    cores = ScriptedCore(Script(text="one two", first_s=1), slots=8)
    large, small = ScriptedCore("one", name="b", models=("vendor/large:1",)), cores
    async with kernel_for_tests([small, large]) as k:
        one, other = await k.session("one"), await k.session("other")
        asked = Generate(prompt="hello", max_tokens=4, model="vendor/large:1")
        under_way = asyncio.ensure_future(other.call(asked))
        await asyncio.sleep(0)
        now = await limit(k, "model:vendor/large:1", 3)
        assert (now.account, now.limits[0].reserved, now.effective) == ("model:vendor/large:1", 1, now.limits)
        await under_way
        calls = [asyncio.ensure_future(gate.call(asked)) for gate in (one, other) for _ in range(2)]
        free = [asyncio.ensure_future(gate.call(hello)) for gate in (one, other) for _ in range(8)]
        await asyncio.gather(*free)
        assert time() < 5 and (await state(k, "model:vendor/large:1")).waiting == 2
        explained = await k.operator.call(Explain(pid=other.process.name))
        assert "`aios budget model:vendor/large:1 --calls AMOUNT --per minute` raises it" in explained.reason
        await asyncio.gather(*calls)
        assert TO_NEXT_S <= time() < TO_NEXT_S + 1
        shown = (await k.operator.call(ShowAccounts(account="/", below=True))).accounts
        assert shown[-1].account == "model:vendor/large:1" and shown[-1].spent["lifetime"]["calls"] == 5
        await limit(k, "model:vendor/large:1", None)
        await limit(k, "model:scripted-1", 1, window="now")
        calls = [asyncio.ensure_future(one.call(hello)) for _ in range(3)]
        began = time()
        await asyncio.gather(*calls, other.call(asked))
        assert time() - began == pytest.approx(3, abs=0.1)
        with pytest.raises(NotFound, match="no core has a model `vendor/large`.*vendor/large:1"):
            await limit(k, "model:vendor/large", 3)
        with pytest.raises(NotFound):
            await one.call(ShowAccounts(account="model:scripted-1"))


async def test_who_cannot_wait_until_the_next_minute_is_refused_and_told_when_to_come_again() -> None:
    async with kernel_for_tests([ScriptedCore("one")]) as k:
        gate = await k.session()
        await limit(k, "/local", 1)
        await gate.call(hello)
        with pytest.raises(RateLimited) as refused:
            await gate.call(hello, CallOptions(deadline_s=5.0))
        assert refused.value.retry and refused.value.retry_after_s == pytest.approx(TO_NEXT_S, abs=1) and time() < 1
        assert "`aios budget /local --calls AMOUNT --per minute` raises it" in refused.value.message
        await gate.call(hello, CallOptions(deadline_s=100.0))


class Wordy(ScriptedCore):
    """Says that it read as many tokens as were reserved."""

    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        usage = Usage(512 + len(call.request.prompt or ""), 0, 4)
        return replace(await super().generate(call, emit), usage=usage)


async def test_a_call_that_needs_nearly_a_whole_minute_has_one_however_many_small_ones_come() -> None:
    """Each minute begins with small ones under way, which leave too little of it: unless they wait too."""
    async with kernel_for_tests([Wordy(Script(text="one two three four", first_s=10), slots=64, window=10**5)]) as k:
        gate, other = await k.session(), await k.session("other")
        await limit(k, "/local", 10_000, "tokens")
        small: list[asyncio.Future[Any]] = []

        async def come() -> None:
            while True:
                small.append(asyncio.ensure_future(other.call(hello)))
                await asyncio.sleep(5)

        coming = asyncio.ensure_future(come())
        await asyncio.sleep(TO_NEXT_S + 30)
        began = time()
        large = asyncio.ensure_future(gate.call(Generate(prompt="x" * 8900, max_tokens=4)))
        await asyncio.sleep(60)
        explained = await k.operator.call(Explain(pid=other.process.pid))
        waits = [call.wait.on for call in explained.calls if call.wait is not None and call.wait.code == "R"]
        assert waits[-1].startswith(
            "`/local` has a limit of 10,000 tokens per minute, and an earlier call that missed the last minute comes first"
        )
        await large
        assert time() - began < 110
        coming.cancel()
        done = await asyncio.gather(*small)
        assert len(done) > 30 and (await state(k, "/local")).waiting == 0


async def test_those_who_wait_for_a_minute_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_AT_RATE", 3)
    async with kernel_for_tests([ScriptedCore("one")]) as k:
        gate = await k.session()
        await limit(k, "/local", 1)
        await gate.call(hello)
        ended = await asyncio.gather(*(gate.call(hello) for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in ended if isinstance(each, Exception)] == [RateLimited] * 2


async def test_a_call_that_is_larger_than_a_rate_is_refused_for_good() -> None:
    async with kernel_for_tests([ScriptedCore("one")]) as k:
        gate = await k.session()
        await limit(k, "/local", 100, "tokens")
        with pytest.raises(OverBudget, match="100 tokens per minute, and this call alone may come to"):
            await gate.call(hello)
        await limit(k, "/local", None, "tokens")
        await limit(k, "/local", 0, window="now")
        with pytest.raises(OverBudget, match="0 calls at once.*--calls AMOUNT --per now` raises it"):
            await gate.call(hello)


async def test_agents_wait_for_the_next_minute_too_whatever_their_budget_says() -> None:
    async def work(gate: Gate) -> float:
        await gate.call(hello)
        await gate.call(hello)
        return time()

    async with kernel_for_tests([ScriptedCore("one")], {"work": work}) as k:
        await limit(k, "/local/work", 1)
        agent = await k.spawn("work", on_budget="fail")
        assert TO_NEXT_S <= (await k.operator.call(WaitFor(pid=agent.pid))).result < TO_NEXT_S + 1


async def test_a_process_that_is_held_or_killed_while_it_waits_for_a_minute_does_not_go_on() -> None:
    async def work(gate: Gate) -> str:
        await gate.call(hello)
        return "done"

    cores = ScriptedCore("one")
    async with kernel_for_tests([cores], {"work": work}) as k:
        await limit(k, "/local/work", 1)
        await (await k.session("other")).call(hello)
        first = await k.spawn("work")
        assert (await k.operator.call(WaitFor(pid=first.pid))).result == "done"
        held, killed = await k.spawn("work"), await k.spawn("work")
        await asyncio.sleep(1)
        await k.operator.call(SignalProcess(pid=held.pid, signal="suspend"))
        await k.operator.call(SignalProcess(pid=killed.pid, signal="kill"))
        assert (await k.operator.call(WaitFor(pid=killed.pid))).outcome == "killed"
        await asyncio.sleep(200)
        now = await state(k, "/local/work")
        assert (len(cores.calls), now.waiting, now.reserved["calls"]) == (2, 0, 0)
        await k.operator.call(SignalProcess(pid=held.pid, signal="resume"))
        assert (await k.operator.call(WaitFor(pid=held.pid))).result == "done" and len(cores.calls) == 3


async def test_who_is_parked_for_a_day_is_not_woken_each_minute() -> None:
    async def work(gate: Gate) -> None:
        await gate.call(hello)
        await gate.call(hello)

    async with kernel_for_tests([ScriptedCore("one")], {"work": work}) as k:
        await limit(k, "/local/work", 1, window="day")
        await k.spawn("work")
        await asyncio.sleep(1200)
        told: Any = (await k.operator.call(ReadEvents(kinds=("account",)))).events
        assert [event.change for event in told] == ["limited", "parked"]


async def test_a_rate_that_is_raised_lets_those_go_on_who_wait_urgent_ones_first() -> None:
    async with kernel_for_tests([ScriptedCore("one", slots=1)]) as k:
        gate, urgent = await k.session(), await k.session("urgent", cls="interactive")
        await limit(k, "/local", 1)
        await gate.call(hello)
        calls = [asyncio.ensure_future(each.call(hello)) for each in (gate, urgent)]
        await asyncio.sleep(1)
        await limit(k, "/local", 10)
        await asyncio.gather(*calls)
        assert time() < TO_NEXT_S
        dispatched: Any = (await k.operator.call(ReadEvents(kinds=("dispatch",)))).events
        assert [event.name for event in dispatched][1:] == [urgent.process.name, gate.process.name]


async def test_who_gives_up_waiting_for_a_minute_is_gone() -> None:
    async with kernel_for_tests([ScriptedCore("one")]) as k:
        gate = await k.session()
        await limit(k, "/local", 1)
        await gate.call(hello)
        call = asyncio.ensure_future(gate.call(hello))
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.wait((call,))
        assert (await state(k, "/local")).waiting == 0 and (await state(k, "/local")).spent["lifetime"]["calls"] == 1


@pytest.mark.parametrize("amount", [-1, math.nan, math.inf, 2**60, 1.5, "5"])
@pytest.mark.parametrize("window", ["now", "minute"])
def test_what_cannot_be_a_rate_is_refused(amount: Any, window: str) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError), match="amount"):
        msgspec.convert({"account": "/local", "unit": "calls", "amount": amount, "window": window}, SetLimit)


OTHERS = ("/ｌocal", "/loc\u0430l", "/local/\u212a", "/local/e\u0301", "/local\u200b", "/local/%2e")
OTHER_MODELS = ("model:\uff4c", "model:", "model:a b")


@pytest.mark.parametrize("name", [*OTHERS, *OTHER_MODELS])
def test_no_two_names_of_accounts_are_one_after_normalisation(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="account"):
        msgspec.convert({"account": name, "unit": "calls", "amount": 5, "window": "minute"}, SetLimit)


def test_a_minute_begins_anew_when_the_clock_jumps_over_its_edge_or_far_back() -> None:
    account = Account("a")
    account.limit("minute", 2, 5)
    account.limit("day", 2, 50)
    now_ns = EPOCH_NS
    account.turn(now_ns)
    account.spent[2] += 5
    for at_ns, spent in (
        (now_ns + 1, 5), (now_ns - 10**9, 5), (ends_ns("minute", now_ns) - 1, 5),  # type: ignore[operator]  # it ends
        (ends_ns("minute", now_ns), 0),
    ):  # fmt: skip
        account.turn(at_ns)  # type: ignore[arg-type]  # it ends
        assert account.spent_in("minute", 2) == spent
    account.spent[2] += 5
    account.turn(now_ns - 400 * DAY_NS)
    assert account.spent_in("minute", 2) == 0, "nobody waits until the clock is again where it wrongly was"
    assert account.spent_in("day", 2) == 10, "but a budget is not had twice"
    account.turn(-(10**30))
    account.turn(10**30)
    assert account.spent_in("minute", 2) == account.spent_in("day", 2) == 0
    assert begun_ns("now", now_ns) == 0 and ends_ns("now", now_ns) is None and ends_ns("minute", 0) == MINUTE_NS


@pytest.mark.parametrize("by", ["renice", "soft limit", "renice, and the limit goes"])
@pytest.mark.parametrize("rate", [(1, "calls"), (521, "tokens")])
async def test_a_call_that_gets_a_lower_class_while_it_waits_for_a_minute_goes_on_like_others(
    by: str, rate: tuple[int, Unit]
) -> None:
    async with kernel_for_tests([ScriptedCore("one", slots=8)]) as k:
        first, other = await k.session("first"), await k.session("other", cls="interactive")
        await limit(k, "/local", *rate)
        calls = [asyncio.ensure_future(first.call(hello)) for _ in range(3)]
        await asyncio.sleep(TO_NEXT_S + 20)  # the third has missed a minute
        calls.append(asyncio.ensure_future(other.call(hello)))
        await asyncio.sleep(1)
        if by == "soft limit":
            await k.operator.call(SetLimit(account="/local/other", unit="calls", amount=10, soft=0))
        else:
            await k.operator.call(Renice(pid=other.process.pid, cls="batch"))
        if by == "renice, and the limit goes":
            await limit(k, "/local", None, rate[1])
        else:
            await asyncio.wait(calls[:2])
            assert not calls[3].done()
        await asyncio.gather(*calls)
