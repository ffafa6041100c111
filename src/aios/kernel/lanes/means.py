"""What calls cost on average, by kind: the estimate at which a call is charged until it has ended."""

from __future__ import annotations

UNKNOWN_COST = 1.0
"""Weighted tokens at which a call of an unknown kind is charged until it has ended.

Little: who comes meanwhile stands where others were charged to, and what those get back would let them go first for as long.
"""
LEARNING = 0.01
"""Of a mean, what the last call counts at least."""
FEWEST_CALLS = 5
"""Below so many, a kind's calls are taken to cost what all do."""
KEPT_KINDS = 1000


class Mean:
    """A mean that forgets slowly."""

    __slots__ = ("count", "value")

    def __init__(self, value: float = 0.0) -> None:
        self.count = 0
        self.value = value

    def add(self, value: float) -> None:
        self.count += 1
        part = 1 / self.count
        self.value += (part if part > LEARNING else LEARNING) * (value - self.value)


class Means:
    """The mean cost by kind, in weighted tokens; those of which nothing was heard for longest are forgotten."""

    def __init__(self) -> None:
        self._all = Mean(UNKNOWN_COST)
        self._kinds: dict[str, Mean] = {}

    def add(self, kind: str, cost: float) -> None:
        """A call of that kind came to so much."""
        self._all.add(cost)
        mean = self._kinds[kind] = self._kinds.pop(kind) if kind in self._kinds else Mean()
        mean.add(cost)
        if len(self._kinds) > KEPT_KINDS:
            del self._kinds[next(iter(self._kinds))]

    def estimate(self, kind: str) -> float:
        """At what the next one of that kind is charged until it has ended."""
        mean = self._kinds.get(kind)
        return mean.value if mean is not None and mean.count >= FEWEST_CALLS else UNKNOWN_COST

    def expected(self, kind: str) -> float:
        """What the next one of that kind will cost, as far as is known."""
        mean = self._kinds.get(kind)
        return mean.value if mean is not None and mean.count >= FEWEST_CALLS else self._all.value
