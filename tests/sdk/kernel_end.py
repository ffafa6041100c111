"""The kernel's end of a socketpair, for tests: speaks frames, and decides nothing by itself."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aios.abi import frames
from aios.abi.record import ABI_VERSION

F = TypeVar("F")


class KernelEnd(asyncio.Protocol):
    """What the child said, in order, and a way to answer."""

    def __init__(self) -> None:
        self._reader = frames.reader_of_child()
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        self.reads = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        for frame in self._reader.feed(data):
            self._said.put_nowait(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._said.put_nowait(None)

    async def hear(self, kind: type[F]) -> F:
        """The next frame, which must be of this kind."""
        async with asyncio.timeout(20):
            frame = await self._said.get()
        assert isinstance(frame, kind), frame
        return frame

    async def hear_end(self) -> None:
        """Return when the child has hung up."""
        async with asyncio.timeout(20):
            assert await self._said.get() is None

    def say(self, *said: frames.FromKernel) -> None:
        self.transport.write(b"".join(map(frames.encode_frame, said)))

    async def welcome(self) -> None:
        assert (await self.hear(frames.Hello)).abi == ABI_VERSION
        self.say(frames.Welcome(ABI_VERSION))


@asynccontextmanager
async def kernel_end() -> AsyncIterator[tuple[KernelEnd, socket.socket]]:
    """The kernel's end, and the socket of the other."""
    ours, theirs = socket.socketpair()
    _, end = await asyncio.get_running_loop().create_connection(KernelEnd, sock=ours)
    try:
        yield end, theirs
    finally:
        end.transport.abort()
        theirs.close()
        await asyncio.sleep(0)  # in which the transports close
