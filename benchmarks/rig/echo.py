"""The floor of a call over a socketpair: a bare frame to a child and back, with a future that waits for it.

Answers a number of calls with the median microseconds of one. Run with a descriptor's number, it is the child that echoes.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from typing import Any

import msgspec

from benchmarks.rig.child import obey, run
from benchmarks.rig.report import median

FRAME = (28).to_bytes(4, "big") + b"a call as long as they are.."


class Echo(asyncio.Protocol):
    """The other end."""

    def __init__(self) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, problem: Exception | None) -> None:
        self.over.set_result(None)


class Caller(asyncio.Protocol):
    """This end."""

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    async def call(self) -> None:
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport.write(FRAME)
        await self._answer

    def data_received(self, data: bytes) -> None:
        self._answer.set_result(None)

    def hang_up(self) -> None:
        self._transport.close()


async def echo() -> None:
    """Echo until the other end closes."""
    end = socket.socket(fileno=int(sys.argv[1]))
    _, protocol = await asyncio.get_running_loop().create_connection(Echo, sock=end)
    await protocol.over


async def main() -> None:
    """Measure as often as the parent asks."""
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-m", "benchmarks.rig.echo", str(theirs.fileno())]
    child = await asyncio.create_subprocess_exec(*argv, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    theirs.close()
    _, caller = await asyncio.get_running_loop().create_connection(Caller, sock=ours)

    async def measure(line: bytes) -> float:
        times_s = []
        for _ in range(msgspec.json.decode(line, type=int)):
            begun = time.perf_counter()
            await caller.call()
            times_s.append(time.perf_counter() - begun)
        return median(times_s) * 1e6

    await obey(measure)
    caller.hang_up()
    await child.wait()


if __name__ == "__main__":
    run(echo if len(sys.argv) > 1 else main)
