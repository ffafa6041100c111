"""What a proof of a promise is: figures with what they must reach, and the same without the mechanism, where it must fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from aios.cli.measured import Bar, Result, Row, result, rounded_to, table

Bars = Mapping[str, Bar]


class Control(msgspec.Struct, frozen=True):
    """The same with the mechanism off. `without`: what was off; `holds`: whether the promise held all the same."""

    without: str
    figures: dict[str, float]
    holds: bool


class Proof(Result, frozen=True):
    """What was found. `holds`: the figures reach what they must, and those of the control do not."""

    holds: bool
    control: Control


def proof(name: str, bars: Bars, on: Mapping[str, float], rows: Sequence[Row], without: str, off: Mapping[str, float]) -> Proof:
    """The verdict on the figures with the mechanism, and on those without it."""
    found = result(name, False, on, rows)
    control = Control(without, {figure: rounded_to(value, 4) for figure, value in off.items()}, reaches(off, bars))
    return Proof(**msgspec.structs.asdict(found), holds=reaches(on, bars) and not control.holds, control=control)


def reaches(figures: Mapping[str, float], bars: Bars) -> bool:
    """Whether every figure is what it must be."""
    return all(bar.holds(figures[name]) for name, bar in bars.items())


def text(found: Proof, bars: Bars, meanings: Mapping[str, str]) -> str:
    """A proof for people: each figure with the control's beside it, and the verdict in a sentence."""
    lines: list[Row] = []
    for name, meaning in meanings.items():
        bar, off = bars.get(name), found.control.figures.get(name)
        must = f"{bar.way} {bar.value:g}" if bar else ""
        lines.append({"": meaning, "measured": found.figures[name], "must be": must, "control": "" if off is None else off})
    return f"{table(lines)}\n\n{found.name} {verdict(found)}"


def verdict(found: Proof) -> str:
    """Whether it holds, and if not, why."""
    if found.holds:
        return f"holds, and fails in the control: {found.control.without}"
    if found.control.holds:
        return f"proves nothing: it holds in the control as well ({found.control.without})"
    return "does not hold"
