"""Budgets: what is limited is never overspent, who is short only of what is reserved waits, and who has spent it hears why."""

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from aios.abi.account import AccountState, LimitState, SetLimit, ShowAccounts, Unit, Window
from aios.abi.errors import Cancelled, CoreFailed, Denied, Killed, NotFound, OverBudget, QueueFull, TooLarge
from aios.abi.event import ReadEvents
from aios.abi.lane import UseLane
from aios.abi.llm import Generate, Queued, Score, Started, Usage
from aios.abi.process import Explain, Renice, Spawn, WaitFor
from aios.abi.system import AddToken
from aios.drivers.core.scripted import Answers
from aios.kernel import main, process
from aios.kernel.guard import GuardConfig
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.ledger import calls
from aios.ports.core import CoreCall, Emit, NotAsked, Price
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests, manifest_of

PRICE = Price(10, 1, 100)
WORST = 512 + 5
"""Tokens of `hello`, at most."""
hello = Generate(prompt="hello", max_tokens=4)


def core(answers: Answers = "one two three four five", **fields: Any) -> ScriptedCore:
    return ScriptedCore(answers, price=PRICE, **fields)


async def limit(
    k: RunningKernel, account: str, amount: int | None, unit: Unit = "money", window: Window = "lifetime", soft: int | None = None
) -> AccountState:
    return await k.operator.call(SetLimit(account=account, unit=unit, amount=amount, window=window, soft=soft))


async def state(k: RunningKernel, account: str) -> AccountState:
    return (await k.operator.call(ShowAccounts(account=account))).accounts[0]


async def told(k: RunningKernel, kind: str) -> list[Any]:
    return list((await k.operator.call(ReadEvents(kinds=(kind,)))).events)


async def test_what_a_call_came_to_is_spent_in_each_account_above_it() -> None:
    async with kernel_for_tests([core(Script(text="one two", cached=1))]) as k:
        token = await k.operator.call(AddToken(agent="client", tenant="acme", user="ann"))
        await k.attach(token.value).call(Generate(prompt="what is it"))
        for account in ("/", "/acme", "/acme/@ann", "/acme/@ann/client", "/acme/@ann/client/client-1"):
            spent = (await state(k, account)).spent
            assert spent["lifetime"] == spent["hour"] == {"money": 2 * 10 + 1 * 1 + 2 * 100, "tokens": 5, "calls": 1}
        assert (await told(k, "call"))[-1].cost == 221
        assert (await state(k, "/acme")).reserved == {"money": 0, "tokens": 0, "calls": 0}


async def test_while_a_call_runs_the_most_that_it_can_come_to_is_reserved() -> None:
    async with kernel_for_tests([core(Script(text="one two", first_s=5))]) as k:
        gate = await k.session()
        call = asyncio.ensure_future(gate.call(hello))
        await asyncio.sleep(1)
        assert (await state(k, "/local/client")).reserved == {"money": WORST * 10 + 4 * 100, "tokens": WORST + 4, "calls": 1}
        await call
        assert (await state(k, "/local/client")).reserved["money"] == 0


async def test_who_has_spent_it_is_refused_with_the_account_and_the_command_that_raises_it() -> None:
    cores = core("one two")
    async with kernel_for_tests([cores]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 5700, window="day")
        await gate.call(hello)
        with pytest.raises(OverBudget) as over:
            for _ in range(9):
                await gate.call(hello)
        assert not over.value.retry and over.value.retry_after_s is None
        assert "has spent $0.00000021 of $0.0000057 per day, and this call may come to $0.00000557" in str(over.value)
        assert "begins anew at 2023-11-15 00:00 UTC" in str(over.value)
        assert len(cores.calls) == 1
        assert (await told(k, "account"))[-1].change == "refused"
        await limit(k, "/local/client", 12000, window="day")
        await gate.call(hello)


