"""The port `Sandbox`: starts children that may touch only what they are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

Output = Callable[[Literal["out", "err"], str], None]
"""Hears the lines that a child writes to its standard streams."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a child may touch: files and folders that it may read and run, and those that it may write."""

    read: tuple[str, ...]
    write: tuple[str, ...] = ()


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
