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
        self._of_call: dict[str, Record | tuple[Record, ...]] = {}  # flat: lists would be walked by each pass of the collector

    @property
    def store_id(self) -> str:
        return self._store_id

    @property
    def epoch(self) -> int:
        return 1

    def append(self, record: Record) -> None:
        call = f"{record.pid}/{record.path}"
        before = self.find(record.pid, record.path)
        if any(other.kind == record.kind and other.attempt == record.attempt for other in before):
            raise Conflict(f"{record.kind} {record.attempt} of {call} stands already")
        self._of_call[call] = (*before, record) if before else record
        self._records.append(record)
        self._count += 1
        self._bytes += RECORD_BYTES + len(record.body)
        while self._bytes > self._kept_bytes:
            self._forget(self._records.popleft())

    def _forget(self, record: Record) -> None:
        self._bytes -= RECORD_BYTES + len(record.body)
        call = f"{record.pid}/{record.path}"
        left = tuple(other for other in self.find(record.pid, record.path) if other is not record)
        if left:
            self._of_call[call] = left if len(left) > 1 else left[0]
        else:
            del self._of_call[call]

    async def commit(self, lsn: int) -> None:
        """Nothing to wait for: what is in memory is all that this store has."""

    def find(self, pid: str, path: str) -> Sequence[Record]:
        found = self._of_call.get(f"{pid}/{path}", ())
        return found if isinstance(found, tuple) else (found,)

    def tail(self, pid: str, after: int = 0) -> Sequence[Record]:
        return [record for record in self._records if record.pid == pid and record.lsn > after]

    def count(self) -> int:
        return self._count
