"""What the kernel has said and the host has not done yet, in the order in which it is done.

To read a question of a hundred thousand characters, or a big schema, takes the time of many passes. So what took long is followed
by passes for as long, where there is work for them, before the next such thing: whoever sends nothing else slows the others to
half their speed and not to a standstill. What is done at once, as ending a call, overtakes what waits, but for its own call's
opening, which it follows before the next pass. Calls and questions of size take turns: there are many of these at once, and of
those no more than slots.
"""

from __future__ import annotations

from collections import deque

from aios.drivers.core.local.protocol import Abort, Ack, Command, Freeze, Measure, Open, Thaw, Weigh

QUICK_S = 0.01
"""So long a command may take without passes being owed for it: that is about one pass."""


class Inbox:
    """Commands that wait."""

    def __init__(self) -> None:
        self._quick: deque[Command] = deque()
        self._calls: deque[Open | Weigh] = deque()
        self._asks: deque[Command] = deque()
        self._asks_turn = False
        self._opening: dict[int, list[Command]] = {}
        """The calls whose opening waits, with what was said of each since."""
        self._owed_s = 0.0

    def __bool__(self) -> bool:
        return bool(self._quick or self._calls or self._asks)

    def add(self, commands: list[Command]) -> None:
        """Take what the kernel says."""
        for command in commands:
            match command:
                case Open() | Weigh():
                    self._opening[command.call] = []
                    self._calls.append(command)
                case Measure():
                    self._asks.append(command)
                case Ack() | Abort() | Freeze() | Thaw() if command.call in self._opening:
                    self._opening[command.call].append(command)
                case _:
                    self._quick.append(command)

    def freezing(self) -> set[int]:
        """The calls that are to be frozen before the next pass."""
        return {command.call for command in self._quick if isinstance(command, Freeze)}

    def next(self, *, busy: bool) -> Command | None:
        """The next command to do before the next pass; None if there is none. `busy`: there is work for a pass."""
        if self._quick:
            return self._quick.popleft()
        if not self or (busy and self._owed_s > 0):
            return None
        self._asks_turn = not (self._asks and (self._asks_turn or not self._calls))
        if not self._asks_turn:
            return self._asks.popleft()
        opening = self._calls.popleft()
        self._quick += self._opening.pop(opening.call)
        return opening

    def took(self, seconds: float) -> None:
        """A command took so long."""
        self._owed_s += max(0.0, seconds - QUICK_S)

    def passed(self, seconds: float) -> None:
        """A pass took so long."""
        self._owed_s = max(0.0, self._owed_s - seconds)
