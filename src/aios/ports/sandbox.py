"""The port `Sandbox`: starts children that may touch only what they are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

Output = Callable[[Literal["out", "err"], str], None]
"""Hears the lines that a child writes to its standard streams."""


Network = Literal["none", "own", "port"]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a child may touch: files and folders that it may read and run, and those that it may write.

    `network`: `none`, no sockets but pairs; `own`, a network in which nothing else is, at whose loopback address and `port` it
    finds what answers at its `door`, and a view of the files in which it may change modes, owners and times of its own; `port`,
    of the machine's network this TCP port alone, as far as the machine can hold it to that.
    """

    read: tuple[str, ...]
    write: tuple[str, ...] = ()
    network: Network = "none"
    port: int = 0


class Isolation(msgspec.Struct, frozen=True, kw_only=True):
    """What really confines a child on this machine. `missing`: sentences, for people."""

    mechanism: str
    confined: tuple[str, ...]
    missing: tuple[str, ...]


class Child(Protocol):
    """A child that was started; it dies with the kernel."""

    @property
    def os_pid(self) -> int: ...

    def kill(self) -> None:
        """End it and its process group at once."""
        ...

    async def wait_ended(self) -> str:
        """Return when it has ended: how, in words (`exit 0`, `killed by signal 9`)."""
        ...


class ProgramChild(Child, Protocol):
    """A child that is a foreign program. `door`: descriptor of a listening socket in its own network, -1 if it has none; whoever
    takes it closes it. `code`: its exit code as a shell tells it, once it has ended.
    """

    @property
    def door(self) -> int: ...

    @property
    def code(self) -> int: ...

    def signal(self, number: int) -> None:
        """Send a signal to all that is in its process group."""
        ...


class Sandbox(Protocol):
    """Starts children. A mechanism that is missing is said by `isolation`, never passed over in silence."""

    def isolation(self) -> Isolation: ...

    async def start(
        self, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int], rules: Rules, folder: str, output: Output
    ) -> Child:
        """Start `argv` with exactly this environment, the descriptors `fds` inherited under their numbers, in `folder`.

        Raises `Unavailable` when it cannot be started.
        """
        ...


class ProgramSandbox(Protocol):
    """Starts foreign programs."""

    async def networks(self) -> bool:
        """Whether a child can have a network of its own on this machine."""
        ...

    async def start(
        self, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int], rules: Rules, folder: str, output: Output
    ) -> ProgramChild:
        """See `Sandbox`."""
        ...
