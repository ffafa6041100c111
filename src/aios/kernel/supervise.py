"""The supervisor: lets agents live, lets them begin again as their rule of restart says, and ends them when it is told to.

An agent is a function in a host (`wards.py`) or a command of its own (the port `Programs`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from msgspec.structs import replace

from aios.abi.errors import AiosError, ChildFailed, Conflict, Invalid, Killed
from aios.abi.event import ProcessChanged, Signalled
from aios.abi.lines import visible
from aios.abi.process import Exit, Signal
from aios.kernel.access.tokens import Tokens
from aios.kernel.events import EventLog
from aios.kernel.holding import Holds
from aios.kernel.process import Process, ProcessTable
from aios.kernel.restarts import Restarts, storm
from aios.kernel.wards import Ward, Wards
from aios.ports.clock import Clock
from aios.ports.host import HostGone
from aios.ports.program import Launch, Program, Programs

KILL_GRACE_S = 5.0
"""How long a killed agent's code may take to end, before its host is killed."""
STOP_GRACE_S = 10.0
"""How long a command may take to end that was asked to, before it is killed."""

log = logging.getLogger("aios.kernel")


class Place(Protocol):
    """Where an agent runs."""

    def signal(self, process: Process, signal: Signal) -> None: ...

    def kill(self, culprit: Process | None = None) -> None: ...


class Own:
    """The place of a command: nobody else is there."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def signal(self, process: Process, signal: Signal) -> None:
        self._program.signal(signal)

    def kill(self, culprit: Process | None = None) -> None:
        self._program.signal("kill")


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """How one life of an agent ended. `counts`: as one of its ends; it does not where it was ended for another's fault."""

    exit: Exit
    failed: bool = False
    counts: bool = True


