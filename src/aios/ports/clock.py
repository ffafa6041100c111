"""The port `Clock`: the only source of time in the kernel."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for durations."""

    def now_ns(self) -> int:
        """Nanoseconds UTC since 1970."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; the same scale as the running loop's `time()`."""
        ...
