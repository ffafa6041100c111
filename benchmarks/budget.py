"""Is a budget ever overspent, and how much of it is spent? 1 to 1,024 callers who share $5, through a real kernel's doors.

Callers, kernel and two servers that bill are processes of their own. Calls come at three doors, as streams and without; some
callers hang up, some answers fail or do not tell their usage, and one server dies in each run. What counts is what the servers
billed. Beside the kernel's ledger stand two ways of gateways, done by the same callers before servers that do not fail: to charge
after the call, and to reserve what is left where a call's most does not fit. In its quick form it takes one seed instead of five.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from aios.drivers.clock import SystemClock
from aios.kernel.amounts import Amount, Bound
from aios.kernel.ledger.accounts import Account
from aios.kernel.ledger.ledger import Ledger, Reservation
from benchmarks.rig.bills import LIMIT
from benchmarks.rig.budgets import Spending, Spent, spending
from benchmarks.rig.report import Bar, Findings, Row, main, median
from benchmarks.rig.spenders import Way

CALLERS = (1, 16, 64, 256, 1024)
SEEDS, QUICK_SEEDS = (1, 2, 3, 4, 5), (1,)
CONTROL, QUICK_CONTROL = (16, 64, 256, 1024), (1024,)
TEXT, QUICK_TEXT = (1, 64), (64,)
TEXT_BYTES = 4
"""Of a token of English text: of a question that goes on with nothing known, the ledger reserves for the bytes."""
DEPTH = 5
"""Accounts that pay for a call: the whole, tenant, user, agent, process."""
BARS = {
    "overshoot": Bar("at most", 0.0),
    "used": Bar("at least", 0.97),
    "refused_early": Bar("at most", 0.0),
    "charge_after_overshoot": Bar("at least", 1.0),
    "ledger_us_per_call": Bar("at most", 10),
}
MEANINGS = {
    "overshoot": "billed beyond a budget of $5 that 1 to 1,024 callers share, at real doors, the most of all seeds ÷ the budget",
    "used": "what of it the ledger has booked when all are refused, the least median over seeds",
    "used_at_first_refusal": "what of it is booked when the first call is refused, the least median over seeds",
    "used_of_text": "what of it is booked where a token has four bytes that nobody can count before, the least median over seeds",
    "billed": "what of it was billed, the least median",
    "in_full": "what of it is booked for what nobody can know: answers that break off or tell no usage are charged in full",
    "refused_early": "calls refused while what they need was only reserved",
    "charge_after_overshoot": "overshoot in the control, where calls are charged afterwards",
    "resize_overshoot": "overshoot where what is left is reserved if the most does not fit, as gateways do",
    "ledger_us_per_call": "CPU of a reservation and its settlement in five accounts with limits, µs",
}


def measure(quick: bool) -> tuple[Mapping[str, float], Sequence[Row]]:
    """The figures and the rows behind them."""
    findings, seeds = Findings(), QUICK_SEEDS if quick else SEEDS
    text_callers, control_callers = (QUICK_TEXT, QUICK_CONTROL) if quick else (TEXT, CONTROL)
    with spending() as on:
        ours = runs(on, findings, "reserved", CALLERS, seeds)
        text = runs(on, findings, "reserved, four bytes a token", text_callers, seeds, token_bytes=TEXT_BYTES)
        after = runs(on, findings, "control: charged after the call", control_callers, QUICK_SEEDS, "after")
        resized = runs(on, findings, "what is left, where the most does not fit", control_callers, QUICK_SEEDS, "resize")
    findings.figures |= {
        "overshoot": most_overshoot(ours + text),
        "used": min(median(each.booked for each in found) for found in ours),
        "billed": min(median(each.billed for each in found) for found in ours),
        "in_full": max(median(each.booked - each.billed for each in found) for found in ours),
        "used_of_text": min(median(each.booked for each in found) for found in text),
        "used_at_first_refusal": min(median(each.outcome.first_refusal / LIMIT for each in found) for found in ours),
        "refused_early": sum(each.refused_early for found in ours + text for each in found),
        "charge_after_overshoot": most_overshoot(after),
        "resize_overshoot": most_overshoot(resized),
        "ledger_us_per_call": ledger_us(20_000 if quick else 100_000),
    }
    return findings.figures, findings.rows


def runs(
    on: Spending, findings: Findings, case: str, levels: Sequence[int], seeds: Sequence[int], way: Way = "reserve",
    token_bytes: int = 1,
) -> list[list[Spent]]:  # fmt: skip
    """What came about with each number of callers, by their seeds."""
    found = []
    for callers in levels:
        found.append([on.run(callers, seed, way, token_bytes) for seed in seeds])
        tell(findings, case, callers, found[-1])
    return found


def most_overshoot(found: Iterable[Iterable[Spent]]) -> float:
    return max(each.overshoot for runs in found for each in runs)


def tell(findings: Findings, case: str, callers: int, found: list[Spent]) -> None:
    """A row of runs that differ in their seed alone: medians of what was spent, and all their calls together."""
    outcomes, tallies = [each.outcome for each in found], [each.tally for each in found]
    waiting = sum(each.outcome.early - each.tally.early for each in found)
    findings.row(
        f"{callers} callers", case, used=median(each.booked for each in found), billed=median(each.billed for each in found),
        in_full=median(each.booked - each.billed for each in found), overshoot=max(each.overshoot for each in found),
        calls=sum(each.calls for each in tallies), at_once=max(each.most_running for each in tallies), left_waiting=waiting,
        left_early=sum(each.early for each in tallies), left_midway=sum(each.midway for each in outcomes),
        refused_by_server=sum(each.busy for each in tallies), broken_off=sum(each.broken for each in tallies),
        no_usage=sum(each.silent for each in tallies), server_died=sum(each.died for each in tallies),
    )  # fmt: skip


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
