"""The guard: who goes round in circles gets a lower class, is suspended, and an operator is asked, once."""

import asyncio
import itertools
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from aios.abi.account import SetLimit
from aios.abi.errors import AiosError, CoreFailed, Denied, NotFound, QueueFull, Unauthenticated
from aios.abi.event import Incident, ReadEvents
from aios.abi.llm import Generate
from aios.abi.mail import ReceiveMail, SendMail
from aios.abi.process import Explain, List, Renice, SignalProcess, Spawn, WaitFor
from aios.abi.system import AddToken
from aios.drivers.core.scripted import Answers
from aios.kernel.guard import POLL_S, TALLIED, GuardConfig
from aios.kernel.lanes.lane import LaneConfig
from aios.ports.core import CoreCall, Price
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests, manifest_of

hello = Generate(prompt="hello", max_tokens=40)
LONG = " ".join(["word"] * 20)
STRICT = GuardConfig(same_calls=5, idle_steps=5, denials=5)
OFF = GuardConfig(same_calls=0, idle_steps=0, denials=0)


def core(answers: Answers = "one two", **fields: Any) -> ScriptedCore:
    return ScriptedCore(answers, **{"slots": 64, "price": Price(0, 0, 10**6), **fields})


async def incidents(k: RunningKernel) -> list[Incident]:
    return [event for event in (await k.operator.call(ReadEvents(kinds=("incident",)))).events if isinstance(event, Incident)]


async def until_suspended(k: RunningKernel) -> Incident:
    """Wait for the event that tells of it."""
    cursor = 0
    while True:
        page = await k.operator.call(ReadEvents(after=cursor, kinds=("incident",), wait_s=60))
        cursor = page.next
        for event in page.events:
            if isinstance(event, Incident) and event.change != "lowered":
                return event


async def again_and_again(gate: Gate) -> None:
    while True:
        await gate.call(hello)


async def test_a_loop_of_one_call_gets_a_lower_class_and_then_stops_until_an_operator_lets_it_go_on() -> None:
    cores = core()
    async with kernel_for_tests([cores], {"loop": again_and_again}, guard=STRICT) as k:
        agent = await k.spawn("loop")
        stopped = await until_suspended(k)
        told = await incidents(k)
        assert [(event.change, event.cause, event.count, event.name) for event in told] == [
            ("lowered", "same calls", 5, agent.name), ("suspended", "same calls", 5, agent.name)
        ]  # fmt: skip
        assert stopped.account == f"/local/loop/{agent.name}"
        await asyncio.sleep(100)
        explained = await k.operator.call(Explain(pid=agent.pid))
        assert explained.process.state == "suspended" and explained.process.cls == "batch" and len(cores.calls) == 10
        assert explained.reason == (
            f"it is suspended as a runaway: `{agent.name}` of `{stopped.account}` made the same call `llm.generate` 5 times: "
            f"`aios resume {agent.name}` lets it go on, `aios kill {agent.name}` ends it"
        )
        assert explained.moves == (f"`aios resume {agent.name}`",)
        await k.operator.call(SignalProcess(pid=agent.pid, signal="resume"))
        await asyncio.sleep(100)
        assert len(cores.calls) == 15 and len(await incidents(k)) == 3, (
            "it has as many calls again, and is of class batch already"
        )
        await k.operator.call(SignalProcess(pid=agent.pid, signal="kill"))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).outcome == "killed"


async def test_who_was_let_go_on_with_its_class_has_both_steps_again() -> None:
    async with kernel_for_tests([core()], {"loop": again_and_again}, guard=STRICT) as k:
        agent = await k.spawn("loop")
        await until_suspended(k)
        await k.operator.call(Renice(pid=agent.pid, cls="standard"))
        await k.operator.call(SignalProcess(pid=agent.pid, signal="resume"))
        await asyncio.sleep(10)
        assert [event.change for event in await incidents(k)] == ["lowered", "suspended"] * 2


