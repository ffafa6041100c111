"""Commands as processes: one token each, exit codes kept, rules of restart, signals."""

import asyncio
import contextlib
from typing import Any

import pytest
from scenes import ask, events, nothing_is_held, slow, turns

from aios.abi.errors import AiosError, ChildFailed, Denied, Invalid, NeedsApproval, Unauthenticated
from aios.abi.event import ProcessChanged
from aios.abi.manifest import Manifest
from aios.abi.process import Exit, Explain, List, ProcessInfo, Self, SignalProcess, Spawn, WaitFor
from aios.abi.system import ListTokens, Sleep
from aios.kernel.restarts import PERIOD_S, RESTARTS
from aios.kernel.supervise import STOP_GRACE_S
from aios.ports.gate import Gate
from aios.testing import ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests, manifest_of


async def answers(gate: Gate, *words: str) -> int:
    """Asks, then ends with the code that it was told."""
    await gate.call(ask())
    return int(words[0]) if words else 0


async def sleeps(gate: Gate, seconds: str = "1000") -> int:
    await gate.call(Sleep(seconds=float(seconds)))
    return 0


async def stubborn(gate: Gate) -> int:
    """Ignores SIGTERM; what comes then cannot be ignored."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(1000)
    await asyncio.sleep(1000)
    return 0


async def ends(gate: Gate, code: str = "3", after_s: str = "1") -> int:
    await asyncio.sleep(float(after_s))
    return int(code)


PROGRAMS = {"answers": answers, "sleeps": sleeps, "stubborn": stubborn, "ends": ends}


async def signal(k: RunningKernel, process: ProcessInfo, signal: Any) -> None:
    await k.operator.call(SignalProcess(pid=process.pid, signal=signal))


async def end_of(k: RunningKernel, process: ProcessInfo) -> Exit:
    return await k.operator.call(WaitFor(pid=process.pid))


async def look(k: RunningKernel, process: ProcessInfo) -> ProcessInfo:
    return next(p for p in (await k.operator.call(List())).processes if p.pid == process.pid)


# --- a life -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "outcome", "error"), [(0, "result", ""), (3, "error", "ChildFailed")])
async def test_a_command_is_a_process_and_its_exit_code_is_kept(code: int, outcome: str, error: str) -> None:
    async with kernel_for_tests([slow()], programs=PROGRAMS) as k:
        process = await k.launch("answers", str(code))
        assert process.name == "answers-2"
        exit = await end_of(k, process)
        assert (exit.outcome, exit.error, exit.code) == (outcome, error, code) and time() == 1 + (code > 0) * RESTARTS
        after = await look(k, process)
        assert after.calls == 1 + after.restarts and after.host_pid is None and after.tokens > 0


async def test_its_calls_are_its_own_and_not_a_sessions() -> None:
    async def who(gate: Gate) -> int:
        return 0 if (await gate.call(Self())).name == "who-2" else 1

    async with kernel_for_tests(programs={"who": who}) as k:
        assert (await end_of(k, await k.launch("who"))).code == 0
        assert len(k.kernel.processes.living()) == 1  # the operator: no session was made


async def test_a_token_is_one_process_at_its_own_address_and_dies_with_it() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        process, other = await k.launch("sleeps", "10"), await k.launch("sleeps", "10")
        await turns()
        token = k.programs.started[0].launch.token
        for session in ("", "one", "two"):
            assert k.kernel.attach(token, session).pid == process.pid
        assert k.kernel.check(token, process.pid) == process.pid
        for at in ("", other.pid):
            with pytest.raises(Unauthenticated, match="own"):
                k.kernel.check(token, at)
        with pytest.raises(Unauthenticated, match="its token alone"):  # of a client, at the program's address
            k.kernel.check((await k.token()).value, process.pid)
        assert len((await k.operator.call(ListTokens())).tokens) == 1  # the client's
        assert token not in (k.tokens.content or b"").decode()
        await end_of(k, process)
        for at in ("", process.pid):
            with pytest.raises(Unauthenticated):
                k.kernel.check(token, at)
        with pytest.raises(Unauthenticated):
            k.kernel.attach(token)


async def test_each_life_has_a_token_of_its_own() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        await end_of(k, await k.launch("ends"))
        tokens = [program.launch.token for program in k.programs.started]
        assert len(set(tokens)) == 1 + RESTARTS and k.kernel.tokens._pids == {}


async def test_a_command_that_cannot_be_started_ends_with_a_sentence() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        exit = await end_of(k, await k.launch("nothing", restart="permanent"))
        assert (exit.error, exit.code) == (ChildFailed.__name__, None) and "/bin/nothing" in exit.message
        assert k.kernel.tokens._pids == {}


async def test_a_command_is_accepted_word_by_word() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        manifest = Manifest(agent="ends", command=("/bin/ends", "0"), folder="/", restart="temporary")
        with pytest.raises(NeedsApproval):
            await k.operator.call(Spawn(manifest=manifest))
        await k.operator.call(Spawn(manifest=manifest, accepted=manifest.hash()))
        await k.operator.call(Spawn(manifest=manifest))
        client = await k.session(grants=("spawn /agents/*",))
        await client.call(Spawn(manifest=manifest))
        for changed in (
            {"command": ("/bin/ends", "1")},
            {"folder": "/tmp"},
            {"restart": "permanent"},
            {"grants": ("use /llm/*",)},
        ):
            fields = {"agent": "ends", "command": ("/bin/ends", "0"), "folder": "/", "restart": "temporary", **changed}
            with pytest.raises(NeedsApproval):
                await k.operator.call(Spawn(manifest=Manifest(**fields)))


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"command": ("ends",)}, "manifest.command"), ({"folder": "here"}, "manifest.folder"), ({"folder": ""}, "manifest.folder")],
)
async def test_paths_that_are_not_absolute_are_refused(fields: dict[str, Any], field: str) -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        manifest = Manifest(**{"agent": "ends", "command": ("/bin/ends",), "folder": "/", **fields})
        with pytest.raises(Invalid, match="absolute") as refused:
            await k.operator.call(Spawn(manifest=manifest, accepted=manifest.hash()))
        assert refused.value.field == field


async def test_a_command_has_no_arguments_beside_its_words() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        manifest = k.accept(Manifest(agent="ends", command=("/bin/ends",), folder="/"))
        with pytest.raises(Invalid, match=r"manifest\.command"):
            await k.operator.call(Spawn(manifest=manifest, arguments=("1",)))


async def test_agents_start_no_commands_and_commands_no_agents() -> None:
    command = Manifest(agent="child", command=("/bin/ends",), folder="/")

    async def spawn(gate: Gate) -> list[str]:
        refused = []
        for manifest in (command, Manifest(agent="child", program="/other.py", entry="child")):
            try:
                await gate.call(Spawn(manifest=manifest, accepted=manifest.hash()))
            except AiosError as error:
                refused.append(error.code)
        return refused

    async def spawning(gate: Gate) -> int:
        return 0 if await spawn(gate) == [Denied.__name__] * 2 else 1

    async with kernel_for_tests(agents={"spawn": spawn}, programs={"spawning": spawning}) as k:
        grants = ("spawn /agents/*",)
        assert (await end_of(k, await k.spawn("spawn", grants=grants))).result == [Denied.__name__] * 2
        assert (await end_of(k, await k.launch("spawning", grants=grants, restart="temporary"))).code == 0


async def test_when_it_has_ended_its_calls_have() -> None:
    async def leaves(gate: Gate) -> int:
        calls.append(asyncio.ensure_future(gate.call(ask())))
        await asyncio.sleep(0.5)
        return 0

    calls: list[Any] = []
    core = slow()
    async with kernel_for_tests([core], programs={"leaves": leaves}) as k:
        await end_of(k, await k.launch("leaves"))
        assert time() == 0.5 and core.statistics().aborted == 1
        with pytest.raises(AiosError, match="has ended"):
            await calls[0]
        await nothing_is_held(k)


# --- rules of restart -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "code", "starts"),
    [
        ("temporary", 0, 1), ("temporary", 3, 1), ("transient", 0, 1), ("transient", 3, 1 + RESTARTS),
        ("permanent", 0, 1 + RESTARTS), ("permanent", 3, 1 + RESTARTS),
    ],
)  # fmt: skip
async def test_a_rule_says_what_begins_again(rule: str, code: int, starts: int) -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        process = await k.launch("ends", str(code), restart=rule)
        await asyncio.sleep(60)
        assert len(k.programs.started) == starts
        assert (await look(k, process)).state == ("suspended" if rule == "permanent" else "ended")


async def test_a_storm_ends_what_is_transient() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        exit = await end_of(k, await k.launch("ends"))
        assert (exit.outcome, exit.error, exit.code) == ("error", "ChildFailed", 3) and time() == 4
        assert "4 times within 10 minutes" in exit.message and "exit 3" in exit.message


async def test_a_storm_holds_what_is_permanent_until_it_is_resumed() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        process = await k.launch("ends", restart="permanent")
        await asyncio.sleep(60)
        why = await k.operator.call(Explain(pid=process.pid))
        assert why.reason.startswith("it is held: it ended 4 times") and why.moves == (f"`aios resume {process.name}`",)
        held = await look(k, process)
        assert held.wait and (held.wait.code, held.wait.holder, held.host_pid) == ("X", "the kernel", None)
        await signal(k, process, "resume")
        await asyncio.sleep(60)
        assert len(k.programs.started) == 2 * (1 + RESTARTS)
        await signal(k, process, "kill")
        assert (await end_of(k, process)).outcome == "killed"


async def test_restarts_that_are_far_between_are_no_storm() -> None:
    async with kernel_for_tests(programs=PROGRAMS, limit_s=10 * PERIOD_S) as k:
        process = await k.launch("ends", "0", str(PERIOD_S / RESTARTS + 1), restart="permanent")
        await asyncio.sleep(5 * PERIOD_S)
        assert len(k.programs.started) == 15 and (await look(k, process)).state == "running"
        await signal(k, process, "kill")


async def test_a_storm_of_an_agent_function_that_is_permanent_holds_it() -> None:
    """Of one whose host dies, and of one that returns."""

    async def crash(gate: Gate) -> None:
        k.hosts.hosts[-1].die()
        await asyncio.sleep(100)

    async def returns(gate: Gate) -> str:
        return "again"

    async with kernel_for_tests(agents={"crash": crash, "returns": returns}) as k:
        for entry in ("crash", "returns"):
            process = await k.spawn(entry, restart="permanent")
            await asyncio.sleep(1)
            after = await look(k, process)
            assert (after.state, after.restarts) == ("suspended", RESTARTS)
            await signal(k, process, "kill")


async def test_a_temporary_agent_does_not_begin_again() -> None:
    async def nap(gate: Gate) -> None:
        await gate.call(Sleep(seconds=100))

    async with kernel_for_tests(agents={"nap": nap}) as k:
        process = await k.spawn("nap", restart="temporary")
        await turns()
        k.hosts.hosts[0].die("killed by signal 11")
        exit = await end_of(k, process)
        assert exit.error == "ChildFailed" and "killed by signal 11" in exit.message and len(k.hosts.hosts) == 1


async def test_agents_begin_again_in_their_order() -> None:
    async def nap(gate: Gate) -> None:
        await gate.call(Sleep(seconds=100))

    async with kernel_for_tests(agents={"nap": nap}) as k:
        processes = [await k.spawn("nap") for _ in range(20)]
        await turns()
        k.hosts.hosts[0].die()
        await asyncio.sleep(1)
        again = [event.pid for event in await events(k, "process") if isinstance(event, ProcessChanged) and event.restart]
        assert again == [process.pid for process in processes]


async def test_children_of_a_life_end_with_it() -> None:
    """What a command that holds a token has asked for is ended before it begins again."""

    async def waits(gate: Gate) -> int:
        pending.append(asyncio.ensure_future(gate.call(Sleep(seconds=1000))))
        await asyncio.sleep(1)
        return 1

    pending: list[Any] = []
    async with kernel_for_tests(programs={"waits": waits}) as k:
        await end_of(k, await k.launch("waits"))
        assert len(pending) == 1 + RESTARTS
        for call in pending:
            with pytest.raises(AiosError):
                await call


# --- signals ----------------------------------------------------------------------------------------------------------


async def test_stop_is_sigterm() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        process = await k.launch("sleeps", restart="permanent")
        await asyncio.sleep(1)
        await signal(k, process, "stop")
        exit = await end_of(k, process)
        assert (exit.outcome, exit.code) == ("killed", 143) and time() == 1
        assert k.programs.started[0].signals[0] == "stop"


async def test_who_ignores_sigterm_is_killed_after_a_grace() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        process = await k.launch("stubborn")
        await asyncio.sleep(1)
        await signal(k, process, "stop")
        exit = await end_of(k, process)
        assert (exit.outcome, exit.code) == ("killed", 137) and time() == 1 + STOP_GRACE_S


async def test_kill_is_at_once_and_nothing_begins_again() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        process = await k.launch("stubborn", restart="permanent")
        await asyncio.sleep(1)
        await signal(k, process, "kill")
        exit = await end_of(k, process)
        assert (exit.outcome, exit.code) == ("killed", 137) and time() == 1 and len(k.programs.started) == 1


@pytest.mark.parametrize("how", ["stop", "kill", "suspend"])
@pytest.mark.parametrize("steps", range(8))
async def test_a_signal_at_any_moment_of_its_start_counts(how: str, steps: int) -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        k.programs.start_s = 1.0 if steps % 2 else 0.0
        process = await k.launch("sleeps")
        await turns(steps)
        await signal(k, process, how)
        await asyncio.sleep(10)
        if how == "suspend":
            assert (await look(k, process)).state == "suspended"
            assert all(program.signals == ["suspend"] for program in k.programs.started)
            await signal(k, process, "kill")
        async with asyncio.timeout(10):
            assert (await end_of(k, process)).outcome == "killed"


async def test_a_suspended_program_is_stopped_and_goes_on() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        process = await k.launch("sleeps", "5")
        await asyncio.sleep(1)
        await signal(k, process, "suspend")
        await asyncio.sleep(99)
        assert k.programs.started[0].signals == ["suspend"] and (await look(k, process)).state == "suspended"
        await signal(k, process, "resume")
        assert (await end_of(k, process)).code == 0 and time() == 100
        assert k.programs.started[0].signals == ["suspend", "resume"]


async def test_a_suspended_program_can_be_killed() -> None:
    async with kernel_for_tests(programs=PROGRAMS) as k:
        process = await k.launch("sleeps")
        await asyncio.sleep(1)
        await signal(k, process, "suspend")
        await signal(k, process, "kill")
        assert (await end_of(k, process)).code == 137


async def test_a_kernel_that_goes_down_ends_its_programs() -> None:
    async with kernel_for_tests([ScriptedCore()], programs=PROGRAMS) as k:
        await k.launch("sleeps")
        await turns()
        (program,) = k.programs.started
    assert "kill" in program.signals and program._ended.done()


async def test_agents_may_be_named_like_programs() -> None:
    async def sleeps_too(gate: Gate) -> str:
        return "an agent"

    async with kernel_for_tests(agents={"sleeps": sleeps_too}, programs=PROGRAMS) as k:
        assert (await end_of(k, await k.spawn("sleeps"))).result == "an agent"
        assert manifest_of("sleeps").restart == "transient"
