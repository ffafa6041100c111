"""Amounts of what is limited, and the most that a call can come to. Integers only; money is in nano-dollars."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from aios.abi.account import UNITS

MONEY, TOKENS, CALLS = range(len(UNITS))


class Amount(NamedTuple):
    """So much of each unit."""

    money: int = 0
    tokens: int = 0
    calls: int = 0


NOTHING = Amount()


class Bound(msgspec.Struct, frozen=True):
    """The most that a call can come to. `fixed`: whatever it answers; `per_token`: nano-dollars of each token of its answer.

    `most`: tokens that it may answer with, `least`: the fewest that are of use. `priced`: whether anybody knows its price.
    `heard`: all tokens that are made for it are told, so that what it came to is known however it ends. `tags`: accounts that
    it is of there, beside those of its caller. `sized`: whether anybody knows how many tokens it may come to. `unknown`: what
    is in it that neither can be said of.
    """

    fixed: Amount
    per_token: int
    most: int
    least: int = 1
    priced: bool = True
    heard: bool = False
    tags: tuple[str, ...] = ()
    sized: bool = True
    unknown: tuple[str, ...] = ()

    def of(self, tokens: int) -> Amount:
        """The most that it comes to with so many tokens."""
        fixed = self.fixed
        return Amount(fixed.money + self.per_token * tokens, fixed.tokens + tokens, fixed.calls)
