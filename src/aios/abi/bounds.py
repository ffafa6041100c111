"""Ranges of fields, and the one sentence that refuses what is outside."""

from __future__ import annotations

import msgspec

ROOM_LEVELS = 100
"""Of nesting, that a value leaves to those who hand it on: they write it inside of other things, from deeper in their code."""

_encode = msgspec.msgpack.Encoder().encode


def within(field: str, value: float | None, least: float, most: float) -> None:
    """Refuse a value outside of a range, both ends included; None is no value. Raises `ValueError` that names the field."""
    if value is not None and not least <= value <= most:
        raise ValueError(f"`{field}` must be {_plain(least)} to {_plain(most)}")


def above_zero(field: str, value: float, most: float) -> None:
    """Refuse a number that is not above 0, or is above `most`. Raises `ValueError` that names the field."""
    if not 0 < value <= most:
        raise ValueError(f"`{field}` must be above 0 and at most {_plain(most)}")


def recordable(field: str, value: object) -> None:
    """Refuse what a record cannot say: numbers of more than 64 bits, nesting without end, halves of characters.

    None and () can be recorded; texts are not looked at.

    Raises `ValueError` that names the field.
    """
    if not value or type(value) is str:
        return
    for _ in range(ROOM_LEVELS):
        value = [value]
    try:
        _encode(value)
    except UnicodeEncodeError:
        raise ValueError(f"`{field}` cannot be recorded: a text in it holds half a character (a lone surrogate)") from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"`{field}` cannot be recorded: {error}") from None


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
