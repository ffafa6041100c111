"""Preemption: who stands back for whom, on a core that can let calls wait in the midst of their work, and what is seen of it."""

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from scenes import error_of, events, held, nothing_is_held, open_calls, turns, until

from aios.abi.errors import CoreFailed, DeadlineExceeded, Unavailable
from aios.abi.event import CallEnded, Preempted
from aios.abi.lane import UseLane
from aios.abi.llm import Delta, Generate, Score
from aios.abi.process import Explain, Renice, Self, SignalProcess
from aios.abi.request import CallOptions, Class
from aios.abi.system import CoreState, ListCores
from aios.kernel.lanes.elas import CLASS_LEAD, Elas
from aios.kernel.lanes.lane import CLOSED_S, MOST_FROZEN, LaneConfig
from aios.kernel.lanes.policy import Ticket
from aios.ports.core import CoreCall, Feature
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests

FEATURES: frozenset[Feature] = frozenset({"chat", "completion", "seed", "stop", "n", "score", "suspend"})
PREEMPTIVE = pytest.mark.parametrize("policy", ["priority", "elas"])
TOKEN_S = 0.1


def words(call: CoreCall) -> Script:
    """As many words as the prompt demands, ten each second, which tell where they are."""
    who, count = (call.request.prompt or "").split()[:2]
    if not count.isdigit():
        return Script(text="yes")
    return Script(text=" ".join(f"{who}{number}" for number in range(int(count))), first_s=TOKEN_S, token_s=TOKEN_S)


def preemptible(slots: int = 2, reserved: int = 1, **core: Any) -> ScriptedCore:
    return ScriptedCore(words, slots=slots, reserved=reserved, features=FEATURES, **core)


def text_of(who: str, count: int) -> str:
    return " ".join(f"{who}{number}" for number in range(count))


async def say(gate: Gate, who: str, count: int, cls: Class = "batch", **options: Any) -> tuple[str, float]:
    """What a call that says so many words is answered, and when."""
    pieces = []
    async for delta in gate.stream(Generate(prompt=f"{who} {count}"), CallOptions(cls=cls, **options)):
        if isinstance(delta, Delta):
            pieces.append(delta.text)
    return "".join(pieces), time()


def saying(gate: Gate, who: str, count: int, cls: Class = "batch", **options: Any) -> "asyncio.Task[tuple[str, float]]":
    return asyncio.create_task(say(gate, who, count, cls, **options))


async def core_of(k: RunningKernel) -> CoreState:
    return (await k.operator.call(ListCores())).cores[0]


async def changes(k: RunningKernel) -> list[tuple[str, str]]:
    return [(event.change, event.cls) for event in await events(k, "preempt") if isinstance(event, Preempted)]


@PREEMPTIVE
async def test_an_interactive_call_has_its_turn_at_once_and_the_others_go_on_where_they_were(policy: str) -> None:
    async with kernel_for_tests([preemptible()], lane=LaneConfig(policy=policy)) as k:
        client = await k.session(cls="interactive")
        batch = [saying(client, who, 20) for who in "ab"]
        await asyncio.sleep(0.95)
        assert await say(client, "now", 5, "interactive") == (text_of("now", 5), pytest.approx(1.45))
        done = [await one for one in batch]
        assert [text for text, _ in done] == [text_of("a", 20), text_of("b", 20)], "nothing is lost, and nothing said twice"
        assert all(at == pytest.approx(2.45, abs=0.11) for _, at in done), "they stood back for as long as it took"
        assert await changes(k) == [("frozen", "batch")] * 2 + [("resumed", "batch")] * 2
        state = await core_of(k)
        assert (state.frozen, state.preemptions) == (0, 2)
        await nothing_is_held(k)


async def test_under_fifo_nobody_stands_back() -> None:
    """The control: with all slots taken an interactive call waits for one."""
    async with kernel_for_tests([preemptible()], lane=LaneConfig(policy="fifo")) as k:
        client = await k.session(cls="interactive")
        batch = [saying(client, who, 20) for who in "ab"]
        await asyncio.sleep(0.95)
        assert (await say(client, "now", 5, "interactive"))[1] == pytest.approx(2.5)
        assert [(await one)[1] for one in batch] == [pytest.approx(2.0)] * 2
        assert not await changes(k)


