"""Windows of time that limits are for: the minute, the hour, the day and the month of UTC, and the lifetime of an account."""

from __future__ import annotations

import datetime

from aios.abi.account import Window

TIMED: tuple[Window, ...] = ("minute", "hour", "day", "month")
"""Those that end."""
NS = 10**9
MINUTE_NS, HOUR_NS, DAY_NS = 60 * NS, 3600 * NS, 86_400 * NS
LATEST_NS = 250_000_000_000 * NS
"""In the year 9892; a clock that says more is taken to say this."""
_LENGTHS_NS: dict[Window, int] = {"minute": MINUTE_NS, "hour": HOUR_NS, "day": DAY_NS}


def begun_ns(window: Window, at_ns: int) -> int:
    """When the window began in which a moment lies, nanoseconds since 1970; 0 for what does not end."""
    at_ns = min(max(0, at_ns), LATEST_NS)
    length_ns = _LENGTHS_NS.get(window)
    if length_ns is not None:
        return at_ns - at_ns % length_ns
    return _month_ns(at_ns, 0) if window == "month" else 0


def ends_ns(window: Window, at_ns: int) -> int | None:
    """When it ends; None for what does not end."""
    at_ns = min(max(0, at_ns), LATEST_NS)
    length_ns = _LENGTHS_NS.get(window)
    if length_ns is not None:
        return at_ns - at_ns % length_ns + length_ns
    return _month_ns(at_ns, 1) if window == "month" else None


def _month_ns(at_ns: int, later: int) -> int:
    """When the month began in which a moment lies, or one so many months later."""
    date = datetime.datetime.fromtimestamp(at_ns // NS, datetime.UTC)
    years, month = divmod(date.month - 1 + later, 12)
    return int(datetime.datetime(date.year + years, month + 1, 1, tzinfo=datetime.UTC).timestamp()) * NS
