"""What a process uses: its CPU, all threads together, and its memory."""

from __future__ import annotations

import os
import time

SCHED_CLOCK = 2
"""Linux: the number of the CPU clock that counts what the scheduler gave (`clock_getcpuclockid`)."""


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far: what /proc/PID/stat counts in hundredths, from the same books in nanoseconds."""
    return time.clock_gettime((~pid << 3) | SCHED_CLOCK)


def rss_bytes(pid: int) -> int:
    """Resident memory."""
    with open(f"/proc/{pid}/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
