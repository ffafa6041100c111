"""What a background response has told: its events are kept, so that a reader can come, go, and come again."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any

from aios.server.exchange import Writer

MAX_LOG_BYTES = 4 * 1024 * 1024
"""Of events that one response keeps; of a longer one they are forgotten, and only the whole can be asked for."""
SLICE_BYTES = 256 * 1024
END = b"\n\n"
"""Of an event."""


class Log:
    """The events of one response as they are told, by their numbers, which are their places."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("L")
        self._readers: list[asyncio.Future[None]] = []
        self.lost = False
        self.over = False

    @property
    def size_bytes(self) -> int:
        return len(self._bytes) + len(self._ends) * self._ends.itemsize

    @property
    def events(self) -> int:
        return len(self._ends)

    def add(self, said: bytes) -> None:
        """Add events."""
        if not self.lost and len(self._bytes) + len(said) > MAX_LOG_BYTES:
            self.lose()
        if self.lost:
            return
        begun, at = len(self._bytes), 0
        while (found := said.find(END, at)) >= 0:
            at = found + len(END)
            self._ends.append(begun + at)
        self._bytes += said
        self._wake()

    def lose(self) -> None:
        """Keep no events: there is no room for them."""
        self.lost = True
        self._bytes, self._ends = bytearray(), array("L")
        self._wake()

    def end(self) -> None:
        """No more will come."""
        self.over = True
        self._wake()

    async def read(self, after: int, writer: Writer) -> bool:
        """Write the events after a number, and those that come, until the last. False if they were lost on the way.

        The reader must be within the events that there are.
        """
        at = self._ends[after] if after >= 0 else 0
        while not self.lost:
            if at < len(self._bytes):
                said = bytes(self._bytes[at : at + SLICE_BYTES])
                at += len(said)
                room = writer.write(said)
                if room is not None:
                    await room
            elif self.over:
                return True
            else:
                await self._more()
        return False

    async def _more(self) -> None:
        more = asyncio.get_running_loop().create_future()
        self._readers.append(more)
        try:
            await more
        finally:
            if more in self._readers:
                self._readers.remove(more)

    def _wake(self) -> None:
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
        self._readers.clear()


class Run:
    """One response under way in the background, and afterwards its events. `task` makes it; `ticket`: its call's id."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.log = Log()
        self._task = task
        self.ticket = ""

    @property
    def over(self) -> bool:
        return self.log.over

    async def cancel(self) -> None:
        """End it, and return when it has ended."""
        if not self.over:
            self._task.cancel()
            await asyncio.wait((self._task,))
