"""The README's figures: printed from the committed results, between two marks.

`python -m benchmarks.figures` writes them into README.md, `--check` fails if they are not what stands there.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from aios.cli import hog, overspend
from benchmarks import against, budget, convoy, local, overhead, scheduling
from benchmarks.rig.report import RESULTS, Bar, Result, shown

README = Path(__file__).parents[1] / "README.md"
MARKED = re.compile(r"(<!-- figures -->\n).*?(<!-- /figures -->)", re.DOTALL)
BARS: Mapping[str, Mapping[str, Bar]] = {
    "overhead": overhead.BARS,
    "against": against.BARS,
    "convoy": convoy.BARS,
    "local": local.BARS,
    "scheduling": scheduling.BARS,
    "hog": hog.BARS,
    "budget": budget.BARS,
    "overspend": overspend.BARS,
}
MEANINGS: Mapping[str, Mapping[str, str]] = {
    "overhead": overhead.MEANINGS,
    "against": against.MEANINGS,
    "convoy": convoy.MEANINGS,
    "local": local.MEANINGS,
    "scheduling": scheduling.MEANINGS,
    "hog": {name: hog.MEANINGS[name] for name in hog.BARS},
    "budget": budget.MEANINGS,
    "overspend": {name: overspend.MEANINGS[name] for name in overspend.BARS},
}


class Stale(Exception):
    """The README does not say what the results say."""


def committed(folder: Path = RESULTS) -> list[Result]:
    """The results that stand beside the benchmarks, by name."""
    return [msgspec.json.decode(file.read_bytes(), type=Result) for file in sorted(folder.glob("*.json"))]


def rendered(results: Sequence[Result]) -> str:
    """The figures that have a meaning for a reader, as a Markdown table, and where they were measured."""
    lines = ["| figure | measured | must be |", "|---|---:|---|"]
    for found in results:
        bars = BARS.get(found.name, {})
        for figure, meaning in MEANINGS.get(found.name, {}).items():
            if figure in found.figures:
                bar = bars.get(figure)
                asked = f"{bar.way} {bar.value:g}" if bar else ""
                lines.append(f"| {meaning} (`{found.name}`: `{figure}`) | {shown(found.figures[figure])} | {asked} |")
    lines += ["", *dict.fromkeys(map(origin, results))]
    return "\n".join(lines) + "\n"


def origin(found: Result) -> str:
    """Where and when, in a sentence."""
    machine = found.machine
    where = f"{machine['cpu']}, {machine['cores']:g} cores, {machine['system']}, {machine['python']}"
    return f"`{found.name}`: {found.date[:10]} on {where}."


def placed(readme: str, figures: str) -> str:
    """The README with these figures between its marks. Raises `Stale` without marks."""
    if not MARKED.search(readme):
        raise Stale("README.md has no place for figures: `<!-- figures -->` and `<!-- /figures -->` on lines of their own")
    return MARKED.sub(lambda match: match.group(1) + figures + match.group(2), readme)


def update(readme: Path, results: Sequence[Result], check: bool) -> str:
    """Write the figures, or check that they stand there; what was done. Raises `Stale`."""
    if not readme.is_file():
        return "there is no README.md to put figures into"
    before = readme.read_text()
    after = placed(before, rendered(results))
    if after == before:
        return "the figures stand in README.md"
    if check:
        raise Stale("README.md has other figures than benchmarks/results: run `python -m benchmarks.figures`")
    readme.write_text(after)
    return "the figures were written into README.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if README.md is stale")
    options = parser.parse_args()
    try:
        print(update(README, committed(), options.check))
    except Stale as stale:
        sys.exit(str(stale))


if __name__ == "__main__":
    main()
