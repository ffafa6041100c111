"""The price table that comes with AIOS: a line that says what it is, and a line for each model of each provider.

`tools/prices.py` makes it, and takes over how models are found: of a provider's models the first whose pattern fits. A pattern is
a list of tests of which one must hold, or of lists of which all must; a test is a kind and a text: `=` is it, `^` begins it,
`$` ends it, `*` is in it, `~` is a regular expression for it. Names are compared in small letters.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import re
from pathlib import Path

import msgspec

from aios.abi.errors import Unavailable
from aios.abi.price import Price, PriceTable

TABLE = Path(__file__).with_name("table.jsonl")
MAX_NAME_CHARACTERS = 200


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line. `stand_in`: to whose models a provider's price list refers for those that it does not have itself."""

    date: str
    made_from: str
    wheel_sha256: str
    licence: str
    sha256: str
    stand_in: dict[str, tuple[str, ...]]


class Later(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price that holds from a day on (UTC, as 2027-01-01)."""

    since: str
    price: Price


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A model of a provider. `later`: what it will cost, in the order of days."""

    provider: str
    model: str
    match: tuple[str | tuple[str, ...], ...]
    price: Price
    later: tuple[Later, ...] = ()

    def fits(self, name: str) -> bool:
        """Whether a model's name, in small letters, is one of this entry's."""
        return any(
            _holds(tests, name) if isinstance(tests, str) else all(_holds(test, name) for test in tests) for tests in self.match
        )

    def on(self, day: str) -> Price:
        """What it costs on a day."""
        return next((later.price for later in reversed(self.later) if later.since <= day), self.price)


def _holds(test: str, name: str) -> bool:
    kind, text = test[0], test[1:]
    if kind == "=":
        return name == text
    if kind == "^":
        return name.startswith(text)
    if kind == "$":
        return name.endswith(text)
    return text in name if kind == "*" else _expression(text).search(name) is not None


_expression = functools.cache(re.compile)


class Table:
    """The entries by provider, `made` on a day. Raises `Unavailable` if they are not what they were when the table was made."""

    def __init__(self, text: bytes) -> None:
        first, _, lines = text.partition(b"\n")
        try:
            self.head = msgspec.json.decode(first, type=Head)
            if hashlib.sha256(lines).hexdigest() != self.head.sha256:
                raise Unavailable("the table of prices was altered, and no price can be taken from it: install AIOS anew")
            entries = msgspec.json.decode(b"[" + lines.rstrip(b"\n").replace(b"\n", b",") + b"]", type=list[Entry])
            self.made = datetime.date.fromisoformat(self.head.date)
        except ValueError as error:
            raise Unavailable(f"the table of prices cannot be read ({error}): install AIOS anew") from None
        self.entries: dict[str, list[Entry]] = {}
        for entry in entries:
            self.entries.setdefault(entry.provider, []).append(entry)
        self.info = PriceTable(self.head.date, self.head.made_from, self.head.sha256, len(entries))

    def find(self, provider: str, model: str) -> Entry | None:
        """The entry of a provider's model; None if there is none."""
        name = model.lower()
        if len(name) > MAX_NAME_CHARACTERS:
            return None
        among = (provider, *self.head.stand_in.get(provider, ()))
        return next((entry for each in among for entry in self.entries.get(each, ()) if entry.fits(name)), None)


@functools.cache
def shipped() -> Table:
    """The table that comes with AIOS, read when it is first asked for."""
    return Table(TABLE.read_bytes())


def day_of(at_ns: int) -> str:
    """The day (UTC) in which a moment lies (nanoseconds UTC), as 2027-01-01; of a clock that is out of all bounds the last."""
    try:
        return datetime.datetime.fromtimestamp(at_ns // 10**9, datetime.UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return datetime.date.max.isoformat()
