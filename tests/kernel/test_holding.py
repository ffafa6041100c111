"""Suspended processes: nothing of theirs goes on, nothing of theirs is lost, and who held them says when they go on."""

import asyncio
from typing import Any

import pytest
from scenes import ENDLESS, ask, begin, error_of, events, held, nothing_is_held, pid_of, slow, turns, until

from aios.abi.errors import AiosError, Conflict, DeadlineExceeded, Denied, Invalid, Killed
from aios.abi.event import ProcessChanged, Signalled
from aios.abi.process import Explain, List, ProcessInfo, SignalProcess, Spawn, WaitFor
from aios.abi.request import CallOptions
from aios.abi.system import Now, RandomBytes, Sleep
from aios.kernel.lanes.lane import LaneConfig
from aios.ports.gate import Gate
from aios.testing import ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests, manifest_of


async def signal(k: RunningKernel, agent: Any, signal: Any, by: Gate | None = None) -> None:
    await (by or k.operator).call(SignalProcess(pid=agent.pid, signal=signal))


async def look(k: RunningKernel, agent: ProcessInfo) -> ProcessInfo:
    return next(p for p in (await k.operator.call(List())).processes if p.pid == agent.pid)


async def one_ask(gate: Gate) -> str:
    return (await gate.call(ask())).text


async def test_a_call_of_a_suspended_agent_begins_when_it_is_resumed() -> None:
    async def work(gate: Gate) -> float:
        await asyncio.sleep(2)
        await gate.call(RandomBytes())
        return time()

    async with kernel_for_tests(agents={"work": work}) as k:
        agent = await k.spawn("work")
        await asyncio.sleep(1)
        await signal(k, agent, "suspend")
        await asyncio.sleep(99)
        assert k.store.tail(agent.pid) == []  # it was asked for and has not happened
        (call,) = await open_calls_of(k, agent)
        assert call.row == "random.bytes" and call.wait and (call.wait.code, call.wait.word) == ("X", "blocked")
        await signal(k, agent, "resume")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == 100


async def open_calls_of(k: RunningKernel, agent: ProcessInfo) -> Any:
    return (await k.operator.call(Explain(pid=agent.pid))).calls


async def test_what_a_model_says_is_said_to_its_end_and_told_later() -> None:
    core = slow()
    async with kernel_for_tests([core], {"work": one_ask}) as k:
        agent = await k.spawn("work")
        await asyncio.sleep(0.5)
        await signal(k, agent, "suspend")
        await asyncio.sleep(9.5)
        assert await held(k) == (0, 0) and core.statistics().aborted == 0  # said, and the slot is free
        assert [record.kind for record in k.store.tail(agent.pid)] == ["intent", "result"]
        assert (await look(k, agent)).state == "suspended"
        await signal(k, agent, "resume")
        exit = await k.operator.call(WaitFor(pid=agent.pid))
        assert exit.result == "one two three four" and time() == 10 and len(core.calls) == 1


async def test_a_waiting_call_gives_up_its_place_and_queues_again() -> None:
    core = slow()
    async with kernel_for_tests([core], {"work": one_ask}) as k:
        first = begin(k.operator)
        await turns()
        agent = await k.spawn("work")
        await turns()
        assert await held(k) == (1, 1)
        await signal(k, agent, "suspend")
        assert await held(k) == (1, 0)
        other = await k.session()
        others = [begin(other), begin(other)]
        await first
        assert await held(k) == (1, 1)  # those that came later go on
        await signal(k, agent, "resume")
        await asyncio.gather(*others)
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result and time() == 4
        await nothing_is_held(k)


async def test_a_call_that_comes_in_again_is_not_refused_because_the_queue_is_full() -> None:
    async with kernel_for_tests([slow()], {"work": one_ask}, lane=LaneConfig(queue=1)) as k:
        first = begin(k.operator)
        await turns()
        agent = await k.spawn("work")
        await turns()
        await signal(k, agent, "suspend")
        other = begin(await k.session())
        await turns()
        await signal(k, agent, "resume")
        await turns()
        assert await held(k) == (1, 2)
        await asyncio.gather(first, other)
        assert (await k.operator.call(WaitFor(pid=agent.pid))).outcome == "result"


