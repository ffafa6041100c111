"""Is a budget ever overspent, and how much of it is spent? 1 to 1,024 callers who share $5, with the kernel's own path.

Beside the kernel's ledger stand two ways of gateways: to charge after the call, and to reserve what is left where a call's most
does not fit. All three meet the same callers, in virtual time. In its quick form it takes one seed instead of five.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from aios.drivers.clock import SystemClock
from aios.kernel.amounts import Amount, Bound
from aios.kernel.ledger.accounts import Account
from aios.kernel.ledger.ledger import Ledger, Reservation
from aios.testing.virtual import run_virtual
from benchmarks.rig.budgets import After, Outcome, Resized, spend
from benchmarks.rig.report import Bar, Findings, Row, main, median

CALLERS = (1, 16, 64, 256, 1024)
SEEDS, QUICK_SEEDS = (1, 2, 3, 4, 5), (1,)
WAYS: Mapping[str, type[Ledger] | None] = {"reserve": None, "charge after": After, "resize": Resized}
DEPTH = 5
"""Accounts that pay for a call: the whole, tenant, user, agent, process."""
BARS = {
    "overshoot": Bar("at most", 0.0),
    "used": Bar("at least", 0.97),
    "refused_early": Bar("at most", 0.0),
    "ledger_us_per_call": Bar("at most", 10),
}
MEANINGS = {
    "overshoot": "spent beyond a budget of $5 that 1 to 1,024 callers share, the most of all seeds ÷ the budget",
    "used": "what of it is spent when all are refused, the least median over seeds",
    "billed": "what of it the provider bills; answers that broke off, or were read on for too long, are charged in full",
    "refused_early": "callers refused while what they need was only reserved",
    "charge_after_overshoot": "the same overshoot where calls are charged afterwards",
    "resize_overshoot": "the same where what is left is reserved if the most does not fit",
    "ledger_us_per_call": "CPU of a reservation and its settlement in five accounts with limits, µs",
}


def measure(quick: bool) -> tuple[Mapping[str, float], Sequence[Row]]:
    """The figures and the rows behind them."""
    findings = Findings()
    outcomes = {way: outcomes_of(way, QUICK_SEEDS if quick else SEEDS, findings) for way in WAYS}
    ours = outcomes["reserve"]
    findings.figures |= {
        "overshoot": max(each.overshoot for found in ours.values() for each in found),
        "used": min(median(each.used for each in found) for found in ours.values()),
        "billed": min(median(each.billed for each in found) for found in ours.values()),
        "refused_early": sum(each.refused_early for found in ours.values() for each in found),
        "charge_after_overshoot": max(each.overshoot for found in outcomes["charge after"].values() for each in found),
        "resize_overshoot": max(each.overshoot for found in outcomes["resize"].values() for each in found),
        "ledger_us_per_call": ledger_us(20_000 if quick else 100_000),
    }
    return findings.figures, findings.rows


def outcomes_of(way: str, seeds: Sequence[int], findings: Findings) -> dict[int, list[Outcome]]:
    """What came of a way of charging, by the number of callers."""
    found = {}
    for callers in CALLERS:
        each_seed = found[callers] = [run_virtual(spend(WAYS[way], callers, seed)) for seed in seeds]
        findings.row(
            f"{callers} callers", way, used=median(each.used for each in each_seed),
            billed=median(each.billed for each in each_seed), overshoot=max(each.overshoot for each in each_seed),
            calls=median(each.calls for each in each_seed),
            at_once=max(each.most_running for each in each_seed),
        )  # fmt: skip
    return found


def ledger_us(calls: int) -> float:
    """CPU of a call's reservation and settlement, µs."""
    account = Account("/")
    for name in range(DEPTH - 1):
        account = Account(f"/{name}", account)
    for each in account.path:
        each.limit("day", 0, 2**52)
    ledger, bound, cost = Ledger(SystemClock()), Bound(Amount(60_000, 20_000, 1), 15, 8192, 256), Amount(6000, 20_220, 1)
    begun = time.process_time()
    for _ in range(calls):
        reservation = ledger.reserve(account.path, bound)
        assert isinstance(reservation, Reservation)
        ledger.settle(reservation, cost)
    return (time.process_time() - begun) / calls * 1e6


if __name__ == "__main__":
    main("budget", __doc__ or "", measure, BARS)
