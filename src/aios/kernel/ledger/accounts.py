"""Accounts: what each has spent in its windows, what is reserved, and what it may spend. Integers only.

Money is in nano-dollars. What is reserved stands against every window until it is settled, and is spent in the window in which
that is: so `spent + reserved <= limit` holds on both sides of a window's edge. A limit that is lowered below what is spent and
reserved already holds what it can at once, and the rest as reservations are settled.

A limit in the window `now` is one of what is reserved alone: of calls that are under way at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aios.abi.account import OF_TENANTS, UNITS, Window
from aios.kernel.amounts import CALLS, MONEY, TOKENS, Amount
from aios.kernel.ledger.windows import LATEST_NS, MINUTE_NS, TIMED, begun_ns, ends_ns

Whose = tuple[str, str]
"""A tenant, and its user, "" for none."""
NONE_SPENT = (0,) * len(UNITS)


@dataclass(slots=True)
class Limit:
    """Of one unit (its number in `UNITS`) in one window. `wanted`: what was asked for; `amount`: what holds.

    `told_ns`: the end of the window of which was told last that `soft` is passed.
    """

    window: Window
    unit: int
    wanted: int
    amount: int
    soft: int | None = None
    told_ns: int = 0


@dataclass(slots=True, eq=False)
class Account:
    """What is spent and reserved under one name and all names below it.

    `spent`: since it is there. `overbilled`: what was billed beyond what had been reserved, added up over the units that are
    limited: it blocks the account until it is cleared.
    """

    name: str
    parent: Account | None = None
    limits: list[Limit] = field(default_factory=list)
    spent: list[int] = field(default_factory=lambda: [0] * len(UNITS))
    reserved: list[int] = field(default_factory=lambda: [0] * len(UNITS))
    overbilled: int = 0
    served: dict[Whose, int] = field(default_factory=dict)
    """When calls of a tenant, and of each of its users, last had a reservation under its limits: higher numbers are later."""
    path: tuple[Account, ...] = ()
    """Itself and all above it, from the widest down."""
    _before: dict[Window, tuple[int, ...]] = field(default_factory=dict)
    """What was spent before the present window began."""
    _begun: dict[Window, int] = field(default_factory=dict)
    _from: int = 0
    _until: int = -1
    """As long as the clock is between these, no window begins."""

    def __post_init__(self) -> None:
        self.path = (*self.parent.path, self) if self.parent is not None else (self,)

    @property
    def tenant(self) -> str:
        """Whose it is; "" for what is nobody's own."""
        if self.name.startswith(OF_TENANTS):
            return self.name.partition(":")[2].partition("/")[0]
        return self.name.split("/")[1] if self.name.startswith("/") else ""

    def limit(self, window: Window, unit: int, wanted: int | None, soft: int | None = None) -> None:
        """Limit a unit in a window, or no longer (None)."""
        self.limits = [limit for limit in self.limits if (limit.window, limit.unit) != (window, unit)]
        if wanted is not None:
            self.limits.append(Limit(window, unit, wanted, wanted, soft))
            self.lower()

    def turn(self, now_ns: int) -> None:
        """Begin the windows anew whose time is over.

        A clock that goes back begins none, but for the minute, if it is by more than one: a rate is no budget, and nobody is to
        wait until the clock is again where it wrongly was.
        """
        if self._from <= now_ns < self._until:
            return
        now_ns = min(max(0, now_ns), LATEST_NS)
        for window in TIMED:
            begun = begun_ns(window, now_ns)
            if begun > self._begun.get(window, -1) or (window == "minute" and now_ns < self._from):
                self._begun[window] = begun
                self._before[window] = tuple(self.spent)
        self._until = now_ns - now_ns % MINUTE_NS + MINUTE_NS
        self._from = self._until - 2 * MINUTE_NS
        self.lower()

    def carry(self, unit: int, spent: Mapping[Window, int], at_ns: int, now_ns: int) -> None:
        """Begin with what stood in the windows of then, as far as these still go on. Of a time to come nothing is let off."""
        self.turn(now_ns)
        self.spent[unit] += spent.get("lifetime", 0)
        for window in TIMED:
            gone_by = spent.get("lifetime", 0)
            if begun_ns(window, at_ns) >= self._begun[window]:
                gone_by -= spent.get(window, 0)
            before = list(self._before[window])
            before[unit] += gone_by
            self._before[window] = tuple(before)
        self.lower()

    def ends_ns(self, window: Window, now_ns: int) -> int | None:
        """When its present window ends; None for what does not end. A clock that was set back has to come there first."""
        return ends_ns(window, max(now_ns, self._begun.get(window, 0)))

    def spent_in(self, window: Window, unit: int) -> int:
        """What of a unit was spent in the present window; a `call` begins with nothing, and `now` nothing is spent."""
        if window == "call" or window == "now":
            return 0
        return self.spent[unit] - self._before.get(window, NONE_SPENT)[unit]

    def gone(self, limit: Limit) -> int:
        """What of a limit is spent or reserved."""
        return 0 if limit.window == "call" else self.spent_in(limit.window, limit.unit) + self.reserved[limit.unit]

    def free(self, limit: Limit) -> int:
        """What of a limit is neither spent nor reserved."""
        return limit.amount - self.gone(limit)

    def reserve(self, amount: Amount) -> None:
        """Add so much to what is reserved."""
        reserved = self.reserved
        reserved[MONEY] += amount[MONEY]
        reserved[TOKENS] += amount[TOKENS]
        reserved[CALLS] += amount[CALLS]

    def settle(self, reserved: Amount, spent: Amount) -> None:
        """So much is reserved no longer, and so much is spent."""
        now, before = self.reserved, self.spent
        now[MONEY] -= reserved[MONEY]
        now[TOKENS] -= reserved[TOKENS]
        now[CALLS] -= reserved[CALLS]
        before[MONEY] += spent[MONEY]
        before[TOKENS] += spent[TOKENS]
        before[CALLS] += spent[CALLS]
        for limit in self.limits:
            if limit.amount != limit.wanted:
                limit.amount = max(limit.wanted, self.gone(limit))

    def spend(self, tokens: int, now_ns: int) -> None:
        """A call has come to so many tokens, here and in all accounts above. It cost nothing, and none of them has a limit."""
        for account in self.path:
            if now_ns >= account._until:
                account.turn(now_ns)
            spent = account.spent
            spent[TOKENS] += tokens
            spent[CALLS] += 1

    def lower(self) -> None:
        """Bring limits as near to what is wanted as what is spent and reserved lets them."""
        for limit in self.limits:
            limit.amount = max(limit.wanted, self.gone(limit))
