"""Responses that are made in the background: whether anybody listens or not, and at most so many of a process at a time.

Their calls live with the kernel: when it goes down, those that are under way are lost.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aios.abi.errors import AiosError, BadRequest, Cancelled, RateLimited, Refused
from aios.abi.llm import Delta, Generate, Queued, Started
from aios.abi.request import CallOptions, Event
from aios.ports.kernel import Answer, Caller, Kernel
from aios.server.kept import Turn, Turns
from aios.server.response_events import Response
from aios.server.response_log import Run

MOST_RUNNING = 16
"""Of one process."""


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """One response that is to be made: the call, and where what it says is kept. `streams`: its client reads its events."""

    caller: Caller
    request: Generate
    options: CallOptions
    response: Response
    turn: Turn
    turns: Turns
    streams: bool

    def hear(self, event: Event) -> None:
        """Keep what the call tells."""
        said = b""
        if isinstance(event, Queued | Started):
            self._run.ticket = event.call
        if type(event) is Delta:
            said = self.response.piece(event)
        elif type(event) is Started:
            said = self.response.started(event.model)
            self.turn.answer = self.response.object("in_progress")
        self._keep(said)

    def ended(self, call: asyncio.Task[Answer | AiosError]) -> None:
        """Keep its last events, and what it came to."""
        if call.cancelled():
            said, whole = self.response.failed(Cancelled("it was cancelled"), "cancelled")
        elif isinstance(end := call.result(), AiosError):
            said, whole = self.response.failed(end)
        else:
            said, whole = self.response.end(end.value)
        self.turn.answer = whole
        self._keep(said)
        self._run.log.end()
        self.turns.running -= 1
        self.turns.measure(self.turn)

    @property
    def _run(self) -> Run:
        assert self.turn.run is not None
        return self.turn.run

    def _keep(self, said: bytes) -> None:
        log = self._run.log
        before = log.size_bytes
        log.add(said)
        if not self.turns.grow(self.turn, log.size_bytes - before):
            log.lose()


class Background:
    """Makes responses in the background."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def begin(self, work: BackgroundTask) -> bytes:
        """Begin to make one, and return the response as it is then.

        What is refused without waiting for anything is refused here, and nothing is kept of it.
        Raises `RateLimited` if its process has too many or too large ones under way, or what its call raises.
        """
        turn, turns, response = work.turn, work.turns, work.response
        if turns.running >= MOST_RUNNING:
            raise RateLimited(f"{MOST_RUNNING} background responses of this process are under way", retry_after_s=10.0)
        queued = turn.answer = response.object("queued")
        if not turns.add(turn):
            raise RateLimited("no room is left to keep another background response of this size", retry_after_s=10.0)
        call = self._kernel.begin(work.caller, work.request, work.options, work.hear)
        turn.run = Run(call)
        turn.run.log.add(response.created("queued"))
        turns.running += 1
        call.add_done_callback(work.ended)
        await asyncio.sleep(0)  # in which the call takes its first step
        if call.done() and not call.cancelled() and isinstance(refused := call.result(), Refused | BadRequest):
            turns.forget(turn)
            raise refused
        return queued