@PREEMPTIVE
async def test_on_a_core_that_cannot_freeze_calls_an_interactive_one_waits_for_a_slot(policy: str) -> None:
    core = ScriptedCore(words, slots=1)
    async with kernel_for_tests([core], lane=LaneConfig(policy=policy)) as k:
        client = await k.session(cls="interactive")
        batch = saying(client, "a", 20)
        await turns()
        assert (await say(client, "now", 5, "interactive"))[1] == pytest.approx(2.5)
        await batch


@PREEMPTIVE
async def test_more_interactive_calls_than_slots_wait_and_one_slot_more_is_theirs(policy: str) -> None:
    core = preemptible(slots=2, reserved=1)
    async with kernel_for_tests([core], lane=LaneConfig(policy=policy)) as k:
        client = await k.session(cls="interactive")
        batch = [saying(client, who, 20) for who in "ab"]
        await asyncio.sleep(0.5)
        urgent = [saying(client, f"u{number}", 10, "interactive") for number in range(4)]
        await turns()
        assert await held(k) == (3, 1)
        assert core.statistics().most_running == 5, "two frozen ones are still under way at the core"
        assert [(await one)[1] for one in urgent] == [pytest.approx(1.5)] * 3 + [pytest.approx(2.5)]
        assert [(await one)[0] for one in batch] == [text_of("a", 20), text_of("b", 20)]
        await nothing_is_held(k)


@PREEMPTIVE
async def test_the_slot_that_is_reserved_is_no_slot_for_others(policy: str) -> None:
    async with kernel_for_tests([preemptible()], lane=LaneConfig(policy=policy)) as k:
        client = await k.session(cls="standard")
        calls = [saying(client, who, 10, "standard") for who in "abc"]
        await turns()
        assert await held(k) == (2, 1)
        await asyncio.wait(calls)


@PREEMPTIVE
async def test_who_comes_while_others_are_frozen_is_behind_them(policy: str) -> None:
    async with kernel_for_tests([preemptible(slots=1)], lane=LaneConfig(policy=policy)) as k:
        client = await k.session(cls="interactive")
        first = saying(client, "first", 20)
        await asyncio.sleep(0.55)
        urgent = saying(client, "now", 10, "interactive")
        await turns()
        second = saying(client, "second", 5)
        assert [(await one)[1] for one in (urgent, first, second)] == [pytest.approx(at, abs=0.11) for at in (1.55, 3.0, 3.5)]


async def test_a_call_that_had_no_slot_yet_stands_back_as_soon_as_it_can() -> None:
    """Both come in the same step: the batch call has its turn, and no core yet."""
    async with kernel_for_tests([preemptible(slots=1)]) as k:
        client = await k.session(cls="interactive")
        batch, urgent = saying(client, "a", 5), saying(client, "now", 5, "interactive")
        assert (await urgent)[1] == pytest.approx(0.5) and (await batch)[0] == text_of("a", 5)
        assert await changes(k) == [("frozen", "batch"), ("resumed", "batch")]


async def test_scoring_stands_back_too() -> None:
    async with kernel_for_tests([preemptible(slots=1)]) as k:
        client = await k.session(cls="interactive")
        assert (await client.call(Score(prompt="a", labels=("b", "c")))).labels
        await nothing_is_held(k)


# --- what is seen of it -----------------------------------------------------------------------------------------------


async def test_why_says_who_has_the_slot_of_a_frozen_call_and_what_moves_it() -> None:
    async with kernel_for_tests([preemptible(slots=1)]) as k:
        client, person = await k.session("worker"), await k.session("person", cls="interactive")
        batch = saying(client, "a", 20)
        await asyncio.sleep(0.55)
        urgent = saying(person, "now", 10, "interactive")
        await turns()
        (call,) = await open_calls(k, client)
        name = (await person.call(Self())).name
        assert call.frozen and call.wait is not None
        assert (call.wait.code, call.wait.on, call.wait.holder) == ("S", "scripted", name)
        found = await k.operator.call(Explain(pid=(await client.call(Self())).pid))
        assert found.process.word == "queued" and "frozen on scripted" in found.reason and name in found.reason
        assert any(name in move for move in found.moves)
        mine = await client.call(Explain(pid=found.process.pid))
        assert name not in mine.reason + str(mine.calls) + str(mine.moves), "nobody hears of another client's by this"
        assert [text for text, _ in await asyncio.gather(batch, urgent)] == [text_of("a", 20), text_of("now", 10)]


