"""The machine's clock."""

from __future__ import annotations

import time


class SystemClock:
    """The port `Clock` on the machine's own clocks; loops count with the same monotonic one."""

    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
