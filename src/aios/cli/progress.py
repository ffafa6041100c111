"""How far something has come that takes long: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from aios.cli.show import duration, one_line, say, size

LINE_S = 3.0
BAR_CHARACTERS = 32


class Progress:
    """Counts bytes of a whole, of which `done` were there before; shows them with their rate and the seconds left."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._done = one_line(what), total, done
        self._before, self._began_s = done, time.monotonic()
        self._told_s = self._began_s
        self._bars = None
        if sys.stderr.isatty():
            name = TextColumn("{task.description}", markup=False)
            columns = (name, BarColumn(bar_width=12), DownloadColumn(), TransferSpeedColumn())
            self._bars = Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._bar = self._bars.add_task(self._what[:BAR_CHARACTERS], total=total, completed=done)

    def __enter__(self) -> Progress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()
        elif self._done > self._before:
            say(self._line())

    def advance(self, count: int) -> None:
        """So many bytes more have come."""
        self._done += count
        if self._bars:
            self._bars.advance(self._bar, count)
        elif time.monotonic() - self._told_s > LINE_S:
            self._told_s = time.monotonic()
            say(self._line())

    def _line(self) -> str:
        rate = (self._done - self._before) / max(time.monotonic() - self._began_s, 1e-3)
        left = duration((self._total - self._done) / rate)
        return f"{self._what}: {size(self._done)} of {size(self._total)}, {size(rate)}/s, {left} left"
