"""What is said of a waiting call before the decision, compared with the decision that is made."""

import asyncio
import itertools
import random
from collections.abc import Iterator

import pytest
from scenes import ask, begin, calling, events, held, slow, turns

from aios.abi.event import Dispatched
from aios.abi.lane import UseLane
from aios.abi.process import CallInfo, Explain
from aios.abi.request import CLASSES, CallOptions
from aios.abi.system import LOCAL
from aios.kernel.explain import CALLS_TOLD
from aios.kernel.lanes.elas import Elas
from aios.kernel.lanes.fair import LEAST_SERVED, Fair
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.lanes.policies import POLICIES
from aios.kernel.lanes.policy import Dispatch
from aios.ports.core import CoreCall
from aios.server.local import LocalGate
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import RunningKernel, kernel_for_tests

FORESEE = Elas.foresee
HOLDS = "hold the slot"
INSTANT = Script(text="one two", first_s=0, token_s=0)


def at_once(call: CoreCall) -> Script:
    """Nothing takes any time, but what holds the slot."""
    return Script(text="well", hang=True) if call.request.prompt == HOLDS else INSTANT


async def fill(k: RunningKernel, rng: random.Random, count: int) -> list["asyncio.Task[object]"]:
    """Calls of many clients, tenants and classes, with hints or without."""
    clients = []
    for number in range(count // 6):
        tenant, user = rng.choice(("acme", "zeta", "local")), rng.choice(("", "ann", "bob"))
        made = k.kernel.tokens.add(
            f"client{number % 7}", ("use /llm/*",), rng.choice(CLASSES), tenant, user, rng.choice((None, 2.0))
        )
        clients.append(k.attach(made.value))
    calls = []
    for _ in range(count):
        options = CallOptions(
            cls=rng.choice((None, "batch")), deadline_s=rng.choice((None, None, 4.0, 300.0)),
            remaining_s=rng.choice((None, 1.0, 50.0, 900.0)), kind=rng.choice(("", "review")),
        )  # fmt: skip
        calls.append(begin(rng.choice(clients), ask(), options))
    await turns()
    return calls


async def told_of(k: RunningKernel) -> dict[str, CallInfo]:
    """What the operator hears of each waiting call."""
    told = {}
    for process in k.kernel.processes.living():
        if process is not k.operator.process and process.calls:
            for call in (await k.operator.call(Explain(pid=process.pid))).calls:
                told[call.call] = call
    return told


def named(event: Dispatched) -> str:
    """What an operator calls the process of a decision."""
    return event.name if event.tenant == LOCAL else f"{event.tenant}/{event.name}"


async def foresee(k: RunningKernel, seed: int, count: int) -> list[Dispatched]:
    """Let calls wait, hear what is said of each, and then serve them; the decisions. Asserts that all was as it was said."""
    rng = random.Random(seed)
    holder: LocalGate = await k.session("holder", cls="interactive")
    for _ in range(6):
        await holder.call(ask())  # from now on it is known what a call costs
    holds = begin(holder, ask(HOLDS))
    await turns()
    calls = await fill(k, rng, count)
    told = await told_of(k)
    del told[next(iter(holder.process.calls.values())).id]
    assert len(told) == count
    holds.cancel()
    await asyncio.wait([holds, *calls])
    decided = [event for event in await events(k, "dispatch") if isinstance(event, Dispatched) and event.call in told]
    assert [event.call for event in decided] == sorted(told, key=lambda call: told[call].ahead_count)
    for place, event in enumerate(decided):
        said = told[event.call]
        assert said.wait is not None and (said.wait.code, said.wait.on, said.wait.holder) == (
            "S",
            event.core,
            holder.process.name,
        )
        assert (said.ahead_count, said.rule) == (place, event.reason)
        assert [ahead.name for ahead in said.ahead] == [named(before) for before in decided[:place][:10]]
        assert [ahead.cls for ahead in said.ahead] == [before.cls for before in decided[:place][:10]]
    return decided


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(3))
async def test_what_is_said_of_a_waiting_call_is_what_is_decided_if_nothing_else_comes(policy: str, seed: int) -> None:
    async with kernel_for_tests([ScriptedCore(at_once, slots=1)], lane=LaneConfig(policy=policy)) as k:
        decided = await foresee(k, seed, 60)
        assert all(event.reason for event in decided)


