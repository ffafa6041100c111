"""How fast a lane serves those who wait: ends of calls per second, lately."""

from __future__ import annotations

FEWEST_TIMES = 8
"""So many times between ends of calls are measured before a rate counts as known."""
MOST_MEANS = 20
"""A time that is longer than so many mean ones counts as that; and so many ends are remembered, at least."""
ROUNDS = 4
"""So many times all servers' turns are remembered: calls that began together end together."""


class Rate:
    """Ends of calls per second while others waited: a sum of ends and one of the time that they took, which both fade.

    Not a mean of the times between ends: where calls end in step most of those are nothing, and the first would count most.
    """

    __slots__ = ("_count", "_ends", "_fade", "_kept", "_last", "_time_s")

    def __init__(self) -> None:
        self._count = 0
        self._ends = self._time_s = 0.0
        self._kept = MOST_MEANS
        self._fade = 1 - 1 / MOST_MEANS
        self._last: float | None = None

    def remember(self, turns: int) -> None:
        """So many calls may run at once."""
        self._kept = max(MOST_MEANS, ROUNDS * turns)
        self._fade = 1 - 1 / self._kept

    def begin(self, now: float) -> None:
        """Somebody waits from now on: the time before tells nothing."""
        self._last = now

    def tick(self, now: float) -> None:
        """A call has ended, and others waited for that."""
        if self._last is not None:
            since_s = now - self._last
            if since_s < 0.0:
                since_s = 0.0
            if self._count >= FEWEST_TIMES and self._time_s > 0:  # it is known
                longest_s = self._kept / (self._ends / self._time_s)
                if since_s > longest_s:
                    since_s = longest_s  # the machine slept, or the clock leapt
            self._count += 1
            self._ends = self._fade * self._ends + 1
            self._time_s = self._fade * self._time_s + since_s
        self._last = now

    @property
    def known(self) -> bool:
        """Whether it was measured often enough to refuse anything for it."""
        return self._count >= FEWEST_TIMES and self._time_s > 0

    @property
    def per_s(self) -> float:
        """0 where nothing was measured yet."""
        return self._ends / self._time_s if self._time_s > 0 else 0.0
