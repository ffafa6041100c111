"""Processes: runs of agents, and what can be done with them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from aios.abi.manifest import Manifest
from aios.abi.request import Class, Done, Reply, Request, check_job
from aios.abi.waits import Outcome, State, Wait

ProcessKind = Literal["agent", "session"]
Signal = Literal["stop", "kill", "suspend", "resume"]
MAX_AFTER = 1000


class ProcessInfo(Reply, frozen=True, omit_defaults=True):
    """A process as others see it. `name`: what people type (`triage-417`). `word`: its state in one word.

    `restarts`: how often the kernel started it again after its host died. `tokens`: processed for it so far.
    `job`: what its calls are booked under.
    """

    pid: str
    name: str
    kind: ProcessKind
    cls: Class
    state: State
    word: str
    started_ns: int
    agent: str
    tenant: str
    parent: str | None = None
    outcome: Outcome | None = None
    wait: Wait | None = None
    ended_ns: int | None = None
    calls: int = 0
    tokens: int = 0
    restarts: int = 0
    host_pid: int | None = None
    job: str = ""


class Spawn(Request[ProcessInfo], frozen=True, kw_only=True):
    """Start an agent as a child of the caller.

    `arguments`: what its function is called with, JSON values. `accepted`: hash of the manifest that the caller, a
    person, has read and accepts; needed once per manifest, and not for children of agents (theirs is a part of their
    parent's).

    `after`: processes that must have ended before it begins; of these at least one must have ended well, or it ends in
    `ChildFailed` without having begun. `results`: what it is then called with behind its arguments: `one`, the result of the one
    process in `after`; `all`, a list of the results of those that ended well.

    `job`: what its calls and those of all below it are booked under, in the account `job:TENANT/NAME` too. What is started by a
    process of a job is of that job, whatever is said here.
    """

    manifest: Manifest
    arguments: tuple[Any, ...] = ()
    accepted: str | None = None
    after: tuple[str, ...] = ()
    results: Literal["none", "one", "all"] = "none"
    job: str = ""

    def __post_init__(self) -> None:
        check_job("job", self.job)
        if len(self.after) > MAX_AFTER:
            raise ValueError(f"`after` must name at most {MAX_AFTER} processes")
        if self.results == "one" and len(self.after) != 1 or self.results == "all" and not self.after:
            raise ValueError("`results` must be `one` of one process in `after`, `all` of at least one, or `none`")


class Exit(Reply, frozen=True, omit_defaults=True):
    """How a process ended. `result`: what its function returned, if it did; `error`: the error's code and message.

    `code`: a command's exit code as a shell tells it, 128 + n if signal n ended it; None for agent functions, and for a command
    that never ran.
    """

    pid: str
    outcome: Outcome
    result: Any = None
    error: str = ""
    message: str = ""
    code: int | None = None


class WaitFor(Request[Exit], frozen=True, kw_only=True):
    """Wait until a process has ended."""

    pid: str


class SignalProcess(Request[Done], frozen=True, kw_only=True):
    """`stop` asks a process to end (its code sees a cancellation and may clean up); `kill` ends it.

    A kill ends the process's calls at once. Code that has not ended 5 s later loses its host. A command gets SIGTERM and 10 s to
    end when it is asked to, SIGKILL when it is killed, and it is stopped where it stands while it is suspended.

    `suspend` holds a process and its descendants until `resume`: no call of theirs begins, those that wait for a turn give up
    their place and queue again afterwards, what a model is saying is said to its end, and replies are held back. Deadlines
    stand still meanwhile. What an operator holds, operators resume; what a process holds, it and its ancestors. A held process
    can be killed; it is to be resumed before it can be asked to stop.
    """

    pid: str
    signal: Signal


class Renice(Request[Done], frozen=True, kw_only=True):
    """Let a process be of another class: of its open calls those that wait, and all that it makes from now on.

    Whoever may signal a process may lower its class, and with it that of all its descendants. Operators raise it too, that of the
    one process, and never above what the client or person that it all began with may have.
    """

    pid: str
    cls: Class


class ProcessList(Reply, frozen=True):
    """Processes, oldest first."""

    processes: tuple[ProcessInfo, ...]


class List(Request[ProcessList], frozen=True, kw_only=True):
    """The processes that the caller may see: itself and its descendants; operators see all.

    `kinds`: which; sessions are left out by default. `ended`: also those that have ended.
    """

    kinds: tuple[ProcessKind, ...] = ("agent",)
    ended: bool = True


class Self(Request[ProcessInfo], frozen=True, kw_only=True):
    """What the kernel knows of the caller."""


class Ahead(msgspec.Struct, frozen=True):
    """A call that is served before: whose, and of which class."""

    name: str
    cls: Class


class CallInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that has not ended: what it is, since when, why it does not go on (None: it acts), and which tool it runs.

    `frozen`: it had begun, and stands back until its turn comes again. `ahead_count`: so many are served before it, of which the
    first are `ahead`; `rule`: by which its turn will come, in the words of the event `dispatch`. Both are as things stand, if
    nothing else comes, and so is the wait's estimate. `lenders`: who waits for it, and pays if it is served in their turn.
    """

    call: str
    row: str
    since_ns: int
    wait: Wait | None = None
    core: str = ""
    ahead: tuple[Ahead, ...] = ()
    ahead_count: int = 0
    about: str = ""
    frozen: bool = False
    rule: str = ""
    lenders: tuple[str, ...] = ()


class Explanation(Reply, frozen=True, omit_defaults=True):
    """Why a process does what it does: `reason` in words, its open calls, and what would move it.

    Of many calls those are told that act, and then those that came first; `more`: how many others are open.
    """

    process: ProcessInfo
    reason: str
    calls: tuple[CallInfo, ...] = ()
    moves: tuple[str, ...] = ()
    more: int = 0


class Explain(Request[Explanation], frozen=True, kw_only=True):
    """Why a process waits, on what, behind whom, how long still, and what would move it."""

    pid: str


class LogLine(msgspec.Struct, frozen=True):
    """A line that a process printed, without control sequences."""

    at_ns: int
    stream: Literal["out", "err"]
    text: str


class LogLines(Reply, frozen=True):
    """Lines after a cursor; `next`: the cursor after them; `ended`: nothing more will come."""

    lines: tuple[LogLine, ...]
    next: int
    ended: bool


class Logs(Request[LogLines], frozen=True, kw_only=True):
    """What a process printed after cursor `after`; waits up to `wait_s` for the first new line."""

    pid: str
    after: int = 0
    limit: int = 1000
    wait_s: float = 0.0
