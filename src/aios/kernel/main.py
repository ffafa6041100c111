"""The kernel's boot order: a table of contents."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import types
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any

import msgspec

from aios.abi.account import MODEL, PROVIDER
from aios.abi.errors import AiosError, Killed, NotFound, RateLimited, Unauthenticated
from aios.abi.event import KernelChanged
from aios.abi.process import Exit
from aios.abi.request import NO_OPTIONS, CallOptions, Request
from aios.abi.system import Statistics, TokenInfo
from aios.abi.table import ROWS
from aios.kernel.access.consent import Consents
from aios.kernel.access.grants import OPERATOR, Grants, parse_grants
from aios.kernel.access.tokens import Tokens
from aios.kernel.boards.boards import Boards
from aios.kernel.boards.calls import BoardCalls
from aios.kernel.call import CallPath
from aios.kernel.cores.calls import CoreCalls
from aios.kernel.cores.conversations import Conversations
from aios.kernel.cores.drains import Drains
from aios.kernel.cores.embedders import Embedders
from aios.kernel.cores.pool import Pool
from aios.kernel.deadlines import Deadlines
from aios.kernel.events import EventLog
from aios.kernel.guard import LOWERED, Guard, GuardConfig
from aios.kernel.holding import Holds
from aios.kernel.lanes.calls import LaneCalls
from aios.kernel.lanes.lane import Lane, LaneConfig
from aios.kernel.lanes.policies import policy_of
from aios.kernel.leases.calls import LeaseCalls
from aios.kernel.leases.leases import Leases
from aios.kernel.ledger.book import Book
from aios.kernel.ledger.calls import AccountCalls
from aios.kernel.ledger.cashier import Cashier
from aios.kernel.ledger.ledger import Ledger
from aios.kernel.ledger.payments import Till
from aios.kernel.logs import Logs
from aios.kernel.mail.calls import MailCalls
from aios.kernel.mail.post import Post
from aios.kernel.node_calls import NodeCalls
from aios.kernel.process import Process, ProcessTable
from aios.kernel.process_calls import ProcessCalls
from aios.kernel.record.journal import Journal
from aios.kernel.strays import Strays
from aios.kernel.supervise import Supervisor
from aios.kernel.syscall import Syscall
from aios.kernel.tools.calls import ToolCalls
from aios.kernel.wards import Wards
from aios.ports.clock import Clock
from aios.ports.core import Core
from aios.ports.embedder import Embedder
from aios.ports.host import Hosts, Stream
from aios.ports.kernel import Answer, Caller, Tell
from aios.ports.prices import LOCAL, OwnPrices, Prices
from aios.ports.program import NoPrograms, Programs
from aios.ports.store import Document, Store

SESSION_IDLE_S = 1800.0
"""A client's session without a call for so long has ended."""
MOST_SESSIONS = 4096
"""Of one token."""
SWEEP_S = 60.0
LET_GO_S = 5.0
"""How long calls that nobody waits for may take to end with the kernel."""
LAG_EVERY_S = 0.25
LATE_S = 0.1
"""A loop that is late by more is an event."""

NOT_HERE = "this token is a program's own, and good at that program's address alone"

log = logging.getLogger("aios.kernel")


class Parts(msgspec.Struct, frozen=True):
    """What the kernel is given by its boot: drivers behind their ports."""

    clock: Clock
    store: Store
    tokens: Document
    consents: Document
    hosts: Hosts
    lane: LaneConfig = LaneConfig()
    index: LaneConfig = LaneConfig()
    embedders: tuple[Embedder, ...] = ()
    aliases: dict[str, tuple[str, ...]] = {}
    programs: Programs = NoPrograms()
    prices: Prices = OwnPrices()
    guard: GuardConfig = GuardConfig()


