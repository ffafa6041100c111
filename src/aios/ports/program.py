"""The port `Programs`: commands that run as processes, confined, each with a token that speaks for it alone."""

from __future__ import annotations

from typing import Protocol

import msgspec

from aios.abi.errors import ChildFailed
from aios.abi.process import Signal


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What to start: the words of a command, the folder that it is started in, and whose process it is.

    `token`: what it shows to the kernel. It is good at this program's own address alone, for as long as the program lives.
    """

    pid: str
    name: str
    command: tuple[str, ...]
    folder: str
    token: str


class Ending(msgspec.Struct, frozen=True):
    """How a program ended: its exit code as a shell tells it (128 + n for signal n), and in words."""

    code: int
    how: str


class Program(Protocol):
    """A program that was started."""

    @property
    def os_pid(self) -> int: ...

    def signal(self, signal: Signal) -> None:
        """To the program and all that it started: SIGTERM, SIGKILL, SIGSTOP, SIGCONT. Lost if it has ended."""
        ...

    async def wait_ended(self) -> Ending:
        """Return when it and all that it started has ended, and what it printed is told."""
        ...


class Programs(Protocol):
    """Starts programs."""

    async def start(self, launch: Launch) -> Program:
        """Raises `ChildFailed` when it cannot be started, `QueueFull` when too many run."""
        ...


class NoPrograms:
    """The port of a kernel that starts agent functions alone."""

    async def start(self, launch: Launch) -> Program:
        raise ChildFailed(f"this kernel starts no commands: `{launch.name}` cannot run")