@pytest.mark.parametrize("steps", range(8))
async def test_a_turn_that_comes_at_the_moment_of_the_suspension_is_given_back(steps: int) -> None:
    core = slow()
    async with kernel_for_tests([core], {"work": one_ask}) as k:
        first = begin(k.operator)
        await turns()
        agent = await k.spawn("work")
        await turns()
        first.cancel()
        await turns(steps)
        await signal(k, agent, "suspend")
        await asyncio.sleep(5)
        assert await held(k) == (0, 0)
        await signal(k, agent, "resume")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "one two three four"
        await nothing_is_held(k)
        with pytest.raises(asyncio.CancelledError):
            await first


@pytest.mark.parametrize("acting", [True, False])
async def test_deadlines_stand_still(acting: bool) -> None:
    async def work(gate: Gate) -> None:
        await gate.call(ask(), CallOptions(deadline_s=10))

    async with kernel_for_tests([ScriptedCore(ENDLESS, slots=1)], {"work": work}) as k:
        if not acting:
            first = begin(k.operator)
            await turns()
        agent = await k.spawn("work")
        await asyncio.sleep(4)
        for _ in range(3):
            await signal(k, agent, "suspend")
            await asyncio.sleep(1000)
            await signal(k, agent, "resume")
        exit = await k.operator.call(WaitFor(pid=agent.pid))
        assert exit.error == DeadlineExceeded.__name__ and "deadline of 10 s" in exit.message and time() == 3010
        if not acting:
            first.cancel()
            await asyncio.wait((first,))


async def test_a_deadline_of_a_call_that_is_made_meanwhile_begins_with_the_resumption() -> None:
    async def work(gate: Gate) -> None:
        await asyncio.sleep(1)
        await gate.call(Sleep(seconds=100), CallOptions(deadline_s=5))

    async with kernel_for_tests(agents={"work": work}) as k:
        agent = await k.spawn("work")
        await turns()
        await signal(k, agent, "suspend")
        await asyncio.sleep(50)
        await signal(k, agent, "resume")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).error == "DeadlineExceeded" and time() == 55


async def test_it_says_that_it_is_suspended_and_by_whom() -> None:
    async def nap(gate: Gate) -> None:
        await gate.call(Sleep(seconds=10))

    async with kernel_for_tests(agents={"nap": nap}) as k:
        agent = await k.spawn("nap")
        await asyncio.sleep(1)
        await signal(k, agent, "suspend")
        name, person = agent.name, k.operator.process.name
        seen = await look(k, agent)
        assert (seen.state, seen.word) == ("suspended", "suspended")
        assert seen.wait and (seen.wait.code, seen.wait.holder) == ("X", person)
        why = await k.operator.call(Explain(pid=agent.pid))
        assert (why.reason, why.moves) == (f"it is suspended by {person}", (f"`aios resume {name}`",))
        await signal(k, agent, "resume")
        told = [event for event in await events(k, "signal") if isinstance(event, Signalled)]
        assert [(event.signal, event.by) for event in told] == [("suspend", person), ("resume", person)]
        states = [event.state for event in await events(k, "process") if isinstance(event, ProcessChanged)]
        assert states == ["declared", "running", "suspended", "waiting"]
        await k.operator.call(WaitFor(pid=agent.pid))


async def test_who_is_suspended_twice_goes_on_at_once_and_who_is_not_hears_nothing() -> None:
    async with kernel_for_tests([slow()], {"work": one_ask}) as k:
        agent = await k.spawn("work")
        await signal(k, agent, "resume")
        await signal(k, agent, "suspend")
        await signal(k, agent, "suspend")
        await signal(k, agent, "resume")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).outcome == "result"
        await signal(k, agent, "suspend")
        assert (await look(k, agent)).state == "ended"
        assert len(await events(k, "signal")) == 2