async def test_events_tell_when_a_call_stood_back_and_when_it_went_on() -> None:
    async with kernel_for_tests([preemptible(slots=1)]) as k:
        client = await k.session(cls="interactive")
        batch = saying(client, "a", 20)
        await asyncio.sleep(0.55)
        await say(client, "now", 10, "interactive")
        await batch
        frozen, resumed = [event for event in await events(k, "preempt") if isinstance(event, Preempted)]
        assert (frozen.change, frozen.by, frozen.tokens, frozen.core) == ("frozen", "interactive", 5, "scripted")
        assert (resumed.change, resumed.reason, resumed.call) == ("resumed", "class batch, level 0", frozen.call)
        assert resumed.at_ns - frozen.at_ns == 10**9


# --- ends of calls that are frozen ------------------------------------------------------------------------------------


async def test_a_frozen_call_that_is_given_up_frees_everything() -> None:
    core = preemptible(slots=1)
    async with kernel_for_tests([core]) as k:
        client = await k.session(cls="interactive")
        batch, urgent = saying(client, "a", 20), saying(client, "now", 10, "interactive")
        await asyncio.sleep(0.5)
        assert (await core_of(k)).frozen == 1
        batch.cancel()
        await asyncio.wait({batch})
        assert ((await core_of(k)).frozen, core.statistics().running) == (0, 1)
        assert (await urgent)[1] == pytest.approx(1.0)
        await nothing_is_held(k)


async def test_the_deadline_of_a_frozen_call_runs() -> None:
    async with kernel_for_tests([preemptible(slots=1)]) as k:
        client = await k.session(cls="interactive")
        batch, urgent = saying(client, "a", 20, deadline_s=1.5), saying(client, "now", 30, "interactive")
        error = await error_of(batch)
        assert type(error) is DeadlineExceeded and "waited for scripted" in error.message and time() == pytest.approx(1.5)
        await urgent
        await nothing_is_held(k)


async def test_a_killed_agent_whose_call_is_frozen_is_gone() -> None:
    async def work(gate: Gate) -> str:
        return (await say(gate, "a", 20))[0]

    async with kernel_for_tests([preemptible(slots=1)], {"work": work}) as k:
        agent = await k.spawn("work")
        await asyncio.sleep(0.5)
        client = await k.session(cls="interactive")
        urgent = saying(client, "now", 10, "interactive")
        await asyncio.sleep(0.5)
        assert (await core_of(k)).frozen == 1
        await k.operator.call(SignalProcess(pid=agent.pid, signal="kill"))
        await until(lambda: k.kernel.processes.get(agent.pid).exit is not None)  # type: ignore[union-attr]
        assert (await core_of(k)).frozen == 0
        await urgent
        await nothing_is_held(k)


async def test_a_core_that_goes_down_fails_what_is_frozen_there_and_nothing_stays() -> None:
    core = preemptible(slots=1)
    async with kernel_for_tests([core]) as k:
        client = await k.session(cls="interactive")
        batch, urgent = saying(client, "a", 20), saying(client, "now", 10, "interactive")
        await asyncio.sleep(0.5)
        core.go_down()
        assert {type(await error_of(call)) for call in (batch, urgent)} <= {CoreFailed, Unavailable}
        core.come_up()
        await nothing_is_held(k)


# --- bounds -----------------------------------------------------------------------------------------------------------


async def stream_of_interactive(client: Gate, words: int = 10) -> None:
    """An interactive call after the other, two of them always under way."""

    async def forever() -> None:
        while True:
            await say(client, "now", words, "interactive")

    async with asyncio.TaskGroup() as group:
        group.create_task(forever())
        await asyncio.sleep(words * TOKEN_S / 2)
        group.create_task(forever())


@PREEMPTIVE
async def test_however_many_interactive_calls_come_a_frozen_one_goes_on_in_the_end(policy: str) -> None:
    async with kernel_for_tests([preemptible(slots=4)], lane=LaneConfig(policy=policy)) as k:
        client = await k.session(cls="interactive")
        batch = [saying(client, who, 20) for who in "abc"]
        waiting = asyncio.create_task(stream_of_interactive(client))
        done = [await one for one in batch]
        assert [text for text, _ in done] == [text_of(who, 20) for who in "abc"]
        assert max(at for _, at in done) < 4 * (CLOSED_S + 3)
        waiting.cancel()
        await asyncio.wait({waiting})
        await nothing_is_held(k)


@PREEMPTIVE
async def test_who_waits_for_a_first_turn_has_it_in_the_end_too(policy: str) -> None:
    async with kernel_for_tests([preemptible(slots=4)], lane=LaneConfig(policy=policy)) as k:
        client = await k.session(cls="interactive")
        waiting = asyncio.create_task(stream_of_interactive(client))
        await asyncio.sleep(5)
        assert (await say(client, "late", 20))[1] < 5 + CLOSED_S + 4
        waiting.cancel()
        await asyncio.wait({waiting})


