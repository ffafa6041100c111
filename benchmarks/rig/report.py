"""A benchmark's command line, and what it gathers; the form of its result is that of `aios bench` and `aios prove`."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from aios.cli.measured import Bar, Result, Row, as_json, percentile, result, rounded_to, shown, table, tables, text
from benchmarks.rig.child import Failed, raise_open_files

__all__ = [
    "RESULTS", "Bar", "Findings", "Measure", "Result", "Row", "main", "median", "percentile", "result", "rounded_to", "shown",
    "table", "tables", "text",
]  # fmt: skip

RESULTS = Path(__file__).parents[1] / "results"


class Findings:
    """What was found so far."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}
        self.rows: list[Row] = []

    def row(self, question: str, case: str, **values: float) -> None:
        self.rows.append({"question": question, "case": case, **values})


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


Measure = Callable[[bool], tuple[Mapping[str, float], Sequence[Row]]]


def main(name: str, description: str, measure: Measure, bars: Mapping[str, Bar]) -> None:
    """A benchmark's command line. Exit 1 if it could not be measured; a bar that is missed is said, and is no failure."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="much sooner, with more noise")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args()
    raise_open_files()
    try:
        found = result(name, options.quick, *measure(options.quick))
    except Failed as error:
        sys.exit(f"{name}: {error}")
    print(text(found, bars), flush=True)
    if options.json:
        options.json.write_bytes(as_json(found))
