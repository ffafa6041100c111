"""Agents live and end under a supervisor, whatever their hosts do."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from scenes import ENDLESS, ask, events, held, nothing_is_held, turns

from aios.abi.errors import AiosError, ChildFailed, Denied, Invalid, QueueFull
from aios.abi.event import HostChanged, ProcessChanged, Signalled
from aios.abi.process import Exit, List, ProcessInfo, SignalProcess, Spawn, WaitFor
from aios.abi.system import Drain, RandomBytes, ReadStatistics, Sleep
from aios.kernel.restarts import RESTARTS
from aios.kernel.wards import HOST_AGENTS, IDLE_HOST_S
from aios.ports.gate import Gate
from aios.testing import ScriptedCore, time
from aios.testing.kernel import RunningKernel, ScriptedHost, ScriptedHosts, kernel_for_tests, manifest_of


async def nap(gate: Gate, seconds: float = 1.0) -> str:
    await gate.call(Sleep(seconds=seconds))
    return "slept"


async def stubborn(gate: Gate, seconds: float = 1000.0) -> str:
    """Does not listen when it is told to end."""
    with contextlib.suppress(asyncio.CancelledError, AiosError):
        await gate.call(Sleep(seconds=seconds))
    await asyncio.sleep(seconds)
    return "woke up"


AGENTS = {"nap": nap, "stubborn": stubborn}


async def signal(k: RunningKernel, agent: ProcessInfo, signal: Any = "kill") -> None:
    await k.operator.call(SignalProcess(pid=agent.pid, signal=signal))


async def end_of(k: RunningKernel, agent: ProcessInfo) -> Exit:
    return await k.operator.call(WaitFor(pid=agent.pid))


async def look(k: RunningKernel, agent: ProcessInfo) -> ProcessInfo:
    return next(p for p in (await k.operator.call(List())).processes if p.pid == agent.pid)


async def states(k: RunningKernel, agent: ProcessInfo) -> list[str]:
    return [event.state for event in await events(k, "process") if isinstance(event, ProcessChanged) and event.pid == agent.pid]


# --- a life -----------------------------------------------------------------------------------------------------------


async def test_an_agent_runs_with_its_arguments_to_its_result() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        agent = await k.spawn("nap", 5)
        assert agent.state == "declared" and agent.name == "nap-2"
        assert await end_of(k, agent) == Exit(pid=agent.pid, outcome="result", result="slept") and time() == 5
        assert await states(k, agent) == ["declared", "running", "ended"]
        after = await look(k, agent)
        assert (after.word, after.outcome, after.calls, after.host_pid) == ("done", "result", 1, None)


async def test_agents_of_one_program_share_a_host_and_the_next_host_is_for_the_rest() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        for _ in range(HOST_AGENTS + 1):
            await k.spawn("nap", 5)
        await turns(10)
        assert [len(host.pids) for host in k.hosts.hosts] == [HOST_AGENTS, 1]
        assert (await k.operator.call(ReadStatistics())).hosts == 2


async def test_a_hundred_agents_that_start_at_once_start_one_host() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        k.hosts.start_s = 2.0
        agents = [await k.spawn("nap", 1) for _ in range(100)]
        for agent in agents:
            await end_of(k, agent)
        assert len(k.hosts.hosts) == 1 and time() == 3


async def test_an_idle_host_is_kept_for_a_while_and_then_ended() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        await end_of(k, await k.spawn("nap", 1))
        await asyncio.sleep(IDLE_HOST_S - 1)
        await end_of(k, await k.spawn("nap", 10))
        assert len(k.hosts.hosts) == 1
        await asyncio.sleep(IDLE_HOST_S + 1)
        assert (await k.operator.call(ReadStatistics())).hosts == 0
        assert [event.change for event in await events(k, "host") if isinstance(event, HostChanged)] == ["started", "ended"]


async def test_an_agent_that_comes_while_an_idle_host_is_ended_is_not_placed_there() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        await end_of(k, await k.spawn("nap", 1))
        late = asyncio.get_running_loop().create_future()

        async def spawn() -> None:
            late.set_result(await k.spawn("nap", 1))

        tasks = []
        asyncio.get_running_loop().call_at(1 + IDLE_HOST_S, lambda: tasks.append(asyncio.create_task(spawn())))
        agent = await late
        assert (await end_of(k, agent)).outcome == "result"
        assert (await look(k, agent)).restarts == 0 and len(k.hosts.hosts) == 2


async def test_a_program_that_was_changed_gets_a_new_host(tmp_path: Path) -> None:
    program = tmp_path / "agent.py"
    program.write_text("one")
    async with kernel_for_tests(agents=AGENTS) as k:
        await k.spawn("nap", 100, program=str(program))
        await turns()
        await k.spawn("nap", 100, program=str(program))
        await turns()
        assert len(k.hosts.hosts) == 1
        os.utime(program, ns=(1, 1))
        await k.spawn("nap", 100, program=str(program))
        await turns()
        assert [len(host.pids) for host in k.hosts.hosts] == [2, 1]


async def test_a_program_that_is_not_there_ends_its_agent_with_a_sentence() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        exit = await end_of(k, await k.spawn("nap", program="/no/such/agent.py"))
        assert (exit.outcome, exit.error) == ("error", "ChildFailed") and "/no/such/agent.py" in exit.message


async def test_a_host_that_cannot_be_started_ends_its_agent_and_the_next_try_may_work() -> None:
    class Refusing(ScriptedHosts):
        tries = 0

        async def start(self, program: str) -> ScriptedHost:
            self.tries += 1
            if self.tries == 1:
                raise ChildFailed("it raised ImportError")
            return await super().start(program)

    async with kernel_for_tests(hosts=Refusing(AGENTS)) as k:
        first, second = await k.spawn("nap"), await k.spawn("nap")
        assert (await end_of(k, first)).message == "it raised ImportError"
        assert (await end_of(k, second)).outcome == "result"


async def test_a_bug_of_a_driver_ends_one_agent_and_not_the_kernel(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ScriptedHosts):
        async def start(self, program: str) -> ScriptedHost:
            if program == "/bin/sh":
                raise ZeroDivisionError("secret")
            return await super().start(program)

    async with kernel_for_tests(hosts=Broken(AGENTS)) as k:
        other = await k.spawn("nap", 5)
        exit = await end_of(k, await k.spawn("nap", program="/bin/sh"))
        assert exit.error == "Internal" and "secret" not in exit.message
        assert (await end_of(k, other)).outcome == "result"
        assert "secret" in caplog.text


# --- crashes ----------------------------------------------------------------------------------------------------------


async def test_an_agent_whose_host_dies_begins_again_as_the_same_process() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        agent = await k.spawn("nap", 10)
        await asyncio.sleep(3)
        k.hosts.hosts[0].die()
        exit = await end_of(k, agent)
        assert exit.result == "slept" and time() == 13
        after = await look(k, agent)
        assert (after.pid, after.restarts) == (agent.pid, 1)
        assert await states(k, agent) == ["declared", "running", "running", "ended"]
        ended = [event for event in await events(k, "host") if isinstance(event, HostChanged) and event.change == "ended"]
        assert [(event.running, event.detail) for event in ended] == [((agent.name,), "killed by signal 11")]


async def test_what_a_dead_host_had_begun_is_ended_and_leaves_nothing() -> None:
    async def work(gate: Gate) -> str:
        return (await gate.call(ask())).text

    core = ScriptedCore(lambda call: "done" if core.statistics().started > 1 else ENDLESS, slots=1)
    async with kernel_for_tests([core], {"work": work}) as k:
        agent = await k.spawn("work")
        await asyncio.sleep(1)
        assert await held(k) == (1, 0)
        k.hosts.hosts[0].die()
        assert (await end_of(k, agent)).result == "done"
        assert core.statistics().aborted == 1
        await nothing_is_held(k)


async def test_an_agent_is_started_again_three_times_and_no_more() -> None:
    lives = 0

    async def crash(gate: Gate) -> None:
        nonlocal lives
        lives += 1
        k.hosts.hosts[-1].die(f"death {lives}")
        await asyncio.sleep(100)

    async with kernel_for_tests(agents={"crash": crash}) as k:
        exit = await end_of(k, await k.spawn("crash"))
        assert lives == 1 + RESTARTS
        assert (exit.outcome, exit.error) == ("error", "ChildFailed") and "death 4" in exit.message
        assert len(k.hosts.hosts) == lives  # no life was spent on a host that was dead already


async def test_each_life_has_call_ids_of_its_own() -> None:
    async def draw(gate: Gate) -> None:
        await gate.call(RandomBytes())
        if len(k.hosts.hosts) == 1:
            k.hosts.hosts[0].die()
            await asyncio.sleep(100)

    async with kernel_for_tests(agents={"draw": draw}) as k:
        agent = await k.spawn("draw")
        await end_of(k, agent)
        assert [record.path for record in k.store.tail(agent.pid)] == ["1", "1.1"]


async def test_children_end_with_their_parents_life() -> None:
    async def parent(gate: Gate) -> str:
        if len(k.hosts.hosts) > 1:
            return "again"
        await gate.call(Spawn(manifest=manifest_of("nap", grants=()), arguments=(1000,)))
        await asyncio.sleep(1000)
        return "never"

    async with kernel_for_tests(agents={**AGENTS, "parent": parent}) as k:
        agent = await k.spawn("parent", grants=("spawn /agents/nap",))
        await asyncio.sleep(1)
        (_, child) = (await k.operator.call(List())).processes
        k.hosts.hosts[0].die()
        assert (await end_of(k, agent)).result == "again"
        exit = await end_of(k, child)
        assert exit.outcome == "killed" and agent.name in exit.message


async def test_children_end_with_their_parent() -> None:
    async def parent(gate: Gate) -> str:
        await gate.call(Spawn(manifest=manifest_of("nap", grants=()), arguments=(1000,)))
        return "done"

    async with kernel_for_tests(agents={**AGENTS, "parent": parent}) as k:
        agent = await k.spawn("parent", grants=("spawn /agents/nap",))
        assert (await end_of(k, agent)).result == "done"
        (_, child) = (await k.operator.call(List())).processes
        assert (await end_of(k, child)).outcome == "killed" and time() == 0


# --- stop and kill ----------------------------------------------------------------------------------------------------


async def test_a_stopped_agent_may_clean_up_and_return() -> None:
    async def tidy(gate: Gate) -> str:
        try:
            await gate.call(Sleep(seconds=1000))
        except asyncio.CancelledError:
            return "cleaned up"
        return "never"

    async with kernel_for_tests(agents={"tidy": tidy}) as k:
        agent = await k.spawn("tidy")
        await asyncio.sleep(1)
        await signal(k, agent, "stop")
        exit = await end_of(k, agent)
        assert (exit.outcome, exit.result) == ("result", "cleaned up")
        (told,) = (event for event in await events(k, "signal") if isinstance(event, Signalled))
        assert (told.pid, told.signal, told.by) == (agent.pid, "stop", k.operator.process.name)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_an_agent_that_ends_because_it_was_told_to_was_killed(how: str) -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        agent = await k.spawn("nap", 1000)
        await asyncio.sleep(1)
        await signal(k, agent, how)
        exit = await end_of(k, agent)
        assert (exit.outcome, exit.error) == ("killed", "Killed") and k.operator.process.name in exit.message and time() == 1
        assert (await look(k, agent)).word == "killed"


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("steps", range(12))
async def test_a_signal_at_any_moment_of_an_agents_start_ends_it(how: str, steps: int) -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        k.hosts.start_s = 1.0 if steps % 2 else 0.0
        agent = await k.spawn("nap", 1000)
        await turns(steps)
        await signal(k, agent, how)
        async with asyncio.timeout(10):
            assert (await end_of(k, agent)).outcome == "killed"
        assert (await look(k, agent)).state == "ended"


async def test_a_kernel_that_goes_down_ends_the_agent_that_was_just_started() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        await k.spawn("nap", 1000)
    assert [process.exit.outcome for process in k.kernel.processes._by_pid.values() if process.exit] == ["killed"]


async def test_a_kill_frees_the_slot_at_once_though_the_code_goes_on() -> None:
    async def work(gate: Gate) -> None:
        with contextlib.suppress(asyncio.CancelledError, AiosError):
            await gate.call(ask())
        await asyncio.sleep(1000)

    core = ScriptedCore(ENDLESS, slots=1)
    async with kernel_for_tests([core], {"work": work}) as k:
        agent = await k.spawn("work")
        await asyncio.sleep(1)
        assert await held(k) == (1, 0)
        await signal(k, agent)
        await turns()
        assert await held(k) == (0, 0) and time() == 1 and core.statistics().aborted == 1


async def test_an_agent_that_does_not_end_loses_its_host_within_five_seconds_and_the_others_begin_again() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        bad, good = await k.spawn("stubborn"), await k.spawn("nap", 20)
        await asyncio.sleep(1)
        await signal(k, bad)
        assert (await end_of(k, bad)).outcome == "killed"
        assert time() == pytest.approx(6, abs=0.1)
        assert (await end_of(k, good)).result == "slept"
        assert time() == pytest.approx(26, abs=0.1)
        after = await look(k, good)
        assert after.restarts == 1 and after.pid == good.pid


async def test_the_victims_of_anothers_kill_do_not_lose_a_life() -> None:
    """Four times killed beside a stubborn neighbour, and still it is begun again when its own host dies."""
    async with kernel_for_tests(agents=AGENTS) as k:
        good = await k.spawn("nap", 100)
        for _ in range(RESTARTS + 1):
            bad = await k.spawn("stubborn")
            await asyncio.sleep(1)
            await signal(k, bad)
            await end_of(k, bad)
        await asyncio.sleep(1)
        k.hosts.hosts[-1].die()
        assert (await end_of(k, good)).result == "slept"
        assert (await look(k, good)).restarts == RESTARTS + 2


async def kills_its_child(gate: Gate) -> str:
    child = await gate.call(Spawn(manifest=manifest_of("stubborn")))
    await gate.call(Sleep(seconds=1))
    await gate.call(SignalProcess(pid=child.pid, signal="kill"))
    await gate.call(WaitFor(pid=child.pid))
    return "it went on"


async def holds_one_that_kills(gate: Gate) -> str:
    below = await gate.call(Spawn(manifest=manifest_of("kills_its_child", grants=("use /llm/*", "spawn /agents/*"))))
    return str((await gate.call(WaitFor(pid=below.pid))).message)


@pytest.mark.parametrize("agent", ["kills_its_child", "holds_one_that_kills"])
async def test_who_kills_its_own_stubborn_child_again_and_again_ends(agent: str) -> None:
    agents = {**AGENTS, "kills_its_child": kills_its_child, "holds_one_that_kills": holds_one_that_kills}
    async with kernel_for_tests(agents=agents) as k:
        parent, beside = await k.spawn(agent, grants=("use /llm/*", "spawn /agents/*")), await k.spawn("nap", 30)
        exit = await end_of(k, parent)
        assert exit.error == "ChildFailed" and f"it ended {RESTARTS + 1} times" in exit.message
        assert (await end_of(k, beside)).result == "slept"


async def test_a_killed_agent_makes_no_calls_any_more() -> None:
    said: list[str] = []

    async def runaway(gate: Gate) -> None:
        while True:
            try:
                await gate.call(Sleep(seconds=0.5))
            except asyncio.CancelledError:
                said.append("cancelled")
            except AiosError as error:
                said.append(type(error).__name__)
                await asyncio.sleep(0.5)

    async with kernel_for_tests(agents={"runaway": runaway}) as k:
        agent = await k.spawn("runaway")
        await asyncio.sleep(1.2)
        await signal(k, agent)
        await end_of(k, agent)
        assert len(said) > 5 and set(said[1:]) == {"Killed"}


async def test_a_killed_agents_children_and_theirs_end_too() -> None:
    async def parent(gate: Gate, depth: int) -> None:
        if depth:
            grants = ("spawn /agents/parent",)
            await gate.call(Spawn(manifest=manifest_of("parent", grants=grants), arguments=(depth - 1,)))
        await gate.call(Sleep(seconds=1000))

    async with kernel_for_tests(agents={"parent": parent}) as k:
        agent = await k.spawn("parent", 3, grants=("spawn /agents/parent",))
        await asyncio.sleep(1)
        await signal(k, agent)
        processes = (await k.operator.call(List())).processes
        assert len(processes) == 4
        for process in processes:
            assert (await end_of(k, process)).outcome == "killed"
        assert time() == 1


async def test_a_signal_to_what_has_ended_does_nothing() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        agent = await k.spawn("nap")
        exit = await end_of(k, agent)
        await signal(k, agent)
        assert await end_of(k, agent) == exit
        assert await events(k, "signal") == []


async def test_a_session_is_not_signalled_but_its_token_revoked() -> None:
    async with kernel_for_tests() as k:
        client = await k.session()
        with pytest.raises(Invalid, match="revoke its token"):
            await k.operator.call(SignalProcess(pid=client.process.pid, signal="kill"))


async def test_a_parent_that_has_too_many_children_waits_for_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios.kernel.process_calls.MOST_CHILDREN", 3)

    async def parent(gate: Gate) -> str:
        spawn = Spawn(manifest=manifest_of("nap", grants=()))
        children = [await gate.call(spawn) for _ in range(3)]
        try:
            await gate.call(spawn)
        except QueueFull as error:
            assert error.retry_after_s
            await gate.call(WaitFor(pid=children[0].pid))
            await gate.call(spawn)
            return "refused, then not"
        return "never refused"

    async with kernel_for_tests(agents={**AGENTS, "parent": parent}) as k:
        agent = await k.spawn("parent", grants=("spawn /agents/nap",))
        assert (await end_of(k, agent)).result == "refused, then not"


async def test_a_draining_kernel_starts_no_agents_and_waits_for_those_that_run() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        await k.spawn("nap", 7)
        await turns()
        await k.operator.call(Drain(grace_s=60))
        with pytest.raises(AiosError, match="going down"):
            await k.spawn("nap")
        await k.kernel.down.wait()
        assert time() == 7


async def test_a_fleet_in_which_hosts_die_all_the_time_ends_whole() -> None:
    """Every agent ends once, with its result or the reason why not; nothing is left over."""
    async with kernel_for_tests([ScriptedCore("x y z", slots=3)], AGENTS) as k:
        agents = [await k.spawn("nap", 1 + number % 7) for number in range(60)]
        for number in range(12):
            await asyncio.sleep(0.7)
            living = [host for host in k.hosts.hosts if host.pids]
            if living and number < 3:
                living[-1].die()
            await signal(k, agents[number * 5], "kill" if number % 2 else "stop")
        exits = [await end_of(k, agent) for agent in agents]
        assert {exit.outcome for exit in exits} == {"result", "killed"}
        assert all(exit.result == "slept" for exit in exits if exit.outcome == "result")
        for agent in agents:
            assert (await states(k, agent)).count("ended") == 1
        await asyncio.sleep(IDLE_HOST_S + 1)
        assert (await k.operator.call(ReadStatistics())).hosts == 0
        await nothing_is_held(k)


async def test_errors_of_agents_are_told_as_they_are() -> None:
    async def denied(gate: Gate) -> None:
        await gate.call(ask())

    async with kernel_for_tests([ScriptedCore()], {"denied": denied}) as k:
        exit = await end_of(k, await k.spawn("denied", grants=()))
        assert exit.error == Denied.__name__
