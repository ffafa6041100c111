"""Which host an agent function runs in: hosts are started when they are needed, shared, and ended when nobody is left in them."""

from __future__ import annotations

import asyncio
import os
import weakref

from aios.abi.errors import ChildFailed
from aios.abi.event import HostChanged
from aios.abi.process import Signal
from aios.kernel.events import EventLog
from aios.kernel.process import Process
from aios.ports.host import Host, Hosts

HOST_AGENTS = 200
"""Agents of one program that share a host."""
IDLE_HOST_S = 5.0
"""How long a host without agents is kept for the next one."""

ProgramKey = tuple[str, str, int]
"""Tenant, path and modification time: agents of different tenants, or of different versions, do not share a host."""


class Ward:
    """A host, and who runs in it. `closed`: takes nobody any more; `expendable`: it was killed, and not its agents' fault.

    `culprit`: for whose sake it was killed; `lost`: names of those that ran there when it died.
    """

    __slots__ = ("agents", "closed", "culprit", "expendable", "host", "idle", "key", "lost")

    def __init__(self, key: ProgramKey, host: Host) -> None:
        self.key = key
        self.host = host
        self.agents: set[Process] = set()
        self.idle: asyncio.TimerHandle | None = None
        self.closed = False
        self.expendable = False
        self.culprit: Process | None = None
        self.lost: list[str] = []

    def signal(self, process: Process, signal: Signal) -> None:
        """Pass a signal on to an agent's code; what is suspended is held by its calls, and its code hears nothing of it."""
        if signal in ("stop", "kill"):
            self.host.signal(process.pid, signal)

    def kill(self, culprit: Process | None = None) -> None:
        """End it, perhaps because of one agent; an agent that comes in this moment must not be placed there."""
        self.closed = self.expendable = True
        self.culprit = culprit
        self.host.kill()

    def excuses(self, process: Process) -> bool:
        """Whether its end is no fault of the agent's: it was killed, and not for what the agent began and itself wanted to end.

        That one would begin the same once more, for ever.
        """
        if self.culprit is None or not self.culprit.descends_from(process):
            return self.expendable
        return not killed_by_its_own(self.culprit)


class Wards:
    """All hosts. `tasks`: the group that their watches live in."""

    def __init__(self, hosts: Hosts, events: EventLog, tasks: asyncio.TaskGroup) -> None:
        self._hosts = hosts
        self._events = events
        self._tasks = tasks
        self._wards: list[Ward] = []
        self._starting: weakref.WeakValueDictionary[ProgramKey, asyncio.Lock] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._wards)

    async def place(self, process: Process) -> Ward:
        """A host with room for the agent: one that runs its program already, or a new one. Raises `ChildFailed`."""
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

    def leave(self, process: Process, ward: Ward) -> None:
        """An agent has ended, or its host has."""
        ward.agents.discard(process)
        if not ward.agents and not ward.closed:
            ward.idle = asyncio.get_running_loop().call_later(IDLE_HOST_S, ward.kill)

    def kill_all(self) -> None:
        for ward in list(self._wards):
            ward.kill()


def killed_by_its_own(process: Process) -> bool:
    """Whether it was an agent above it, and no person, that had it killed."""
    above = process.parent
    while above is not None and above.kind == "agent":
        if above.name == process.killed_by:
            return True
        above = above.parent
    return False


def modified_ns(program: str) -> int:
    """When a program was changed last. Raises `ChildFailed` if it is not there."""
    try:
        return os.stat(program).st_mtime_ns
    except OSError as error:
        raise ChildFailed(f"the program `{program}` cannot be read: {error.strerror}") from None
