"""The table, and what hangs on it: nothing about a call is missing, and nothing is left over."""

import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest

from aios.abi.errors import ERRORS, AiosError, Fault, error_of
from aios.abi.event import AnyEvent
from aios.abi.ids import UniqueIds, call_id, idempotency_key, new_pid
from aios.abi.record import Record
from aios.abi.request import Reply, Request
from aios.abi.table import ALIASES, ROW_OF, ROWS, TABLE, Row
from aios.abi.waits import WAITS, Code, Outcome, State, Wait, word_of
from aios.kernel.lanes.policies import POLICIES
from aios.testing.kernel import kernel_for_tests

rows = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=lambda error: error.__name__)


async def test_every_row_has_an_act_and_every_act_a_row() -> None:
    async with kernel_for_tests() as k:
        assert k.kernel._syscalls().keys() == ROWS.keys()


def test_names_and_requests_are_each_used_once() -> None:
    assert len({row.name for row in TABLE}) == len({row.request for row in TABLE}) == len(TABLE) == len(ROW_OF) == len(ROWS)


@rows
def test_a_row_is_named_by_family_and_verb_and_says_what_it_does(row: Row) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z_]+", row.name)
    assert re.fullmatch(r"[A-Z][^.]+\.", row.sentence)


@rows
def test_every_field_that_a_need_names_exists_and_is_text(row: Row) -> None:
    for path in re.findall(r"\{([\w.]+)\}", row.needs):
        kind: Any = row.request
        for name in path.split("."):
            fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
            assert name in fields, f"`{row.name}` needs `{path}`, which `{kind.__name__}` has not"
            kind = fields[name]
        assert kind is str


@rows
def test_a_need_is_a_verb_and_a_resource(row: Row) -> None:
    assert row.needs == "" or re.fullmatch(r"(use|read|write|spawn|own) /[\w/{}.]+", row.needs)
    if row.needs.startswith("own /process"):
        assert "{pid}" in row.needs


@rows
def test_requests_and_replies_say_what_they_are(row: Row) -> None:
    for kind in (row.request, row.reply):
        assert kind.__doc__ and kind.__doc__ != (kind.__mro__[1].__doc__ or "") and len(inspect.cleandoc(kind.__doc__)) > 10
    assert issubclass(row.request, Request) and issubclass(row.reply, Reply)


@rows
def test_what_waits_without_an_end_is_marked_as_long(row: Row) -> None:
    assert (row.deadline_s is None) == (row.wait == "long")
    assert (row.lane is not None) == (row.wait == "turn")
    assert row.version >= 1


@rows
def test_what_only_reads_may_be_repeated(row: Row) -> None:
    assert row.risk != "read" or row.repeat == "repeatable"


def test_classic_names_find_their_rows() -> None:
    assert all(target in ROWS and alias not in ROWS for alias, target in ALIASES.items())


