"""Requests from outside: strict, and what is wrong is named."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi import wire
from aios.abi.errors import AiosError, Invalid, TooLarge, UnknownCall
from aios.abi.llm import Generate, Message
from aios.abi.request import CallOptions, lower
from aios.abi.table import TABLE
from aios.abi.wire import MAX_COMPARED, check_json, decode_request, nearest, refuse, row_named

GENERATE = row_named("llm.generate")
SPAWN = row_named("process.spawn")


def test_a_row_is_found_by_its_name_and_by_its_classic_one() -> None:
    assert row_named("llm_generate") is row_named("llm.generate")
    with pytest.raises(UnknownCall, match="did you mean `llm.generate`"):
        row_named("llm.genrate")
    with pytest.raises(UnknownCall):
        row_named("\x1b[2J" * 1000)


def test_the_nearest_name_is_sought_among_as_many_as_do_not_hold_up_the_loop() -> None:
    def names() -> Iterator[str]:
        yield from (f"agent-{number}" for number in range(MAX_COMPARED))
        raise AssertionError("more names were read")

    assert "did you mean `agent-77`?" in nearest("agnet-77", names())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("max_tokens", 0, "`max_tokens` must be 1 to 1000000"),
        ("seed", 2**64, f"`seed` must be -{2**63} to {2**64 - 1}"),
        ("temperature", 2.5, "`temperature` must be 0 to 2"),
        ("stop", ("x",) * 17, "`stop` must hold at most 16 texts"),
    ],
)
def test_a_range_is_told_in_plain_numbers(field: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match="^" + said + "$"):
        Generate(**{"prompt": "x", field: value})


MANIFEST = b'{"agent":"a","program":"/p","entry":"e"}'


def spawned(arguments: bytes) -> bytes:
    return b'{"manifest": %s, "arguments": %s}' % (MANIFEST, arguments)


def manifest(**fields: Any) -> bytes:
    return json.dumps({"manifest": {"agent": "a", "program": "/p", "entry": "e", **fields}}).encode()


A_COMMAND = {"program": "", "entry": "", "folder": "/"}


def message(rest: bytes) -> bytes:
    return b'{"messages": [{"role": "user", %s}]}' % rest


HOSTILE: list[tuple[str, str, bytes, str | None, str]] = [
    # what, row, body, the field that is named, words that are said
    ("nothing", "llm.generate", b"", None, "no JSON"),
    ("no JSON", "llm.generate", b"prompt=hello", None, "no JSON"),
    ("half", "llm.generate", b'{"prompt": "x"', None, "no JSON"),
    ("two values", "llm.generate", b'{"prompt": "x"}{}', None, "no JSON"),
    ("a list", "llm.generate", b"[]", None, "object"),
    ("null", "llm.generate", b"null", None, "object"),
    ("an unknown field", "llm.generate", b'{"prompt": "x", "max_token": 3}', "max_token", "did you mean `max_tokens`"),
    ("an unknown field below", "llm.generate", message(b'"txt": "x"'), "messages[0].txt", "unknown"),
    ("a wrong type", "llm.generate", b'{"prompt": 7}', "prompt", "str"),
    ("a wrong type below", "llm.generate", message(b'"content": 7'), "messages[0].content", "Expected"),
    ("a wrong word", "llm.generate", b'{"messages": [{"role": "root"}]}', "messages[0].role", "Invalid enum"),
    ("true for a number", "llm.generate", b'{"prompt": "x", "n": true}', "n", "int"),
    ("a text for a number", "llm.generate", b'{"prompt": "x", "n": "1"}', "n", "int"),
    ("a fraction for a whole number", "llm.generate", b'{"prompt": "x", "n": 1.5}', "n", "int"),
    ("too small", "llm.generate", b'{"prompt": "x", "n": 0}', "n", "1 to 128"),
    ("too large", "llm.generate", b'{"prompt": "x", "temperature": 2.1}', "temperature", "0 to 2"),
    ("neither of two", "llm.generate", b"{}", "messages", "must be given"),
    ("both of two", "llm.generate", b'{"prompt": "x", "messages": [{"role": "user"}]}', "messages", "not both"),
    ("an empty stop", "llm.generate", b'{"prompt": "x", "stop": [""]}', "stop", "not empty"),
    ("a field twice", "llm.generate", b'{"prompt": "x", "prompt": "y"}', "prompt", "twice"),
    ("a field twice below", "process.spawn", b'{"manifest": {"agent": "a", "agent": "b"}}', "agent", "twice"),
    ("NaN", "llm.generate", b'{"prompt": "x", "temperature": NaN}', "temperature", "number"),
    ("infinity", "clock.sleep", b'{"seconds": Infinity}', "seconds", "number"),
    ("minus infinity below", "process.spawn", spawned(b"[[-Infinity]]"), "arguments[0][0]", "number"),
    ("half a pair", "llm.generate", b'{"prompt": "\\ud800"}', "prompt", "surrogate"),
    ("half a pair below", "process.spawn", spawned(b'[{"a": ["\\udfff"]}]'), "arguments[0].a[0]", "surrog"),
    ("half a pair as a name", "process.spawn", spawned(b'[{"\\ud800": 1}]'), None, "surrogate"),
    ("no UTF-8", "llm.generate", b'{"prompt": "\xff"}', None, ""),
    ("UTF-16", "llm.generate", '{"prompt": "x"}'.encode("utf-16"), None, ""),
    ("a mark before", "llm.generate", b"\xef\xbb\xbf" + b'{"prompt": "x"}', None, ""),
    ("a control character", "llm.generate", b'{"prompt": "a\x00b"}', None, "no JSON"),
    ("nesting", "process.spawn", b'{"manifest": ' + b"[" * 100_000, None, ""),
    ("closed nesting", "process.spawn", b'{"arguments": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "nested"),
    ("nested objects", "process.spawn", spawned(b'{"a":' * 40_000 + b"1" + b"}" * 40_000), None, "nested"),
    ("a number of a million digits", "process.spawn", spawned(b"[1%s]" % (b"0" * 10**6)), "arguments[0]", "number"),
    ("an exponent without end", "clock.sleep", b'{"seconds": 1e999999}', None, ""),
    ("a missing field", "process.wait", b"{}", "pid", "missing"),
    ("a missing field below", "process.spawn", b'{"manifest": {"agent": "a"}}', "manifest.program", "missing"),
    ("an agent and a command", "process.spawn", manifest(command=["/bin/true"]), "manifest.command", "without"),
    ("a command with a NUL", "process.spawn", manifest(**A_COMMAND, command=["/a", "\0"]), "manifest.command", "NUL"),
    ("a command without an end", "process.spawn", manifest(**A_COMMAND, command=["/a"] * 1001), "manifest.command", "at most"),
    ("a long word for a choice", "process.spawn", manifest(restart="s" * 10**6), "manifest.restart", "enum"),
    ("a rule that is none", "process.spawn", manifest(restart="sometimes"), "manifest.restart", "enum"),
    ("a name that cannot be typed", "process.spawn", manifest(agent="\x1b[2J"), "manifest.agent", "letters"),
    ("a name that turns text around", "process.spawn", manifest(agent="a\u202eb"), "manifest.agent", "letters"),
    ("a program with an escape", "process.spawn", manifest(program="/\x1b[2J"), "manifest.program", "control"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "body", "field", "words"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_hostile_body_is_invalid_and_its_field_is_named(row: str, body: bytes, field: str | None, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        decode_request(row_named(row), body, "json")
    assert words in refused.value.message
    if field is not None:
        assert refused.value.field == field
    assert len(refused.value.message) < 1000


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
TWICE = st.lists(st.tuples(st.sampled_from(["a", "b", "\u00e9"]), values), max_size=4).map(
    lambda pairs: b"{%s}" % b",".join(msgspec.json.encode(name) + b":" + msgspec.json.encode(value) for name, value in pairs)
)
"""Objects without spaces that may have a field twice."""


COMPACT = [(row, body.replace(b": ", b":").replace(b", ", b","), field, words) for _, row, body, field, words in HOSTILE]


@pytest.mark.parametrize(("row", "body", "field", "words"), COMPACT, ids=[case[0] for case in HOSTILE])
def test_a_hostile_body_without_spaces_is_refused_alike(row: str, body: bytes, field: str | None, words: str) -> None:
    test_a_hostile_body_is_invalid_and_its_field_is_named(row, body, field, words)


@given(st.one_of(st.binary(max_size=60), values.map(lambda v: json.dumps(v, separators=(",", ":")).encode()), TWICE))
@settings(max_examples=400)
def test_a_needless_space_changes_nothing(body: bytes) -> None:
    """Without it a body is passed by a quicker look."""
    assert names_in(body) == names_in(body + b" ")


def names_in(body: bytes) -> frozenset[str] | None:
    try:
        return check_json(body)
    except Invalid:
        return None


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_row_refuses_what_it_does_not_know(row: Any) -> None:
    with pytest.raises(Invalid) as refused:
        decode_request(row, b'{"unknown_field": 1}', "json")
    assert refused.value.field == "unknown_field"
    with pytest.raises(Invalid):
        decode_request(row, msgspec.msgpack.encode({"unknown_field": 1}), "msgpack")


def test_a_good_request_is_the_same_on_both_wires() -> None:
    request = Generate(messages=(Message("user", "hé"),), temperature=0.5, stop=("a",), logit_bias={"1": 2.0})
    assert decode_request(GENERATE, msgspec.json.encode(request), "json") == request
    assert decode_request(GENERATE, msgspec.msgpack.encode(request), "msgpack") == request


bodies = st.one_of(
    st.binary(max_size=60),
    values.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    st.dictionaries(st.sampled_from([*Generate.__struct_fields__, "x"]), values).map(lambda v: json.dumps(v).encode()),
)


@given(bodies)
@settings(max_examples=400)
def test_no_body_raises_anything_but_invalid(body: bytes) -> None:
    for row in (GENERATE, SPAWN):
        for codec in ("json", "msgpack"):
            try:
                request = decode_request(row, body, codec)  # type: ignore[arg-type]
            except AiosError:
                continue
            assert type(request) is row.request


@given(values)
@settings(max_examples=200)
def test_no_value_in_msgpack_raises_anything_but_invalid(value: Any) -> None:
    for body in ({"manifest": value}, {"manifest": json.loads(MANIFEST), "arguments": [value]}):
        try:
            decode_request(SPAWN, msgspec.msgpack.encode(body), "msgpack")
        except AiosError:
            pass
        except OverflowError:  # of the encoder: msgpack has no longer whole numbers
            pass


@pytest.mark.parametrize(
    "options",
    [
        {"deadline_s": 0}, {"deadline_s": -1}, {"deadline_s": float("nan")}, {"key": ""}, {"key": "x" * 201}, {"key": b"x"},
        {"cls": "royal"},
    ],
)  # fmt: skip
def test_options_without_sense_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}`") as wrong:
        CallOptions(**options)
    with pytest.raises(Invalid) as refused:
        refuse(wrong.value)
    assert refused.value.field == next(iter(options))


def test_a_class_is_lowered_and_never_raised() -> None:
    assert lower("standard", None) == "standard"
    assert lower("standard", "batch") == "batch"
    assert lower("batch", "interactive") == "batch"


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=300) | st.binary(max_size=300),
    lambda inside: st.lists(inside, max_size=40) | st.dictionaries(st.text(max_size=40), inside, max_size=20),
)


def count_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + count_of(inside) for inside in value.values())
    return 1 + sum(map(count_of, value)) if isinstance(value, list) else 1


@given(VALUE)
def test_the_values_of_a_large_body_are_counted_without_reading_them(value: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "MAX_SMALL_BYTES", 0)
        patch.setattr(wire, "MAX_LARGE_VALUES", count_of(value))
        body = memoryview(msgspec.msgpack.encode(value))
        wire.check_msgpack(body)
        patch.setattr(wire, "MAX_LARGE_VALUES", count_of(value) - 1)
        with pytest.raises(TooLarge):
            wire.check_msgpack(body)


def test_a_large_body_of_many_values_is_refused_and_one_of_long_texts_is_not() -> None:
    wire.check_msgpack(memoryview(msgspec.msgpack.encode(["x" * 8_000_000])))
    wire.check_msgpack(memoryview(b"\xdd\xff\xff\xff\xff"))  # short, and the decoder's to refuse
    for bomb in (b"\xdd\x7f\xff\xff\xff" + b"\xc0" * 300_000, b"\x9f" * 300_000, msgspec.msgpack.encode([{}] * 300_000)):
        with pytest.raises(TooLarge, match="send less at once"):
            wire.check_msgpack(memoryview(bomb))