async def test_not_more_calls_stand_back_than_are_kept() -> None:
    """Under round robin every process begins, up to the bound; then those that began come to their end first."""
    core = preemptible(slots=1, reserved=0)
    async with kernel_for_tests([core], lane=LaneConfig(policy="round-robin")) as k:
        gates = [await k.session(f"p{number}") for number in range(10)]
        calls = [saying(gate, f"p{number}", 100) for number, gate in enumerate(gates)]
        most = 0
        while not all(call.done() for call in calls):
            most = max(most, (await core_of(k)).frozen)
            await asyncio.sleep(0.5)
        assert most == MOST_FROZEN
        assert [(await call)[0] for call in calls] == [text_of(f"p{number}", 100) for number in range(10)]
        await nothing_is_held(k)


# --- a quantum --------------------------------------------------------------------------------------------------------


async def test_under_round_robin_turns_of_16_tokens_go_round_among_processes() -> None:
    async with kernel_for_tests([preemptible(slots=1, reserved=0)], lane=LaneConfig(policy="round-robin")) as k:
        gates = [await k.session(who) for who in "abc"]
        order: list[str] = []

        async def one(gate: Gate, who: str) -> str:
            text = ""
            async for delta in gate.stream(Generate(prompt=f"{who} 40")):
                if isinstance(delta, Delta):
                    text += delta.text
                    order.append(who)
            return text

        texts = await asyncio.gather(*(one(gate, who) for gate, who in zip(gates, "abc", strict=True)))
        assert texts == [text_of(who, 40) for who in "abc"]
        runs: list[tuple[str, int]] = []
        for who in order:
            if runs and runs[-1][0] == who:
                runs[-1] = (who, runs[-1][1] + 1)
            else:
                runs.append((who, 1))
        assert [who for who, _ in runs] == list("abc" * 3) and all(count <= 17 for _, count in runs)
        assert {event.by for event in await events(k, "preempt") if isinstance(event, Preempted)} == {None}


async def test_under_round_robin_who_is_alone_goes_on() -> None:
    async with kernel_for_tests([preemptible(slots=1)], lane=LaneConfig(policy="round-robin")) as k:
        client = await k.session()
        await asyncio.gather(saying(client, "a", 40), saying(client, "b", 40))
        assert not await changes(k), "both are of one process"


async def test_under_elas_a_long_program_stands_back_for_a_short_one_of_the_same_client() -> None:
    """By 1.5 levels at least, at the end of a quantum; where they are nearer, who began goes on."""
    async with kernel_for_tests([preemptible(slots=1)], lane=LaneConfig(policy="elas")) as k:
        client = await k.session()
        for remaining_s, stands_back in ((100.0, True), (9.0, False)):
            long = saying(client, "long", 40, "standard", remaining_s=remaining_s)
            await asyncio.sleep(0.35)
            short = saying(client, "short", 5, "standard", remaining_s=1.0)
            assert [text for text, _ in await asyncio.gather(long, short)] == [text_of("long", 40), text_of("short", 5)]
            assert ((await short)[1] < (await long)[1]) is stands_back
        assert (await core_of(k)).preemptions == 1


@PREEMPTIVE
@pytest.mark.parametrize(("lower", "upper"), [("batch", "standard"), ("idle", "batch")])
async def test_after_a_quantum_a_call_stands_back_for_one_of_a_class_above(policy: str, lower: Class, upper: Class) -> None:
    async with kernel_for_tests([preemptible(slots=1)], lane=LaneConfig(policy=policy)) as k:
        client = await k.session(cls="interactive")
        first = saying(client, "first", 40, lower)
        await asyncio.sleep(0.35)
        second = saying(client, "second", 40, upper)
        assert [await first, await second] == [
            (text_of("first", 40), pytest.approx(8.0, abs=0.21)), (text_of("second", 40), pytest.approx(5.6, abs=0.21))
        ]  # fmt: skip
        assert await changes(k) == [("frozen", lower), ("resumed", lower)]


@PREEMPTIVE
async def test_an_overdue_call_does_not_stand_back_after_a_quantum(policy: str) -> None:
    """It has waited for ten minutes, and has its turn at last."""
    async with kernel_for_tests([preemptible(slots=1)], lane=LaneConfig(policy=policy)) as k:
        client = await k.session(cls="interactive")
        begun = saying(client, "long", 6100, "standard")
        await asyncio.sleep(0.05)
        late = saying(client, "late", 40)
        await begun
        await asyncio.sleep(0.35)
        other = saying(client, "other", 40, "standard")
        assert [(await late)[1], (await other)[1]] == [pytest.approx(614), pytest.approx(618)]
        assert not await changes(k)


