"""What a turn of the loop has to send, sent together at its end.

A write wakes whoever reads it, which costs more than the write; one that follows at once finds the reader awake. Where many calls
are under way, a turn ends some and begins others: sent together, they wake each reader once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("aios")


class Outbox:
    """Collects what is to be done at the end of the turn, and does it in that order; what is added meanwhile is done too."""

    __slots__ = ("_acts", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._acts: list[Callable[[], None]] = []

    def add(self, act: Callable[[], None]) -> None:
        if not self._acts:
            self.loop.call_soon(self._send)
        self._acts.append(act)

    def _send(self) -> None:
        for act in self._acts:
            try:
                act()
            except Exception:
                log.exception("something was not sent")
        self._acts.clear()
