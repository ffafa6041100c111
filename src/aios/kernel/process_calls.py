"""The rows `process.*`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from msgspec.structs import replace

from aios.abi.errors import Conflict, Denied, Invalid, QueueFull
from aios.abi.manifest import Manifest
from aios.abi.process import (
    Exit,
    Explain,
    Explanation,
    List,
    LogLines,
    Logs,
    ProcessInfo,
    ProcessList,
    Renice,
    SignalProcess,
    Spawn,
    WaitFor,
)
from aios.abi.request import Class, Done, is_above, lower
from aios.abi.waits import Wait
from aios.kernel.access.consent import Consents
from aios.kernel.access.grants import Grants, parse_grants
from aios.kernel.arguments import After, check_arguments
from aios.kernel.awaited import awaiting, tell
from aios.kernel.explain import explain
from aios.kernel.lanes.lane import Lane
from aios.kernel.lanes.policy import Ticket
from aios.kernel.logs import Logs as LogBook
from aios.kernel.process import Call, Process, ProcessTable, kin
from aios.kernel.supervise import Supervisor
from aios.kernel.syscall import Syscall, check_range
from aios.kernel.waiting import ANOTHER, wait_for

MOST_PROCESSES = 20_000
MOST_CHILDREN = 1000
MOST_DEPTH = 32
MOST_LINES = 10_000
MOST_CURSOR = 2**63 - 1
MOST_WAIT_S = 3600.0


class ProcessCalls:
    """Starts, waits for, signals, lists and explains processes."""

    def __init__(
        self,
        processes: ProcessTable,
        supervisor: Supervisor,
        grants: Grants,
        consents: Consents,
        logs: LogBook,
        lanes: Mapping[str, Lane],
    ) -> None:
        self._processes = processes
        self._supervisor = supervisor
        self._grants = grants
        self._consents = consents
        self._logs = logs
        self._lanes = lanes

    def syscalls(self) -> dict[str, Syscall]:
        return {
            "process.spawn": Syscall(self._spawn),
            "process.wait": Syscall(self._wait),
            "process.signal": Syscall(self._signal),
            "process.renice": Syscall(self._renice),
            "process.list": Syscall(self._list),
            "process.self": Syscall(self._self),
            "process.explain": Syscall(self._explain),
            "process.logs": Syscall(self._read_logs),
        }

    async def _spawn(self, call: Call) -> ProcessInfo:
        request, parent = call.request, call.process
        assert isinstance(request, Spawn)
        manifest = request.manifest
        grants = parse_grants(manifest.grants)
        check_manifest(manifest)
        check_arguments(request.arguments)
        if manifest.command and (request.arguments or request.results != "none"):
            raise Invalid("a command has its arguments in `manifest.command`: there can be no others", field="arguments")
        self._grants.check_subset(parent, manifest.agent, grants)
        after = self._predecessors(call) if request.after else None
        if self._processes.living_count() >= MOST_PROCESSES:
            raise QueueFull(f"{MOST_PROCESSES} processes live already: wait for some of them", retry_after_s=5.0)
        if parent.kind == "agent":
            self._check_child(parent, manifest)
        else:  # a person accepts; a client's token only starts what a person has accepted
            self._consents.check(manifest, request.accepted if parent.operator else None)
        process = self._processes.add(
            kind="agent", agent=manifest.agent, tenant=parent.tenant, cls=lower(parent.cls, manifest.cls), grants=grants,
            parent=parent, manifest=manifest, arguments=request.arguments, after=after, job=request.job,
        )  # fmt: skip
        if parent.kind == "agent":  # what it begins with is that agent's word, and no person's
            process.label = process.label.join(parent.label)
        self._supervisor.start(process)
        return process.info()

    def _predecessors(self, call: Call) -> After:
        request = call.request
        assert isinstance(request, Spawn)
        processes = tuple(self._processes.find(call.process, pid) for pid in request.after)
        if any(not process.descends_from(call.process) or process is call.process for process in processes):
            raise Invalid("a process begins after others that its parent has started", field="after")
        return After(processes, request.results, call.asked_ns)

    def _check_child(self, parent: Process, manifest: Manifest) -> None:
        """An agent starts agents of its own program, so many at once; commands are started by people."""
        assert parent.manifest is not None
        if manifest.command or parent.manifest.command:
            raise Denied(f"`{parent.name}` cannot start `{manifest.agent}`: commands start no agents, and agents no commands")
        if manifest.program != parent.manifest.program:
            raise Denied(
                f"`{parent.name}` starts agents of its own program `{parent.manifest.program}` alone, not of `{manifest.program}`"
            )
        if parent.depth >= MOST_DEPTH:
            raise Denied(f"`{parent.name}` is {MOST_DEPTH} generations below the first: it starts no others")
        if parent.children_alive >= MOST_CHILDREN:
            raise QueueFull(f"`{parent.name}` has {MOST_CHILDREN} children that run: wait for some of them", retry_after_s=1.0)

    async def _wait(self, call: Call) -> Exit:
        assert isinstance(call.request, WaitFor)
        process = self._processes.find(call.process, call.request.pid)
        if process is call.process:
            raise Invalid("a process cannot wait for itself", field="pid")
        wait = Wait(code="W", on=process.name, since_ns=call.asked_ns, holder=process.name)
        ended = asyncio.ensure_future(process.ended.wait())
        try:
            with awaiting(call, (process,)):
                await wait_for(call, ended, lambda: None if process.exit is not None else process, lambda: wait)
        finally:
            ended.cancel()
        assert process.exit is not None
        call.label = process.label
        return process.exit

    async def _signal(self, call: Call) -> Done:
        assert isinstance(call.request, SignalProcess)
        process = self._processes.find(call.process, call.request.pid)
        if process.kind != "agent":
            raise Invalid(f"`{process.name}` is a {process.kind}: revoke its token instead", field="pid")
        self._supervisor.signal(process, call.request.signal, by=call.process)
        return Done()

    async def _renice(self, call: Call) -> Done:
        request, by = call.request, call.process
        assert isinstance(request, Renice)
        process = self._processes.find(by, request.pid)
        if process.exit is not None:
            raise Conflict(f"`{process.name}` has ended: it has no class any more")
        raised = is_above(request.cls, process.cls)
        if raised and not by.operator:
            raise Denied(f"`{by.name}` may lower the class of `{process.name}`, which is {process.cls}: an operator may raise it")
        if is_above(request.cls, process.most_cls):
            raise Denied(f"`{process.name}` belongs to somebody who may have {process.most_cls} at most: give their token more")
        if raised:
            self._change_class(process, request.cls, f"class given by {by.name}")
        else:
            self.lower(process, request.cls, f"class given by {by.name}")
        return Done()

    def lower(self, process: Process, cls: Class, why: str) -> None:
        """A process and its descendants are of a class at most."""
        for member in self._processes.family(process):
            if member.exit is None and is_above(member.cls, cls):
                self._change_class(member, cls, why)

    def _change_class(self, process: Process, cls: Class, why: str) -> None:
        process.cls = cls
        for call in process.calls.values():
            call.cls = lower(cls, call.options.cls)
            if isinstance(call.ticket, Ticket) and call.row.lane is not None:
                self._lanes[call.row.lane].change_class(call.ticket, call.cls)
        tell((process,))
        self._supervisor.tell_class(process, why)

    async def _list(self, call: Call) -> ProcessList:
        request = call.request
        assert isinstance(request, List)
        seen = self._processes.seen_by(call.process)
        return ProcessList(
            processes=tuple(
                self._info(call.process, p) for p in seen if p.kind in request.kinds and (request.ended or p.exit is None)
            )
        )

    async def _self(self, call: Call) -> ProcessInfo:
        return self._info(call.process, call.process)

    async def _explain(self, call: Call) -> Explanation:
        assert isinstance(call.request, Explain)
        asker = call.process
        process = self._processes.find(asker, call.request.pid)

        def name_of(pid: str) -> str:
            known = self._processes.get(pid)
            if known is None or not self._processes.knows(asker, known):
                return ANOTHER
            return known.name if known.tenant == asker.tenant else f"{known.tenant}/{known.name}"

        def told(wait: Wait | None) -> Wait | None:
            return self._told(asker, wait)

        return explain(self._info(asker, process), process, call, self._lanes, name_of, told)

    def _info(self, asker: Process, process: Process) -> ProcessInfo:
        """A process as the asker may hear of it."""
        info = process.info()
        wait = self._told(asker, info.wait)
        return info if wait is info.wait else replace(info, wait=wait)

    def _told(self, asker: Process, wait: Wait | None) -> Wait | None:
        """A wait as the asker may hear of it: who holds a lease has a name for its family and operators alone."""
        if wait is None or wait.code != "L" or asker.operator:
            return wait
        holder = self._processes.named(asker, wait.holder)
        return wait if holder is not None and kin(asker, holder) else replace(wait, holder=ANOTHER)

    async def _read_logs(self, call: Call) -> LogLines:
        request = call.request
        assert isinstance(request, Logs)
        process = self._processes.find(call.process, request.pid)
        check_range("wait_s", request.wait_s, 0, MOST_WAIT_S)
        check_range("limit", request.limit, 1, MOST_LINES)
        check_range("after", request.after, 0, MOST_CURSOR)
        if request.wait_s:
            wait = Wait(code="M", on=f"a line of {process.name}", since_ns=call.asked_ns)
            call.waits = lambda: wait
            await self._logs.wait_for_more(process, request.after, request.wait_s)
        return self._logs.read(process, request.after, request.limit)


def check_manifest(manifest: Manifest) -> None:
    """Raise `Invalid` for paths that are not absolute: they would mean something else in the kernel than to who wrote them."""
    if manifest.command:
        paths = {"command": manifest.command[0], "folder": manifest.folder}
    else:
        paths = {"program": manifest.program}
    for field, path in paths.items():
        if not path.startswith("/"):
            what = "`manifest.command` must begin with" if field == "command" else f"`manifest.{field}` must be"
            raise Invalid(f"{what} an absolute path", field=f"manifest.{field}")