async def test_calls_that_are_short_of_what_is_reserved_wait_and_none_is_refused() -> None:
    cores = core(Script(text="one two", first_s=1), slots=64)
    async with kernel_for_tests([cores]) as k:
        gate = await k.session()
        most = WORST * 10 + 4 * 100
        await limit(k, "/local/client", 30_000)
        calls = [asyncio.ensure_future(gate.call(hello)) for _ in range(20)]
        await asyncio.sleep(0.5)
        now = await state(k, "/local/client")
        assert now.reserved["money"] == 5 * most and now.waiting == 15
        explained = await k.operator.call(Explain(pid=gate.process.name))
        assert {call.wait.code for call in explained.calls if call.wait is not None} == {"B"}
        await asyncio.gather(*calls)
        assert (await state(k, "/local/client")).spent["lifetime"]["calls"] == 20
        assert time() >= 4


async def test_a_call_that_waits_for_its_turn_is_told_what_is_left_of_its_limits() -> None:
    async with kernel_for_tests([core(Script(text="one two", first_s=1), slots=1)]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 10, "calls")
        first = asyncio.ensure_future(gate.call(hello))
        await asyncio.sleep(0.5)
        said = [event async for event in gate.stream(hello)]
        assert [limit.free for event in said if isinstance(event, Queued | Started) for limit in event.quota] == [9, 8]
        await first


async def test_where_there_is_less_room_than_a_call_would_like_its_answer_is_shorter() -> None:
    cores = core(" ".join(["word"] * 2000), window=4000)
    async with kernel_for_tests([cores]) as k:
        gate = await k.session()
        await limit(k, "/local", WORST * 10 + 100 * 300)
        answer = await gate.call(Generate(prompt="hello", max_tokens=2000))
        assert answer.usage.output_tokens == cores.calls[0].request.max_tokens == 300


async def test_an_agent_is_parked_and_goes_on_when_its_limit_is_raised() -> None:
    async def work(gate: Gate) -> str:
        for _ in range(3):
            await gate.call(hello)
        return "done"

    async with kernel_for_tests([core()], {"work": work}) as k:
        await limit(k, "/local/work", WORST * 10 + 500)
        agent = await k.spawn("work")
        await asyncio.sleep(50_000 / 100)
        explained = await k.operator.call(Explain(pid=agent.pid))
        assert explained.process.word == "parked" and explained.process.wait is not None
        assert (
            explained.process.wait.code == "B" and "`aios budget /local/work --usd AMOUNT` raises it" in explained.process.wait.on
        )
        await limit(k, "/local/work", 10**9)
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "done"


async def test_a_parked_agent_goes_on_when_the_window_begins_anew() -> None:
    async def work(gate: Gate) -> float:
        await gate.call(hello)
        await gate.call(hello)
        return time()

    async with kernel_for_tests([core()], {"work": work}) as k:
        await limit(k, "/local/work", 1, "calls", "hour")
        agent = await k.spawn("work")
        ended = await k.operator.call(WaitFor(pid=agent.pid))
        assert ended.result == pytest.approx(3600 - 1_700_000_000 % 3600, abs=1)


