"""What is said where there is nothing to hold a kernel against, and how two are compared."""

import subprocess
import sys
from pathlib import Path

from benchmarks.against import ratios, there

ROOT = Path(__file__).parents[2]


def test_a_commit_that_is_not_there_is_said() -> None:
    assert not there("0" * 40) and not there("--help")
    asked = [sys.executable, "-m", "benchmarks.against", "no-such-commit"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "against: this clone has no commit `no-such-commit`\n")


def test_costs_are_held_against_those_of_the_same_turn() -> None:
    """A machine that is slower for a turn is so for both."""
    assert ratios([10, 30, 20], [10, 20, 10]) == [1, 1.5, 2]
