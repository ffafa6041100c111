"""Is a call dearer than it was at an earlier commit?

A kernel of this tree and two of the commit stand before the same upstream and get the same calls in turns, in small batches: a
machine that is slower for a while is so for all. What counts is the CPU of the kernels' processes, batch by batch. The second
kernel of the commit is the control: how far two that are the same lie apart.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aios.cli.measured import as_json
from benchmarks.overhead import CALL, CORES, DOORS, TOKENS
from benchmarks.rig.child import Child, Failed, raise_open_files
from benchmarks.rig.client import Client, Plan
from benchmarks.rig.kernel import kernel
from benchmarks.rig.report import Bar, Findings, median, result, text
from benchmarks.rig.stage import Stage, plan

ROOT = Path(__file__).parents[1]
BEFORE = "674045b6025e24b486ec7129d2ede8506e116c51"
"""The last commit without budgets: what they cost those calls that none holds for."""
WARM, CALLS, STREAMS = 2000, 2000, 8
QUICK_ROUNDS, ROUNDS = 4, 30

BARS = {f"{door}{what}_vs_before": Bar("at most", 1.05) for door in DOORS for what in ("call", "chunk")}
MEANINGS = {
    "call_vs_before": "CPU of a call ÷ what it was before there were budgets, no limit holding for it",
    "messages_call_vs_before": "the same of a call on Anthropic's wire",
    "responses_call_vs_before": "the same of a call on Responses",
    "chunk_vs_before": "CPU of a streamed token ÷ what it was then",
    "messages_chunk_vs_before": "the same on Anthropic's wire",
    "responses_chunk_vs_before": "the same on Responses",
    "control_call_vs_before": "the same of two kernels that are the same, how far they lie apart",
}


def there(commit: str) -> bool:
    """Whether this clone has a commit."""
    asked = ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        return subprocess.run(asked, capture_output=True).returncode == 0
    except OSError:
        return False


@contextmanager
def sources(commit: str) -> Iterator[Path]:
    """The package as it was at a commit. Raises `Failed` where that is not there."""
    if not there(commit):
        raise Failed(f"this clone has no commit `{commit}`")
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "src"], capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="aios-before-") as folder, tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
        yield Path(folder) / "src"


def measure(commit: str, quick: bool) -> Findings:
    """The CPU of each kernel, and its ratio to that of the commit's first."""
    found = Findings()
    with ExitStack() as open:
        before = open.enter_context(sources(commit))
        upstream, client = open.enter_context(Child("benchmarks.rig.upstream")), open.enter_context(Client())
        stages = {
            name: Stage(upstream, client, open.enter_context(kernel(upstream.port, CORES, source)))
            for name, source in (("before", before), ("control", before), ("now", None))
        }
        for door, path in DOORS.items():
            call = plan(CALL, 64, CALLS, path=path)
            for on in stages.values():
                on.mediated(plan(CALL, 64, WARM, path=path))
            compare(stages, call, f"{door}call", 1, QUICK_ROUNDS if quick else ROUNDS, found)
            chunk = plan(TOKENS, 8, STREAMS, stream=True, path=path)
            compare(stages, chunk, f"{door}chunk", TOKENS.pieces, QUICK_ROUNDS if quick else ROUNDS, found)
    return found


def compare(stages: Mapping[str, Stage], load: Plan, name: str, pieces: int, rounds: int, found: Findings) -> None:
    """The same load through each kernel, forwards and backwards in turns."""
    costs: dict[str, list[float]] = {each: [] for each in stages}
    for at in range(rounds):
        for each in list(stages) if at % 2 == 0 else reversed(list(stages)):
            stages[each].mediated(load)
            costs[each].append(stages[each].cpu_us / pieces)
    now, control = (median(ratios(costs[each], costs["before"])) for each in ("now", "control"))
    found.figures |= {f"{name}_vs_before": now, f"control_{name}_vs_before": control}
    medians = {each: median(values) for each, values in costs.items()}
    found.row("CPU, µs", name.replace("_", ", "), **medians, ratio=now, control_ratio=control)


def ratios(costs: Sequence[float], to: Sequence[float]) -> list[float]:
    return [cost / other for cost, other in zip(costs, to, strict=True)]


def main() -> None:
    """The command line. Exit 1 if it could not be measured; a bar that is missed is said, and is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("commit", nargs="?", default=BEFORE, help="an earlier one (the last without budgets)")
    parser.add_argument("--quick", action="store_true", help="much sooner, with more noise")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args()
    raise_open_files()
    try:
        found = measure(options.commit, options.quick)
    except Failed as error:
        sys.exit(f"against: {error}")
    written = result("against", options.quick, found.figures, found.rows)
    print(text(written, BARS), flush=True)
    if options.json:
        options.json.write_bytes(as_json(written))


if __name__ == "__main__":
    main()
