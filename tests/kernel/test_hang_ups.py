"""Clients that go away in the midst of an answer that is paid for: it is heard out, for a while, and charged as it comes."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from aios.abi.account import AccountState, SetLimit, ShowAccounts
from aios.abi.errors import Cancelled, DeadlineExceeded, QueueFull, Refused
from aios.abi.event import CallEnded, CallSettled, ReadEvents
from aios.abi.llm import Generate, Usage
from aios.abi.process import SignalProcess
from aios.abi.request import CallOptions
from aios.kernel.cores.drains import DRAIN_S
from aios.ports.core import CoreCall, Emit, Price
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests

PRICE = Price(10, 1, 100)
WORST = 512 + 5
hello = Generate(prompt="hello", max_tokens=4)
IN_FULL = WORST * 10 + 4 * 100


class Elsewhere(ScriptedCore):
    """A core that is not on this machine. `ended`: answers that were told to the last word."""

    ended = 0

    def info(self) -> Any:
        return replace(super().info(), local=False)

    async def generate(self, call: CoreCall, emit: Emit) -> Any:
        answer = await super().generate(call, emit)
        self.ended += 1
        return replace(answer, usage=Usage(20, 0, 3))


async def state(k: RunningKernel) -> AccountState:
    return (await k.operator.call(ShowAccounts(account="/local/client"))).accounts[0]


async def limit(k: RunningKernel, amount: int = 10**9) -> None:
    await k.operator.call(SetLimit(account="/local/client", unit="money", amount=amount))


async def given_up(gate: Gate, after_s: float) -> None:
    """A call that its caller gives up."""
    call = asyncio.ensure_future(gate.call(hello))
    await asyncio.sleep(after_s)
    call.cancel()
    with pytest.raises((asyncio.CancelledError, Cancelled)):
        await call


@pytest.mark.parametrize("after_s", [1, 3])
async def test_an_answer_whose_reader_went_away_is_charged_as_it_came_and_nobody_waits_for_it(after_s: int) -> None:
    core = Elsewhere(Script(text="one two three", first_s=2, token_s=2), price=PRICE, slots=1)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k)
        await given_up(gate, after_s)
        assert time() == after_s
        now = await state(k)
        assert now.reserved["money"] == IN_FULL and now.spent["lifetime"]["money"] == 0
        answer = await gate.call(hello)  # it waits for the turn that the other one still has
        assert core.ended == 2 and answer.usage.output_tokens == 3
        now = await state(k)
        assert now.reserved["money"] == 0 and now.spent["lifetime"]["money"] == 2 * (20 * 10 + 3 * 100)


async def test_one_that_ends_in_the_very_step_in_which_its_reader_goes_away_is_charged_as_it_came() -> None:
    core = Elsewhere(Script(text="one two three", first_s=2, token_s=2), price=PRICE)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k)
        begun = time()
        await gate.call(hello)
        await given_up(gate, time() - begun)
        assert core.ended == 2
        await asyncio.sleep(0)
        now = await state(k)
        assert (now.reserved["money"], now.spent["lifetime"]["money"]) == (0, 2 * (20 * 10 + 3 * 100))


async def test_one_that_takes_too_long_is_charged_in_full() -> None:
    core = Elsewhere(Script(text="one two three", token_s=40), price=PRICE)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k)
        await given_up(gate, 1)
        await asyncio.sleep(DRAIN_S - 1)
        assert (await state(k)).reserved["money"] == IN_FULL
        await asyncio.sleep(2)
        now = await state(k)
        assert (now.reserved["money"], now.spent["lifetime"]["money"], core.ended) == (0, IN_FULL, 0)


async def test_one_that_fails_meanwhile_is_charged_in_full() -> None:
    core = Elsewhere(Script(text="one two three", token_s=2, fail_after=2), price=PRICE)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k)
        await given_up(gate, 1)
        await asyncio.sleep(10)
        now = await state(k)
        assert (now.reserved["money"], now.spent["lifetime"]["money"]) == (0, IN_FULL)


async def test_what_is_stopped_is_not_heard_out() -> None:
    core = Elsewhere(Script(text="one two three", token_s=5), price=PRICE)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k)
        with pytest.raises(DeadlineExceeded):
            await gate.call(hello, CallOptions(deadline_s=1))
        now = await state(k)
        assert (now.reserved["money"], now.spent["lifetime"]["money"]) == (0, IN_FULL)
        await asyncio.sleep(DRAIN_S)
        assert core.ended == 0


async def test_where_nothing_is_limited_the_provider_is_left_at_once() -> None:
    core = Elsewhere(Script(text="one two three", token_s=5), price=PRICE)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await given_up(gate, 1)
        assert (await state(k)).reserved["money"] == 0
        await asyncio.sleep(DRAIN_S)
        assert core.ended == 0


async def test_a_kernel_that_goes_down_waits_for_none_and_charges_it_in_full() -> None:
    core = Elsewhere(Script(text="one two three", token_s=5), price=PRICE)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k)
        await given_up(gate, 1)
        account = k.kernel.accounts.named("/local/client")
    assert time() == 1
    assert (account.reserved[0], account.spent[0], core.ended) == (0, IN_FULL, 0)


async def what_was_told(k: RunningKernel) -> tuple[CallEnded, list[CallSettled]]:
    """How the client's call ended, and what came of it later."""
    events = (await k.operator.call(ReadEvents(kinds=("call", "settle")))).events
    (ended,) = (event for event in events if isinstance(event, CallEnded) and event.row == "llm.generate")
    settled = [event for event in events if isinstance(event, CallSettled)]
    assert all((event.call, event.pid) == (ended.call, ended.pid) and event.seq > ended.seq for event in settled)
    return ended, settled


