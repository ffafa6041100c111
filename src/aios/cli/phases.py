"""Which of its phases something is in that takes a minute: a moving line on a terminal, a line for each elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from aios.cli.show import duration, one_line, say


class Phases:
    """Tells people on stderr what is being done, and for how long already."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        console = Console(stderr=True)
        self._bars: Bars | None = None
        if console.is_terminal:
            self._bars = Bars(
                SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), console=console
            )
            self._bar = self._bars.add_task("", total=None)

    def begin(self, what: str) -> None:
        """The next phase."""
        if self._bars is not None:
            self._bars.update(self._bar, description=one_line(what))
        else:
            say(f"{duration(time.monotonic() - self._began):>6}  {what}")

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()
