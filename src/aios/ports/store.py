"""The ports of what lasts: the journal's store, and small documents that are read and replaced whole."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from aios.abi.record import Record


class Store(Protocol):
    """Keeps the journal of one shard, in LSN order. The writer of a store has an epoch; an older writer's is refused."""

    @property
    def store_id(self) -> str:
        """Unique for ever; a restored backup gets a new one."""
        ...

    @property
    def epoch(self) -> int:
        """Of this opening."""
        ...

    def append(self, record: Record) -> None:
        """Take a record, whose LSN follows the last one's. Raises `Conflict` if (pid, path, kind, attempt) stands."""
        ...

    def commit(self, lsn: int) -> Awaitable[None] | None:
        """None if everything up to `lsn` is as durable as this store makes it, or what to wait for until it is."""
        ...

    def find(self, pid: str, path: str) -> Sequence[Record]:
        """The records of one call that are still kept, oldest first."""
        ...

    def tail(self, pid: str, after: int = 0) -> Sequence[Record]:
        """The records of a process after an LSN that are still kept, oldest first."""
        ...

    def count(self) -> int:
        """Records appended so far."""
        ...


class Document(Protocol):
    """A small file that is read and replaced whole: readers see the old or the new, never a half."""

    def load(self) -> bytes | None:
        """Its content; None if it does not exist. Raises `Unavailable` if it cannot be trusted (readable by others)."""
        ...

    def save(self, content: bytes) -> None:
        """Replace it, durably. Raises `Unavailable` when there is no space."""
        ...
