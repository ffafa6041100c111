"""Ask every question, and keep the answers beside the benchmarks."""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.rig.report import RESULTS

NAMES = ("overhead", "convoy", "local")


def main() -> None:
    """Each benchmark in a process of its own, one after the other. Exit 1 if one could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="each much sooner, with more noise")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    quick = ["--quick"] if options.quick else []
    failed = []
    for name in NAMES:
        argv = [sys.executable, "-m", f"benchmarks.{name}", *quick, "--json", str(RESULTS / f"{name}.json")]
        if subprocess.run(argv).returncode:
            failed.append(name)
    sys.exit(f"not measured: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
