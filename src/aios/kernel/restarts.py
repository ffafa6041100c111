"""Whether what has ended begins again: the rules of restart, and how many restarts in how much time are a storm."""

from __future__ import annotations

from collections import deque

from aios.abi.manifest import Restart

RESTARTS = 3
"""So many restarts in a period; one more end is a storm."""
PERIOD_S = 600.0


class Restarts:
    """The restarts of one process under its rule."""

    __slots__ = ("_rule", "_times")

    def __init__(self, rule: Restart) -> None:
        self._rule = rule
        self._times: deque[float] = deque()

    def begins_again(self, failed: bool) -> bool:
        """Whether it begins again after this end, if there is no storm."""
        return self._rule == "permanent" or (self._rule == "transient" and failed)

    @property
    def is_held(self) -> bool:
        """Whether in a storm it is held for a person and does not end: nobody waits for the end of what is to be there always."""
        return self._rule == "permanent"

    def is_storm(self, now: float) -> bool:
        """Count one more restart, at this time; whether it is one too many."""
        while self._times and self._times[0] <= now - PERIOD_S:
            self._times.popleft()
        if len(self._times) >= RESTARTS:
            return True
        self._times.append(now)
        return False

    def forgive(self) -> None:
        """Begin to count anew."""
        self._times.clear()


def storm(how: str) -> str:
    """What a storm is called; `how`: the last end."""
    return f"it ended {RESTARTS + 1} times within {PERIOD_S / 60:g} minutes, at last by: {how}"