async def test_a_runaway_with_fifty_children_stops_within_one_call_of_each_and_is_one_incident() -> None:
    async def child(gate: Gate, number: int) -> None:
        for turn in itertools.count():
            await gate.call(Generate(prompt=f"{number} {turn % 3}", max_tokens=4))

    async def work(gate: Gate) -> None:
        await asyncio.gather(*(gate.call(Spawn(manifest=manifest_of("child"), arguments=(at,))) for at in range(50)))
        await asyncio.Event().wait()

    cores = core(lambda call: Script(text="one two", first_s=1))
    most = GuardConfig(same_calls=0, usd_per_minute=Decimal("0.5"))
    async with kernel_for_tests([cores], {"work": work, "child": child}, guard=most) as k:
        agent = await k.spawn("work", grants=("use /llm/*", "spawn /agents/*"))
        stopped = await until_suspended(k)
        at_stop = len(cores.calls)
        await asyncio.sleep(100)
        assert len(cores.calls) <= at_stop + 50 and 500 <= at_stop < 650
        assert [event.change for event in await incidents(k)] == ["lowered", "suspended"]
        assert (stopped.name, stopped.cause) == (agent.name, "spend") and stopped.count >= 5 * 10**8
        assert stopped.account in stopped.detail and "in the minute that ends at 2023-11-14 22:14 UTC" in stopped.detail
        assert f"`aios resume {agent.name}`" in stopped.detail
        states = {process.state for process in (await k.operator.call(List(kinds=("agent",)))).processes}
        assert states == {"suspended"}
        before = len(cores.calls)
        await k.operator.call(SignalProcess(pid=agent.pid, signal="resume"))
        await asyncio.sleep(3)
        assert len(cores.calls) > before + 50


async def test_a_loop_over_children_is_one_loop() -> None:
    async def child(gate: Gate) -> None:
        await gate.call(hello)

    async def work(gate: Gate) -> None:
        while True:
            made = await gate.call(Spawn(manifest=manifest_of("child")))
            await gate.call(WaitFor(pid=made.pid))

    cores = core()
    async with kernel_for_tests([cores], {"work": work, "child": child}, guard=STRICT) as k:
        await k.spawn("work", grants=("use /llm/*", "spawn /agents/*"))
        await until_suspended(k)
        await asyncio.sleep(10)
        assert len(cores.calls) == 10


async def test_a_loop_of_a_few_calls_is_one_too_and_work_is_none() -> None:
    async def turns(gate: Gate, different: int) -> str:
        for turn in range(120):
            await gate.call(Generate(prompt=f"question {turn % different}", max_tokens=4))
        return "done"

    async with kernel_for_tests([core()], {"turns": turns}, guard=STRICT) as k:
        works = await k.spawn("turns", 120)
        assert (await k.operator.call(WaitFor(pid=works.pid))).result == "done" and not await incidents(k)
        loops = await k.spawn("turns", TALLIED)
        await until_suspended(k)
        assert {event.name for event in await incidents(k)} == {loops.name}


