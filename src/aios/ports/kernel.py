"""The port `Kernel`: what a door asks of the kernel, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec

from aios.abi.account import LimitState
from aios.abi.errors import AiosError
from aios.abi.label import Label
from aios.abi.request import NO_OPTIONS, CallOptions, Event, Request

Tell = Callable[[Event], Awaitable[None] | None]
"""Hears what a call says before its reply.

It returns nothing while it has room. When its reader is so slow that its buffer is full (1 MB), it returns an awaitable that is
done when there is room again; the call waits for it, and gives its slot to others meanwhile.
"""


class Caller(Protocol):
    """A process, as a door holds it: a name to call by."""

    @property
    def pid(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        ...


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The end of a call: its reply, its label, the call's id, the seconds it waited for a turn, and its cost in nano-dollars.

    `quota`: of its limits of calls and of tokens those that leave least, one each, where there are any.
    """

    value: Any
    label: Label
    call: str
    wait_s: float
    cost: int = 0
    quota: tuple[LimitState, ...] = ()


class Kernel(Protocol):
    """Every door turns what it hears into one thing: a system call made by a process."""

    async def call(
        self, process: Caller, request: Request[Any], options: CallOptions = NO_OPTIONS, tell: Tell | None = None
    ) -> Answer:
        """Make a system call in the caller's own task. Cancelling the task cancels the call. Raises `AiosError`.

        With `tell`, a streamed call tells `Queued` if it has to wait for a turn, `Started` when it has it, then its pieces.
        """
        ...

    def check(self, token: str, at: str = "") -> str:
        """The id of a token that is valid; no process is made for it yet. Raises `Unauthenticated`.

        `at`: pid of the process whose own address it came to, "" for the addresses of all.
        """
        ...

    def begin(
        self, process: Caller, request: Request[Any], options: CallOptions = NO_OPTIONS, tell: Tell | None = None
    ) -> asyncio.Task[Answer | AiosError]:
        """Make a call that goes on when nobody waits for it; it ends with the kernel at the latest.

        Cancelling the task cancels the call. The task never raises what the call ended in: it is its result.
        """
        ...

    def attach(self, token: str, session: str = "") -> Caller:
        """The process that a token speaks for, in a session of the client's naming. Raises `Unauthenticated`."""
        ...

    def resident(self, pid: str) -> Caller:
        """A process that runs in a host of ours. Raises `NotFound`."""
        ...

    def printed(self, pid: str, stream: Literal["out", "err"], text: str) -> None:
        """A process printed something."""
        ...

    def strayed(self, pid: str, target: str) -> None:
        """A program tried to reach something beyond the kernel (`HOST:PORT`), and was denied."""
        ...

    def fault(self, error: BaseException) -> str:
        """Note a bug of ours; the incident id that the caller is told."""
        ...