async def test_time_in_which_a_call_stood_back_is_no_service() -> None:
    async with kernel_for_tests([preemptible(slots=1)]) as k:
        client = await k.session(cls="interactive")
        batch = saying(client, "a", 20)
        await asyncio.sleep(0.55)
        await say(client, "now", 10, "interactive")
        await batch
        ended = [event for event in await events(k, "call") if isinstance(event, CallEnded) and event.core]
        assert [event.frozen_s for event in ended] == [0, pytest.approx(1.0)]
        kinds = k.kernel.processes._tenants["local"].history._kinds.values()
        assert sorted(total for kind in kinds for total in kind._sorted) == [pytest.approx(1.0), pytest.approx(2.0, abs=0.11)]


# --- changes of class and of policy -----------------------------------------------------------------------------------


async def test_a_frozen_call_that_becomes_interactive_goes_on_at_once() -> None:
    async with kernel_for_tests([preemptible(slots=1)]) as k:
        worker, person = await k.session("worker", cls="interactive"), await k.session("person", cls="interactive")
        pid = (await worker.call(Self())).pid
        await k.operator.call(Renice(pid=pid, cls="batch"))
        batch = asyncio.create_task(say(worker, "a", 20, "interactive"))
        await asyncio.sleep(0.55)
        urgent = saying(person, "now", 50, "interactive")
        await turns()
        assert (await core_of(k)).frozen == 1
        await k.operator.call(Renice(pid=pid, cls="interactive"))
        assert (await core_of(k)).frozen == 0
        assert (await batch)[1] == pytest.approx(2.05, abs=0.11) and (await urgent)[1] == pytest.approx(5.55)


@pytest.mark.parametrize("to", ["fifo", "round-robin", "fair", "elas"])
async def test_frozen_calls_are_not_lost_when_the_policy_changes(to: str) -> None:
    async with kernel_for_tests([preemptible()]) as k:
        client = await k.session(cls="interactive")
        batch = [saying(client, who, 20) for who in "ab"]
        await asyncio.sleep(0.55)
        urgent = saying(client, "now", 30, "interactive")
        await turns()
        assert (await core_of(k)).frozen == 2
        await k.operator.call(UseLane(lane="cores", policy=to))
        texts = [text for text, _ in await asyncio.gather(*batch, urgent)]
        assert texts == [text_of("a", 20), text_of("b", 20), text_of("now", 30)]
        await nothing_is_held(k)


async def test_who_stood_back_is_charged_once() -> None:
    """Under elas: what a call cost is told its account when it has ended, however often it stood back."""
    async with kernel_for_tests([preemptible(slots=1)], lane=LaneConfig(policy="elas")) as k:
        client = await k.session(cls="interactive")
        batch = saying(client, "a", 40)
        for _ in range(3):
            await asyncio.sleep(0.5)
            await say(client, "now", 5, "interactive")
        await batch
        policy = k.kernel.pool.lane.policy
        served: dict[str, float] = defaultdict(float)
        for band, root in policy._bands.items():  # type: ignore[attr-defined]
            served[band] = root.children["local"].served if "local" in root.children else 0.0
        assert served["batch"] == pytest.approx(2 + 2 * 40) and served["interactive"] == pytest.approx(3 * (2 + 2 * 5))
        assert not policy._charged  # type: ignore[attr-defined]


def test_under_elas_nobody_stands_back_to_a_class_that_is_too_far_ahead() -> None:
    """Interactive calls that have had far more than their share are served beside the others, as long as those have work."""

    def ticket(cls: Class) -> Ticket:
        return Ticket("t", cls, "pid", "name", 0.0, 0, frozenset({"core"}), f"t/{cls}")

    policy, batch = Elas(), ticket("batch")
    policy.add(batch)
    served = 0.0
    while policy.urgent(urgent := ticket("interactive")):
        policy.started(urgent)
        policy.settled(urgent, 100_000.0)
        served += 100_000.0
        assert served < 2 * 16 * CLASS_LEAD, "16 is the weight of the class"
    assert served > 16 * CLASS_LEAD and not policy.urgent(batch)
    policy.remove(batch)
    assert policy.urgent(ticket("interactive"))
