"""The in-memory store: a journal that lives as long as its kernel, and keeps no more than a bounded amount."""

from __future__ import annotations

import collections
import secrets
from collections.abc import Sequence

from aios.abi.errors import Conflict
from aios.abi.record import Record

KEPT_BYTES = 32 * 1024 * 1024
RECORD_BYTES = 700
"""What a record costs beside its body, about."""


class MemoryStore:
    """Keeps the newest records, up to a number of bytes; the oldest are forgotten first."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._store_id = secrets.token_hex(8)
        self._kept_bytes = kept_bytes
        self._bytes = 0
        self._count = 0
        self._records: collections.deque[Record] = collections.deque()
        self._of_call: dict[tuple[str, str], Record | tuple[Record, ...]] = {}
        """By process and path. Flat: lists would be walked by each pass of the collector."""

    @property
    def store_id(self) -> str:
        return self._store_id

    @property
    def epoch(self) -> int:
        return 1

    def append(self, record: Record) -> None:
        call = (record.pid, record.path)
        before = self._of_call.setdefault(call, record)
        if before is not record:
            self._of_call[call] = _with(before, record)
        self._records.append(record)
        self._count += 1
        self._bytes += RECORD_BYTES + len(record.body)
        if self._bytes > self._kept_bytes:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Forget many at once: what was made together lies together, and leaves whole pages of memory to what comes."""
        while self._bytes > self._kept_bytes - self._kept_bytes // 64:
            self._forget(self._records.popleft())

    def _forget(self, record: Record) -> None:
        self._bytes -= RECORD_BYTES + len(record.body)
        call = (record.pid, record.path)
        kept = self._of_call.pop(call)
        if kept is not record:  # it is the first of several: they are forgotten in the order in which they came
            assert isinstance(kept, tuple)
            self._of_call[call] = kept[1:] if len(kept) > 2 else kept[1]

    def commit(self, lsn: int) -> None:
        """Nothing to wait for: what is in memory is all that this store has."""

    def find(self, pid: str, path: str) -> Sequence[Record]:
        found = self._of_call.get((pid, path), ())
        return found if isinstance(found, tuple) else (found,)

    def tail(self, pid: str, after: int = 0) -> Sequence[Record]:
        return [record for record in self._records if record.pid == pid and record.lsn > after]

    def count(self) -> int:
        return self._count


def _with(before: Record | tuple[Record, ...], record: Record) -> tuple[Record, ...]:
    """The records of a call and one more. Raises `Conflict` if it is there already."""
    known = before if isinstance(before, tuple) else (before,)
    for other in known:
        if other.attempt == record.attempt and other.kind == record.kind:
            raise Conflict(f"{record.kind} {record.attempt} of {record.pid}/{record.path} stands already")
    return (*known, record)