async def test_what_a_heard_out_answer_came_to_is_told_when_it_is_known() -> None:
    """The call's own end is told at once, for those who wait for it."""
    core = Elsewhere(Script(text="one two three", first_s=2, token_s=2), price=PRICE)
    async with kernel_for_tests([core]) as k:
        gate = await k.session(grants=("use /llm/*", "read /events"))
        await limit(k)
        await given_up(gate, 1)
        ended, settled = await what_was_told(k)
        assert (ended.outcome, ended.cost, ended.heard_out, settled) == ("Cancelled", 0, True, [])
        await asyncio.sleep(10)
        _, (event,) = await what_was_told(k)
        assert (event.input_tokens, event.output_tokens) == (20, 3)
        assert (event.cost, event.reserved) == (20 * 10 + 3 * 100, IN_FULL)
        assert event.cost == (await state(k)).spent["lifetime"]["money"]
        assert k.kernel.statistics().output_tokens == 3
        own = (await gate.call(ReadEvents(kinds=("settle",)))).events
        assert own == (event,), "whose call it was may read it too"


@pytest.mark.parametrize("script", [Script(text="one", first_s=60), Script(text="one two", first_s=2, fail_after=1)])
async def test_where_nobody_knows_it_is_told_that_all_was_charged_that_had_been_reserved(script: Script) -> None:
    async with kernel_for_tests([Elsewhere(script, price=PRICE)]) as k:
        gate = await k.session()
        await limit(k)
        await given_up(gate, 1)
        await asyncio.sleep(DRAIN_S + 1)
        _, (event,) = await what_was_told(k)
        assert (event.cost, event.reserved, event.input_tokens, event.output_tokens) == (IN_FULL, IN_FULL, 0, 0)
        assert (await state(k)).spent["lifetime"]["money"] == IN_FULL


async def test_one_that_its_provider_refuses_after_all_costs_nothing() -> None:
    script = Script(text="one", first_s=2, fail_after=0, failure=Refused("no such model"))
    async with kernel_for_tests([Elsewhere(script, price=PRICE)]) as k:
        gate = await k.session()
        await limit(k)
        await given_up(gate, 1)
        await asyncio.sleep(5)
        _, (event,) = await what_was_told(k)
        assert (event.cost, event.reserved) == (0, IN_FULL)
        now = await state(k)
        assert (now.reserved["money"], now.spent["lifetime"]["money"]) == (0, 0)


async def test_a_call_that_is_charged_at_its_end_is_settled_by_that() -> None:
    async with kernel_for_tests([Elsewhere("one", price=PRICE)]) as k:
        gate = await k.session()
        await limit(k)
        await gate.call(hello)
        ended, settled = await what_was_told(k)
        assert (ended.cost, ended.heard_out, settled) == (20 * 10 + 3 * 100, False, [])


async def test_a_kernel_that_goes_down_tells_what_it_charges() -> None:
    async with kernel_for_tests([Elsewhere(Script(text="one two three", token_s=5), price=PRICE)]) as k:
        gate = await k.session()
        await limit(k)
        await given_up(gate, 1)
        events = k.kernel.events
    (event,) = events.after(0, 1000, lambda event: isinstance(event, CallSettled))[0]
    assert isinstance(event, CallSettled) and event.cost == event.reserved == IN_FULL


class Billing(Elsewhere):
    """Knows what it bills: nothing of what it refused, what it told of what it answered, and all that it may of the rest."""

    def __init__(self, script: Script) -> None:
        super().__init__(script, price=PRICE)
        self.bills: list[int] = []

    async def generate(self, call: CoreCall, emit: Emit) -> Any:
        self.bills.append(IN_FULL)
        try:
            answer = await super().generate(call, emit)
        except QueueFull:
            self.bills[-1] = 0
            raise
        self.bills[-1] = 20 * 10 + 3 * 100
        return answer


@pytest.mark.parametrize("steps", range(16))
@pytest.mark.parametrize("script", [Script(text="one two three"), Script(fail_after=0, failure=QueueFull("not now"))])
@pytest.mark.parametrize("how", ["given up", "killed", "killed and its host too"])
async def test_at_whatever_step_a_call_is_stopped_it_is_charged_what_the_provider_bills(
    steps: int, script: Script, how: str
) -> None:
    async def work(gate: Gate) -> None:
        await gate.call(hello)

    core = Billing(script)
    async with kernel_for_tests([core], {"work": work}) as k:
        await k.operator.call(SetLimit(account="/local", unit="money", amount=10**9))
        agent = await k.spawn("work") if how != "given up" else None
        call = asyncio.ensure_future((await k.session()).call(hello)) if agent is None else None
        for _ in range(steps):
            await asyncio.sleep(0)
        if agent is not None:
            killing = asyncio.ensure_future(k.operator.call(SignalProcess(pid=agent.pid, signal="kill")))
            if how != "killed":
                await asyncio.sleep(0)
                for host in k.hosts.hosts:
                    host.die()
            await killing
        elif call is not None:
            call.cancel()
            await asyncio.wait((call,))
        await asyncio.sleep(DRAIN_S + 1)
        (account,) = (await k.operator.call(ShowAccounts(account="/local"))).accounts
        assert (account.spent["lifetime"]["money"], account.reserved["money"]) == (sum(core.bills), 0)
