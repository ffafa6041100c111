"""Requests as bytes and back: strict, and with the path of the field that is wrong."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any, Literal, NoReturn, TypeVar

import msgspec

from aios.abi.errors import Invalid, TooLarge, UnknownCall
from aios.abi.request import Request
from aios.abi.table import ALIASES, ROWS, Row

T = TypeVar("T")
Codec = Literal["json", "msgpack"]

_decoders: dict[Codec, dict[str, Any]] = {
    "json": {row.name: msgspec.json.Decoder(row.request) for row in ROWS.values()},
    "msgpack": {row.name: msgspec.msgpack.Decoder(row.request) for row in ROWS.values()},
}
_decode, _encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
_where = re.compile(r" - at `\$?\.?(.*)`$")
_unknown = re.compile(r"unknown field `(.*?)`")
MAX_VALUES = 200_000
"""In a body, commas in texts included; that is 30 to 60 ms of reading."""
OBJECT_VALUES = 4
"""What an object costs beside its values, in values."""
MAX_SMALL_BYTES = 256 * 1024
MAX_LARGE_VALUES = 20_000
"""In a msgpack body of more than `MAX_SMALL_BYTES`. What is small is read within 10 to 20 ms whatever it holds; what is large has
long texts in it, not many values. Not as many as in JSON, because an agent may send the next one at once."""
MAX_REWRITTEN_BYTES = 64 * 1024
"""Of a body that is written anew to see whether it is the same: that is lost time where it is not."""
MAX_COMPARED = 500
"""Names that are looked through for the nearest one; that is 10 ms."""
MAX_SAID = 300
"""Characters of what a decoder says, in an error."""
MAX_DIGITS = 4300
"""Of a whole number: Python reads no longer ones."""


def row_named(name: str) -> Row:
    """The row of that name or classic alias. Raises `UnknownCall`, with the nearest name."""
    row = ROWS.get(ALIASES.get(name, name))
    if row is None:
        raise UnknownCall(f"there is no call `{name[:80]}`{nearest(name, ROWS)}")
    return row


def decode_request(row: Row, body: bytes | msgspec.Raw, codec: Codec) -> Request[Any]:
    """The row's request in a body. Raises `Invalid` with the path of the field."""
    if codec == "json":
        check_json(bytes(body))
    else:
        check_msgpack(memoryview(body))
    try:
        return _decoders[codec][row.name].decode(body)  # type: ignore[no-any-return]  # a decoder of the row's request
    except (msgspec.DecodeError, RecursionError, UnicodeError, ValueError) as error:
        refuse(error, row.request.__struct_fields__)


def refuse(error: Exception, fields: Iterable[str] = ()) -> NoReturn:
    """Raise the `Invalid` that a decoder's error stands for; `fields`: the names that would have been right."""
    if isinstance(error, RecursionError):
        raise Invalid("the body is nested too deeply") from None
    text = str(error)
    where = _where.search(text)
    field = where.group(1) if where else ""
    unknown = _unknown.search(text)
    if unknown:
        field = f"{field}.{unknown.group(1)}" if field else unknown.group(1)
        raise Invalid(f"unknown field `{field[:200]}`{nearest(unknown.group(1), fields)}", field=field[:200]) from None
    missing = re.search(r"missing required field `(.*?)`", text)
    if missing:
        field = f"{field}.{missing.group(1)}" if field else missing.group(1)
    said = _where.sub("", text)
    if len(said) > MAX_SAID:
        said = f"{said[:MAX_SAID]}…"  # a decoder repeats the value, which may be long
    named = re.match(r"`(\w+)` ", said)
    if named:
        raise Invalid(said, field=f"{field}.{named.group(1)}" if field else named.group(1)) from None
    raise Invalid(f"`{field[:200]}`: {said}" if field else said, field=field[:200] or None) from None


def check_json(body: bytes) -> frozenset[str]:
    """Refuse what JSON readers disagree about: duplicate keys, NaN, numbers without end, nesting without end, surrogates.

    Two readers that take different values from one body are a way around every check. Returns the names of the outermost
    object's fields. Raises `Invalid`, or `TooLarge` for so many values that reading them would hold up everybody else.
    """
    if len(body) > MAX_VALUES // OBJECT_VALUES and values_in(body) > MAX_VALUES:
        raise TooLarge(f"the body has more than {MAX_VALUES} values: send less at once")
    if len(body) <= MAX_REWRITTEN_BYTES:
        names = _names_if_same(body)
        if names is not None:
            return names
    try:
        names = _reader.decode(body.decode())
    except RecursionError:
        raise Invalid("the body is nested too deeply") from None
    except ValueError as error:
        _refuse_value(body)
        raise Invalid(f"the body is no JSON: {error}") from None
    if _escaped_surrogate.search(body):
        _refuse_value(body)
    return names if isinstance(names, frozenset) else frozenset()


