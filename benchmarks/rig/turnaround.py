"""What a simulated run came to: how long programs and people waited, and how evenly tenants were served."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from benchmarks.rig.report import percentile
from benchmarks.rig.simulator import SAMPLE_S, WINDOW_S, Progress, Seen

BACKLOGGED = 0.8
"""Of a window's samples, in which a tenant had calls waiting."""


class Turnaround(msgspec.Struct, frozen=True):
    """Seconds, of programs from arrival to end and of calls until their turn. `jain`: of the service of tenants that had work
    waiting, by windows: 1 is even.
    """

    mean_s: float
    p95_s: float
    agent_mean_s: float
    batch_mean_s: float
    interactive_p90_s: float
    interactive_p99_s: float
    longest_wait_s: float
    jain: float


def turnaround(seen: Seen) -> Turnaround:
    took_s = [took(progress) for progress in seen.progress]
    interactive = seen.waits_s["interactive"] or [0.0]
    return Turnaround(
        mean_s=mean(took_s),
        p95_s=percentile(took_s, 95),
        agent_mean_s=mean([took(progress) for progress in seen.progress if progress.program.cls == "standard"]),
        batch_mean_s=mean([took(progress) for progress in seen.progress if progress.program.cls == "batch"]),
        interactive_p90_s=percentile(interactive, 90),
        interactive_p99_s=percentile(interactive, 99),
        longest_wait_s=max(max(waits) for waits in seen.waits_s.values()),
        jain=evenness(seen),
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def took(progress: Progress) -> float:
    assert progress.ended_s is not None, "the run is over"
    return progress.ended_s - progress.program.arrives_s


def evenness(seen: Seen) -> float:
    """The mean over windows of Jain's index (Jain et al. 1984) of the service that backlogged tenants got."""
    found = []
    for window, waited in seen.waited.items():
        backlogged = [tenant for tenant, samples in waited.items() if samples >= BACKLOGGED * WINDOW_S / SAMPLE_S]
        if len(backlogged) >= 2:
            found.append(jain([seen.served_s[window][tenant] for tenant in backlogged]))
    return mean(found)


def jain(shares: Sequence[float]) -> float:
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def averaged(found: Sequence[Turnaround]) -> Turnaround:
    """The mean of several runs."""
    fields = [msgspec.structs.asdict(one) for one in found]
    return Turnaround(**{name: mean([one[name] for one in fields]) for name in fields[0]})
