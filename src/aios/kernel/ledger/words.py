"""Amounts, windows and refusals as people read them."""

from __future__ import annotations

import datetime

from aios.abi.account import UNITS, Window
from aios.kernel.amounts import CALLS, MONEY, Bound
from aios.kernel.ledger.accounts import Limit
from aios.kernel.ledger.ledger import Short

NANO = 10**9
MOST_LISTED = 5


def why(short: Short, bound: Bound, now_ns: int, tells: bool = True) -> str:
    """Why a call may not be made, with the account, the window's end and the command that raises the limit.

    `tells`: what is spent there, too; who is one of several tenants is not to hear it of what all of them share.
    """
    name, limit = short.account.name, short.limit
    if limit is None:
        own = short.account.limits[:1]
        again = "".join(f" --{flag(each.unit)} {number(each.unit, each.wanted)}{_rest(each)}" for each in own)
        return f"`{name}` is blocked: more was billed than had been reserved; `aios budget {name}{again}` lets it go on"
    most = words(limit.unit, limit.wanted) + per(limit.window)
    raises = f"`aios budget {name} --{flag(limit.unit)} AMOUNT{_rest(limit)}` raises it"
    if short.because == "price" and limit.unit != MONEY:
        return f"`{name}` has a limit of {most}, and nobody knows how many this call comes to: leave out {_listed(bound.unknown)}"
    if short.because == "price":
        what = " at ".join(f"`{tag.partition(':')[2]}`" for tag in bound.tags)
        says = "say it in `[prices]` of aios.toml, or as `price` of its core if that names no `provider`; see `aios prices`"
        if bound.unknown:
            says = f"leave out {_listed(bound.unknown)}"
        return f"`{name}` has a limit of {most}, and nobody knows what this call of {what} costs: {says}"
    least = words(limit.unit, bound.of(bound.least)[limit.unit])
    if short.because == "limit":
        return f"`{name}` has a limit of {most}, and this call alone may come to {least}: {raises}"
    spent = words(limit.unit, short.account.spent_in(limit.window, limit.unit))
    ends = short.account.ends_ns(limit.window, now_ns)
    resets = f"; it begins anew at {utc(ends)}" if ends is not None else ""
    if short.because == "behind":
        return f"`{name}` has a limit of {most}, and an earlier call that missed the last minute comes first{resets}: {raises}"
    if not tells:
        return f"`{name}` has too little left{per(limit.window)} for this call, which may come to {least}{resets}: {raises}"
    return f"`{name}` has spent {spent} of {most}, and this call may come to {least}{resets}: {raises}"


def _listed(names: tuple[str, ...]) -> str:
    """A few names, as far as they are worth reading."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(f"`{name[:40]}`" for name in names[:MOST_LISTED]) + more


def words(unit: int, amount: int) -> str:
    """An amount of a unit as people write it."""
    if unit == MONEY:
        return f"${number(unit, amount)}"
    return f"{amount:,} {UNITS[unit]}" if amount != 1 or unit != CALLS else "1 call"


def number(unit: int, amount: int) -> str:
    """An amount of a unit as `aios budget` takes it."""
    if unit != MONEY:
        return str(amount)
    whole, rest = divmod(amount, NANO)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def flag(unit: int) -> str:
    """The option of `aios budget` for a unit."""
    return "usd" if unit == MONEY else UNITS[unit]


def per(window: Window) -> str:
    """` per day`; nothing for a lifetime."""
    return {"lifetime": "", "now": " at once"}.get(window, f" per {window}")


def _rest(limit: Limit) -> str:
    """What else `aios budget` is told of a limit that stays as it is but for its amount."""
    soft = "" if limit.soft is None else f" --soft {number(limit.unit, limit.soft)}"
    return soft if limit.window == "lifetime" else f"{soft} --per {limit.window}"


def utc(at_ns: int) -> str:
    """A moment as people read it."""
    return f"{datetime.datetime.fromtimestamp(at_ns // NANO, datetime.UTC):%Y-%m-%d %H:%M} UTC"