@pytest.mark.parametrize("seed", range(5))
async def test_of_a_thousand_random_waiting_calls_under_elas_each_is_told_the_reason_that_it_is_served_for(seed: int) -> None:
    """Two hundred at a time."""
    async with kernel_for_tests([ScriptedCore(at_once, slots=1)], lane=LaneConfig(policy="elas")) as k:
        decided = await foresee(k, seed + 100, 200)
        assert len({event.reason for event in decided}) >= 5, "there are many reasons, else it would be easy"


async def test_the_comparison_finds_a_policy_that_forgets_what_calls_will_be_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpaid(self: Fair, now: float) -> Iterator[Dispatch]:
        waiting = itertools.chain.from_iterable(self._waiting.values())
        return (Dispatch(ticket, "", LEAST_SERVED) for ticket in waiting)

    monkeypatch.setattr(Fair, "foresee", unpaid)
    with pytest.raises(AssertionError):
        async with kernel_for_tests([ScriptedCore(at_once, slots=1)], lane=LaneConfig(policy="fair")) as k:
            await foresee(k, 1, 60)


async def test_the_decision_says_which_cores_could_do_it_and_which_had_a_slot() -> None:
    cores = [slow(slots=2, name="big"), slow(slots=1, name="small"), slow(slots=1, name="late")]
    async with kernel_for_tests(cores) as k:
        cores[2].go_down()
        client = await k.session()
        async with calling(client, 3):
            told = [event for event in await events(k, "dispatch") if isinstance(event, Dispatched)]
        assert [(event.core, event.loads, event.unable, event.near) for event in told] == [
            ("big", {"big": 0.0, "small": 0.0}, ("late",), False),
            ("big", {"big": 0.5, "small": 0.0}, ("late",), True),
            ("small", {"small": 0.0}, ("big", "late"), False),
        ]


async def test_why_names_who_lends_the_call_its_turn() -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy="elas")) as k:
        made = await k.token(cls="interactive")
        one, other = k.attach(made.value, "one"), k.attach(made.value, "other")
        async with calling(await k.session(), 3), calling(one):
            waits = begin(other, ask(), CallOptions(waits_for=(one.process.pid,), deadline_s=100))
            await turns()
            (call,) = (await k.operator.call(Explain(pid=one.process.pid))).calls
            assert call.lenders == (other.process.name,) and call.rule.startswith("class interactive")
            waits.cancel()
            await asyncio.wait([waits])


async def test_of_a_process_with_many_calls_the_first_are_told_of_by_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has thousands of calls waiting and asks why does not stop the kernel."""
    looks = []

    def foresee(self: Elas, now: float) -> Iterator[Dispatch]:
        looks.append(now)
        return iter(FORESEE(self, now))

    monkeypatch.setattr(Elas, "foresee", foresee)
    async with kernel_for_tests([slow()], lane=LaneConfig(policy="elas")) as k:
        client = await k.session()
        async with calling(client, 90):
            told = await k.operator.call(Explain(pid=client.process.pid))
            assert (len(told.calls), told.more, len(looks)) == (CALLS_TOLD, 90 - CALLS_TOLD, 1)
            assert [call.ahead_count for call in told.calls[1:]] == [*range(CALLS_TOLD - 1)], "the first of them runs"


async def test_who_has_been_served_is_ahead_of_nobody_also_when_the_last_look_was_a_moment_ago() -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy="elas")) as k:
        client, late = await k.session("many", cls="interactive"), await k.session("late", cls="batch")
        async with calling(client, 1500), calling(late):
            told = []
            for at_s in (0.95, 0.1):
                await asyncio.sleep(at_s)
                (call,) = (await late.call(Explain(pid=late.process.pid))).calls
                told.append(call.ahead_count)
            assert told[0] - told[1] == 1


async def test_after_a_change_of_policy_its_rule_is_told_at_once() -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy="elas")) as k:
        client, late = await k.session("many"), await k.session("late", cls="batch")
        async with calling(client, 1500), calling(late):
            for policy, rule in (("elas", "class batch, level 0"), ("fifo", "arrival"), ("priority", "class batch")):
                await k.operator.call(UseLane(lane="cores", policy=policy))
                (call,) = (await late.call(Explain(pid=late.process.pid))).calls
                assert call.rule == rule


async def test_a_change_of_policy_does_not_ask_what_the_one_before_would_have_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten thousand calls waiting that alone would take a second."""
    monkeypatch.setattr(Elas, "foresee", lambda self, now: pytest.fail("it was asked"))
    async with kernel_for_tests([slow()], lane=LaneConfig(policy="elas")) as k:
        client = await k.session()
        async with calling(client, 5):
            await k.operator.call(UseLane(lane="cores", policy="fifo"))
            assert (await held(k)) == (1, 4)
