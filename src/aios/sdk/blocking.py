"""The kernel as a plain function sees it, in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator
from typing import Any, cast

from aios.abi.errors import Invalid
from aios.sdk.boards import Board
from aios.sdk.kernel import Kernel
from aios.sdk.leases import Lease
from aios.sdk.mail import Received
from aios.sdk.process import Process

Handle = Process | Received | Board | Lease
"""What a handle gives out, and what is a handle itself."""


class BlockingKernel:
    """The handle of an agent that is a plain function, in a thread of its own: the same methods, and they block.

    `stream` gives a plain iterator, `spawn` a process whose methods block, and so do those of mail, boards and leases.
    """

    def __init__(self, target: Kernel | Handle, calls: Calls) -> None:
        self._target, self._calls = target, calls

    def __getattr__(self, name: str) -> Any:
        if name == "group":
            raise Invalid("a group needs an `async def` agent, whose code it can interrupt: `k.map` works in plain functions too")
        method = getattr(self._target, name)
        if not callable(method):
            return method

        def block(*args: Any, **kwargs: Any) -> Any:
            made = method(*map(_meant, args), **{name: _meant(each) for name, each in kwargs.items()})
            if isinstance(made, AsyncGenerator):
                return self._drain(made)
            return self._handed(self._calls.wait(made) if asyncio.iscoroutine(made) else made)

        return block

    def __enter__(self) -> Any:
        return self._handed(self._calls.wait(cast(Any, self._target).__aenter__()))

    def __exit__(self, *error: Any) -> Any:
        return self._calls.wait(cast(Any, self._target).__aexit__(*error))

    def _handed(self, value: Any) -> Any:
        return BlockingKernel(value, self._calls) if isinstance(value, Handle) else value

    def _drain(self, pieces: AsyncGenerator[Any]) -> Iterator[Any]:
        end = object()
        try:
            while (piece := self._calls.wait(anext(pieces, end))) is not end:
                yield piece
        finally:
            self._calls.wait(pieces.aclose())


def _meant(argument: Any) -> Any:
    """What a handle stands for."""
    return argument._target if isinstance(argument, BlockingKernel) else argument


class Calls:
    """The calls that a thread waits for: made on the loop, cancelled all together."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[asyncio.Task[Any]] = set()
        self._stopped = False

    def wait(self, made: Awaitable[Any]) -> Any:
        """From the thread: the result of a call. Raises `concurrent.futures.CancelledError` once stopped."""
        return asyncio.run_coroutine_threadsafe(self._held(made), self._loop).result()

    def stop(self) -> None:
        """Cancel those that are open, and every later one."""
        self._stopped = True
        for task in self._open:
            task.cancel()

    async def _held(self, made: Awaitable[Any]) -> Any:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._open.add(task)
        if self._stopped:
            task.cancel()
        try:
            return await made
        finally:
            self._open.discard(task)
