"""Ranges of fields, and the one sentence that refuses what is outside."""

from __future__ import annotations


def within(field: str, value: float | None, least: float, most: float) -> None:
    """Refuse a value outside of a range, both ends included; None is no value. Raises `ValueError` that names the field."""
    if value is not None and not least <= value <= most:
        raise ValueError(f"`{field}` must be {_plain(least)} to {_plain(most)}")


def above_zero(field: str, value: float, most: float) -> None:
    """Refuse a number that is not above 0, or is above `most`. Raises `ValueError` that names the field."""
    if not 0 < value <= most:
        raise ValueError(f"`{field}` must be above 0 and at most {_plain(most)}")


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
