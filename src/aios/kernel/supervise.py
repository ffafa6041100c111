"""The supervisor: starts agents in hosts, starts them again when their host dies, and ends them when it is told to."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Callable, Iterable

from aios.abi.errors import AiosError, ChildFailed, Conflict, Invalid, Killed
from aios.abi.event import HostChanged, ProcessChanged, Signalled
from aios.abi.lines import visible
from aios.abi.process import Exit, Signal
from aios.kernel.events import EventLog
from aios.kernel.holding import Holds
from aios.kernel.process import Process, ProcessTable
from aios.ports.host import Host, HostGone, Hosts

HOST_AGENTS = 200
"""Agents of one program that share a host."""
RESTARTS = 3
"""How often an agent is started again after its host died."""
KILL_GRACE_S = 5.0
"""How long a killed agent's code may take to end, before its host is killed."""
IDLE_HOST_S = 5.0
"""How long a host without agents is kept for the next one."""

log = logging.getLogger("aios.kernel")
ProgramKey = tuple[str, str, int]
"""Tenant, path and modification time: agents of different tenants, or of different versions, do not share a host."""


class Ward:
    """A host, and who runs in it. `closed`: takes nobody any more; `expendable`: it was killed, and not its agents' fault.

    `lost`: names of those that ran there when it died.
    """

    __slots__ = ("agents", "closed", "expendable", "host", "idle", "key", "lost")

    def __init__(self, key: ProgramKey, host: Host) -> None:
        self.key = key
        self.host = host
        self.agents: set[Process] = set()
        self.idle: asyncio.TimerHandle | None = None
        self.closed = False
        self.expendable = False
        self.lost: list[str] = []

    def kill(self) -> None:
        """End it; an agent that comes in this moment must not be placed there."""
        self.closed = self.expendable = True
        self.host.kill()