@pytest.mark.parametrize("steps", range(8))
async def test_an_agent_that_is_suspended_while_it_starts_begins_when_it_is_resumed(steps: int) -> None:
    begun = []

    async def work(gate: Gate) -> None:
        await gate.call(Now())
        begun.append(time())

    async with kernel_for_tests(agents={"work": work}) as k:
        k.hosts.start_s = 1.0
        agent = await k.spawn("work")
        await turns(steps)
        await signal(k, agent, "suspend")
        await asyncio.sleep(10)
        assert not begun and (await look(k, agent)).state == "suspended"
        await signal(k, agent, "resume")
        await k.operator.call(WaitFor(pid=agent.pid))
        assert len(begun) == 1 and begun[0] >= 10


async def test_a_suspended_agent_whose_host_dies_begins_again_when_it_is_resumed() -> None:
    async with kernel_for_tests([slow()], {"work": one_ask}) as k:
        agent = await k.spawn("work")
        await asyncio.sleep(0.5)
        await signal(k, agent, "suspend")
        k.hosts.hosts[0].die()
        await asyncio.sleep(10)
        assert len(k.hosts.hosts) == 1
        await signal(k, agent, "resume")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "one two three four" and time() == 11.5


@pytest.mark.parametrize("begun_s", [0.0, 0.5, 2.0])
async def test_a_suspended_agent_can_be_killed(begun_s: float) -> None:
    async def work(gate: Gate) -> None:
        await gate.call(ask())
        await gate.call(Sleep(seconds=1000))

    async with kernel_for_tests([slow()], {"work": work}) as k:
        agent = await k.spawn("work")
        await asyncio.sleep(begun_s)
        await signal(k, agent, "suspend")
        await asyncio.sleep(7)
        await signal(k, agent, "kill")
        exit = await k.operator.call(WaitFor(pid=agent.pid))
        assert exit.outcome == "killed" and time() == 7 + begun_s
        await nothing_is_held(k)


async def test_a_suspended_agent_is_resumed_before_it_is_asked_to_stop() -> None:
    async with kernel_for_tests([slow()], {"work": one_ask}) as k:
        agent = await k.spawn("work")
        await signal(k, agent, "suspend")
        with pytest.raises(Conflict, match=f"aios resume {agent.name}"):
            await signal(k, agent, "stop")
        await signal(k, agent, "resume")
        await signal(k, agent, "stop")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).outcome == "killed"


# --- families ---------------------------------------------------------------------------------------------------------


async def parent(gate: Gate, *said: str) -> list[str]:
    """Starts a child, then does to it what is said, once a second."""
    child = await gate.call(Spawn(manifest=manifest_of("child", grants=())))
    heard = []
    for signal in said:
        await asyncio.sleep(1)
        try:
            await gate.call(SignalProcess(pid=child.pid, signal=signal))  # type: ignore[arg-type]
        except AiosError as error:
            heard.append(f"{error.code}: {error.message}")
    heard.append((await gate.call(WaitFor(pid=child.pid))).outcome)
    return heard


async def child(gate: Gate) -> float:
    for _ in range(3):
        await gate.call(Sleep(seconds=1))
    return time()


FAMILY = {"parent": parent, "child": child}
GRANTS = ("spawn /agents/child",)


async def family(k: RunningKernel, *said: str) -> tuple[ProcessInfo, ProcessInfo]:
    above = await k.spawn("parent", *said, grants=GRANTS)
    await turns()
    return above, next(p for p in (await k.operator.call(List())).processes if p.parent == above.pid)


async def test_the_descendants_of_a_suspended_agent_are_held_with_it() -> None:
    async with kernel_for_tests(agents=FAMILY) as k:
        above, below = await family(k)
        await asyncio.sleep(0.5)
        await signal(k, above, "suspend")
        await asyncio.sleep(9.5)
        assert (await look(k, below)).state == "suspended"
        why = await k.operator.call(Explain(pid=below.pid))
        assert f"held with `{above.name}`" in why.reason and why.moves == (f"`aios resume {above.name}`",)
        with pytest.raises(Conflict, match=f"held with `{above.name}`"):
            await signal(k, below, "resume")
        await signal(k, above, "resume")
        assert (await k.operator.call(WaitFor(pid=below.pid))).result == 12


