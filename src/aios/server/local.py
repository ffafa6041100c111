"""The in-process door: a Gate without a wire, for tests and services of the kernel's own process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

import msgspec

from aios.abi.request import NO_OPTIONS, CallOptions, Event, Request
from aios.ports.kernel import Answer, Caller, Kernel

MAX_BUFFER_BYTES = 1_000_000
"""Events that a reader has not taken; a call that has more to say waits for it, without its slot."""

R = TypeVar("R")
_encoder = msgspec.msgpack.Encoder()


class LocalGate:
    """The port `Gate` for one process: its calls run in the task that makes them."""

    def __init__(self, kernel: Kernel, process: Caller) -> None:
        self._kernel = kernel
        self.process = process

    async def call(self, request: Request[R], options: CallOptions = NO_OPTIONS) -> R:
        """See the port."""
        return (await self.answer(request, options)).value  # type: ignore[no-any-return]  # the request's own reply

    async def answer(self, request: Request[Any], options: CallOptions = NO_OPTIONS) -> Answer:
        """The same with all that a door hears: the label, the call's id, its wait."""
        return await self._kernel.call(self.process, request, options)

    async def stream(self, request: Request[Any], options: CallOptions = NO_OPTIONS) -> AsyncGenerator[Event | Any, None]:
        """See the port. The call has a task of its own, which ends with the iterator."""
        unread = _Unread()
        call = asyncio.create_task(self._kernel.call(self.process, request, options, unread.tell), name=f"stream {request}"[:80])
        call.add_done_callback(lambda _: unread.wake())
        try:
            while True:
                async for event in unread.take_all():
                    yield event
                if call.done():
                    break
                await unread.wait_for_more()
            yield (await call).value
        finally:
            call.cancel()
            await asyncio.wait((call,))


class _Unread:
    """What a call has told and its reader has not taken."""

    def __init__(self) -> None:
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._more = asyncio.Event()
        self._room: list[asyncio.Future[None]] = []

    def tell(self, event: Event) -> Awaitable[None] | None:
        size = len(_encoder.encode(event))
        self._events.append((event, size))
        self._bytes += size
        self._more.set()
        if self._bytes <= MAX_BUFFER_BYTES:
            return None
        room = asyncio.get_running_loop().create_future()
        self._room.append(room)
        return room

    async def take_all(self) -> AsyncGenerator[Event, None]:
        """What is there, one by one; taking makes room."""
        while self._events:
            event, size = self._events.popleft()
            self._bytes -= size
            if self._bytes <= MAX_BUFFER_BYTES:
                for room in self._room:
                    if not room.done():
                        room.set_result(None)
                self._room.clear()
            yield event

    def wake(self) -> None:
        self._more.set()

    async def wait_for_more(self) -> None:
        self._more.clear()
        if not self._events:
            await self._more.wait()