class Supervisor:
    """Runs agents. `tasks`: the group that its tasks live in; when that ends, nothing of it is left.

    `left`: hears of each life of an agent that is over, also of those that another follows. `say`: puts a line of the kernel's
    into an agent's log.
    """

    def __init__(
        self, wards: Wards, programs: Programs, processes: ProcessTable, events: EventLog, holds: Holds, tokens: Tokens,
        clock: Clock, tasks: asyncio.TaskGroup, left: Callable[[Process], None], say: Callable[[Process, str], None],
    ) -> None:  # fmt: skip
        self._wards = wards
        self._programs = programs
        self._processes = processes
        self._events = events
        self._holds = holds
        self._tokens = tokens
        self._clock = clock
        self._tasks = tasks
        self._left = left
        self._say = say
        self._runs: dict[Process, asyncio.Task[None]] = {}
        self._at: dict[Process, Place] = {}

    @property
    def host_count(self) -> int:
        return len(self._wards)

    # --- lives ------------------------------------------------------------------------------------------------------

    def start(self, process: Process) -> None:
        """Run an agent from its beginning to its end, in a task of the supervisor's."""
        self._changed(process)
        run = self._runs[process] = self._tasks.create_task(self._supervise(process), name=f"agent {process.name}")
        run.add_done_callback(lambda _: self._end(process, killed(process)))  # also if it was cancelled before its first step

    async def _supervise(self, process: Process) -> None:
        try:
            exit = await self._lives(process)
        except AiosError as error:
            exit = failed(process, error)
        except Exception as bug:  # the supervisor: one agent's fault is not the others'
            log.error("the supervisor failed `%s`", process.name, exc_info=bug)
            exit = Exit(pid=process.pid, outcome="error", error="Internal", message="a bug of ours; the kernel's log has it")
        self._end(process, exit)

    async def _lives(self, process: Process) -> Exit:
        """One life after the other, until the agent has ended and does not begin again."""
        assert process.manifest is not None
        if process.after is not None:
            await process.after.hand_over(process)
            process.after = None
        restarts = Restarts(process.manifest.restart)
        live = self._live_as_command if process.manifest.command else self._live_in_host
        while True:
            await process.resumed()
            life = await live(process)
            if process.killed_by or not restarts.begins_again(life.failed):
                return life.exit
            self._clear(process)
            how = life.exit.message or ("exit 0" if process.manifest.command else "it returned")
            if life.counts and restarts.is_storm(self._clock.monotonic()):
                if not restarts.is_held:
                    return replace(life.exit, message=storm(life.exit.message))
                self._say(process, f"held: {storm(how)}; `aios resume {process.name}` lets it begin again")
                self._tell_held(self._holds.hold(process, None, f"held: {storm(how)}"))
                await process.resumed()
                restarts.forgive()
            process.begin_again()
            self._say(process, f"begins again, {how}")

    async def _live_in_host(self, process: Process) -> Life:
        """A life of an agent function. What it returns or raises is its answer; what its host does is none."""
        assert process.manifest is not None
        ward = await self._wards.place(process)
        try:
            self._begin(process, ward, ward.host.os_pid)
            result = await ward.host.run(process.pid, process.manifest.entry, process.arguments, process.manifest.model)
            return Life(Exit(pid=process.pid, outcome="result", result=result))
        except HostGone as gone:
            ward.closed = True
            ward.lost.append(process.name)
            return Life(failed(process, ChildFailed(f"its host died: {gone}")), failed=True, counts=not ward.excuses(process))
        except AiosError as error:
            return Life(failed(process, error))
        finally:
            self._at.pop(process, None)
            self._wards.leave(process, ward)

    async def _live_as_command(self, process: Process) -> Life:
        """A life of a command, with a token that is good for that long."""
        assert process.manifest is not None
        command, folder = process.manifest.command, process.manifest.folder
        token = self._tokens.issue(process.pid)
        program: Program | None = None
        try:
            program = await self._programs.start(
                Launch(pid=process.pid, name=process.name, command=command, folder=folder, token=token)
            )
            self._begin(process, Own(program), program.os_pid)
            if process.held is not None:
                program.signal("suspend")
            ending = await program.wait_ended()
        finally:
            self._tokens.withdraw(token)
            self._at.pop(process, None)
            if program is not None:
                program.signal("kill")
        if ending.code == 0:
            return Life(Exit(pid=process.pid, outcome="result", code=0))
        return Life(replace(failed(process, ChildFailed(ending.how)), code=ending.code), failed=True)

    def _begin(self, process: Process, place: Place, os_pid: int) -> None:
        self._at[process] = place
        process.begun = True
        process.host_pid = os_pid
        self._changed(process)

    def _clear(self, process: Process) -> None:
        """A life has ended and another one follows: what the first had begun is ended."""
        process.host_pid = None
        for call in list(process.calls.values()):
            call.stop(Killed("the agent's process ended"))
        self._kill(self._processes.family(process)[1:], by=process.name)
        self._left(process)

    # --- signals ----------------------------------------------------------------------------------------------------

    async def run_tool(self, process: Process, tool: str, arguments: dict[str, Any]) -> Any:
        """Have a process's host run one of its functions. Raises what it raises, and `HostGone`."""
        place = self._at.get(process)
        if not isinstance(place, Ward):
            raise Conflict(f"`{process.name}` does not run in a host now")
        return await place.host.run_tool(process.pid, tool, arguments)

    def signal(self, process: Process, signal: Signal, by: Process) -> None:
        """Do to an agent what a signal says, see `SignalProcess`. What has ended hears nothing.

        `kill` ends it with all its descendants: their calls now, their code within 5 s. Raises `Conflict`, `Denied`, `Invalid`.
        """
        if process.exit is not None:
            return
        match signal:
            case "kill":
                self._kill(self._processes.family(process), by.name)
            case "stop":
                self._stop(process, by.name)
            case "suspend":
                if process is by:
                    raise Invalid("a process cannot suspend itself: nobody would be left to let it go on", field="pid")
                self._pass_on(self._holds.hold(process, by, f"suspended by {by.name}"), signal, by.name)
            case "resume":
                self._pass_on(self._holds.lift(process, by), signal, by.name)

    def _stop(self, process: Process, by: str) -> None:
        if process.held is not None:
            of = process.held.of
            raise Conflict(f"`{process.name}` is held and cannot end in order: `aios resume {of}` first, or kill it")
        self._tell_signal(process, "stop", by)
        process.killed_by = by
        place = self._at.get(process)
        if place is None:
            self._runs[process].cancel()
            return
        place.signal(process, "stop")
        if process.manifest is not None and process.manifest.command:
            self._tasks.create_task(self._make_sure(process, place, STOP_GRACE_S), name=f"stop {process.name}")

    def suspend(self, process: Process, why: str) -> None:
        """Hold an agent with all that it began, until an operator lets it go on."""
        self._pass_on(self._holds.hold(process, None, why, asks=True), "suspend", "the kernel")

    def _pass_on(self, processes: Iterable[Process], signal: Signal, by: str) -> None:
        """Tell processes that they are held from now on, or go on."""
        processes = list(processes)
        for process in processes:
            self._tell_signal(process, signal, by)
            place = self._at.get(process)
            if place is not None:
                place.signal(process, signal)
        self._tell_held(processes)

    def _tell_held(self, processes: Iterable[Process]) -> None:
        for process in processes:
            self._changed(process, process.held.why if process.held is not None else "")

    def _kill(self, processes: Iterable[Process], by: str) -> None:
        """Kill agents that are not yet being killed."""
        for process in processes:
            if process.exit is not None or process.doomed:
                continue
            self._tell_signal(process, "kill", by)
            process.doomed, process.killed_by = True, by
            for call in list(process.calls.values()):
                call.stop(Killed(f"`{process.name}` was killed by {by}"))
            place = self._at.get(process)
            if place is not None:
                place.signal(process, "kill")
            self._tasks.create_task(self._make_sure(process, place, KILL_GRACE_S), name=f"kill {process.name}")

    def _tell_signal(self, process: Process, signal: Signal, by: str) -> None:
        self._events.add(Signalled, tenant=process.tenant, pid=process.pid, name=process.name, signal=signal, by=by)

    async def _make_sure(self, process: Process, place: Place | None, grace_s: float) -> None:
        """Who is to end has so many seconds; then its place goes, and others in it begin again."""
        run = self._runs.get(process)
        if run is None:
            return
        if place is None:
            run.cancel()
            return
        done, _ = await asyncio.wait((run,), timeout=grace_s)
        if not done:
            place.kill(process)
            if process.doomed:
                run.cancel()

    # --- ends -------------------------------------------------------------------------------------------------------

    def _end(self, process: Process, exit: Exit) -> None:
        """An agent has ended: so do its open calls and its children, and then everybody hears of it. Once."""
        if process.exit is not None:
            return
        for call in list(process.calls.values()):
            call.stop(Killed(f"`{process.name}` has ended"))
        self._kill(self._processes.family(process)[1:], by=process.name)
        if process.killed_by and exit.outcome == "error":
            exit = replace(killed(process), code=exit.code)
        self._runs.pop(process, None)
        self._processes.end(process, exit)
        self._changed(process, exit.message)
        self._left(process)

    def tell_class(self, process: Process, why: str) -> None:
        """Say that a process was given the class that it has now."""
        self._changed(process, why)

    def _changed(self, process: Process, detail: str = "") -> None:
        state, _ = process.state()
        self._events.add(
            ProcessChanged, tenant=process.tenant, pid=process.pid, name=process.name, state=state, cls=process.cls,
            outcome=process.exit.outcome if process.exit else None, restart=process.life, detail=detail,
        )  # fmt: skip

    async def close(self) -> None:
        """End all agents and hosts."""
        for run in list(self._runs.values()):
            run.cancel()
        self._wards.kill_all()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)


def killed(process: Process) -> Exit:
    """The end of a process that was stopped or killed."""
    return Exit(pid=process.pid, outcome="killed", error="Killed", message=f"ended by {process.killed_by or 'the kernel'}")


def failed(process: Process, error: AiosError) -> Exit:
    """The end of a process in an error."""
    return Exit(pid=process.pid, outcome="error", error=error.code, message=visible(error.message))
