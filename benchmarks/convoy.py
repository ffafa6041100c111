"""Do short calls wait behind long ones?

Five callers of 20 ms calls beside one call of 5 s, directly and through the kernel, in turns. The control has a core with so
few turns that the short calls must stand in line: if the figure does not show that, it shows nothing.
"""

from __future__ import annotations

from benchmarks.rig.client import Outcome, Plan
from benchmarks.rig.kernel import Core
from benchmarks.rig.report import Bar, Row, main, median, percentile
from benchmarks.rig.stage import Stage, plan, stage
from benchmarks.rig.work import Work

BARS = {"short_p50_vs_direct": Bar("at most", 1.1)}
MEANINGS = {"short_p50_vs_direct": "median of 20 ms calls beside a 5 s call, through the kernel ÷ direct"}

SHORT, LONG = Work("eight", 20), Work("eight", 5000)
NARROW_SHORT, NARROW_LONG = Work("narrow", 20), Work("narrow", 5000)
CORES = (Core("eight", 8, (SHORT, LONG)), Core("narrow", 1, (NARROW_SHORT, NARROW_LONG)))
CALLERS = 5
QUICK_ROUNDS, ROUNDS = 2, 5


def measure(quick: bool) -> tuple[dict[str, float], list[Row]]:
    """The short calls' latency, mediated and direct, with and without the long one."""
    with stage(CORES) as on:
        alone = plan(SHORT, CALLERS, 500)
        direct_alone, mediated_alone = on.direct(alone), on.mediated(alone)
        direct, mediated = [], []
        for _ in range(QUICK_ROUNDS if quick else ROUNDS):
            direct.append(convoy(on, on.upstream.port, "", SHORT, LONG))
            mediated.append(convoy(on, on.kernel.port, on.kernel.token, SHORT, LONG))
        control = convoy(on, on.kernel.port, on.kernel.token, NARROW_SHORT, NARROW_LONG)
    rows = [
        row("short calls alone", direct_alone, mediated_alone),
        row("beside one of 5 s", direct[-1], mediated[-1]),
        row("control: one turn left beside it", direct[-1], control),
    ]
    base_s = median(p50_s(outcome) for outcome in direct)
    figures = {
        "short_p50_vs_direct": median(p50_s(outcome) for outcome in mediated) / base_s,
        "short_p99_vs_direct": median(p99_s(o) for o in mediated) / median(p99_s(o) for o in direct),
        "control_short_p50_vs_direct": p50_s(control) / base_s,
        "short_p50_ms": median(p50_s(outcome) for outcome in mediated) * 1000,
    }
    return figures, rows


def convoy(on: Stage, port: int, token: str, short: Work, long: Work) -> Outcome:
    """The short calls that end while a long one runs."""
    beside = Plan(port=port, token=token, work=long)
    # As many as fit into the long one's time, were each twice as slow as it should be.
    calls = long.delay_ms // short.delay_ms * CALLERS // 2
    if short is NARROW_SHORT:
        calls //= CALLERS
    before = on.counts()
    on.client.begin(beside, Plan(port=port, token=token, work=short, agents=CALLERS, calls=calls))
    _, found = on.client.end()
    on.check_all_answered(before, calls + 1)
    return found


def p50_s(outcome: Outcome) -> float:
    return percentile(outcome.latencies_s, 50)


def p99_s(outcome: Outcome) -> float:
    return percentile(outcome.latencies_s, 99)


def row(case: str, direct: Outcome, mediated: Outcome) -> Row:
    """One case, for people."""
    values = {"direct_p50_ms": p50_s(direct), "kernel_p50_ms": p50_s(mediated)}
    values |= {"direct_p99_ms": p99_s(direct), "kernel_p99_ms": p99_s(mediated)}
    ratio = p50_s(mediated) / p50_s(direct)
    return {
        "question": "latency of 20 ms calls",
        "case": case,
        **{name: seconds * 1000 for name, seconds in values.items()},
        "ratio_p50": ratio,
    }


if __name__ == "__main__":
    main("convoy", "Do short calls wait behind long ones?", measure, BARS)
