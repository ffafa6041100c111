"""Agents that are measured; a program of the SDK like any other, which runs in a host child of the kernel's."""

from __future__ import annotations

import statistics
import time

import aios
from aios.abi.system import Now


@aios.agent(cls="standard")
async def clock_call_us(k: aios.Kernel, calls: int) -> float:
    """The median microseconds of `clock.now`, there and back over the inherited socketpair."""
    now, times_s = Now(), []
    for _ in range(calls):
        begun = time.perf_counter()
        await k.call(now)
        times_s.append(time.perf_counter() - begun)
    return statistics.median(times_s) * 1e6


@aios.agent
async def reads_one_mail(k: aios.Kernel) -> int:
    """What the first mail says."""
    value: int = (await k.receive()).value
    return value
