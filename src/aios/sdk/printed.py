"""What agents print goes to the log of the one that prints it, though they share a process."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal, TextIO

from aios.abi.lines import LineCutter

StreamName = Literal["out", "err"]
Said = Callable[[StreamName, str], None]

MAX_WAITING_CHARS = 1 << 20
MAX_FRAME_CHARS = 1 << 15


class Printed:
    """The printed lines of one agent, until `take`n. Any thread may write; `waiting` is called when there is something new."""

    def __init__(self, waiting: Callable[[], object]) -> None:
        self._waiting = waiting
        self._lock = threading.Lock()
        self._cutters: dict[StreamName, LineCutter] = {"out": LineCutter(), "err": LineCutter()}
        self._lines: list[tuple[StreamName, str]] = []
        self._chars = self._dropped = 0

    def write(self, stream: StreamName, text: str) -> None:
        """Take text; above the cap, lines that nobody has fetched yet push new ones out, which is said."""
        with self._lock:
            before = bool(self._lines)
            self._add(stream, self._cutters[stream].feed(text))
            news = bool(self._lines) and not before
        if news:
            self._waiting()

    def end(self) -> None:
        """No more comes: a line without an end is one too."""
        with self._lock:
            for stream, cutter in self._cutters.items():
                self._add(stream, cutter.end())

    def take(self, said: Said) -> None:
        """Tell the lines, many in one text."""
        with self._lock:
            lines, self._lines, self._chars = self._lines, [], 0
            if self._dropped:
                lines.append(("err", f"... {self._dropped} lines were dropped: printed faster than they could be told"))
                self._dropped = 0
        part: list[str] = []
        size = 0
        for number, (stream, line) in enumerate(lines):
            part.append(line)
            size += len(line)
            if number + 1 == len(lines) or lines[number + 1][0] != stream or size > MAX_FRAME_CHARS:
                said(stream, "\n".join(part))
                part, size = [], 0

    def _add(self, stream: StreamName, lines: list[str]) -> None:
        for line in lines:
            if self._chars > MAX_WAITING_CHARS:
                self._dropped += 1
            else:
                self._lines.append((stream, line))
                self._chars += len(line) + 1


printing: ContextVar[Printed | None] = ContextVar("printing", default=None)
"""Whose code runs: tasks and threads that an agent starts inherit it."""


class _Routed(io.TextIOBase):
    """Stands for `sys.stdout` or `sys.stderr`: to the log of the agent that writes, outside of agents to the real one."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, stream: StreamName, real: TextIO) -> None:
        self._stream, self._real = stream, real

    def write(self, text: str) -> int:
        printed = printing.get()
        if printed is None:
            return self._real.write(text)
        printed.write(self._stream, text)
        return len(text)

    def flush(self) -> None:
        if printing.get() is None:
            self._real.flush()

    def fileno(self) -> int:
        return self._real.fileno()

    def writable(self) -> bool:
        return True


def route_printing() -> None:
    """From now on, `print` in an agent's code goes to that agent's log."""
    sys.stdout = _Routed("out", sys.stdout)
    sys.stderr = _Routed("err", sys.stderr)
