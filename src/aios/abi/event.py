"""What happened: the events that the kernel tells, and how they are read."""

from __future__ import annotations

from typing import Literal

import msgspec

from aios.abi.account import LimitState
from aios.abi.process import Signal
from aios.abi.request import Class, Reply, Request, Trace
from aios.abi.waits import Outcome, State


class Happened(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", omit_defaults=True):
    """Base of events. `seq` counts them from 1 without gaps; `at_ns`: nanoseconds UTC; `tenant`: whose it is."""

    seq: int
    at_ns: int
    tenant: str = ""


class ProcessChanged(Happened, frozen=True, gc=False, tag="process"):
    """A process entered a state. `restart`: how often it had begun again before."""

    pid: str
    name: str
    state: State
    cls: Class
    outcome: Outcome | None = None
    restart: int = 0
    detail: str = ""


class Signalled(Happened, frozen=True, gc=False, tag="signal"):
    """Somebody signalled a process; `by`: the name of the process that did."""

    pid: str
    name: str
    signal: Signal
    by: str


class Dispatched(Happened, frozen=True, gc=False, tag="dispatch"):
    """A call got its turn: on which core, by which rule, and how many calls of each class were left waiting.

    `loads`: where several cores could do it, those of them that had a slot, with the part of their slots that was taken;
    `unable`: the others of them, which were full or down. `near`: it went to the core that has read its beginning, instead of
    the one with the least load.
    """

    call: str
    pid: str
    name: str
    cls: Class
    core: str
    reason: str
    attempt: int = 1
    waiting: dict[str, int] = {}
    loads: dict[str, float] = {}
    unable: tuple[str, ...] = ()
    near: bool = False


class Preempted(Happened, frozen=True, gc=False, tag="preempt"):
    """A call stood back in the midst of its work, or went on.

    `change`: `frozen` for a call of class `by` (None where its quantum was over), or `resumed` by a rule, `reason`.
    `tokens`: that it had said.
    """

    call: str
    pid: str
    name: str
    cls: Class
    core: str
    change: Literal["frozen", "resumed"]
    by: Class | None = None
    reason: str = ""
    tokens: int = 0


class CallEnded(Happened, frozen=True, gc=False, tag="call"):
    """A call ended. Times are nanoseconds UTC: asked, got its turn, first piece told; None for what did not come.

    `outcome`: "ok", or the error's code. `cached_tokens`: those of the input that the core need not read, since it had read them
    for another call. `answer`: a hash of what a model answered, equal for equal answers. `trace`: what its caller's tracing calls
    it. `about`: which tool it ran. `frozen_s`: how long it stood back, after it had got its turn. `cost`: nano-dollars.
    `heard_out`: its caller went away, and its answer is read on for what it comes to, which a `CallSettled` tells.
    """

    call: str
    pid: str
    name: str
    row: str
    cls: Class
    outcome: str
    asked_ns: int
    turn_ns: int | None = None
    first_ns: int | None = None
    core: str = ""
    attempts: int = 1
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    answer: str = ""
    trace: Trace | None = None
    about: str = ""
    frozen_s: float = 0.0
    cost: int = 0
    heard_out: bool = False


class CallSettled(Happened, frozen=True, gc=False, tag="settle"):
    """An answer was heard out whose caller had gone away: what it came to, beyond what its `CallEnded` says.

    `cost`: nano-dollars, of those that had been `reserved` for it: all of them, and no tokens, where its provider did not say.
    """

    call: str
    pid: str
    name: str
    core: str
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    reserved: int = 0


class AccountChanged(Happened, frozen=True, gc=False, tag="account"):
    """An account was `limited`; a call of it was `refused` or `parked`, as its budget is spent; or more was billed than that.

    `resumed`: a call that was parked has its turn and its reservation. `softened`: its soft limit is passed, told once in a
    window. `call`: of the process `name`. `limit`: as it stands then, if it is about one; `needs`: of its unit, the least that
    the call that it stops may come to.
    """

    account: str
    change: Literal["limited", "refused", "parked", "resumed", "softened", "overbilled"]
    call: str = ""
    name: str = ""
    limit: LimitState | None = None
    needs: int = 0
    detail: str = ""


Measure = Literal["lowered", "suspended", "revoked"]
Cause = Literal["same calls", "idle steps", "denials", "spend"]


class Incident(Happened, frozen=True, gc=False, tag="incident"):
    """An agent with all that it began, or a client, seems to be a runaway.

    `change`: what was done about it: its class was `lowered`; it was `suspended`, and goes on when an operator says so; or its
    token was `revoked`. `cause`: what it did, so often: the `same calls`, `idle steps` that led nowhere, calls that were denied
    (`denials`), or `spend`, `count` in nano-dollars, in a minute. `detail`: all this in words, with the command that undoes it.
    """

    pid: str
    name: str
    account: str
    change: Measure
    cause: Cause
    count: int
    detail: str


class CoreChanged(Happened, frozen=True, gc=False, tag="core"):
    """A core came up or went down; `os_pid`: of its host."""

    core: str
    change: Literal["up", "down"]
    detail: str = ""
    os_pid: int | None = None


class HostChanged(Happened, frozen=True, gc=False, tag="host"):
    """A host child for agents started or ended. `running`: names of the processes that were in it."""

    os_pid: int
    change: Literal["started", "ended"]
    program: str
    running: tuple[str, ...] = ()
    detail: str = ""


class Strayed(Happened, frozen=True, gc=False, tag="denied"):
    """A program tried to reach `target` beyond the kernel, and was denied; `attempts`: since that was told last."""

    pid: str
    name: str
    target: str
    attempts: int = 1


class KernelChanged(Happened, frozen=True, gc=False, tag="kernel"):
    """The kernel itself: up, draining, its loop was late by `lag_s` seconds, or a lane has another policy."""

    change: Literal["up", "draining", "late", "policy"]
    lag_s: float = 0.0
    detail: str = ""


AnyEvent = (
    ProcessChanged
    | Signalled
    | Dispatched
    | Preempted
    | CallEnded
    | CallSettled
    | AccountChanged
    | Incident
    | CoreChanged
    | HostChanged
    | Strayed
    | KernelChanged
)


class EventPage(Reply, frozen=True):
    """Events after a cursor, oldest first. `next`: the cursor after them. `lost`: events that were forgotten unread."""

    events: tuple[AnyEvent, ...]
    next: int
    lost: int = 0


class ReadEvents(Request[EventPage], frozen=True, kw_only=True):
    """Events after cursor `after`: the caller's own and its descendants'; operators see all.

    Waits up to `wait_s` for the first one. `kinds`: only these (`process`, `signal`, `dispatch`, `preempt`, `call`, `settle`,
    `account`, `incident`, `core`, `host`, `denied`, `kernel`).
    """

    after: int = 0
    limit: int = 1000
    wait_s: float = 0.0
    kinds: tuple[str, ...] = ()
