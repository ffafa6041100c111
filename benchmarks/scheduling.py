"""Who waits how long, on recorded work? The kernel's own lanes in virtual time, under each policy.

People's chats and agents' loops made from recorded requests, and one tenant that submits a third of the agents' work in bursts.
Beside the kernel's policies stand two of the literature, one that knows the future, and the classic AIOS. In its quick form the
benchmark takes one seed, where it takes three.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from aios.kernel.lanes.elas import Elas
from aios.kernel.lanes.policies import policy_of
from aios.kernel.lanes.policy import Policy
from benchmarks.rig.child import Failed
from benchmarks.rig.decisions import decision_us
from benchmarks.rig.explained import ExplainedCore
from benchmarks.rig.mixes import Mix, Program, azure
from benchmarks.rig.report import Bar, Findings, result, text
from benchmarks.rig.rivals import BatchBarrier, Plas, Vtc, shortest_remaining
from benchmarks.rig.simulator import Declare, LaneCore, Progress, Seen, Simulation, silent
from benchmarks.rig.traces import DATA
from benchmarks.rig.turnaround import Turnaround, averaged, mean, turnaround

BARS = {
    "elas_mean_s": Bar("at most", 50.3),
    "elas_hints_mean_s": Bar("at most", 46.2),
    "elas_interactive_p90_s": Bar("at most", 0.6),
    "elas_jain": Bar("at least", 0.85),
    "reference_off": Bar("at most", 0.02),
    "elas_mean_vs_best_static": Bar("at most", 1.03),
    "explain_reason_right": Bar("at least", 1),
    "control_explain_reason_right": Bar("at most", 0.9),
    "explain_eta_within_2x": Bar("at least", 0.80),
    "decision_us_1k": Bar("at most", 20),
    "decision_us_10k_2000_tenants": Bar("at most", 45),
}
MEANINGS = {
    "elas_mean_s": "mean time of a program under `elas`, recorded chats and agents' loops at load 1.05, s",
    "elas_hints_mean_s": "the same, programs say what they need, wrong by a factor of 2.7 mostly, s",
    "fifo_mean_s": "the same under `fifo`, s",
    "fair_mean_s": "the same under `fair`, s",
    "priority_mean_s": "the same under `priority`, s",
    "plas_mean_s": "the same under PLAS (Autellix), s",
    "srpt_mean_s": "the same if the future were known, s",
    "barrier_mean_s": "the same in batches as in the classic AIOS, s",
    "elas_interactive_p90_s": "wait of people's calls beside them under `elas`, 90th percentile, s",
    "fifo_interactive_p90_s": "the same under `fifo`, s",
    "elas_jain": "how evenly tenants with work waiting are served under `elas`, 1 is even",
    "fifo_jain": "the same under `fifo`",
    "explain_reason_right": "waiting calls that got their turn for the reason that was told before, part of all",
    "control_explain_reason_right": "the same where the reason of another waiting call was told: must fail",
    "explain_eta_within_2x": "the same for how long it takes if nothing else comes, wrong by a factor of 2 at most",
    "explain_eta_within_2x_live": "the same in the run, where much else comes and goes before",
    "decision_us_1k": "CPU of a decision with 1,000 calls waiting, µs",
    "decision_us_10k_2000_tenants": "the same with 10,000 calls of 2,000 tenants, µs",
}
SEEDS, QUICK_SEEDS = (1, 2, 3), (1,)
ASKED = 1400.0
"""How often is asked why a call waits; not always one does."""
HINT_SIGMA = 1.0
"""Of the logarithm of what a program declares ÷ what it will need."""
REFERENCE = {
    "barrier": (574, 255),
    "fifo": (70.7, 40.2),
    "priority": (51.0, 0.5),
    "vtc": (65.8, 64.3),
    "plas": (50.3, 0.7),
    "elas": (49.8, 0.5),
    "elas_hints": (45.7, 0.4),
    "srpt": (39.0, 0.5),
}
"""Of the prototype that the policy was chosen by, for these seeds: mean turnaround; what people waited, 90th percentile; s."""
BESIDE = ("priority_mean_s", "plas_mean_s")


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A policy as a figure names it. `policy`: made for a simulation; None: batches behind a barrier."""

    name: str
    policy: Callable[[Simulation], Policy] | None
    declare: Declare = silent

    def run(self, offered: Sequence[Program], slots: int) -> Seen:
        simulation = Simulation(offered, self.declare)
        if self.policy is None:
            barrier = BatchBarrier(slots)
            return simulation.run(barrier, barrier.run())
        return simulation.run(LaneCore(self.policy(simulation), slots))


def hint(progress: Progress) -> float:
    """What a program says that it needs: mostly wrong by a factor of 2.7, for each the same one."""
    error = random.Random(progress.program.number * 7919 + 13).gauss(0, HINT_SIGMA)
    return progress.left_s * math.exp(error)


def kernels(name: str) -> Callable[[Simulation], Policy]:
    """A policy of the kernel, by the name that its configuration uses."""
    return lambda _: policy_of(name, {})


