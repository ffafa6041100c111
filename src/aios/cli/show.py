"""How things look: tables, durations, JSON, and the text of others, which must not steer the terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import msgspec

from aios.abi.lines import visible
from aios.abi.process import ProcessInfo
from aios.abi.waits import Wait

COLOURS = {"interactive": "blue", "standard": "green", "batch": "yellow", "✕ failed": "red", "down": "red", "fail": "red"}
"""Colour is the class's; red is for what failed."""

GLYPHS = {
    "queued": "○",
    "running": "●",
    "blocked": "◐",
    "parked": "◐",
    "sleeping": "·",
    "suspended": "‖",
    "idle": "·",
    "done": "✓",
    "failed": "✕",
    "killed": "✕",
}


def one_line(text: str) -> str:
    """The text as one line that cannot steer the terminal."""
    return text if text.isprintable() else visible(text.replace("\n", " ").replace("\t", " "))


def json_text(value: Any) -> str:
    """A value of the contract as JSON, the same as over HTTP; indented on a terminal, and harmless there."""
    text = msgspec.json.encode(value)
    if sys.stdout.isatty():
        text = msgspec.json.format(text, indent=2)
    return visible(text.decode(), _escaped)


def _escaped(character: str) -> str:
    """As in a JSON string; beyond 16 bits by two halves."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def put_json(value: Any) -> None:
    """Print a value of the contract as JSON."""
    click.echo(json_text(value))


def say(text: str) -> None:
    """Words for a person, some of which may be others': on stderr, so that stdout holds data only."""
    click.echo(visible(text), err=True)


def duration(seconds: float) -> str:
    """`40 ms`, `0.8 s`, `12 s`, `2 m 10 s`, `3 h 4 m`, `5 d 2 h`."""
    if seconds < 0.0995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, below, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {below}"
    return f"{whole} s"


def since(ns: int, until_ns: int | None = None) -> str:
    """How long ago a moment was (nanoseconds UTC), or how long it was until another."""
    return duration(((time.time_ns() if until_ns is None else until_ns) - ns) / 1e9)


def clock(ns: int) -> str:
    """A moment (nanoseconds UTC) as local time of day, to the millisecond."""
    return time.strftime("%H:%M:%S", time.localtime(ns // 10**9)) + f".{ns // 10**6 % 1000:03d}"


def size(count: float) -> str:
    """Bytes in decimal units: `94 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def state_of(process: ProcessInfo) -> str:
    """A process's state as glyph and word."""
    return f"{GLYPHS.get(process.word, '◐')} {process.word}"


def wait_of(wait: Wait | None) -> str:
    """What is waited for, who holds it, and how long still; empty if nothing is."""
    if wait is None:
        return ""
    holder = f", held by {wait.holder}" if wait.holder and not wait.is_reason else ""
    eta = f", about {duration(wait.eta_s)} left" if wait.eta_s is not None else ""
    return f"{wait.on}{holder}{eta} ({wait.code})"


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], colours: Mapping[str, str] = COLOURS, spare: Sequence[str] = ()
) -> None:
    """Print rows in aligned columns: cut to the terminal's width there, whole and without colour in a pipe.

    `spare`: columns that are left out where there is no room for all, the first one first.
    """
    lines = [tuple(headers), *(tuple(one_line(cell) for cell in row) for row in rows)]
    terminal = sys.stdout.isatty()
    limit = shutil.get_terminal_size().columns if terminal else None
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for header in spare if limit else ():
        if sum(widths) + 2 * len(widths) - 2 > (limit or 0):
            at = lines[0].index(header)
            lines = [line[:at] + line[at + 1 :] for line in lines]
            del widths[at]
    out = []
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        if limit and len(text) > limit:
            text = text[: limit - 1] + "…"
        out.append(_painted(text, line, colours) if terminal and number else text)
    click.echo("\n".join(out))


def _painted(text: str, cells: Sequence[str], colours: Mapping[str, str]) -> str:
    """The line with those cells coloured that have a colour of their own."""
    for cell in cells:
        if cell in colours and f"  {cell}" in text:
            text = text.replace(f"  {cell}", "  " + click.style(cell, fg=colours[cell]), 1)
    return text