class Kernel:
    """The kernel of one node. `async with Kernel(parts) as kernel:` is its life; nothing outlives the block."""

    def __init__(self, parts: Parts) -> None:
        self.clock = parts.clock
        self.events = EventLog(parts.clock)
        self.logs = Logs(parts.clock)
        self._strays = Strays(parts.clock, self.events, self.logs)
        self.accounts = Book()
        self.processes = ProcessTable(parts.clock, self._forget)
        self.tokens = Tokens(parts.tokens, parts.clock)
        self.down = asyncio.Event()
        self._grants = Grants()
        self.consents = Consents(parts.consents, parts.clock)
        self._journal = Journal(parts.store, parts.clock)
        self._lane_configs = {"cores": parts.lane, "index": parts.index}
        self._lanes = {
            name: Lane(name, policy_of(config.policy, config.weights), parts.clock, config.queue)
            for name, config in self._lane_configs.items()
        }
        self._embedders = Embedders(self._lanes["index"], parts.embedders, self.events, parts.aliases)
        embed = self._embedders.models
        aliases = {name: models for name, models in parts.aliases.items() if embed.isdisjoint(models)}
        self.pool = Pool(self._lanes["cores"], self.events, aliases, parts.prices)
        self._post = Post()
        self._boards = Boards()
        self._leases = Leases(parts.clock)
        self._hosts = parts.hosts
        self._programs = parts.programs
        self._started = parts.clock.monotonic()
        self._guard_config = parts.guard
        self._sessions: dict[str, dict[str, Process]] = {}
        self._lag_max_s = 0.0
        self._life = AsyncExitStack()
        self._grace_s = 0.0
        self._drains = Drains()
        self._conversations = Conversations()
        self._unattended: set[asyncio.Task[Answer | AiosError]] = set()

    def _forget(self, process: Process) -> None:
        """An ended process is known no more."""
        self.logs.forget(process)
        self.accounts.forget(process)
        self._conversations.forget(process)

    async def __aenter__(self) -> Kernel:
        self._tasks = await self._life.enter_async_context(asyncio.TaskGroup())
        deadlines = Deadlines(self.clock)
        self.till = Till(Ledger(self.clock), self.clock)
        self._cashier = Cashier(self.accounts, self.till, self.clock, deadlines, self.events, self._journal)
        holds = Holds(self.clock, deadlines)
        wards = Wards(self._hosts, self.events, self._tasks)
        self._supervisor = Supervisor(
            wards,
            self._programs,
            self.processes,
            self.events,
            holds,
            self.tokens,
            self.clock,
            self._tasks,
            self._left,
            lambda process, text: self.logs.write(process, "err", f"aios: {process.name} {text}"),
        )
        self._tools = ToolCalls(self._supervisor.run_tool, self._journal, self.accounts, self._cashier)
        self._process_calls = ProcessCalls(self.processes, self._supervisor, self._grants, self.consents, self.logs, self._lanes)
        self._guard = Guard(
            self._guard_config, self.accounts, self.clock, self.events,
            lambda process, why: self._process_calls.lower(process, LOWERED, why), self._supervisor.suspend, self._revoke,
        )  # fmt: skip
        self._path = CallPath(
            self.clock,
            self.processes,
            self._grants,
            self._lanes,
            self._journal,
            self.events,
            self._syscalls(),
            deadlines,
            self.tokens.weight,
            self._cashier,
            self._guard,
        )
        self._watch = [
            self._tasks.create_task(self._watch_lag(), name="lag watchdog"),
            self._tasks.create_task(self._sweep_sessions(), name="session sweep"),
        ]
        self.events.add(KernelChanged, change="up")
        return self

    def _known(self) -> dict[str, frozenset[str]]:
        """The models and providers that there are, by what stands before their names in those of accounts."""
        local = frozenset({LOCAL}) if self._embedders.models else frozenset()
        return {MODEL: self.pool.models | self._embedders.models, PROVIDER: self.pool.providers | local}

    def _syscalls(self) -> dict[str, Syscall]:
        calls = (
            CoreCalls(self.pool, self._embedders, self._grants, self.clock, self.events, self._drains, self._conversations),
            self._embedders,
            AccountCalls(self.accounts, self.till, self.clock, self.events, self._journal, self._cashier, self._known),
            LaneCalls(self._lanes, self._lane_configs, self.events),
            self._process_calls,
            MailCalls(self._post, self.processes, self._grants, self.clock),
            BoardCalls(self._boards, self.clock),
            LeaseCalls(self._leases, self.clock),
            self._tools,
            NodeCalls(
                self.clock, self.events, self.processes, self._grants, self.tokens, self.statistics, self.drain, self._revoked
            ),
        )
        syscalls = {name: syscall for part in calls for name, syscall in part.syscalls().items()}
        assert syscalls.keys() == ROWS.keys(), f"rows and acts differ: {syscalls.keys() ^ ROWS.keys()}"
        return syscalls

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._path.draining = True
        for process in self.processes.living():
            for call in list(process.calls.values()):
                call.stop(Killed("the kernel went down"))
        if self._unattended:  # while there are cores yet, which have to let go of them
            await asyncio.wait(self._unattended, timeout=LET_GO_S)
        await self._supervisor.close()
        await self._drains.close()
        await self.pool.close()
        await self._embedders.close()
        self.till.close()
        for task in self._watch:
            task.cancel()
        await self._life.__aexit__(None, None, None)  # not with the block's own error, which a task group would wrap

    # --- what doors ask ---------------------------------------------------------------------------------------------

    def call(
        self, process: Caller, request: Request[Any], options: CallOptions = NO_OPTIONS, tell: Tell | None = None
    ) -> Coroutine[Any, Any, Answer]:
        """Make a system call. Raises `AiosError`."""
        assert isinstance(process, Process)
        return self._path.call(process, request, options, tell)

    def check(self, token: str, at: str = "") -> str:
        """The id of a token that is valid; no process is made for it yet. Raises `Unauthenticated`.

        `at`: the process whose own address it came to, "" for the addresses of all. A token that was issued for a process is good
        at that process's address alone, and no other token is good there.
        """
        pid = self.tokens.pid(token) or ""
        if pid != at:
            raise Unauthenticated("this address is one program's own, and takes its token alone" if at else NOT_HERE)
        return at or self.tokens.find(token)[0].id

    def begin(
        self, process: Caller, request: Request[Any], options: CallOptions = NO_OPTIONS, tell: Tell | None = None
    ) -> asyncio.Task[Answer | AiosError]:
        """Make a call that goes on when nobody waits for it. Cancelling the task cancels it."""
        call = self._answered(process, request, options, tell)
        task = self._tasks.create_task(call, name=f"unattended call of {process.name}")
        self._unattended.add(task)
        task.add_done_callback(self._unattended.discard)
        return task

    async def _answered(
        self, process: Caller, request: Request[Any], options: CallOptions, tell: Tell | None
    ) -> Answer | AiosError:
        try:
            return await self.call(process, request, options, tell)
        except AiosError as error:
            return error

    def attach(self, token: str, session: str = "") -> Process:
        """The process of a token's session; made when the session is new. Raises `Unauthenticated`.

        A token that was issued for a process is that process, whatever session it names.
        """
        pid = self.tokens.pid(token)
        if pid is not None:
            return self.resident(pid)
        info, operator = self.tokens.find(token)
        mine = self._sessions.setdefault(info.id, {})
        process = mine.pop(session, None)
        if process is None or process.exit is not None:
            self._make_room(info.id, mine)
            process = self._new_session(info, operator)
            process.named = bool(session)
        mine[session] = process  # the last: they are kept in the order of their use
        process.last_call = self.clock.monotonic()
        return process

    def _make_room(self, token: str, mine: dict[str, Process]) -> None:
        """End a token's most idle session when it has too many. Raises `RateLimited` when all of them are busy."""
        if len(mine) < MOST_SESSIONS:
            return
        idle = next((session for session, process in mine.items() if not process.calls), None)
        if idle is None:
            raise RateLimited(f"this token has {MOST_SESSIONS} sessions, and all of them are busy", retry_after_s=10.0)
        self._end_session(token, idle, "its token had too many others")

    def _new_session(self, info: TokenInfo, operator: bool) -> Process:
        process = self.processes.add(
            kind="session", agent=info.agent, tenant=info.tenant, user=info.user, cls=info.cls, token=info.id, operator=operator,
            grants=OPERATOR if operator else parse_grants(info.grants),
        )  # fmt: skip
        process.begun = True
        return process

    def resident(self, pid: str) -> Process:
        """A process that runs in a host of ours. Raises `NotFound`."""
        process = self.processes.get(pid)
        if process is None or process.kind != "agent":
            raise NotFound("there is no such process here", field="pid")
        return process

    def printed(self, pid: str, stream: Stream, text: str) -> None:
        """A process printed something."""
        process = self.processes.get(pid)
        if process is not None:
            self.logs.write(process, stream, text)

    def strayed(self, pid: str, target: str) -> None:
        """A program tried to reach something beyond the kernel, and was denied."""
        process = self.processes.get(pid)
        if process is not None and process.exit is None:
            self._strays.note(process, target)

    def fault(self, error: BaseException) -> str:
        """Note a bug of ours; the incident id that the caller is told."""
        return self._path.incident(error)

    # --- steering ---------------------------------------------------------------------------------------------------

    async def add_core(self, core: Core) -> None:
        """Bring up a core. Raises `Unavailable`."""
        await self.pool.add(core)

    def drain(self, grace_s: float) -> None:
        """Take no new calls; when the running ones have ended, or after `grace_s` seconds, the kernel is to go down."""
        if not self._path.draining:
            self._path.draining = True
            self.events.add(KernelChanged, change="draining", detail=f"{self._path.running} calls run")
            self._tasks.create_task(self._drained(grace_s), name="drain")

    async def _drained(self, grace_s: float) -> None:
        agents = [process.ended.wait() for process in self.processes.living() if process.kind == "agent"]
        try:
            async with asyncio.timeout(grace_s):
                await asyncio.gather(self._path.drain(), *agents)
        except TimeoutError:
            pass
        self.down.set()

    def _revoke(self, token: str) -> None:
        """Make a token worthless that does harm, and end what it has begun: in the next step, as its own call is under way."""
        self.tokens.revoke(token)
        asyncio.get_running_loop().call_soon(self._revoked, token)

    def _revoked(self, token: str) -> None:
        """A token was made worthless: its sessions end, and with them their calls and the agents that they started."""
        for session, process in list(self._sessions.get(token, {}).items()):
            for call in list(process.calls.values()):
                call.stop(Unauthenticated("the token was revoked"))
            for child in process.children:
                self._supervisor.signal(child, "kill", by=process)
            self._end_session(token, session, "its token was revoked")
        self._sessions.pop(token, None)

    def _end_session(self, token: str, session: str, why: str) -> None:
        process = self._sessions[token].pop(session)
        self.processes.end(process, Exit(pid=process.pid, outcome="result", message=why))
        self._left(process)

    async def _sweep_sessions(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            idle_since = self.clock.monotonic() - SESSION_IDLE_S
            for token, session, process in [(t, s, p) for t, mine in self._sessions.items() for s, p in mine.items()]:
                busy = process.calls or any(child.exit is None for child in process.children)
                if not busy and process.last_call < idle_since:
                    self._end_session(token, session, "it was idle")
            self._sessions = {token: mine for token, mine in self._sessions.items() if mine}

    def _left(self, process: Process) -> None:
        """A life of a process is over: what it held or was asked is no longer its own."""
        self._guard.left(process)
        self._tools.forget(process)
        self._grants.forget(process)
        self._strays.forget(process)
        self._post.left(process)
        self._leases.left(process)

    # --- observation ------------------------------------------------------------------------------------------------

    async def _watch_lag(self) -> None:
        """Say when the loop was late: something ran on it for too long."""
        while True:
            due = self.clock.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            lag = self.clock.monotonic() - due
            self._lag_max_s = max(self._lag_max_s, lag)
            if lag > LATE_S:
                self.events.add(KernelChanged, change="late", lag_s=round(lag, 3))

    def statistics(self) -> Statistics:
        """The kernel's figures now."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        living = self.processes.living()
        waiting = sum(sum(lane.waiting_by_class().values()) for lane in self._lanes.values())
        return Statistics(
            uptime_s=self.clock.monotonic() - self._started, cpu_s=usage.ru_utime + usage.ru_stime, rss_bytes=resident_bytes(),
            processes=len(living), hosts=self._supervisor.host_count, calls=self._path.count, calls_failed=self._path.failed,
            calls_running=self._path.running - waiting, calls_waiting=waiting, input_tokens=self._path.input_tokens,
            output_tokens=self._path.output_tokens, events=self.events.last, journal_records=self._journal.store.count(),
            loop_lag_max_s=self._lag_max_s, version=version("aios"),
        )  # fmt: skip


def resident_bytes() -> int:
    """Resident memory of this process; the highest ever where the system tells no present figure."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
