"""Ask every question, and keep the answers beside the benchmarks."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from aios.cli.command import UNVERIFIED
from benchmarks.against import BEFORE, there
from benchmarks.rig.report import RESULTS
from benchmarks.rig.traces import DATA

NAMES = ("overhead", "against", "convoy", "local", "scheduling", "budget")
READING = ("scheduling",)
"""Those that read recorded work."""
PROOFS = ("hog", "overspend")
"""Of `aios prove`, whose results have the same form."""


def main() -> None:
    """Each benchmark and proof in a process of its own, one after the other; what reads what is not there is left out.

    Exit 1 if one could not be measured.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="each much sooner, with more noise")
    parser.add_argument("--data", type=Path, metavar="DIR", default=DATA, help="where recorded work is (%(default)s)")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    quick = ["--quick"] if options.quick else []
    failed = []
    for name in NAMES:
        if name in READING and not options.data.is_dir():
            print(f"{name} is left out: there is no `{options.data}`, see `python -m benchmarks.{name}`\n")
            continue
        if name == "against" and not there(BEFORE):
            print(f"against is left out: this clone does not have the commit {BEFORE[:7]}\n")
            continue
        data = ["--data", str(options.data)] if name in READING else []
        argv = [sys.executable, "-m", f"benchmarks.{name}", *quick, *data, "--json", str(RESULTS / f"{name}.json")]
        if subprocess.run(argv).returncode:
            failed.append(name)
    for name in PROOFS:
        argv = [sys.executable, "-m", "aios", "prove", name, "--json", str(RESULTS / f"{name}.json")]
        if subprocess.run(argv).returncode not in (0, UNVERIFIED):
            failed.append(name)
    sys.exit(f"not measured: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