async def test_who_is_held_twice_goes_on_when_both_are_lifted() -> None:
    async with kernel_for_tests(agents=FAMILY) as k:
        above, below = await family(k)
        await signal(k, below, "suspend")
        await signal(k, above, "suspend")
        await asyncio.sleep(10)
        await signal(k, above, "resume")
        await asyncio.sleep(10)
        assert (await look(k, below)).state == "suspended" and (await look(k, above)).state == "waiting"
        await signal(k, below, "resume")
        assert (await k.operator.call(WaitFor(pid=below.pid))).result == 22


async def test_a_parent_holds_its_child_and_lets_it_go_on() -> None:
    async with kernel_for_tests(agents=FAMILY) as k:
        above, below = await family(k, "suspend", "resume")
        await asyncio.sleep(1.5)
        seen = await look(k, below)
        assert seen.wait and seen.wait.holder == above.name
        assert (await k.operator.call(WaitFor(pid=above.pid))).result == ["result"]


async def test_what_an_operator_holds_a_parent_does_not_resume() -> None:
    """Also where the parent had suspended it before."""
    async with kernel_for_tests(agents=FAMILY) as k:
        above, below = await family(k, "suspend", "resume", "kill")
        await asyncio.sleep(1.5)
        await signal(k, below, "suspend")
        heard, end = (await k.operator.call(WaitFor(pid=above.pid))).result
        assert heard.startswith(Denied.__name__) and f"held by {k.operator.process.name}" in heard
        assert end == "killed"


async def test_an_operator_resumes_what_a_parent_holds() -> None:
    async with kernel_for_tests(agents=FAMILY) as k:
        above, below = await family(k, "suspend")
        await asyncio.sleep(10)
        await signal(k, below, "resume")
        assert (await k.operator.call(WaitFor(pid=above.pid))).result == ["result"]


async def test_a_process_does_not_suspend_itself() -> None:
    async def itself(gate: Gate) -> None:
        await gate.call(SignalProcess(pid=await pid_of(gate), signal="suspend"))

    async with kernel_for_tests(agents={"itself": itself}) as k:
        exit = await k.operator.call(WaitFor(pid=(await k.spawn("itself")).pid))
        assert exit.error == Invalid.__name__ and "cannot suspend itself" in exit.message


async def test_a_kernel_goes_down_with_agents_suspended() -> None:
    async with kernel_for_tests([slow()], {"work": one_ask}) as k:
        agents = [await k.spawn("work") for _ in range(3)]
        await asyncio.sleep(0.5)
        for agent in agents:
            await signal(k, agent, "suspend")
    assert {process.exit and process.exit.outcome for process in k.kernel.processes._by_pid.values()} <= {"killed", None}


async def test_a_fleet_that_is_suspended_and_resumed_all_the_time_ends_whole() -> None:
    """Every call is answered once, and no slot, place or deadline is left over."""
    core = slow(slots=3)
    async with kernel_for_tests([core], {"work": one_ask}) as k:
        agents = [await k.spawn("work") for _ in range(30)]
        for number in range(200):
            await asyncio.sleep(0.13)
            agent = agents[number * 7 % len(agents)]
            await signal(k, agent, "resume" if (await look(k, agent)).state == "suspended" else "suspend")
        for agent in agents:
            await signal(k, agent, "resume")
        for agent in agents:
            assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "one two three four"
        assert len(core.calls) == len(agents)
        await nothing_is_held(k)
        assert not k.kernel._path._deadlines._due and not k.kernel._path._deadlines._paused


async def test_a_killed_call_of_a_held_agent_says_so() -> None:
    async def work(gate: Gate) -> str:
        await asyncio.sleep(1)
        return (await error_of(begin(gate, Now()))).code

    async with kernel_for_tests(agents={"work": work}) as k:
        agent = await k.spawn("work")
        await turns()
        await signal(k, agent, "suspend")
        await until(lambda: k.kernel.processes.get(agent.pid).calls)  # type: ignore[union-attr]
        (call,) = k.kernel.processes.get(agent.pid).calls.values()  # type: ignore[union-attr]
        call.stop(Killed("because"))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "Killed"