async def test_who_polls_or_asks_the_same_side_by_side_is_no_runaway_and_who_hardly_rests_is_one() -> None:
    async def poll(gate: Gate, rest_s: float, tokens: int = 40) -> str:
        for _ in range(60):
            with suppress(CoreFailed):
                await gate.call(Generate(prompt="hello", max_tokens=tokens))
            await asyncio.sleep(rest_s)
        return "done"

    async def sample(gate: Gate, tokens: int = 40) -> str:
        asked = (gate.call(Generate(prompt="hello", max_tokens=tokens)) for _ in range(60))
        await asyncio.gather(*asked, return_exceptions=True)
        return "done"

    async def child(gate: Gate) -> None:
        for _ in range(60):
            await gate.call(hello)

    async def crowd(gate: Gate) -> None:
        for _ in range(9):
            await gate.call(Spawn(manifest=manifest_of("child")))
        await asyncio.Event().wait()

    agents = {"poll": poll, "sample": sample, "child": child, "crowd": crowd}
    fails = 39

    def answer(call: CoreCall) -> Script:
        return Script(text=LONG, first_s=1, fail_after=0 if call.request.max_tokens == fails else None)

    cores = core(answer)
    async with kernel_for_tests([cores], agents, guard=STRICT) as k:
        for entry, *arguments in (("poll", POLL_S), ("sample",), ("poll", POLL_S, fails), ("sample", fails)):
            agent = await k.spawn(entry, *arguments)
            assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "done" and not await incidents(k), entry
        for entry, *arguments in (("poll", POLL_S / 5), ("crowd",)):
            before = len(cores.calls)
            agent = await k.spawn(entry, *arguments, grants=("use /llm/*", "spawn /agents/*"))
            while len(found := [event for event in await incidents(k) if event.name == agent.name]) < 2:
                await asyncio.sleep(1)
            assert {event.cause for event in found} <= {"same calls", "idle steps"} and len(cores.calls) - before <= 10 * 10


async def test_steps_that_fail_or_say_what_was_said_before_lead_nowhere_and_one_that_does_begins_anew() -> None:
    numbers = itertools.count()

    async def work(gate: Gate, how: str) -> str:
        for turn in range(12):
            try:
                await gate.call(Generate(prompt=f"{how} {turn}", max_tokens=40))
            except CoreFailed:
                pass
        return "done"

    def answer(call: CoreCall) -> Script:
        prompt = str(call.request.prompt)
        if prompt.startswith("same"):
            return Script(text=LONG)
        if prompt.startswith("new"):
            return Script(text=f"{LONG} {next(numbers)}")
        if prompt.startswith("mixed") and prompt.endswith(("3", "7", "11")):
            return Script(text=f"{LONG} {next(numbers)}")
        return Script(text="yes") if prompt.startswith("short") else Script(fail_after=0)

    async with kernel_for_tests([core(answer)], {"work": work}, guard=STRICT) as k:
        for how in ("new", "mixed", "short"):
            agent = await k.spawn("work", how)
            assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "done", how
        assert not await incidents(k)
        for how in ("same", "fail"):
            before = len(await incidents(k))
            agent = await k.spawn("work", how)
            while len(found := await incidents(k)) < before + 2:
                await asyncio.sleep(1)
            assert {(event.cause, event.name) for event in found[before:]} == {("idle steps", agent.name)}


async def test_who_waits_for_mail_or_is_told_to_come_again_is_no_runaway() -> None:
    async def serve(gate: Gate) -> int:
        for _ in range(30):
            await gate.call(ReceiveMail(wait_s=None))
        return 30

    async def push(gate: Gate) -> str:
        refused = 0
        while refused < 30:
            asked = await asyncio.gather(*(gate.call(Generate(prompt=f"{at}")) for at in range(4)), return_exceptions=True)
            refused += sum(isinstance(each, QueueFull) for each in asked)
        return "done"

    queue = LaneConfig(queue=1)
    guard = GuardConfig(same_calls=0, idle_steps=5)
    async with kernel_for_tests([core(slots=1)], {"serve": serve, "push": push}, lane=queue, guard=guard) as k:
        agent = await k.spawn("serve")
        for _ in range(30):
            await k.operator.call(SendMail(to=agent.pid, value="x"))
            await asyncio.sleep(0.01)
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == 30
        agent = await k.spawn("push")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "done"
        assert not await incidents(k)


