"""Processes and the calls they make: the nouns that every part of the kernel speaks of."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import msgspec

from aios.abi.account import LimitState
from aios.abi.errors import AiosError, NotFound, TooLarge
from aios.abi.ids import new_pid
from aios.abi.label import KERNEL, USER, Label
from aios.abi.manifest import Grant, Manifest
from aios.abi.process import Exit, ProcessInfo, ProcessKind
from aios.abi.request import CallOptions, Class, Request
from aios.abi.table import Row
from aios.abi.waits import State, Wait, word_of
from aios.abi.wire import nearest
from aios.kernel.amounts import Amount
from aios.kernel.programs import History, Program
from aios.ports.clock import Clock
from aios.ports.kernel import Tell

KEPT_ENDED = 10_000
"""Ended processes that can still be asked about; the oldest are forgotten first."""
KEPT_BYTES = 64 * 1024 * 1024
"""Of arguments and results of ended processes, about."""
MOST_SCOPES = 100_000
"""Of one process, in which its calls are numbered."""


class Held(Protocol):
    """What a call holds while it acts: a turn in a lane."""

    def release(self) -> None: ...


class Predecessors(Protocol):
    """Those that must have ended before a process begins. `wait`: for whom it waits now, None when all have ended.

    `living`: those that have not.
    """

    @property
    def wait(self) -> Wait | None: ...

    @property
    def living(self) -> list[Process]: ...

    async def hand_over(self, process: Process) -> None:
        """When they have ended, give the process what it begins with. Raises `ChildFailed` if none of them ended well."""
        ...


class Queue(Protocol):
    """Where calls wait for a turn, each by its ticket."""

    def why(self, ticket: Any) -> Wait:
        """Why it waits."""
        ...

    def withdraw(self, ticket: Any) -> None:
        """Take it out of the queue, and tell who waits for it."""
        ...


class Call(msgspec.Struct, eq=False):
    """One system call on its way: who makes it, what it is, and where it stands. Compared by identity.

    `frozen_s`: how long it stood back; while it does, less the time at which it began to. `models`: those that it may use.
    `queue`: where it waits for a turn, by its `ticket`, as long as it does. `payment`: what is reserved for an attempt, if
    anything is; `granted`: tokens that its answer may have, where they are fewer than it could take; `came_to`: what an attempt
    came to, as far as that is known; `cost`: what all did, nano-dollars. `quota`: see `Started`, and at its end what is left.
    `hear_out`: there when its caller went away but its answer is read on; does what it is given when that ended. `queued`: its
    caller heard that it waits. `parked`: the account that it was parked at before its turn, and the limit. `missed`: it has
    waited for a minute in vain. `unknown`: what it ends in as long as an act of it is under way that must not happen twice.
    """

    process: Process
    row: Row
    request: Request[Any]
    options: CallOptions
    tell: Tell | None
    cls: Class
    path: str
    id: str
    asked: float
    asked_ns: int
    task: asyncio.Task[Any] | None = None
    cancels: int = 0
    waits: Callable[[], Wait | None] | None = None
    queue: Queue | None = None
    frozen: Callable[[], Wait | None] | None = None
    frozen_s: float = 0.0
    requeue: Callable[[], None] | None = None
    holder: Callable[[], Process | None] | None = None
    wait_number: int = 0
    turn: Held | None = None
    ticket: object | None = None
    allowed: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    feasible: frozenset[str] = frozenset()
    near: str = ""
    plan: Any = None
    attempt: int = 1
    turn_ns: int | None = None
    turn_at: float | None = None
    first_ns: int | None = None
    core: str = ""
    started: bool = False
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    said_tokens: int = 0
    granted: int | None = None
    acted: bool = False
    payment: Any = None
    queued: bool = False
    parked: Any = None
    missed: bool = False
    hear_out: Callable[[Callable[[BaseException | None], Any]], None] | None = None
    came_to: Amount | None = None
    quota: tuple[LimitState, ...] = ()
    cost: int = 0
    answer: str = ""
    about: str = ""
    stopped: AiosError | None = None
    unknown: AiosError | None = None
    digest: bytes = b""
    label: Label = KERNEL

    @property
    def wait(self) -> Wait | None:
        """Why it does not go on; None while it acts."""
        if self.queue is not None:
            return self.queue.why(self.ticket)
        waits = self.frozen or self.waits
        return waits() if waits is not None else None

    @property
    def wait_s(self) -> float:
        """Seconds from being asked to its turn; 0 for what needs no turn."""
        return 0.0 if self.turn_at is None else self.turn_at - self.asked

    @property
    def ending(self) -> bool:
        """Whether it was stopped or given up, and has not come to its end yet."""
        return self.stopped is not None or (self.task is not None and self.task.cancelling() > self.cancels)

    def stop(self, error: AiosError) -> None:
        """End the call with an error of the kernel's, wherever it stands. The first stop counts.

        A call that stops itself (a process that kills itself) is let to its end, which is near.
        """
        if self.task is not None and self.stopped is None and self.task is not asyncio.current_task():
            self.stopped = error
            self.task.cancel()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """Why a process and its descendants do not go on. `of`: the name of the one that is held; `by`: whose word it is, the
    kernel's own if nobody's; `since_ns`: UTC. `asks`: operators alone may lift it."""

    of: str
    by: Process | None
    why: str
    since_ns: int
    asks: bool = False
    over: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    @property
    def holder(self) -> str:
        """Who holds it, by name."""
        return self.by.name if self.by is not None else "the kernel"

    def may_be_lifted_by(self, caller: Process) -> bool:
        """Whoever said it, their ancestors, and operators; what the kernel holds, whoever the process belongs to."""
        return caller.operator or (not self.asks and (self.by is None or self.by.descends_from(caller)))


@dataclasses.dataclass(slots=True, eq=False)
class Process:
    """One run of an agent, or an operator's or client's session. Its identity is the kernel's.

    `tenant`, `user` ("" for none) and `share` are its account: whose work it is, and whose share of the models its calls are of,
    its own agent's or that of the ancestor that it all began with.
    `program`: what its calls are part of: its own, or that of the agent that began it; None for sessions, of which each call is
    a program. `path_s`: how long the critical path is that led to where it is, in seconds of service.
    `most_cls`: the highest class that whoever it all began with may have. `job`: what its calls are booked under, "" for none.
    """

    pid: str
    name: str
    kind: ProcessKind
    agent: str
    tenant: str
    cls: Class
    grants: tuple[Grant, ...]
    started_ns: int
    operator: bool = False
    parent: Process | None = None
    manifest: Manifest | None = None
    arguments: tuple[Any, ...] = ()
    token: str = ""
    after: Predecessors | None = None
    label: Label = USER
    user: str = ""
    job: str = ""
    share: str = ""
    program: Program | None = None
    path_s: float = 0.0
    most_cls: Class = "batch"
    children: dict[Process, None] = dataclasses.field(default_factory=dict)
    children_alive: int = 0
    depth: int = 0
    calls: dict[str, Call] = dataclasses.field(default_factory=dict)
    begun: bool = False
    exit: Exit | None = None
    ended_ns: int | None = None
    exit_bytes: int = 0
    ended: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    followers: dict[Callable[[Process], None], None] = dataclasses.field(default_factory=dict)
    """Who is told when it ends."""
    awaited: dict[Call | Process, None] = dataclasses.field(default_factory=dict)
    awaits: dict[Call | Process, tuple[Process, ...]] = dataclasses.field(default_factory=dict)
    """Who waits for it: calls of others, and those that begin after it. And by its own calls, for whom it waits."""
    telling: Iterator[Call] | None = None
    tell_again: bool = False
    """Calls that have still to hear who waits for them; whether that has changed meanwhile."""
    killed_by: str = ""
    doomed: bool = False
    call_count: int = 0
    tokens: int = 0
    life: int = 0
    host_pid: int | None = None
    last_call: float = 0.0
    named: bool = False
    paths: Iterator[int] = dataclasses.field(default_factory=lambda: itertools.count(1))
    hold: Hold | None = None
    held: Hold | None = None
    """The hold that counts: its own, or that of its nearest ancestor that has one."""
    scopes: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.exit is None

    def next_path(self, scope: str) -> str:
        """The place of the next call in this process; lives after the first say which they are. Raises `TooLarge`."""
        path = self._next_in(scope) if scope else str(next(self.paths))
        return f"{self.life}.{path}" if self.life else path

    def _next_in(self, scope: str) -> str:
        if scope not in self.scopes and len(self.scopes) >= MOST_SCOPES:
            raise TooLarge(f"`{self.name}` has {MOST_SCOPES} scopes: make further calls in one of them", field="scope")
        number = self.scopes[scope] = self.scopes.get(scope, 0) + 1
        return f"s.{scope}.{number}"

    def begin_again(self) -> None:
        """Start another life: from the beginning, with the same pid and arguments. What the last one had open is not its own."""
        self.life += 1
        self.calls = {}
        self.paths = itertools.count(1)
        self.scopes = {}
        self.begun = False

    def state(self) -> tuple[State, Wait | None]:
        """Running while one of its calls acts or its own code runs, ready while one waits for a slot, else waiting."""
        if self.exit is not None:
            return "ended", None
        if self.held is not None:
            return "suspended", self.why_held()
        if not self.begun:
            return "declared", self.after.wait if self.after is not None else None
        waits = [call.wait for call in self.calls.values()]
        if any(wait is None for wait in waits) or (not waits and self.kind == "agent"):
            return "running", None
        for wait in waits:
            if wait is not None and wait.code == "S":
                return "ready", wait
        return "waiting", next(iter(waits), None)

    @property
    def is_native(self) -> bool:
        """Whether it is an agent of the SDK, and no program or client that comes to a door."""
        return self.kind == "agent" and self.manifest is not None and not self.manifest.command

    def why_held(self) -> Wait | None:
        """What a process that is held waits for."""
        if self.held is None:
            return None
        return Wait(code="X", on=f"`aios resume {self.held.of}`", since_ns=self.held.since_ns, holder=self.held.holder)

    async def resumed(self) -> None:
        """Return when it is not held."""
        while self.held is not None:
            await self.held.over.wait()

    def info(self) -> ProcessInfo:
        """The process as others see it."""
        state, wait = self.state()
        outcome = self.exit.outcome if self.exit else None
        return ProcessInfo(
            pid=self.pid, name=self.name, kind=self.kind, cls=self.cls, state=state, started_ns=self.started_ns,
            word=word_of(state, wait, outcome), agent=self.agent, tenant=self.tenant,
            parent=self.parent.pid if self.parent else None, outcome=outcome, wait=wait, ended_ns=self.ended_ns,
            calls=self.call_count, tokens=self.tokens, restarts=self.life, host_pid=self.host_pid, job=self.job,
        )  # fmt: skip

    def descends_from(self, other: Process) -> bool:
        """Whether `other` is this process or an ancestor of it."""
        process: Process | None = self
        while process is not None:
            if process is other:
                return True
            process = process.parent
        return False


@dataclasses.dataclass(slots=True)
class Tenant:
    """What is known of a tenant as long as one of its processes is: how many of those there were, what kinds of programs need."""

    count: int = 0
    kept: int = 0
    history: History = dataclasses.field(default_factory=History)


class ProcessTable:
    """All processes: those that live, and the last that ended. `forgotten` hears of those that are no longer kept."""

    def __init__(self, clock: Clock, forgotten: Callable[[Process], None]) -> None:
        self._clock = clock
        self._forgotten = forgotten
        self._by_pid: dict[str, Process] = {}
        self._by_name: dict[tuple[str, str], Process] = {}
        self._tenants: collections.defaultdict[str, Tenant] = collections.defaultdict(Tenant)
        self._living: dict[Process, None] = {}
        self._ended: collections.deque[tuple[Process, int]] = collections.deque()
        self._ended_bytes = 0

    def add(
        self, *, kind: ProcessKind, agent: str, tenant: str, cls: Class, grants: Iterable[Grant], parent: Process | None = None,
        operator: bool = False, manifest: Manifest | None = None, arguments: tuple[Any, ...] = (), token: str = "",
        after: Predecessors | None = None, user: str = "", job: str = "",
    ) -> Process:  # fmt: skip
        """A new process, declared; its name is the agent's and a number that counts per tenant."""
        of = self._tenants[tenant]
        of.count += 1
        of.kept += 1
        process = Process(
            new_pid(), f"{agent}-{of.count}", kind, agent, tenant, cls, tuple(grants), self._clock.now_ns(),
            operator, parent, manifest, arguments, token, after,
        )  # fmt: skip
        self._by_pid[process.pid] = self._by_name[tenant, process.name] = process
        self._living[process] = None
        process.user = user if parent is None else parent.user
        process.job = job if parent is None else parent.job or job
        own = f"{tenant}/{process.user}/{agent}" if process.user else f"{tenant}/{agent}"
        process.share = own if parent is None or parent.operator else parent.share
        process.most_cls = cls if parent is None else parent.most_cls
        if kind == "agent":
            of_parent = parent.program if parent is not None else None
            process.program = of_parent or self.program_of(process)
            process.path_s = parent.path_s if parent is not None and of_parent is not None else 0.0
        if parent is not None:
            parent.children[process] = None
            parent.children_alive += 1
            process.depth = parent.depth + 1
        return process

    def program_of(self, process: Process, kind: str = "") -> Program:
        """A new program of a process's share, and of a kind that its caller has named."""
        named = f"{process.share}/{kind}" if kind else process.share
        return Program(named, self._tenants[process.tenant].history)

    def end(self, process: Process, exit: Exit) -> None:
        """Record how a process ended, once; wakes those who wait for it."""
        if process.exit is not None:
            return
        process.exit = exit
        process.ended_ns = self._clock.now_ns()
        process.ended.set()
        process.host_pid = None
        del self._living[process]
        if process.parent is not None:
            process.parent.children_alive -= 1
        self._end_program(process, exit)
        process.exit_bytes = len(msgspec.msgpack.encode(exit))
        size = len(msgspec.msgpack.encode(process.arguments)) + process.exit_bytes
        for heard in tuple(process.followers):
            heard(process)
        self._ended.append((process, size))
        self._ended_bytes += size
        while len(self._ended) > KEPT_ENDED or self._ended_bytes > KEPT_BYTES:
            self._forget(*self._ended.popleft())

    @staticmethod
    def _end_program(process: Process, exit: Exit) -> None:
        """A child's path goes on in its parent; an agent that came to its end tells what its kind needs."""
        parent, program = process.parent, process.program
        if parent is not None and parent.program is program:
            parent.path_s = max(parent.path_s, process.path_s)
        elif program is not None and exit.outcome == "result":
            program.ended()

    def _forget(self, process: Process, size: int) -> None:
        self._ended_bytes -= size
        self._by_pid.pop(process.pid, None)
        self._by_name.pop((process.tenant, process.name), None)
        if process.parent is not None:
            process.parent.children.pop(process, None)
        tenant = self._tenants[process.tenant]
        tenant.kept -= 1
        if not tenant.kept:
            del self._tenants[process.tenant]
        self._forgotten(process)

    def get(self, pid: str) -> Process | None:
        return self._by_pid.get(pid)

    def named(self, caller: Process, name: str) -> Process | None:
        """The process of the caller's tenant with that pid or name; `parent` is the caller's own.

        Operators reach those of all tenants, by their pids and as `TENANT/NAME`.
        """
        if name == "parent":
            return caller.parent
        found = self._by_pid.get(name) or self._by_name.get((caller.tenant, name))
        if found is None and caller.operator:
            tenant, _, own_name = name.rpartition("/")
            found = self._by_name.get((tenant, own_name))
        return found if found is not None and (caller.operator or found.tenant == caller.tenant) else None

    def find(self, caller: Process, name: str) -> Process:
        """A process by pid or name, if the caller may know of it. Raises `NotFound`, the same for what is not its own."""
        process = self.named(caller, name) if name != "parent" else None
        if process is None or not self.knows(caller, process):
            near = nearest(name, (p.name for p in self.seen_by(caller)))
            raise NotFound(f"there is no process `{name[:80]}`{near}", field="pid")
        return process

    @staticmethod
    def family(process: Process) -> list[Process]:
        """A process and all its descendants, ancestors first."""
        found, left = [], [process]
        while left:
            found.append(left.pop())
            left += reversed(found[-1].children)
        return found

    def knows(self, caller: Process, process: Process | None) -> bool:
        """Whether a caller may know of a process: it is its own or its descendant's; operators know all."""
        return process is not None and (caller.operator or process.descends_from(caller))

    def seen_by(self, caller: Process) -> list[Process]:
        """What a caller may see, oldest first: itself and its descendants; operators see all."""
        if caller.operator:
            return list(self._by_pid.values())
        return sorted(self.family(caller), key=lambda p: p.started_ns)

    def living(self) -> list[Process]:
        """The processes that have not ended, oldest first."""
        return list(self._living)

    def living_count(self) -> int:
        return len(self._living)


def kin(one: Process, other: Process) -> bool:
    """Whether two processes are of one family: the same, one an ancestor of the other, or children of one agent."""
    if one.descends_from(other) or other.descends_from(one):
        return True
    return one.parent is not None and one.parent is other.parent and one.parent.kind == "agent"
