"""Many generations in one model: which tokens go into the next pass, and what comes of it.

Every running call gives its newest token to each pass; beside them one chunk of prompt is read, shared round robin by the
calls that are not through with theirs, so that a long prompt delays the others by one chunk at a time. Calls beyond the slots
wait in order of arrival.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

from aios.drivers.core.local.engine import Engine, Feed
from aios.drivers.core.local.protocol import Open, Piece, Step, TooLong
from aios.drivers.core.local.sampler import choose, uniform
from aios.drivers.core.text import Tail


@dataclass(slots=True, eq=False)
class Sequence:
    """A call in a slot. `tokens`: prompt and answer; `read`: how many of them the model has seen; `limit`: most new ones."""

    opening: Open
    tokens: list[int]
    prompt_tokens: int
    limit: int
    tail: Tail
    acked: int
    slot: int = -1
    read: int = field(default=0)

    @property
    def made(self) -> int:
        """New tokens so far."""
        return len(self.tokens) - self.prompt_tokens


class Batcher:
    """Generations over one engine. `step` does one pass; all else only changes what the next pass does."""

    def __init__(self, engine: Engine, *, slots: int, chunk: int, backlog: int) -> None:
        self._engine = engine
        self._chunk = chunk
        self._backlog = backlog
        self._free = list(range(slots))
        self._waiting: deque[Sequence] = deque()
        self._running: deque[Sequence] = deque()
        self._calls: dict[int, Sequence] = {}

    def open(self, opening: Open) -> TooLong | None:
        """Take a call, or say that it does not fit."""
        size, window = opening.prompt.size(), self._engine.window
        if size > window * 16 and size > window * self._engine.longest_piece():
            return TooLong(opening.call, size // self._engine.longest_piece(), window)
        tokens = self._engine.tokenize(opening.prompt)
        if not tokens or len(tokens) >= window:
            return TooLong(opening.call, len(tokens), window)
        room = window - len(tokens)
        sequence = Sequence(
            opening,
            tokens=[*tokens, *opening.delivered],
            prompt_tokens=len(tokens),
            limit=room if opening.max_tokens is None else min(opening.max_tokens, room),
            tail=Tail(opening.stop),
            acked=opening.acked,
        )
        for token in opening.delivered:
            sequence.tail.push(self._engine.piece(token))
        self._calls[opening.call] = sequence
        self._waiting.append(sequence)
        return None

    def acknowledge(self, call: int, tokens: int) -> None:
        """So many of the call's tokens have reached its caller."""
        if sequence := self._calls.get(call):
            sequence.acked = max(sequence.acked, tokens)

    def abort(self, call: int) -> None:
        """End a call; none of it is in the next pass."""
        if sequence := self._calls.get(call):
            self._end(sequence)

    def has_work(self) -> bool:
        """Whether a pass would do anything."""
        return bool(self._free and self._waiting) or any(self._may_run(sequence) for sequence in self._running)

    def step(self) -> Step:
        """One pass over the model, and what it brought."""
        started = time.monotonic()
        while self._free and self._waiting:
            sequence = self._waiting.popleft()
            sequence.slot = heappop(self._free)
            self._engine.forget(sequence.slot)
            self._running.append(sequence)
        fed, feeds = self._plan()
        rows = self._engine.run(feeds) if feeds else []
        ready = [sequence for sequence in fed if sequence.read == len(sequence.tokens)]
        pieces = []
        for sequence, row in zip(ready, rows, strict=True):
            opening = sequence.opening
            chance = uniform(opening.seed, sequence.made)
            pieces.append(self._take(sequence, choose(row, opening.temperature, opening.top_p, chance)))
        return Step(time.monotonic() - started, tuple(pieces))

    def _plan(self) -> tuple[list[Sequence], list[Feed]]:
        """What the next pass reads, in the order of the slots: the engine cuts a pass where slots do not follow each other."""
        fed, budget = [], self._chunk
        for sequence in self._running:
            unread = len(sequence.tokens) - sequence.read
            if not self._may_run(sequence) or (unread > 1 and not budget):
                continue
            size = min(unread, budget) if unread > 1 else 1
            budget -= size if unread > 1 else 0
            sequence.read += size
            fed.append((sequence.slot, sequence, size))
        self._running.rotate(-1)
        fed.sort()
        return [sequence for _, sequence, _ in fed], [self._feed(sequence, size) for _, sequence, size in fed]

    def _feed(self, sequence: Sequence, size: int) -> Feed:
        start, end = sequence.read - size, sequence.read
        return Feed(sequence.slot, start, sequence.tokens[start:end], wants=end == len(sequence.tokens))

    def _may_run(self, sequence: Sequence) -> bool:
        return sequence.made - sequence.acked < self._backlog

    def _take(self, sequence: Sequence, token: int) -> Piece:
        """The new token's consequences: it is part of the answer, ends it, or completes a stop text."""
        call, prompt = sequence.opening.call, sequence.prompt_tokens
        if self._engine.ends(token):
            self._end(sequence)
            return Piece(call, (), sequence.tail.flush(), "stop", prompt)
        sequence.tokens.append(token)
        text = sequence.tail.push(self._engine.piece(token))
        if sequence.tail.stopped:
            self._end(sequence)
            return Piece(call, (token,), text, "stop", prompt)
        if sequence.made >= sequence.limit:
            self._end(sequence)
            return Piece(call, (token,), text + sequence.tail.flush(), "length", prompt)
        return Piece(call, (token,), text)

    def _end(self, sequence: Sequence) -> None:
        del self._calls[sequence.opening.call]
        if sequence.slot < 0:
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
            heappush(self._free, sequence.slot)