CASES = (
    Case("barrier", None),
    Case("fifo", kernels("fifo")),
    Case("round_robin", kernels("round-robin")),
    Case("priority", kernels("priority")),
    Case("fair", kernels("fair")),
    Case("vtc", Vtc),
    Case("plas", Plas),
    Case("elas", kernels("elas")),
    Case("elas_hints", kernels("elas"), hint),
    Case("srpt", shortest_remaining),
)


def measure(data: Path, mix: Mix, seeds: Sequence[int]) -> Findings:
    """Each case on the same work; then what a decision costs."""
    found = Findings()
    question = f"{described(mix)}; seeds {', '.join(map(str, seeds))}; s"
    for case, came in compared(data, mix, seeds).items():
        fields = msgspec.structs.asdict(came)
        found.row(question, case, **fields)
        found.figures |= {f"{case}_{name}": fields[name] for name in ("mean_s", "interactive_p90_s", "jain")}
    if mix == Mix() and tuple(seeds) == SEEDS:
        found.figures["reference_off"] = reference_off(found.figures)
    found.figures["elas_mean_vs_best_static"] = found.figures["elas_mean_s"] / min(found.figures[name] for name in BESIDE)
    progress(0, 1, "why calls wait")
    explained(data, mix, seeds[0], found)
    progress(0, 1, "what a decision costs")
    found.figures["decision_us_1k"] = max(decision_us(1000, tenants) for tenants in (1, 20))
    found.figures["decision_us_10k_2000_tenants"] = decision_us(10_000, 2000)
    progress(1, 1, "")
    return found


def explained(data: Path, mix: Mix, seed: int, found: Findings) -> None:
    """What lanes say of waiting calls, and what comes of it. The control: the same said of another call."""
    simulation = Simulation(azure(data, mix, seed))
    core = ExplainedCore(Elas(), mix.slots, simulation)
    simulation.run(core, core.ask(mix.duration_s / ASKED, seed))
    came = core.came
    found.figures["explain_asked"] = len(came)
    found.figures["explain_reason_right"] = mean([one.right for one in came])
    found.figures["control_explain_reason_right"] = mean([one.control_right for one in came])
    found.figures["explain_eta_within_2x"] = mean([one.eta_right for one in came])
    found.figures["explain_eta_within_2x_live"] = mean([one.live_eta_right for one in came])


def reference_off(figures: Mapping[str, float]) -> float:
    """By what part a mean, or a wait that can be seen, differs from the reference at most."""
    off = []
    for case, (mean_s, interactive_p90_s) in REFERENCE.items():
        off.append(abs(figures[f"{case}_mean_s"] / mean_s - 1))
        if interactive_p90_s > 1:
            off.append(abs(figures[f"{case}_interactive_p90_s"] / interactive_p90_s - 1))
    return max(off)


def compared(data: Path, mix: Mix, seeds: Sequence[int]) -> dict[str, Turnaround]:
    """What each case came to, as a mean over the seeds."""
    came: dict[str, list[Turnaround]] = {case.name: [] for case in CASES}
    for place, seed in enumerate(seeds):
        offered = azure(data, mix, seed)
        for number, case in enumerate(CASES):
            progress(place * len(CASES) + number, len(seeds) * len(CASES), f"seed {seed}, {case.name}")
            came[case.name].append(turnaround(case.run(offered, mix.slots)))
    return {name: averaged(runs) for name, runs in came.items()}


def described(mix: Mix) -> str:
    return "azure mix: " + ", ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(mix).items())


def progress(done: int, of: int, doing: str) -> None:
    """A bar for people, while there is one who sees it."""
    if sys.stderr.isatty():
        filled = 30 * done // of
        end = "\n" if done == of else ""
        print(f"\r[{'#' * filled}{'.' * (30 - filled)}] {doing:<24}", end=end, file=sys.stderr, flush=True)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed instead of three")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    parser.add_argument("--data", type=Path, metavar="DIR", default=DATA, help="where the traces are (%(default)s)")
    parser.add_argument("--seeds", type=numbers, metavar="N,N", help="which mixes are made of them")
    for field in dataclasses.fields(Mix):
        name = "--" + field.name.removesuffix("_s").replace("_", "-")
        parser.add_argument(name, dest=field.name, type=type(field.default), default=field.default, help="(%(default)s)")
    return parser


def numbers(listed: str) -> tuple[int, ...]:
    return tuple(map(int, listed.split(",")))


def main() -> None:
    asked = options().parse_args()
    mix = Mix(**{field.name: getattr(asked, field.name) for field in dataclasses.fields(Mix)})
    seeds = asked.seeds or (QUICK_SEEDS if asked.quick else SEEDS)
    try:
        findings = measure(asked.data, mix, seeds)
    except Failed as error:
        sys.exit(f"scheduling: {error}")
    found = result("scheduling", asked.quick, findings.figures, findings.rows)
    print(text(found, BARS), flush=True)
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")


if __name__ == "__main__":
    main()
