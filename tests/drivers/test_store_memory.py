"""The in-memory store keeps the newest records and no more than it may."""

from __future__ import annotations

import pytest

from aios.abi.errors import Conflict
from aios.abi.record import ABI_VERSION, Kind, Record
from aios.drivers.store.memory import RECORD_BYTES, MemoryStore


def record(lsn: int, path: str, kind: Kind) -> Record:
    return Record(lsn, 0, 1, "t", "1", path, 1, kind, lsn, ABI_VERSION, b"", b"", "", "none", b"")


def test_the_oldest_records_are_forgotten_first_and_those_that_stay_are_found() -> None:
    store = MemoryStore(kept_bytes=100 * RECORD_BYTES)
    for number in range(1000):
        store.append(record(2 * number + 1, str(number), "intent"))
        store.append(record(2 * number + 2, str(number), "result"))
        kept = store.tail("1")
        assert len(kept) <= 100 and kept[-1].lsn == 2 * number + 2
        assert [each.kind for each in store.find("1", str(number))] == ["intent", "result"]
    assert len(kept) >= 98
    for number in range(1000):
        assert list(store.find("1", str(number))) == [each for each in kept if each.path == str(number)]
    assert store.count() == 2000


def test_a_record_is_taken_once() -> None:
    store = MemoryStore()
    store.append(record(1, "1", "intent"))
    store.append(record(2, "1", "result"))
    for kind in ("intent", "result"):
        with pytest.raises(Conflict, match="stands already"):
            store.append(record(3, "1", kind))
    assert store.count() == 2