@pytest.mark.parametrize("price", [Price(), PRICE])
async def test_an_agent_that_outlives_the_session_which_began_it_is_held_by_its_limits(
    price: Price, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago that ended, and were it known no more."""

    async def work(gate: Gate) -> str:
        for _ in range(9):
            await gate.call(hello)
            await asyncio.sleep(1)
        return "done"

    monkeypatch.setattr(process, "KEPT_ENDED", 0)
    monkeypatch.setattr(main, "MOST_SESSIONS", 1)
    cores = ScriptedCore("one two", price=price)
    async with kernel_for_tests([cores], {"work": work}) as k:
        made = await k.token("client", ("use /llm/*", "spawn /agents/*"))
        owner = k.attach(made.value, "one")
        agent = await k.spawn("work", by=owner)
        await asyncio.sleep(1)
        own = f"/local/client/{owner.process.name}"
        await limit(k, own, 5, "calls")
        k.attach(made.value, "another")
        assert owner.process.exit is not None
        await asyncio.sleep(100)
        assert len(cores.calls) == 5 and (await k.operator.call(Explain(pid=agent.pid))).process.word == "parked"
        await limit(k, own, 9, "calls")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "done"
        with pytest.raises(NotFound):
            await state(k, own)
        assert not k.kernel.accounts._left and len(k.kernel.accounts._of) <= 2


async def test_an_agent_that_would_rather_fail_does() -> None:
    async def work(gate: Gate) -> None:
        await gate.call(hello)

    async with kernel_for_tests([core()], {"work": work}) as k:
        await limit(k, "/local/work", 5)
        agent = await k.spawn("work", on_budget="fail")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).error == "OverBudget"


async def test_a_runaway_with_fifty_children_stops_within_one_call_of_each() -> None:
    async def child(gate: Gate) -> None:
        while True:
            await gate.call(hello)

    async def work(gate: Gate) -> None:
        from_here = [gate.call(Spawn(manifest=manifest_of("child"))) for _ in range(50)]
        await asyncio.gather(*from_here)
        await asyncio.Event().wait()

    cores = core(Script(text="one two", first_s=1), slots=64)
    off = GuardConfig(same_calls=0)
    async with kernel_for_tests([cores], {"work": work, "child": child}, guard=off) as k:
        agent = await k.spawn("work", grants=("use /llm/*", "spawn /agents/*"))
        await asyncio.sleep(10.5)
        before = len(cores.calls)
        now = await limit(k, "/local/work", 0)
        assert before >= 450 and now.limits[0].amount == now.limits[0].spent + now.limits[0].reserved
        await asyncio.sleep(5)
        assert len(cores.calls) == before
        account = await state(k, f"/local/work/{agent.name}")
        assert account.spent["lifetime"]["calls"] == before and account.effective[0].account == "/local/work"


@pytest.mark.parametrize(
    ("failure", "tokens"), [(CoreFailed("it broke"), 2 * (WORST + 1)), (OverBudget("the provider's own"), WORST + 1)]
)
async def test_what_a_core_of_this_machine_said_before_it_failed_is_spent(failure: Any, tokens: int) -> None:
    script = Script(text="one two three", fail_after=1, failure=failure)
    async with kernel_for_tests([core(script)]) as k:
        gate = await k.session()
        with pytest.raises(type(failure)):
            await gate.call(hello)
        assert (await state(k, "/local/client")).spent["lifetime"]["tokens"] == WORST + 1
        assert (await state(k, "/local/client")).reserved["tokens"] == 0


async def test_each_attempt_reserves_anew() -> None:
    def answer(call: CoreCall) -> Script:
        return Script(text="one two", fail_after=0 if len(cores.calls) == 1 else None)

    cores = core(answer)
    async with kernel_for_tests([cores]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 10**9)
        await gate.call(hello)
        spent = (await state(k, "/local/client")).spent["lifetime"]
        assert (spent["calls"], spent["tokens"]) == (2, WORST + 1 + 2)


async def test_a_core_that_could_not_be_asked_is_not_paid_and_the_next_one_is() -> None:
    gone = core(Script(text="one", fail_after=0, failure=NotAsked("nobody is there")), name="gone")
    async with kernel_for_tests([gone, core("one two", name="there")]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 10**9)
        for _ in range(2):
            await gate.call(hello)
        assert gone.calls
        spent = (await state(k, "/local/client")).spent["lifetime"]
        assert spent == {"money": 2 * (10 + 2 * 100), "tokens": 2 * (1 + 2), "calls": 2}


class Unknown(ScriptedCore):
    """A core elsewhere, whose usage is what the test says."""

    usage = Usage(estimated=True)

    def info(self) -> Any:
        return replace(super().info(), local=False)

    async def generate(self, call: CoreCall, emit: Emit) -> Any:
        return replace(await super().generate(call, emit), usage=self.usage)


@pytest.mark.parametrize(
    "usage", [Usage(estimated=True), Usage(-5, 0, 3), Usage(2**62, 0, 3), Usage(0, 0, -(2**40)), Usage(10**400, 0, 3)]
)
async def test_a_usage_that_nobody_told_or_that_cannot_be_true_is_charged_in_full(usage: Usage) -> None:
    unknown = Unknown("one two", price=PRICE)
    unknown.usage = usage
    async with kernel_for_tests([unknown]) as k:
        gate = await k.session()
        answer = await gate.call(hello)
        assert answer.usage.estimated and 0 <= answer.usage.input_tokens + answer.usage.output_tokens <= WORST + 4
        now = await state(k, "/local/client")
        assert now.spent["lifetime"]["tokens"] == WORST + 4 and now.reserved["tokens"] == 0
        assert 0 <= gate.process.tokens <= WORST + 4 and 0 <= (await told(k, "call"))[-1].input_tokens <= WORST


async def test_a_bill_above_what_was_reserved_is_booked_told_and_blocks_until_a_limit_is_set() -> None:
    unknown = Unknown("one two", price=PRICE)
    unknown.usage = Usage(10_000, 0, 3)
    async with kernel_for_tests([unknown]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 10**9)
        await gate.call(hello)
        now = await state(k, "/local/client")
        assert now.spent["lifetime"]["money"] == 100_300 and now.overbilled == 100_300 - WORST * 10 - 400
        assert [event.change for event in await told(k, "account")] == ["limited", "overbilled"]
        again = "`aios budget /local/client --usd 1` lets it go on"
        with pytest.raises(OverBudget, match=f"`/local/client` is blocked: more was billed than had been reserved; {again}"):
            await gate.call(hello)
        unknown.usage = Usage(1, 0, 1)
        await limit(k, "/local/client", 10**9)
        await gate.call(hello)


async def test_a_call_that_is_given_up_while_it_runs_elsewhere_is_charged_in_full_and_one_that_waits_is_free() -> None:
    unknown = Unknown(Script(text="one two", token_s=9), price=PRICE, slots=1)
    async with kernel_for_tests([unknown]) as k:
        gate = await k.session()
        runs, waits = (asyncio.ensure_future(gate.call(hello)) for _ in range(2))
        await asyncio.sleep(1)
        for call in (waits, runs):
            call.cancel()
            with pytest.raises((asyncio.CancelledError, Cancelled)):
                await call
        assert (await state(k, "/local/client")).spent["lifetime"] == {
            "money": WORST * 10 + 400, "tokens": WORST + 4, "calls": 1
        }  # fmt: skip
        assert (await state(k, "/")).reserved["money"] == 0


async def test_who_gives_up_while_it_stands_aside_leaves_room_for_the_next() -> None:
    async with kernel_for_tests([core(Script(text="one two", first_s=5), slots=8)]) as k:
        gate = await k.session()
        await limit(k, "/local", 11_000)
        first, second, third = (asyncio.ensure_future(gate.call(hello)) for _ in range(3))
        await asyncio.sleep(1)
        assert (await state(k, "/local")).waiting == 2
        second.cancel()
        first.cancel()
        await asyncio.wait((first, second))
        now = await state(k, "/local")
        assert (now.waiting, now.reserved["calls"]) == (0, 1)
        await third


async def test_who_stands_aside_is_not_lost_by_another_policy_or_class_and_goes_in_order_of_class() -> None:
    async with kernel_for_tests([core(lambda call: Script(text="one two", first_s=5), slots=8)]) as k:
        gate, urgent = await k.session(), await k.session("urgent", cls="interactive")
        await limit(k, "/local", 5_570 + 1_000)
        calls = [asyncio.ensure_future(gate.call(hello)) for _ in range(3)]
        await asyncio.sleep(1)
        calls.append(asyncio.ensure_future(urgent.call(hello)))
        await asyncio.sleep(1)
        assert (await state(k, "/local")).waiting == 3
        await k.operator.call(UseLane(lane="cores", policy="elas"))
        await k.operator.call(Renice(pid=gate.process.name, cls="batch"))
        assert (await state(k, "/local")).waiting == 3
        await asyncio.gather(*calls)
        names = [event.name for event in await told(k, "dispatch")]
        assert names[:2] == [gate.process.name, urgent.process.name] and len(names) == 4


async def test_who_stands_aside_and_gets_another_class_goes_in_the_order_of_that() -> None:
    async with kernel_for_tests([core(Script(text="one two", first_s=5), slots=8)]) as k:
        holder, standard, batch = (
            await k.session("holder"),
            await k.session("standard"),
            await k.session("batch", cls="interactive"),
        )
        await k.operator.call(Renice(pid=batch.process.pid, cls="batch"))
        soft = await k.session("soft")
        await limit(k, "/local/soft", 10**9, soft=0)
        await limit(k, "/local", 5_570 + 1_000)
        calls = [asyncio.ensure_future(gate.call(hello)) for gate in (holder, soft, standard, batch)]
        await asyncio.sleep(1)
        await k.operator.call(Renice(pid=batch.process.pid, cls="interactive"))
        await asyncio.gather(*calls)
        names = [event.name for event in await told(k, "dispatch")]
        assert names == [gate.process.name for gate in (holder, batch, standard, soft)]


async def test_who_takes_nothing_of_what_others_wait_for_does_not_wait_behind_them() -> None:
    """A model of this machine costs no money: it is used while calls of dear ones wait for room in a budget."""
    dear = core(Script(text="one two", first_s=50), name="dear", models=("dear",), slots=8)
    async with kernel_for_tests([dear, ScriptedCore("free", name="free", models=("free",))]) as k:
        gate = await k.session()
        await limit(k, "/local", 5_570 + 1_000)
        calls = [asyncio.ensure_future(gate.call(replace(hello, model="dear"))) for _ in range(3)]
        await asyncio.sleep(1)
        assert (await state(k, "/local")).waiting == 2
        assert (await gate.call(replace(hello, model="free"))).text == "free" and time() == 1
        await limit(k, "/local", 1, "calls", "now")
        tokens = asyncio.ensure_future(gate.call(replace(hello, model="free")))
        await asyncio.sleep(1)
        assert not tokens.done(), "it takes of the calls at once as others do"
        await asyncio.gather(*calls, tokens)


async def test_whoever_waits_for_room_a_minute_or_a_higher_limit_ends_with_the_kernel() -> None:
    async def work(gate: Gate) -> None:
        await gate.call(hello)

    async with kernel_for_tests([core(Script(text="one two", first_s=50), slots=8)], {"work": work}) as k:
        room, rate = await k.session("room"), await k.session("rate")
        await limit(k, "/local/room", 5_570 + 1_000)
        await limit(k, "/local/rate", 1, "calls", "minute")
        await limit(k, "/local/work", 0, "calls")
        await k.spawn("work")
        calls = [asyncio.ensure_future(gate.call(hello)) for gate in (room, rate) for _ in range(2)]
        await asyncio.sleep(1)
        accounts = [k.kernel.accounts.named(name) for name in ("/local/room", "/local/rate", "/local/work")]
        assert [k.kernel.till.waiting_at(account) for account in accounts] == [1, 1, 1]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in ended} == {Killed} and time() == 1
    assert [(k.kernel.till.waiting_at(account), account.reserved[0]) for account in accounts] == [(0, 0)] * 3


async def test_a_queue_that_is_full_is_full_for_who_stands_aside_too() -> None:
    async with kernel_for_tests([core(Script(text="one", first_s=5), slots=8)], lane=LaneConfig(queue=2)) as k:
        gate = await k.session()
        await limit(k, "/local", 5_570 + 1_000)
        calls = [asyncio.ensure_future(gate.call(hello)) for _ in range(4)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(end) for end in ended if isinstance(end, Exception)] == [QueueFull]
        assert (await state(k, "/local")).waiting == 0


async def test_a_price_that_nobody_knows_is_refused_under_a_limit_of_money_alone() -> None:
    async with kernel_for_tests([ScriptedCore("x", price=None)]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 10**6, "tokens")
        await gate.call(hello)
        await limit(k, "/local/client", 10**12)
        with pytest.raises(
            OverBudget, match="what this call of `scripted-1` at `scripted` costs: .* or as `price` of its core if"
        ):
            await gate.call(hello)


async def test_of_two_cores_the_one_is_used_that_can_be_paid() -> None:
    dear, free = core(name="dear"), ScriptedCore(name="free", models=("scripted-1",))
    async with kernel_for_tests([dear, free]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 100)
        for _ in range(3):
            assert (await gate.call(hello)).core == "free"


@pytest.mark.parametrize("raised", ["model:a", "model:b"])
@pytest.mark.parametrize("window", ["lifetime", "day", "minute"])
async def test_who_is_parked_for_two_models_goes_on_with_the_one_whose_limit_is_raised(raised: str, window: Window) -> None:
    async def work(gate: Gate) -> str:
        return (await gate.call(replace(hello, model="either"))).model

    cores = [core(name=name, models=(name,)) for name in ("a", "b")]
    async with kernel_for_tests(cores, {"work": work}, aliases={"either": ("a", "b")}) as k:
        for model in ("model:a", "model:b"):
            await limit(k, model, 0, "calls", window)
        agent = await k.spawn("work")
        await asyncio.sleep(1)
        await limit(k, raised, 1, "calls", window)
        ended = await k.operator.call(WaitFor(pid=agent.pid))
        assert ended.result == raised.removeprefix("model:") and time() < 2
        assert {(await state(k, model)).waiting for model in ("model:a", "model:b")} == {0}


async def test_beyond_a_soft_limit_calls_are_of_class_batch() -> None:
    async with kernel_for_tests([core("one two")]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 10**9, soft=1)
        await gate.call(hello)
        await gate.call(hello)
        assert [event.cls for event in await told(k, "dispatch")] == ["standard", "batch"]


async def test_the_command_that_raises_a_limit_or_unblocks_it_leaves_its_soft_limit_as_it_is() -> None:
    unknown = Unknown("one two", price=PRICE)
    unknown.usage = Usage(10_000, 0, 3)
    async with kernel_for_tests([unknown]) as k:
        gate = await k.session()
        soft = SetLimit(account="/local/client", unit="money", amount=10**5, window="day", soft=2 * 10**4)
        await k.operator.call(soft)
        await gate.call(hello)
        with pytest.raises(OverBudget, match="`aios budget /local/client --usd 0.0001 --soft 0.00002 --per day` lets it go on"):
            await gate.call(hello)
        await k.operator.call(soft)
        with pytest.raises(OverBudget, match="`aios budget /local/client --usd AMOUNT --soft 0.00002 --per day` raises it"):
            await gate.call(hello)


async def test_that_a_soft_limit_is_passed_is_told_once_in_a_window() -> None:
    async with kernel_for_tests([core("one two")]) as k:
        gate = await k.session()
        await limit(k, "/local/client", 10**9, window="minute", soft=1)
        for _ in range(3):
            await gate.call(hello)
        _, softened = await told(k, "account")
        assert (softened.change, softened.account, softened.limit.soft) == ("softened", "/local/client", 1)
        assert softened.detail.endswith("the soft limit of $0.000000001 per minute is passed, so calls are of class batch")
        await asyncio.sleep(60)
        await gate.call(hello)
        await gate.call(hello)
        assert [event.change for event in await told(k, "account")] == ["limited", "softened", "softened"]


async def test_a_limit_that_is_lowered_follows_as_calls_end() -> None:
    async with kernel_for_tests([core(Script(text="one", first_s=1))]) as k:
        gate = await k.session()
        call = asyncio.ensure_future(gate.call(hello))
        await asyncio.sleep(0.5)
        (lowered,) = (await limit(k, "/local", 10)).limits
        assert (lowered.wanted, lowered.amount, lowered.free) == (10, WORST * 10 + 400, 0)
        await call
        (lowered,) = (await state(k, "/local")).limits
        assert isinstance(lowered, LimitState) and lowered.amount == lowered.spent == 110


async def test_scores_are_paid_for_too() -> None:
    async with kernel_for_tests([core()]) as k:
        gate = await k.session()
        await gate.call(Score(prompt="The sea is", labels=(" wide", " narrow")))
        assert (await state(k, "/local/client")).spent["lifetime"]["tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"amount": -1}, "amount"),
        ({"amount": float("nan")}, "amount"),
        ({"amount": 2**60}, "amount"),
        ({"amount": 5, "soft": 9}, "soft"),
        ({"amount": 5, "soft": 2, "window": "call"}, "soft"),
        ({"amount": 5, "unit": "euro"}, "unit"),
        ({"amount": 5, "account": "local"}, "account"),
        ({"amount": 5, "account": "/ｌocal"}, "account"),
        ({"amount": 5, "account": "/local/../x"}, "account"),
        ({"amount": 5, "account": "/local/e\u0301"}, "account"),
    ],
)
def test_what_cannot_be_a_limit_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError), match=field):
        msgspec.convert({"account": "/local", "unit": "money", **fields}, SetLimit)


async def test_however_many_processes_there_are_accounts_are_listed_and_each_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_SHOWN", 8)
    async with kernel_for_tests([core()]) as k:
        sessions = [await k.session("many") for _ in range(9)]
        for gate in sessions:
            await gate.call(hello)
        with pytest.raises(TooLarge):
            await k.operator.call(ShowAccounts(account="/", below=True))
        account = (await k.operator.call(ShowAccounts(process=sessions[0].process.pid))).accounts[0].account
        assert account == f"/local/many/{sessions[0].process.name}"
        await limit(k, account, 5, "calls")
        listed = (await k.operator.call(ShowAccounts(account="/", below=True, processes=False))).accounts
        assert [each.account for each in listed if each.account.startswith("/local/many")] == ["/local/many", account]
        assert (await sessions[0].call(ShowAccounts(process=sessions[0].process.pid))).accounts[0].account == account
        for asking, pid in ((sessions[0], sessions[1].process.pid), (k.operator, "7"), (sessions[0], "")):
            with pytest.raises(NotFound, match=f"^there is no account of a process `{pid}`$"):  # nor what that account is called
                await asking.call(ShowAccounts(process=pid))


async def test_clients_see_their_own_account_alone_and_limit_none() -> None:
    async with kernel_for_tests([core()]) as k:
        mine, other = await k.session("mine", ("own /*", "read /*", "use /*")), await k.session("other")
        await other.call(hello)
        own = f"/local/mine/{mine.process.name}"
        assert [each.account for each in (await mine.call(ShowAccounts(below=True))).accounts] == [own]
        for account in ("/", "/local", "/local/mine", "/local/other/other-2", "/nobody"):
            with pytest.raises(NotFound):
                await mine.call(ShowAccounts(account=account))
        with pytest.raises(Denied):
            await mine.call(SetLimit(account="/local/mine", unit="calls", amount=1))
        with pytest.raises(NotFound):
            await k.operator.call(SetLimit(account="/local/mine/mine-9", unit="calls", amount=1))
