"""Limits as others see them."""

from __future__ import annotations

from collections.abc import Iterable

from aios.abi.account import UNITS, LimitState
from aios.kernel.ledger.accounts import Account, Limit


def limit_state(account: Account, limit: Limit, now_ns: int) -> LimitState:
    """A limit as others see it."""
    whole = limit.window != "call"
    return LimitState(
        account.name, UNITS[limit.unit], limit.window, limit.wanted, limit.amount, account.spent_in(limit.window, limit.unit),
        account.reserved[limit.unit] if whole else 0, limit.soft, account.ends_ns(limit.window, now_ns), now_ns,
    )  # fmt: skip


def tightest(path: Iterable[Account], now_ns: int) -> tuple[LimitState, ...]:
    """Of the limits of accounts those that leave least, one of each unit and window."""
    found: dict[tuple[str, str], LimitState] = {}
    for account in path:
        for limit in account.limits:
            state = limit_state(account, limit, now_ns)
            kept = found.get((state.unit, state.window))
            if kept is None or state.free < kept.free:
                found[state.unit, state.window] = state
    return tuple(found.values())
