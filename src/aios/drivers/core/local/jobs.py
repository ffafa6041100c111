"""What is under way at the host, as the kernel's side knows it: answers and scorings, and questions of size."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from aios.abi.errors import AiosError
from aios.drivers.core.local.protocol import Constraint, Measure, Piece, Prompt, Weighed
from aios.ports.core import CoreCall, ScoreCall

GOLDEN = 0x9E3779B97F4A7C15
"""Between the seeds of a call's answers: 2**64 divided by the golden ratio, so that near seeds do not meet."""

NO_PIECE = Piece(0, ())


@dataclass(slots=True, eq=False)
class Job:
    """An answer in flight: number `index` of its call's.

    `tokens`: all that came; `passed`: how many of them reached the caller; `acked`: the host knows of. `last`: the piece that
    ended it. `constraint`: of the answer, and the request's field that it comes from. `labels`: it is no answer that is wanted,
    but how likely these would be, which comes as `weighed`.
    """

    number: int
    call: CoreCall | ScoreCall
    prompt: Prompt
    index: int = 0
    labels: tuple[str, ...] = ()
    constraint: tuple[Constraint, str] | None = None
    tokens: list[int] = field(default_factory=list)
    passed: int = 0
    acked: int = 0
    crashes: int = 0
    frozen: bool = False
    open: bool = False
    over: bool = False
    failure: AiosError | None = None
    inbox: deque[Piece] = field(default_factory=deque)
    last: Piece = NO_PIECE
    weighed: Weighed | None = None
    waiter: asyncio.Future[None] | None = None
    gone: asyncio.Future[None] | None = None

    @property
    def seed(self) -> int:
        """Each answer's own: the first one's is the call's, so that it is the same with others beside it."""
        assert isinstance(self.call, CoreCall)
        return (self.call.seed + self.index * GOLDEN) % 2**64

    def take(self, piece: Piece) -> None:
        self.tokens += piece.ids
        self.crashes = 0
        self.over = piece.finish is not None
        self.inbox.append(piece)
        self._wake()

    def take_weights(self, weighed: Weighed) -> None:
        self.weighed, self.over = weighed, True
        self._wake()

    async def wait_weights(self) -> Weighed:
        while self.weighed is None:
            if self.failure:
                raise self.failure
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        return self.weighed

    def fail(self, failure: AiosError) -> None:
        self.failure, self.over = failure, True
        self._wake()

    async def wait_piece(self) -> Piece:
        while not self.inbox:
            if self.failure:
                raise self.failure
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        return self.inbox.popleft()

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


@dataclass(slots=True, eq=False)
class Ask:
    """A question of size in flight."""

    measure: Measure
    answer: asyncio.Future[int]
    crashes: int = 0
    open: bool = False

    @property
    def over(self) -> bool:
        return self.answer.done()
