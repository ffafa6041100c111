"""Amounts of money, tokens and calls as people write and read them. Exact: no amount is ever a float."""

from __future__ import annotations

import re
from decimal import Decimal

import click

from aios.abi.account import MOST_AMOUNT, Unit, Window

NANO = 10**9


class Dollars(click.ParamType):  # type: ignore[type-arg]  # older versions have no argument
    """Dollars with up to nine decimals, as nano-dollars."""

    name = "dollars"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if _dollars.fullmatch(str(value)):
            nano = int(Decimal(str(value).removeprefix("$")) * NANO)
            if nano <= MOST_AMOUNT:
                return nano
        window = _window.fullmatch(str(value))
        said = f"; the time is said with `--per {window[1]}`" if window else ""
        self.fail(f"{value!r} is no amount: write dollars as `5` or `0.25`, at most {MOST_AMOUNT // NANO:,}{said}", param, ctx)


_dollars = re.compile(r"\$?(?=\.?[0-9])[0-9]{0,12}(\.[0-9]{1,9})?", re.ASCII)
"""As people write them: no digits of other scripts, no exponent, nothing between the digits that one may read over."""
_window = re.compile(r"\$?[0-9.]+ ?/ ?(hour|day|month|lifetime)", re.ASCII)


def is_dollars(text: str) -> bool:
    """Whether a text reads as an amount of money."""
    return _dollars.fullmatch(text) is not None


class Count(click.ParamType):  # type: ignore[type-arg]  # as above
    """How many tokens or calls: plain digits, and no others that one may read over."""

    name = "count"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if _count.fullmatch(str(value)) and int(str(value)) <= MOST_AMOUNT:
            return int(str(value))
        self.fail(f"{value!r} is no number of 0 to {MOST_AMOUNT:,}, in plain digits", param, ctx)


_count = re.compile(r"[0-9]{1,16}", re.ASCII)


def amount_of(unit: Unit, amount: int) -> str:
    """An amount of a unit: money in dollars with at least two decimals."""
    if unit != "money":
        return f"{amount:,} {unit.removesuffix('s') if amount == 1 else unit}"
    sign, (whole, rest) = "-" if amount < 0 else "", divmod(abs(amount), NANO)
    decimals = f"{rest:09d}".rstrip("0")
    return f"{sign}${whole:,}.{decimals:<02}"


def per(window: Window) -> str:
    """` per day`; nothing for a lifetime."""
    return {"lifetime": "", "now": " at once"}.get(window, f" per {window}")
