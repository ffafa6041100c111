"""What makes a row of the table work: `prepare` and `act`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import Any

from aios.abi.errors import Invalid
from aios.abi.table import Row
from aios.kernel.process import Call

_field = re.compile(r"\{([\w.]+)\}")


@dataclasses.dataclass(frozen=True, slots=True)
class Syscall:
    """`act` does the call in the caller's own task and returns its reply.

    `prepare`: the resources that it needs, any one of which will do; None: the one that the row's template names. Pure.
    `bind`, `plan`: for rows with a lane. The servers that can do it, of what access has left; and, once it has its turn, all
    that the act will depend on, which is recorded before it begins. Chance is drawn there, and nowhere else.
    """

    act: Callable[[Call], Awaitable[Any]]
    prepare: Callable[[Call], tuple[str, ...]] | None = None
    bind: Callable[[Call], frozenset[str]] | None = None
    plan: Callable[[Call], Any] | None = None


def check_range(field: str, value: float, least: float, most: float) -> None:
    """Raise `Invalid` unless the value lies within; a number that is none does not."""
    if not least <= value <= most:
        raise Invalid(f"`{field}` must be {least:,} to {most:,}", field=field)


def resource_of(row: Row) -> Callable[[Call], tuple[str, ...]]:
    """A `prepare` that fills the request's fields into the template of the row's `needs`."""
    _, _, template = row.needs.partition(" ")
    getters = {name: attrgetter(name) for name in _field.findall(template)}
    if not getters:
        return lambda call: (template,)

    def prepare(call: Call) -> tuple[str, ...]:
        return (_field.sub(lambda match: str(getters[match.group(1)](call.request)), template),)

    return prepare
