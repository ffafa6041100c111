"""The event log: what happened, in order, for whoever reads after a cursor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aios.abi.event import AnyEvent
from aios.ports.clock import Clock

SCANNED = 4096
"""Events that are looked at in one turn of the loop."""
KEPT = 50_000
"""Events kept in memory at least, and twice as many at most; a reader who is further behind is told how many it lost."""


class EventLog:
    """Appends events and wakes readers. Sequence numbers start at 1 and have no gaps."""

    def __init__(self, clock: Clock, kept: int = KEPT) -> None:
        self._clock = clock
        self._kept = kept
        self._events: list[AnyEvent] = []
        self._first = 1
        self._readers: set[asyncio.Future[None]] = set()

    @property
    def last(self) -> int:
        """The sequence number of the newest event; 0 if there is none."""
        return self._first + len(self._events) - 1

    @property
    def next(self) -> int:
        """The sequence number that the next event gets."""
        return self._first + len(self._events)

    def add(self, kind: Callable[..., AnyEvent], **fields: Any) -> None:
        """Append an event of a kind; sequence and time are the log's."""
        self.append(kind(seq=self.next, at_ns=self._clock.now_ns(), **fields))

    def append(self, event: AnyEvent) -> None:
        """Append an event whose `seq` is `next`."""
        self._events.append(event)
        if len(self._events) >= 2 * self._kept:
            self._first += self._kept
            del self._events[: self._kept]
        if self._readers:
            self._wake()

    def _wake(self) -> None:
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
        self._readers.clear()

    def after(self, cursor: int, limit: int, wanted: Callable[[AnyEvent], bool]) -> tuple[list[AnyEvent], int, int]:
        """Up to `limit` wanted events after a cursor, the cursor after them, and how many were forgotten unread.

        Looks at so many events as the loop has time for; the cursor tells how far it got.
        """
        lost = max(0, self._first - 1 - cursor)
        found: list[AnyEvent] = []
        place = max(0, cursor - self._first + 1)
        end = min(len(self._events), place + SCANNED)
        while place < end and len(found) < limit:
            if wanted(self._events[place]):
                found.append(self._events[place])
            place += 1
        return found, max(cursor, self._first + place - 1), lost

    async def wait_for_more(self, cursor: int, timeout_s: float) -> None:
        """Return when there is an event after the cursor, or the time is over."""
        if self.last > cursor:
            return
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.add(reader)
        try:
            async with asyncio.timeout(timeout_s):
                await reader
        except TimeoutError:
            pass
        finally:
            self._readers.discard(reader)
