"""A kernel in this process, and one agent that asks it for the time: the call path alone, without any door.

Answers a number of calls with the CPU microseconds of each: the whole process's, because the record's writing belongs to it.
"""

from __future__ import annotations

import time

import msgspec

from aios.abi.errors import ChildFailed
from aios.abi.system import Instant, Now
from aios.drivers.clock import SystemClock
from aios.drivers.store.memory import MemoryStore
from aios.kernel.main import Kernel, Parts
from aios.ports.host import Host
from benchmarks.rig.child import obey, run


class NoDocument:
    """The port `Document`, always empty."""

    def load(self) -> bytes | None:
        return None

    def save(self, content: bytes) -> None:
        pass


class NoHosts:
    """The port `Hosts`, without any."""

    async def start(self, program: str) -> Host:
        raise ChildFailed("this kernel starts nothing")


class Costs(msgspec.Struct, frozen=True):
    """CPU microseconds of one call through the kernel, and of one awaited function that does the same without it."""

    call_us: float
    floor_us: float


async def main() -> None:
    """Measure as often as the parent asks."""
    parts = Parts(clock=SystemClock(), store=MemoryStore(), tokens=NoDocument(), consents=NoDocument(), hosts=NoHosts())
    async with Kernel(parts) as kernel:
        agent = kernel.processes.add(kind="agent", agent="asks", tenant="local", cls="standard", grants=())
        now = Now()

        async def floor() -> Instant:
            return Instant(at_ns=time.time_ns())

        async def measure(line: bytes) -> Costs:
            calls = msgspec.json.decode(line, type=int)
            begun = time.process_time()
            for _ in range(calls):
                await kernel.call(agent, now)
            between = time.process_time()
            for _ in range(calls):
                await floor()
            return Costs((between - begun) / calls * 1e6, (time.process_time() - between) / calls * 1e6)

        await obey(measure)


if __name__ == "__main__":
    run(main)
