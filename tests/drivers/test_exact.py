"""The local core's profile is exact: the raw logits of a generation are the same, bit by bit, whatever happens around it.

Each table is read by a process of its own. `make test-all` (`AIOS_TEST_ALL=1`) reads the whole one.
"""

import os

import pytest

from benchmarks.rig.exact_rows import F16, ROWS, Found, Reading, Table

pytestmark = pytest.mark.slow

QUICK = [
    Table(("other slot", "batch", "freeze", "thaw", "fork 3/8", "chunks of 17", "recompute 19"), (40, 230)),
    Table(("chunks of 1", "chunks of 32", "recompute 5"), (70,), decoded=24),
    Table(("batch", "thaw", "fork 8/8", "recompute 5"), (40, 70), threads=2, decoded=8),
]
WHOLE = [Table(tuple(ROWS), (40, 230, 600, 1000), threads=threads) for threads in (1, 2)]
ALL = bool(os.environ.get("AIOS_TEST_ALL"))


def read(table: Table) -> Found:
    return Reading(table).wait()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("table", WHOLE if ALL else QUICK, ids=lambda table: f"{table.threads} threads {table.lengths}")
def test_logits_are_the_same_bit_by_bit(table: Table) -> None:
    found = read(table)
    print(found.same)
    assert set(found.same) == set(table.rows)
    assert {name: row for name, row in found.same.items() if row[0] != row[1] or not row[1]} == {}


def test_another_process_reads_the_same() -> None:
    table = Table((), (40, 230, 600, 1000) if ALL else (40,))
    assert read(table).alone == read(table).alone


@pytest.mark.parametrize(
    ("row", "control"),
    [
        ("batch", Table(("batch",), (40, 70), decoded=8, kv_type=F16, unified=True)),
        ("recompute 5", Table(("recompute 5",), (40,), decoded=8, kv_type=F16, flash=0)),
    ],
    ids=["a cache in common", "f16"],
)
def test_profiles_that_are_not_exact_are_seen_not_to_be(row: str, control: Table) -> None:
    same, of = read(control).same[row]
    assert same < of