async def test_an_agent_that_is_denied_again_and_again_stops_and_one_that_is_now_and_then_does_not() -> None:
    async def try_it(gate: Gate, pause_s: float) -> str:
        for _ in range(20):
            with pytest.raises(Denied):
                await gate.call(AddToken(agent="x"))
            await asyncio.sleep(pause_s)
        return "done"

    async with kernel_for_tests([core()], {"try": try_it}, guard=STRICT) as k:
        slow = await k.spawn("try", 30.0)
        assert (await k.operator.call(WaitFor(pid=slow.pid))).result == "done" and not await incidents(k)
        fast = await k.spawn("try", 0.0)
        stopped = await until_suspended(k)
        assert (stopped.name, stopped.cause, stopped.count) == (fast.name, "denials", 5)
        assert "was denied 5 calls within a minute, `token.add` last" in stopped.detail


async def test_a_client_that_is_denied_again_and_again_loses_its_token_whatever_sessions_it_makes() -> None:
    async with kernel_for_tests([core()], guard=STRICT) as k:
        made, other = await k.token("bad"), await k.session("good")
        for number in range(10):
            with pytest.raises((Denied, Unauthenticated)):
                await k.attach(made.value, f"session {number}").call(AddToken(agent="x"))
        await asyncio.sleep(0)
        assert [(event.change, event.cause) for event in await incidents(k)] == [("lowered", "denials"), ("revoked", "denials")]
        with pytest.raises(Unauthenticated):
            k.attach(made.value, "another")
        await other.call(hello)


async def test_clients_may_ask_the_same_as_often_as_they_like_and_operators_be_denied() -> None:
    async with kernel_for_tests([core()], guard=STRICT) as k:
        gate = await k.session()
        for _ in range(30):
            await gate.call(hello)
            with pytest.raises(AiosError):
                await k.operator.call(SetLimit(account="/nobody/x/y/z", unit="calls", amount=1))
        assert not await incidents(k)


async def test_nobody_but_an_operator_lets_a_runaway_go_on() -> None:
    async with kernel_for_tests([core()], {"loop": again_and_again}, guard=STRICT) as k:
        owner = await k.session("owner", ("use /llm/*", "spawn /agents/*", "own /*", "read /*"))
        agent = await k.spawn("loop", by=owner)
        await until_suspended(k)
        assert [event.tenant for event in (await owner.call(ReadEvents(kinds=("incident",)))).events] == ["local"] * 2
        with pytest.raises(Denied):
            await owner.call(SignalProcess(pid=agent.pid, signal="resume"))
        with pytest.raises(NotFound):
            await (await k.session("other", ("own /*",))).call(SignalProcess(pid=agent.pid, signal="resume"))
        await owner.call(SignalProcess(pid=agent.pid, signal="kill"))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).outcome == "killed"


async def test_what_is_not_looked_at_stops_nobody() -> None:
    async def work(gate: Gate) -> str:
        for _ in range(300):
            await gate.call(hello)
            with pytest.raises(Denied):
                await gate.call(AddToken(agent="x"))
        return "done"

    async with kernel_for_tests([core(LONG)], {"work": work}, guard=OFF) as k:
        agent = await k.spawn("work")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "done" and time() < 4000


async def test_what_has_ended_is_forgotten() -> None:
    async def work(gate: Gate) -> None:
        await gate.call(hello)

    async with kernel_for_tests([core()], {"work": work}, guard=STRICT) as k:
        guard = k.kernel._guard
        for _ in range(20):
            agent = await k.spawn("work")
            await k.operator.call(WaitFor(pid=agent.pid))
        assert not guard._watches and not guard._heads


@pytest.mark.parametrize(
    "fields",
    [
        {"same_calls": -1}, {"idle_steps": 10**10}, {"denials": float("nan")}, {"usd_per_minute": Decimal("nan")},
        {"usd_per_minute": Decimal(-1)}, {"usd_per_minute": Decimal("1e-10")}, {"usd_per_minute": Decimal("inf")},
        {"usd_per_minute": Decimal(10) ** 20},
    ],
)  # fmt: skip
def test_bounds_that_are_none_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        GuardConfig(**fields)