def _names_if_same(body: bytes) -> frozenset[str] | None:
    """The names of the outermost object's fields, if what is read of a body is written as the very same bytes; else None.

    Then it holds nothing that could be read in two ways. Clients that leave out needless spaces send such bodies, and this takes
    a quarter of the time.
    """
    try:
        value = _decode(body)
        same = _encode(value) == body
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
        return None
    if not same:
        return None
    return frozenset(value) if isinstance(value, dict) else frozenset()


def values_in(body: bytes) -> int:
    """How many values there are in JSON text at most."""
    return body.count(b",") + body.count(b"[") + OBJECT_VALUES * body.count(b"{")


def check_msgpack(body: memoryview) -> None:
    """Refuse a large body of many values, without reading them. Raises `TooLarge`; what is malformed is left to the decoder.

    An array's or a map's length stands in front of it, so a body that would take long to walk is refused at its first bytes.
    """
    if len(body) <= MAX_SMALL_BYTES:
        return
    at, left, seen = 0, 1, 0
    while left > 0 and at < len(body):
        size, inside = _head(body, at)
        at, left, seen = at + size, left - 1 + inside, seen + 1
        if seen + left > MAX_LARGE_VALUES:
            text = f"the body has {len(body)} bytes and more than {MAX_LARGE_VALUES} values: send less at once"
            raise TooLarge(text)


# The types of msgpack from 0xc0 on: bytes of a length that follows, bytes of the value itself, values inside for each counted.
_HEADS = {
    0xC4: (1, 0, 0), 0xC5: (2, 0, 0), 0xC6: (4, 0, 0), 0xC7: (1, 1, 0), 0xC8: (2, 1, 0), 0xC9: (4, 1, 0), 0xCA: (0, 4, 0),
    0xCB: (0, 8, 0), 0xCC: (0, 1, 0), 0xCD: (0, 2, 0), 0xCE: (0, 4, 0), 0xCF: (0, 8, 0), 0xD0: (0, 1, 0), 0xD1: (0, 2, 0),
    0xD2: (0, 4, 0), 0xD3: (0, 8, 0), 0xD4: (0, 2, 0), 0xD5: (0, 3, 0), 0xD6: (0, 5, 0), 0xD7: (0, 9, 0), 0xD8: (0, 17, 0),
    0xD9: (1, 0, 0), 0xDA: (2, 0, 0), 0xDB: (4, 0, 0), 0xDC: (2, 0, 1), 0xDD: (4, 0, 1), 0xDE: (2, 0, 2), 0xDF: (4, 0, 2),
}  # fmt: skip


def _head(body: memoryview, at: int) -> tuple[int, int]:
    """How many bytes the msgpack value there has before what is inside of it, and how many values are inside."""
    kind = body[at]
    if kind < 0x80 or kind >= 0xE0:
        return 1, 0
    if kind < 0xA0:
        return 1, (kind & 15) * (2 if kind < 0x90 else 1)
    if kind < 0xC0:
        return 1 + (kind & 31), 0
    length_bytes, size, each = _HEADS.get(kind, (0, 0, 0))
    length = int.from_bytes(body[at + 1 : at + 1 + length_bytes], "big")
    return 1 + length_bytes + size + (0 if each else length), length * each


_escaped_surrogate = re.compile(rb"\\u[dD][89a-fA-F]")
_surrogate = re.compile("[\ud800-\udfff]")
_NO_NUMBER = object()


def _refuse_value(body: bytes) -> None:
    """Find the value in a body that is no JSON value though it is well written. Raises `Invalid` with its path."""
    try:
        whole = json.loads(
            body, parse_constant=lambda _: _NO_NUMBER, parse_int=lambda text: _NO_NUMBER if len(text) > MAX_DIGITS else 0
        )
    except (ValueError, RecursionError):
        return
    left: list[tuple[str, Any]] = [("", whole)]
    while left:
        path, value = left.pop()
        if value is _NO_NUMBER:
            raise Invalid(f"`{path[:200]}`: no JSON number, or one without end", field=path[:200])
        if isinstance(value, str) and _surrogate.search(value):
            raise Invalid(f"`{path[:200]}`: half of a surrogate pair", field=path[:200])
        if isinstance(value, dict):
            for name in value:
                if _surrogate.search(name):
                    raise Invalid(f"a name of a field in `{path[:200]}`: half of a surrogate pair", field=path[:200])
            left += [(f"{path}.{name}" if path else name, below) for name, below in reversed(value.items())]
        elif isinstance(value, list):
            left += [(f"{path}[{index}]", below) for index, below in reversed(list(enumerate(value)))]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> frozenset[str]:
    names = frozenset([name for name, _ in pairs])
    if len(names) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Invalid(f"field `{twice[:200]}` is given twice", field=twice[:200])
    return names


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"`{name}` is no JSON number")


_reader = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean ...?` if one of the first 500 names is near, else nothing: the end of a sentence."""
    close = difflib.get_close_matches(name[:80], itertools.islice(names, MAX_COMPARED), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""
