"""What processes print: the last lines of each, for whoever reads after a cursor."""

from __future__ import annotations

import asyncio
from collections import deque

from aios.abi.lines import visible
from aios.abi.process import LogLine, LogLines
from aios.kernel.process import Process
from aios.ports.clock import Clock
from aios.ports.host import Stream

KEPT_LINES = 1000
LINE_CHARACTERS = 4000
KEPT_CHARACTERS = 32_000_000
"""Of all processes together."""


class Log:
    """The last lines of one process, numbered from 1."""

    __slots__ = ("characters", "count", "lines", "more")

    def __init__(self) -> None:
        self.lines: deque[LogLine] = deque()
        self.characters = 0
        self.count = 0
        self.more = asyncio.Event()

    def drop_first(self) -> int:
        """Forget the oldest line; how many characters that were."""
        size = len(self.lines.popleft().text)
        self.characters -= size
        return size


class Logs:
    """The logs of all processes that printed something; beyond a bound, those that were silent longest lose lines first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logs: dict[Process, Log] = {}
        self._characters = 0

    def write(self, process: Process, stream: Stream, text: str) -> None:
        """Add lines; control sequences are made visible, so that a log cannot steer the terminal that shows it."""
        log = self._logs.pop(process) if process in self._logs else Log()
        self._logs[process] = log  # the last one is who wrote last
        for line in text.splitlines():
            shown = visible(line[:LINE_CHARACTERS])
            log.lines.append(LogLine(self._clock.now_ns(), stream, shown))
            log.count += 1
            log.characters += len(shown)
            self._characters += len(shown)
        while len(log.lines) > KEPT_LINES:
            self._characters -= log.drop_first()
        self._make_room()
        log.more.set()
        log.more = asyncio.Event()

    def _make_room(self) -> None:
        for log in self._logs.values():
            while log.lines and self._characters > KEPT_CHARACTERS:
                self._characters -= log.drop_first()
            if self._characters <= KEPT_CHARACTERS:
                return

    def read(self, process: Process, after: int, limit: int) -> LogLines:
        """Lines after a cursor that are still kept."""
        log = self._logs.get(process)
        if log is None:
            return LogLines(lines=(), next=after, ended=process.exit is not None)
        first = log.count - len(log.lines)
        start = max(after, first)
        lines = tuple(log.lines)[start - first : start - first + limit]
        end = start + len(lines)
        return LogLines(lines=lines, next=end, ended=process.exit is not None and end >= log.count)

    async def wait_for_more(self, process: Process, after: int, timeout_s: float) -> None:
        """Return when there is a line after the cursor, the process has ended, or the time is over."""
        log = self._logs.setdefault(process, Log())
        if log.count > after or process.exit is not None:
            return
        more, ended = asyncio.ensure_future(log.more.wait()), asyncio.ensure_future(process.ended.wait())
        try:
            await asyncio.wait((more, ended), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            more.cancel()
            ended.cancel()

    def forget(self, process: Process) -> None:
        log = self._logs.pop(process, None)
        self._characters -= log.characters if log is not None else 0
