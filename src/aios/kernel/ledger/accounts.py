"""Accounts: what each has spent in its windows, what is reserved, and what it may spend. Integers only.

Money is in nano-dollars. What is reserved stands against every window until it is settled, and is spent in the window in which
that is: so `spent + reserved <= limit` holds on both sides of a window's edge. A limit that is lowered below what is spent and
reserved already holds what it can at once, and the rest as reservations are settled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from aios.kernel.ledger.windows import WINDOWS, Window, begun_ns, ends_ns


class Amount(NamedTuple):
    """So much of each unit. Money is in nano-dollars."""

    money: int = 0
    tokens: int = 0
    calls: int = 0


UNITS = Amount._fields
NOTHING = Amount()


@dataclass(slots=True)
class Limit:
    """Of one unit (its number in `UNITS`) in one window. `wanted`: what was asked for; `amount`: what holds."""

    window: Window
    unit: int
    wanted: int
    amount: int


@dataclass(slots=True, eq=False)
class Account:
    """What is spent and reserved under one name and all names below it.

    `overbilled`: nano-dollars that were billed beyond what had been reserved for them. It blocks the account until it is cleared.
    """

    name: str
    parent: Account | None = None
    limits: list[Limit] = field(default_factory=list)
    spent: dict[Window, list[int]] = field(default_factory=lambda: {window: [0] * len(UNITS) for window in WINDOWS})
    reserved: list[int] = field(default_factory=lambda: [0] * len(UNITS))
    overbilled: int = 0
    _begun: dict[Window, int] = field(default_factory=dict)
    _until: int = -1

    def path(self) -> tuple[Account, ...]:
        """It and all above it, from the widest down."""
        return (*self.parent.path(), self) if self.parent is not None else (self,)

    def limit(self, window: Window, unit: int, wanted: int | None) -> None:
        """Limit a unit in a window, or no longer (None)."""
        self.limits = [limit for limit in self.limits if (limit.window, limit.unit) != (window, unit)]
        if wanted is not None:
            self.limits.append(Limit(window, unit, wanted, wanted))
            self.lower()

    def turn(self, now_ns: int) -> None:
        """Begin the windows anew whose time is over. A clock that goes back changes nothing."""
        now_ns = max(0, now_ns)
        if now_ns < self._until:
            return
        for window in WINDOWS:
            begun = begun_ns(window, now_ns)
            if begun > self._begun.get(window, -1):
                self._begun[window] = begun
                self.spent[window] = [0] * len(UNITS)
        self._until = min(end for window in WINDOWS if (end := ends_ns(window, now_ns)) is not None)
        self.lower()

    def free(self, limit: Limit) -> int:
        """What of a limit is neither spent nor reserved."""
        return limit.amount - self.spent[limit.window][limit.unit] - self.reserved[limit.unit]

    def reserve(self, amount: Amount, times: int = 1) -> None:
        """Add so much to what is reserved, or take it away (`times` -1)."""
        reserved = self.reserved
        for unit, each in enumerate(amount):
            reserved[unit] += times * each

    def spend(self, amount: Amount) -> None:
        """Add so much to what is spent, in the windows of now."""
        for spent in self.spent.values():
            for unit, each in enumerate(amount):
                spent[unit] += each

    def lower(self) -> None:
        """Bring limits as near to what is wanted as what is spent and reserved lets them."""
        for limit in self.limits:
            limit.amount = max(limit.wanted, self.spent[limit.window][limit.unit] + self.reserved[limit.unit])
