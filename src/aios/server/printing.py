"""What children print, on its way to the kernel's logs: so many lines per second, of so many characters."""

from __future__ import annotations

import asyncio

from aios.ports.host import Stream
from aios.ports.kernel import Kernel

LINES_PER_S = 1000
MAX_LINE_CHARACTERS = 8192


class Printing:
    """The lines of one child. What is too much is dropped, and how much that was is told."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._loop = asyncio.get_running_loop()
        self._window_ends_s = 0.0
        self._left = 0
        self._dropped = 0

    def line(self, pid: str, stream: Stream, line: str) -> None:
        """A line of a process in the child."""
        now_s = self._loop.time()
        if now_s >= self._window_ends_s:
            self._window_ends_s, self._left = now_s + 1.0, LINES_PER_S
        if self._left == 0:
            self._dropped += 1
            return
        self._left -= 1
        self.end(pid)
        self._kernel.printed(pid, stream, line[:MAX_LINE_CHARACTERS])

    def end(self, pid: str) -> None:
        """Say how many lines were dropped, if any were."""
        if self._dropped:
            text = f"... {self._dropped} lines were dropped: more than {LINES_PER_S} per second"
            self._dropped = 0
            self._kernel.printed(pid, "err", text)