def structs_in(kind: Any, seen: set[Any]) -> Iterator[type[msgspec.Struct]]:
    """All structs that a type is made of."""
    if kind in seen:
        return
    seen.add(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from structs_in(field.type, seen)
    for part in get_args(kind):
        yield from structs_in(part, seen)


@rows
def test_requests_leave_defaults_out_at_every_depth(row: Row) -> None:
    """Else a new field with a default would change the digest of every request that is recorded."""
    kinds = list(structs_in(row.request, set()))
    assert row.request in kinds
    assert [kind.__name__ for kind in kinds if not kind.__struct_config__.omit_defaults] == []


@rows
def test_requests_refuse_what_they_do_not_know(row: Row) -> None:
    assert row.request.__struct_config__.forbid_unknown_fields


@rows
def test_a_reply_of_a_newer_kernel_is_understood(row: Row) -> None:
    assert not row.reply.__struct_config__.forbid_unknown_fields


# --- errors -----------------------------------------------------------------------------------------------------------


def test_error_codes_are_unique_and_the_tree_in_the_docstring_is_the_tree() -> None:
    def leaves(kind: type[AiosError]) -> list[type[AiosError]]:
        below = [child for child in kind.__subclasses__() if child.__module__ == AiosError.__module__]
        return [leaf for child in below for leaf in leaves(child)] if below else [kind]

    assert [leaf.__name__ for leaf in leaves(AiosError)] == list(ERRORS)
    drawn = inspect.getmodule(AiosError).__doc__ or ""  # type: ignore[union-attr]
    for name, kind in ERRORS.items():
        (line,) = [line for line in drawn.splitlines() if re.search(rf"\b{name}\b", line)]
        assert line.split()[0] == kind.__mro__[1].__name__


@errors
def test_an_error_has_a_sentence_a_way_out_and_sane_codes(error: type[AiosError]) -> None:
    sentence = inspect.cleandoc(error.__doc__ or "").splitlines()[0]
    assert sentence.endswith(".") or sentence.endswith(";")
    assert error.way_out != AiosError.way_out
    assert 400 <= error.http < 600
    assert 0 < error.exit_code < 126 or error.exit_code == 130
    assert error.retry or error.http not in (429, 503)


@errors
def test_an_error_comes_through_a_wire_as_itself(error: type[AiosError]) -> None:
    sent = error("what went wrong", field="a.b", retry_after_s=2.5)
    for codec in (msgspec.json, msgspec.msgpack):
        got = error_of(codec.decode(codec.encode(sent.fault()), type=Fault))
        assert (type(got), got.message, got.field, got.retry_after_s) == (error, "what went wrong", "a.b", 2.5)


def test_an_error_of_a_newer_kernel_keeps_its_code() -> None:
    got = error_of(Fault("Exhausted", "no more"))
    assert got.message == "Exhausted: no more" and got.code == "Failed"


# --- waits ------------------------------------------------------------------------------------------------------------


def test_the_table_of_waits_holds_every_code_once() -> None:
    assert list(WAITS) == list(get_args(Code)) and all(kind.code == code for code, kind in WAITS.items())
    assert all(kind.word and kind.meaning for kind in WAITS.values())


def test_every_state_has_a_word() -> None:
    words = {
        (state, code, outcome): word_of(state, Wait(code=code, on="x", since_ns=1) if code else None, outcome)
        for state in get_args(State)
        for code in (None, *WAITS)
        for outcome in (None, *get_args(Outcome))
    }
    assert all(words.values())
    assert {words["ended", None, outcome] for outcome in get_args(Outcome)} == {"done", "failed", "killed"}
    assert words["waiting", None, None] == "idle"
    for code, kind in WAITS.items():
        assert words["waiting", code, None] == kind.word == Wait(code=kind.code, on="x", since_ns=1).word
    assert word_of("waiting", Wait(code="B", on="a higher limit", since_ns=1, parked=True)) == "parked"


# --- ids, events, records ---------------------------------------------------------------------------------------------


def test_ids_are_unique() -> None:
    pids = {new_pid() for _ in range(20_000)}
    assert len(pids) == 20_000 and all(int(pid) < 2**52 for pid in pids)
    assert int(new_pid(shard=5)) >> 52 == 5
    one, two = UniqueIds("x"), UniqueIds("x")
    ids = [series() for _ in range(10_000) for series in (one, two)]
    assert len(set(ids)) == len(ids) and ids[0].startswith("x-")


def test_the_idempotency_key_is_unique_over_stores() -> None:
    assert call_id("7", "1.2") == "7/1.2"
    assert idempotency_key("s1", "7", "1.2") != idempotency_key("s2", "7", "1.2")


def test_events_are_told_apart_by_their_kind() -> None:
    kinds = [kind.__struct_config__.tag for kind in get_args(AnyEvent)]
    assert len(set(kinds)) == len(kinds)
    assert all(kind.__struct_config__.tag_field == "kind" and kind.__doc__ for kind in get_args(AnyEvent))


def test_a_record_has_the_shape_that_the_contract_gives_it() -> None:
    assert Record.__struct_fields__ == (
        "lsn", "shard", "epoch", "tenant", "pid", "path", "attempt", "kind", "at_ns", "abi", "digest", "label", "key_id", "codec",
        "body",
    )  # fmt: skip
    kinds = typing.get_type_hints(Record)
    assert set(get_args(kinds["kind"])) == {"intent", "result", "error", "end", "reservation", "settlement", "change"}


def test_policies_are_found_by_their_own_names() -> None:
    assert all(policy().name == name for name, policy in POLICIES.items())
