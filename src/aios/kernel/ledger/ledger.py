"""Reserve, then settle: nobody spends what was not reserved.

A reservation is of the most that a call can come to, in all accounts that pay for it, and is made in one step of the event loop:
between the look and the increment nothing else happens. What the call came to is settled, and the rest given back. Where there is
less room than a call would like, it is given fewer tokens, as long as these are of use to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from aios.kernel.ledger.accounts import NOTHING, UNITS, Account, Amount, Limit
from aios.ports.clock import Clock

MONEY, TOKENS, CALLS = range(len(UNITS))


class Bound(msgspec.Struct, frozen=True):
    """The most that a call can come to. `fixed`: whatever it answers; `per_token`: nano-dollars of each token of its answer.

    `most`: tokens that it may answer with, `least`: the fewest that are of use.
    """

    fixed: Amount
    per_token: int
    most: int
    least: int = 1

    def of(self, tokens: int) -> Amount:
        """The most that it comes to with so many tokens."""
        fixed = self.fixed
        return Amount(fixed.money + self.per_token * tokens, fixed.tokens + tokens, fixed.calls)


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
    even if nothing is spent; or the account is blocked, as it was `overbilled` (there is no limit then).
    """

    account: Account
    limit: Limit | None
    because: Literal["spent", "reserved", "limit", "overbilled"]


class Ledger:
    """Reserves and settles."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def reserve(self, accounts: tuple[Account, ...], bound: Bound) -> Reservation | Short:
        """Reserve the most that a call can come to, in all these accounts or in none."""
        now_ns = self._clock.now_ns()
        tokens, tightest = bound.most, None
        for account in accounts:
            if account.overbilled:
                return Short(account, None, "overbilled")
            account.turn(now_ns)
            for limit in account.limits:
                fits = _tokens(account.free(limit), limit, bound)
                if fits < tokens:
                    tokens, tightest = fits, Short(account, limit, "reserved")
        if tightest is not None and tokens < bound.least:
            return self._lasting(accounts, bound) or tightest
        amount = bound.of(tokens)
        for account in accounts:
            account.reserve(amount)
        return Reservation(accounts, amount, tokens)

    @staticmethod
    def _lasting(accounts: Iterable[Account], bound: Bound) -> Short | None:
        """The limit that would be in the way even if all that is reserved were given back."""
        for account in accounts:
            for limit in account.limits:
                if _tokens(limit.wanted, limit, bound) < bound.least:
                    return Short(account, limit, "limit")
                if _tokens(limit.wanted - account.spent[limit.window][limit.unit], limit, bound) < bound.least:
                    return Short(account, limit, "spent")
        return None

    def settle(self, reservation: Reservation, actual: Amount | None) -> int:
        """Say what a call came to, once; None if that cannot be known: then it is all of what was reserved.

        Returns the nano-dollars that it came to beyond that, which are spent too, and block all its accounts.
        """
        if reservation.settled:
            return 0
        reservation.settled = True
        reserved = reservation.amount
        spent = reserved if actual is None else Amount(*(max(0, each) for each in actual))
        over = max(0, spent.money - reserved.money)
        now_ns = self._clock.now_ns()
        for account in reservation.accounts:
            account.turn(now_ns)
            account.reserve(reserved, -1)
            account.spend(spent)
            account.overbilled += over
            account.lower()
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
