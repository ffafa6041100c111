"""A kernel in this process, and one agent that puts values on a board: the call path alone, without any door.

Answers a number of puts with how many there were per second, beside a dict that is written as often with the value as JSON.
"""

from __future__ import annotations

import time

import msgspec

from aios.abi.board import PutNotice
from aios.abi.manifest import Grant
from aios.drivers.clock import SystemClock
from aios.drivers.store.memory import MemoryStore
from aios.kernel.main import Kernel, Parts
from benchmarks.rig.child import obey, run
from benchmarks.rig.internal import NoDocument, NoHosts

KEYS = 100
VALUE = {"text": "a draft of one sentence, which somebody is to criticise", "round": 3, "done": False}


class Rates(msgspec.Struct, frozen=True):
    """Writes per second: through the kernel, and into a dict."""

    puts_per_s: float
    floor_per_s: float


async def main() -> None:
    """Measure as often as the parent asks."""
    parts = Parts(clock=SystemClock(), store=MemoryStore(), tokens=NoDocument(), consents=NoDocument(), hosts=NoHosts())
    async with Kernel(parts) as kernel:
        agent = kernel.processes.add(
            kind="agent", agent="writes", tenant="local", cls="standard", grants=(Grant("write", "/boards/drafts"),)
        )
        requests = [PutNotice(board="drafts", key=f"draft/{number}", value=VALUE) for number in range(KEYS)]

        async def measure(line: bytes) -> Rates:
            rounds = msgspec.json.decode(line, type=int) // KEYS
            begun = time.perf_counter()
            for _ in range(rounds):
                for request in requests:
                    await kernel.call(agent, request)
            between = time.perf_counter()
            board: dict[str, bytes] = {}
            for _ in range(rounds):
                for request in requests:
                    board[request.key] = msgspec.json.encode(request.value)
            ended = time.perf_counter()
            return Rates(rounds * KEYS / (between - begun), rounds * KEYS / (ended - between))

        await obey(measure)


if __name__ == "__main__":
    run(main)
