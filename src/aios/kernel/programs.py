"""Programs: what a process and its children have got so far, and what is expected of them still.

How much a program will need is not known; what others of its kind needed is. The expectation is the mean residual life: of
those of its kind that went on for longer than it has, how long they went on.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses

KEPT_COMPLETIONS = 300
"""Completions of a kind that are remembered."""
FEWEST_COMPLETIONS = 8
"""Below so many a kind's past tells nothing."""
KEPT_KINDS = 1000


class Kind:
    """The last completions of one kind of program, in seconds of service along its critical path."""

    __slots__ = ("_ended", "_sorted", "_total_s")

    def __init__(self) -> None:
        self._ended: collections.deque[float] = collections.deque()
        self._sorted: list[float] = []
        self._total_s = 0.0

    def add(self, total_s: float) -> None:
        self._ended.append(total_s)
        self._total_s += total_s
        if len(self._ended) > KEPT_COMPLETIONS:
            oldest = self._ended.popleft()
            self._total_s -= oldest
            del self._sorted[bisect.bisect_left(self._sorted, oldest)]
        bisect.insort(self._sorted, total_s)

    def remaining_s(self, attained_s: float) -> float | None:
        """What is expected of a program that has got so much; None if too few are known."""
        if len(self._sorted) < FEWEST_COMPLETIONS:
            return None
        if attained_s < self._sorted[0]:  # as most are that begin
            return self._total_s / len(self._sorted) - attained_s
        longer = self._sorted[bisect.bisect_right(self._sorted, attained_s) :]
        if not longer:
            return max(attained_s, self._sorted[-1])  # beyond all that was seen, the tail is heavy
        return sum(longer) / len(longer) - attained_s


class History:
    """The kinds, by name; those of which nothing ended for longest are forgotten."""

    def __init__(self) -> None:
        self._kinds: dict[str, Kind] = {}
        self._last: str | None = None

    def add(self, name: str, total_s: float) -> None:
        """A program of this kind has ended, and had got so much."""
        if name == self._last:  # it stands last already
            self._kinds[name].add(total_s)
            return
        kind = self._kinds[name] = self._kinds.pop(name) if name in self._kinds else Kind()
        kind.add(total_s)
        self._last = name
        if len(self._kinds) > KEPT_KINDS:
            del self._kinds[next(iter(self._kinds))]

    def remaining_s(self, name: str, attained_s: float) -> float | None:
        kind = self._kinds.get(name)
        return kind.remaining_s(attained_s) if kind is not None else None


NO_HISTORY = History()
"""Of programs that nobody tells the ends of."""


@dataclasses.dataclass(slots=True, eq=False)
class Program:
    """A process and its children, as far as lanes know it.

    `attained_s`: the service that it got along its critical path: what ran side by side does not add up.
    """

    kind: str = ""
    history: History = NO_HISTORY
    attained_s: float = 0.0

    def ran(self, path_s: float, for_s: float) -> float:
        """A call ran for so long at the end of a path of so many seconds; how long the path is with it."""
        path_s += for_s
        if path_s > self.attained_s:
            self.attained_s = path_s
        return path_s

    def ended(self) -> None:
        """It came to its end by itself, and tells what its kind needs."""
        self.history.add(self.kind, self.attained_s)

    def expected_s(self) -> float:
        """What it still needs: by the past of its kind, or else as much again as it has got."""
        remaining_s = self.history.remaining_s(self.kind, self.attained_s)
        return self.attained_s if remaining_s is None else remaining_s
