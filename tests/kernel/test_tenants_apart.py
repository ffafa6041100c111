"""Limits of accounts that tenants share: none is refused, and none waits long, because another one makes many calls."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from aios.abi.account import SetLimit, ShowAccounts, Unit, Window
from aios.abi.errors import OverBudget, RateLimited
from aios.abi.event import ReadEvents
from aios.abi.llm import Completion, Generate, Usage
from aios.abi.process import Explain
from aios.abi.system import AddToken
from aios.kernel.ledger import admission
from aios.ports.core import CoreCall, Emit
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import EPOCH_NS, RunningKernel, kernel_for_tests

hello = Generate(prompt="hello", max_tokens=4)
TO_NEXT_S = 60 - EPOCH_NS // 10**9 % 60
SHARED = ("/", "model:scripted-1", "provider:scripted")
TEN_SECONDS = Script(text="one two", first_s=10)


async def limit(k: RunningKernel, account: str, amount: int, unit: Unit = "calls", window: Window = "minute") -> None:
    await k.operator.call(SetLimit(account=account, unit=unit, amount=amount, window=window))


async def client(k: RunningKernel, tenant: str, user: str = "") -> Gate:
    made = await k.operator.call(AddToken(agent="client", tenant=tenant, user=user))
    return k.attach(made.value)


class Wordy(ScriptedCore):
    """A model that reads a token in each byte."""

    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        completion = await super().generate(call, emit)
        return replace(completion, usage=Usage(input_uncached=len(call.request.prompt or ""), output_visible=4))


def begin(gate: Gate, request: Generate, count: int) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(gate.call(request)) for _ in range(count)]


async def end(calls: list[asyncio.Future[Any]]) -> None:
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("account", SHARED)
async def test_a_tenant_that_parks_all_it_can_at_a_rate_has_nobody_else_refused(
    account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "MOST_AT_RATE", 20)
    async with kernel_for_tests([ScriptedCore("one", slots=8)]) as k:
        greedy, other = await client(k, "greedy"), await client(k, "acme")
        await limit(k, account, 2)
        calls = begin(greedy, hello, 30)
        await asyncio.sleep(1)
        assert sum(isinstance(call.exception(), RateLimited) for call in calls if call.done()) == 8
        await other.call(hello)
        assert time() < TO_NEXT_S + 2
        await end(calls)


@pytest.mark.parametrize("account", SHARED)
async def test_who_waits_for_calls_of_another_tenant_waits_for_one_of_them(account: str) -> None:
    async with kernel_for_tests([ScriptedCore(TEN_SECONDS, slots=8)]) as k:
        greedy, other = await client(k, "greedy"), await client(k, "acme")
        await limit(k, account, 2, window="now")
        calls = begin(greedy, hello, 60)
        await asyncio.sleep(1)
        for turn in (20, 40, 60):
            await other.call(hello)
            assert time() <= turn + 1
        await end(calls)


async def test_so_does_a_user_of_a_tenant() -> None:
    async with kernel_for_tests([ScriptedCore(TEN_SECONDS, slots=8)]) as k:
        greedy, other = await client(k, "acme", "bob"), await client(k, "acme", "ann")
        await limit(k, "/acme", 2, window="now")
        calls = begin(greedy, hello, 60)
        await asyncio.sleep(1)
        await other.call(hello)
        assert time() <= 21
        await end(calls)


async def test_of_a_minute_that_another_tenant_would_use_up_each_time_everybody_has_a_part() -> None:
    """Whole minutes are for those who missed one, and these take turns as well."""
    async with kernel_for_tests([Wordy("one two", slots=8, window=10**5)]) as k:
        greedy, other = await client(k, "greedy"), await client(k, "acme")
        await limit(k, "/", 4000, "tokens")
        calls = begin(greedy, Generate(prompt="x" * 3400, max_tokens=4), 40)
        await asyncio.sleep(TO_NEXT_S + 1)
        await other.call(Generate(prompt="y" * 3400, max_tokens=4))
        assert time() < TO_NEXT_S + 121
        await end(calls)


async def test_a_large_call_is_not_kept_out_by_small_ones_of_other_tenants() -> None:
    async with kernel_for_tests([ScriptedCore(TEN_SECONDS, slots=64)]) as k:
        large, others = await client(k, "acme"), [await client(k, name) for name in ("a", "b", "c")]
        await limit(k, "/", 10_000, "tokens", "now")
        small: list[asyncio.Future[Any]] = []

        async def come() -> None:
            while True:
                for other in others:
                    small.extend(begin(other, hello, 1))
                await asyncio.sleep(1)

        coming = asyncio.ensure_future(come())
        await asyncio.sleep(30)
        began = time()
        await large.call(Generate(prompt="x" * 9000, max_tokens=4))
        assert time() - began < 60
        coming.cancel()
        await end(small)


@pytest.mark.parametrize("account", SHARED)
async def test_what_other_tenants_have_spent_is_told_to_operators_alone(account: str) -> None:
    async with kernel_for_tests([ScriptedCore("one two", slots=8)]) as k:
        busy, curious = await client(k, "busy"), await client(k, "curious")
        await limit(k, account, 3, window="day")
        await curious.call(ShowAccounts())
        for _ in range(3):
            answer = await busy.answer(hello)
            assert answer.quota == ()
        with pytest.raises(OverBudget) as refused:
            await curious.call(hello)
        assert refused.value.message == (
            f"`{account}` has too little left per day for this call, which may come to 1 call; it begins anew at "
            f"2023-11-15 00:00 UTC: `aios budget {account} --calls AMOUNT --per day` raises it"
        )
        assert (await curious.call(ShowAccounts())).accounts[0].effective == ()
        told = (await k.operator.call(ReadEvents(kinds=("account",)))).events[-1]
        assert f"`{account}` has spent 3 calls of 3 calls per day" in repr(told)


async def test_of_a_rate_that_tenants_share_a_call_that_waits_tells_no_figures() -> None:
    async with kernel_for_tests([ScriptedCore("one two", slots=8)]) as k:
        busy, curious = await client(k, "busy"), await client(k, "curious")
        await limit(k, "/", 3)
        for _ in range(3):
            await busy.call(hello)
        calls = begin(curious, hello, 1)
        await asyncio.sleep(1)
        explained = await curious.call(Explain(pid=curious.process.pid))
        assert "`/` has too little left per minute" in repr(explained) and "3 calls" not in repr(explained)
        await end(calls)
