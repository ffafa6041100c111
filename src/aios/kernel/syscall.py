"""What makes a row of the table work: `prepare` and `act`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from operator import attrgetter
from typing import Any

import msgspec

from aios.abi.answers import check_json_value, handed_on
from aios.abi.errors import Invalid, TooLarge
from aios.abi.table import Row
from aios.kernel.amounts import Bound
from aios.kernel.process import Call

MOST_VALUE_BYTES = 256 * 1024
MOST_VALUES = 20_000
"""In one value; reading them takes 3 ms."""

_encode = msgspec.json.Encoder().encode
_name = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_field = re.compile(r"\{([\w.]+)\}")


@dataclasses.dataclass(frozen=True, slots=True)
class Syscall:
    """`act` does the call in the caller's own task and returns its reply.

    `prepare`: the resources that it needs, any one of which will do, or none if it needs no grant here; None: the one that the
    row's template names. Pure.
    `bind`, `plan`: for rows with a lane. The servers that can do it, of what access has left; and, once it has its turn, all
    that the act will depend on, which is recorded before it begins. Chance is drawn there, and nowhere else.
    `bound`: for rows with a lane, the most that the act can come to on a server; `costless`: the servers on which it costs
    nothing. `measure`: the same as `bound` and closer, where that takes time; None if nobody knows better.
    """

    act: Callable[[Call], Awaitable[Any]]
    prepare: Callable[[Call], tuple[str, ...]] | None = None
    bind: Callable[[Call], frozenset[str]] | None = None
    plan: Callable[[Call], Any] | None = None
    bound: Callable[[Call, str], Bound] | None = None
    costless: AbstractSet[str] = frozenset()
    measure: Callable[[Call, str], Awaitable[Bound | None]] | None = None


def check_range(field: str, value: float, least: float, most: float) -> None:
    """Raise `Invalid` unless the value lies within; a number that is none does not."""
    if not least <= value <= most:
        raise Invalid(f"`{field}` must be {least:,} to {most:,}", field=field)


def json_text(field: str, value: Any) -> bytes:
    """A value that is handed on to others, as JSON. Raises `Invalid` for what is no JSON value, `TooLarge`."""
    try:
        text = _encode(value)
        if len(text) > MOST_VALUE_BYTES:
            raise TooLarge(f"`{field}` has {len(text)} bytes of JSON, the most is {MOST_VALUE_BYTES}", field=field)
        if type(value) is not str:
            check_json_value(value, MOST_VALUES)
            handed_on(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Invalid(f"`{field}` cannot be handed on: {error}", field=field) from None
    return text


def check_name(field: str, name: str) -> None:
    """Raise `Invalid` for what cannot be the name of a shared thing: names are typed, granted, and shown on terminals."""
    if not _name.fullmatch(name):
        raise Invalid(f"`{field}` must be 1 to 64 letters, digits, `.`, `:`, `-` or `_`", field=field)


def resource_of(row: Row) -> Callable[[Call], tuple[str, ...]]:
    """A `prepare` that fills the request's fields into the template of the row's `needs`."""
    _, _, template = row.needs.partition(" ")
    getters = {name: attrgetter(name) for name in _field.findall(template)}
    if not getters:
        return lambda call: (template,)

    def prepare(call: Call) -> tuple[str, ...]:
        return (_field.sub(lambda match: str(getters[match.group(1)](call.request)), template),)

    return prepare