class Supervisor:
    """Runs agents. `tasks`: the group that its tasks live in; when that ends, nothing of it is left.

    `left`: hears of each life of an agent that is over, also of those that another follows.
    """

    def __init__(
        self, hosts: Hosts, processes: ProcessTable, events: EventLog, holds: Holds, tasks: asyncio.TaskGroup,
        left: Callable[[Process], None],
    ) -> None:  # fmt: skip
        self._hosts = hosts
        self._processes = processes
        self._events = events
        self._holds = holds
        self._tasks = tasks
        self._left = left
        self._wards: list[Ward] = []
        self._starting: weakref.WeakValueDictionary[ProgramKey, asyncio.Lock] = weakref.WeakValueDictionary()
        self._runs: dict[Process, asyncio.Task[None]] = {}
        self._of: dict[Process, Ward] = {}

    @property
    def host_count(self) -> int:
        return len(self._wards)

    def start(self, process: Process) -> None:
        """Run an agent from its beginning to its end, in a task of the supervisor's."""
        self._changed(process)
        run = self._runs[process] = self._tasks.create_task(self._supervise(process), name=f"agent {process.name}")
        run.add_done_callback(lambda _: self._end(process, killed(process)))  # also if it was cancelled before its first step

    async def _supervise(self, process: Process) -> None:
        try:
            exit = await self._lives(process)
        except AiosError as error:
            exit = Exit(pid=process.pid, outcome="error", error=error.code, message=visible(error.message))
        except Exception as bug:  # the supervisor: one agent's fault is not the others'
            log.error("the supervisor failed `%s`", process.name, exc_info=bug)
            exit = Exit(pid=process.pid, outcome="error", error="Internal", message="a bug of ours; the kernel's log has it")
        self._end(process, exit)

    async def _lives(self, process: Process) -> Exit:
        """One life after the other, until the agent's function ends by itself or has lost its host too often."""
        assert process.manifest is not None
        if process.after is not None:
            await process.after.hand_over(process)
            process.after = None
        while True:
            await process.resumed()
            ward = await self._place(process)
            try:
                process.begun = True
                process.host_pid = ward.host.os_pid
                self._changed(process)
                result = await ward.host.run(process.pid, process.manifest.entry, process.arguments, process.manifest.model)
                return Exit(pid=process.pid, outcome="result", result=result)
            except HostGone as gone:
                ward.closed = True
                ward.lost.append(process.name)
                if process.killed_by:
                    return killed(process)
                self._lost(process, ward, str(gone))
            finally:
                self._leave(process, ward)

    def _lost(self, process: Process, ward: Ward, how: str) -> None:
        """Its host died: what it had begun is ended, and it begins again, unless it has died too often."""
        for call in list(process.calls.values()):
            call.stop(Killed("the agent's host died"))
        self._kill(self._processes.family(process)[1:], by=process.name)
        process.deaths += not ward.expendable
        if process.deaths > RESTARTS:
            raise ChildFailed(f"its host died {process.deaths} times, at last by: {how}")
        process.begin_again()
        self._left(process)

    async def _place(self, process: Process) -> Ward:
        """A host with room for the agent: one that runs its program already, or a new one."""
        assert process.manifest is not None
        program = process.manifest.program
        key = (process.tenant, program, modified_ns(program))
        starting = self._starting.setdefault(key, asyncio.Lock())
        async with starting:
            for ward in self._wards:
                if ward.key == key and len(ward.agents) < HOST_AGENTS and not ward.closed:
                    break
            else:
                ward = Ward(key, await self._hosts.start(program))
                self._wards.append(ward)
                self._tasks.create_task(self._watch(ward), name=f"host {ward.host.os_pid}")
                self._events.add(HostChanged, tenant=key[0], os_pid=ward.host.os_pid, change="started", program=program)
            if ward.idle is not None:
                ward.idle.cancel()
            ward.agents.add(process)
            self._of[process] = ward
            return ward

    async def _watch(self, ward: Ward) -> None:
        """Tell when a host ends."""
        try:
            how = await ward.host.wait_ended()
        finally:
            ward.closed = True
            self._wards.remove(ward)
        running = (*ward.lost, *(process.name for process in ward.agents))
        tenant, program, _ = ward.key
        self._events.add(
            HostChanged, tenant=tenant, os_pid=ward.host.os_pid, change="ended", program=program, running=running, detail=how
        )

    def _leave(self, process: Process, ward: Ward) -> None:
        ward.agents.discard(process)
        self._of.pop(process, None)
        if not ward.agents and not ward.closed:
            ward.idle = asyncio.get_running_loop().call_later(IDLE_HOST_S, ward.kill)

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
                self._tell_held(self._holds.hold(process, by, f"suspended by {by.name}"), signal, by.name)
            case "resume":
                self._tell_held(self._holds.lift(process, by), signal, by.name)

    def _stop(self, process: Process, by: str) -> None:
        if process.held is not None:
            of = process.held.of
            raise Conflict(f"`{process.name}` is held and cannot end in order: `aios resume {of}` first, or kill it")
        self._tell_signal(process, "stop", by)
        process.killed_by = by
        ward = self._of.get(process)
        if ward is not None:
            ward.host.signal(process.pid, "stop")
        else:
            self._runs[process].cancel()

    def _tell_held(self, processes: Iterable[Process], signal: Signal, by: str) -> None:
        """Say of processes that they are held from now on, or go on."""
        for process in processes:
            self._tell_signal(process, signal, by)
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
            ward = self._of.get(process)
            if ward is not None:
                ward.host.signal(process.pid, "kill")
            self._tasks.create_task(self._make_sure(process, ward), name=f"kill {process.name}")

    def _tell_signal(self, process: Process, signal: Signal, by: str) -> None:
        self._events.add(Signalled, tenant=process.tenant, pid=process.pid, name=process.name, signal=signal, by=by)

    async def _make_sure(self, process: Process, ward: Ward | None) -> None:
        """A killed agent has 5 s to end; then its host goes, and the others in it begin again."""
        run = self._runs.get(process)
        if run is None:
            return
        if ward is None:
            run.cancel()
            return
        done, _ = await asyncio.wait((run,), timeout=KILL_GRACE_S)
        if not done:
            ward.kill()
            run.cancel()

    def _end(self, process: Process, exit: Exit) -> None:
        """An agent has ended: so do its open calls and its children, and then everybody hears of it. Once."""
        if process.exit is not None:
            return
        for call in list(process.calls.values()):
            call.stop(Killed(f"`{process.name}` has ended"))
        self._kill(self._processes.family(process)[1:], by=process.name)
        if process.killed_by and exit.outcome == "error":
            exit = killed(process)
        self._runs.pop(process, None)
        self._processes.end(process, exit)
        self._changed(process, exit.message)
        self._left(process)

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
        for ward in list(self._wards):
            ward.kill()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)


def killed(process: Process) -> Exit:
    """The end of a process that was stopped or killed."""
    return Exit(pid=process.pid, outcome="killed", error="Killed", message=f"ended by {process.killed_by or 'the kernel'}")


def modified_ns(program: str) -> int:
    """When a program was changed last. Raises `ChildFailed` if it is not there."""
    try:
        return os.stat(program).st_mtime_ns
    except OSError as error:
        raise ChildFailed(f"the program `{program}` cannot be read: {error.strerror}") from None
