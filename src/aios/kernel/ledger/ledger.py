"""Reserve, then settle: nobody spends what was not reserved.

A reservation is of the most that a call can come to, in all accounts that pay for it, and is made in one step of the event loop:
between the look and the increment nothing else happens. What the call came to is settled, and the rest given back. Where there is
less room than a call would like, it is given fewer tokens, as long as these are of use to it.

Of a rate, a limit per minute, a call is not given the last few tokens, when there will be more in a moment: it asks for a quarter
of what a minute has, or for as much as it can take, if that is less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from aios.abi.account import Window
from aios.kernel.amounts import MONEY, NOTHING, TOKENS, Amount, Bound
from aios.kernel.ledger.accounts import Account, Limit
from aios.ports.clock import Clock

RATE: Window = "minute"
"""The window whose end is waited for."""
PART_OF_RATE = 4

Because = Literal["spent", "reserved", "limit", "overbilled", "price", "behind"]


@dataclass(slots=True, eq=False)
class Reservation:
    """What a call may come to. `tokens`: of its answer, at most."""

    accounts: tuple[Account, ...]
    amount: Amount
    tokens: int
    settled: bool = False


class Short(msgspec.Struct, frozen=True):
    """Why nothing was reserved: this limit of this account.

    `because`: of what is `spent`, or `reserved` (it may yet be given back); of the `limit` itself, which is too low for the call
    even if nothing is spent; it is `behind` another call, which has missed a minute and comes first; of the `price` or the size,
    which nobody knows; or the account is blocked, as it was `overbilled` (there is no limit then).
    """

    account: Account
    limit: Limit | None
    because: Because

    @property
    def lasts(self) -> bool:
        """Whether it stays so when all is settled that is under way."""
        return self.because != "reserved"

    @property
    def passes(self) -> bool:
        """Whether it is over as soon as the next minute begins."""
        return self.because in ("spent", "behind") and self.limit is not None and self.limit.window == RATE


class Ledger:
    """Reserves and settles."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def reserve(self, accounts: tuple[Account, ...], bound: Bound) -> Reservation | Short:
        """Reserve the most that a call can come to, in all these accounts or in none."""
        tokens = self.room(accounts, bound)
        if isinstance(tokens, Short):
            return tokens
        amount = bound.of(tokens)
        for account in accounts:
            account.reserve(amount)
        return Reservation(accounts, amount, tokens)

    def insist(self, accounts: tuple[Account, ...], bound: Bound) -> Reservation:
        """Reserve for what is under way already, whether there is room for it or not. Limits that come now begin with it."""
        amount = bound.of(bound.most)
        for account in accounts:
            account.reserve(amount)
        return Reservation(accounts, amount, bound.most)

    def room(self, accounts: tuple[Account, ...], bound: Bound) -> int | Short:
        """How many tokens a call may answer with now, or why it may not be made."""
        now_ns = self._clock.now_ns()
        tokens, short = bound.most, None
        for account in accounts:
            if account.overbilled:
                return Short(account, None, "overbilled")
            account.turn(now_ns)
            for limit in account.limits:
                if (limit.unit == MONEY and not bound.priced) or (limit.unit == TOKENS and not bound.sized):
                    return Short(account, limit, "price")
                fits = _tokens(account.free(limit), limit, bound)
                if fits < tokens:
                    tokens = fits
                    if fits < _needed(limit, bound):
                        short = Short(account, limit, "reserved")
        if short is None:
            return tokens
        return self._lasting(accounts, bound) or short

    def lasting(self, accounts: tuple[Account, ...], bound: Bound) -> Short | None:
        """Why a call may not be made even when all is given back that is reserved; None if it may be."""
        short = self.room(accounts, bound)
        return short if isinstance(short, Short) and short.lasts else None

    @staticmethod
    def _lasting(accounts: tuple[Account, ...], bound: Bound) -> Short | None:
        """The limit that would be in the way even if all that is reserved were given back: a rate only if no other one is."""
        passing: Short | None = None
        for account in accounts:
            for limit in account.limits:
                needed = _needed(limit, bound)
                if _tokens(limit.wanted, limit, bound) < needed:
                    return Short(account, limit, "limit")
                if _tokens(limit.wanted - account.spent_in(limit.window, limit.unit), limit, bound) < needed:
                    short = Short(account, limit, "spent")
                    if not short.passes:
                        return short
                    passing = passing or short
        return passing

    def settle(self, reservation: Reservation, actual: Amount | None) -> Amount:
        """Say what a call came to, once; None if that cannot be known: then it is all of what was reserved.

        Returns what it came to beyond that, which is spent too, and blocks those of its accounts that have a limit of it.
        """
        if reservation.settled:
            return NOTHING
        reservation.settled = True
        reserved = reservation.amount
        spent = reserved if actual is None else actual
        over = NOTHING
        if spent.money > reserved.money or spent.tokens > reserved.tokens or spent.calls > reserved.calls:
            over = Amount(*(max(0, came - most) for came, most in zip(spent, reserved, strict=True)))
        now_ns = self._clock.now_ns()
        for account in reservation.accounts:
            account.turn(now_ns)
            account.settle(reserved, spent)
            if over is not NOTHING:
                account.lower()
                account.overbilled += sum(over[unit] for unit in {limit.unit for limit in account.limits})
        return over

    def release(self, reservation: Reservation) -> None:
        """Give all of it back: nothing was done."""
        self.settle(reservation, NOTHING)


def _tokens(free: int, limit: Limit, bound: Bound) -> int:
    """How many tokens a call may answer with where so much of a limit is free; -1 if it has no room for the call at all."""
    room = free - bound.fixed[limit.unit]
    if room < 0:
        return -1
    each = bound.per_token if limit.unit == MONEY else 1 if limit.unit == TOKENS else 0
    return room // each if each else bound.most


def _needed(limit: Limit, bound: Bound) -> int:
    """The fewest tokens for which a call begins under a limit."""
    if limit.window != RATE:
        return bound.least
    return min(bound.most, max(bound.least, _tokens(limit.wanted, limit, bound) // PART_OF_RATE))
