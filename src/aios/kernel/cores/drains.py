"""Answers of cores elsewhere whose callers went away: heard out for a while, for what they come to.

A provider bills what it has made until then, or all of it, and says how much in the last words of its answer only. Who hangs up
before these would have to be charged all that was reserved for it. So such a call is let go at once, but its answer is read on,
in its own turn and at its own cost, until it ends or patience does.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from aios.abi.llm import Completion
from aios.kernel.ledger.outcome import NOTHING_DONE
from aios.kernel.process import Call

DRAIN_S = 30.0
"""How long an answer is read on that nobody waits for. A provider makes some 1,500 tokens in it, more than nearly all have."""

Told = Callable[[Call, Completion], object]


class Drains:
    """Answers that are made in a task of their own, so that they may outlive their calls."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[Completion]] = set()

    async def heard(self, call: Call, answering: Coroutine[Any, Any, Completion], told: Told) -> Completion:
        """An answer. If its caller goes away meanwhile, `told` hears what came nevertheless, before `call.hear_out` is done.

        A call that was stopped, by a kill or its deadline, ends its answer too.
        """
        loop = asyncio.get_running_loop()
        task, ended = loop.create_task(answering), loop.create_future()
        self._open.add(task)
        task.add_done_callback(partial(self._ended, ended))  # as `shield` does, with half the steps of the loop
        try:
            await ended
            return task.result()
        except asyncio.CancelledError:
            if call.stopped is None or task.done():  # its last word may have come in this very step
                call.hear_out = partial(_hear_out, call, task, told)
            else:
                call.acted = inspect.getcoroutinestate(answering) != inspect.CORO_CREATED  # else nobody was asked for it yet
                task.cancel()
                try:
                    await asyncio.wait((task,))
                finally:  # it may be stopped twice
                    _note_end(call, task, told)
            raise

    def _ended(self, ended: asyncio.Future[None], task: asyncio.Task[Completion]) -> None:
        self._open.discard(task)
        if not ended.done():
            ended.set_result(None)
        elif not task.cancelled():
            task.exception()  # nobody is there to hear it

    async def close(self) -> None:
        """Wait for none any more."""
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)


def _note_end(call: Call, task: asyncio.Task[Completion], told: Told) -> None:
    """Of a stopped call: note what its answer came to, if that ended in the very step in which the call was stopped."""
    if not task.done() or task.cancelled():
        return
    failure = task.exception()
    if failure is None:
        told(call, task.result())
    elif isinstance(failure, NOTHING_DONE) and not call.said_tokens:
        call.acted = False


def _hear_out(call: Call, task: asyncio.Task[Completion], told: Told, then: Callable[[BaseException | None], Any]) -> None:
    """Do `then` when an answer has ended, or was waited for long enough; it hears in which error, if it was one."""
    timer = asyncio.get_running_loop().call_later(DRAIN_S, task.cancel)

    def ended(task: asyncio.Task[Completion]) -> None:
        timer.cancel()
        failure = None if task.cancelled() else task.exception()
        if failure is None and not task.cancelled():
            told(call, task.result())
        then(failure)

    task.add_done_callback(ended)
