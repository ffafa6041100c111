"""Many generations in one model: which tokens go into the next pass, and what comes of it.

Every running call gives its newest token to each pass; beside them one chunk of prompt is read, shared round robin by the
calls that are not through with theirs, so that a long prompt delays the others by one chunk at a time. Calls beyond the slots
wait in order of arrival.
"""

from __future__ import annotations

import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Container
from functools import partial
from typing import Literal

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from aios.drivers.core.local.constraints import BadConstraint, Constraints
from aios.drivers.core.local.engine import BrokenOff, Engine, Feed
from aios.drivers.core.local.protocol import Likelihood, Open, Piece, Prompt, Refused, Step, TooLong, Weigh, Weighed
from aios.drivers.core.local.sampler import choose_among, likeliest, logprobs, uniform
from aios.drivers.core.local.sequences import Generation, Scoring, Sequence
from aios.drivers.core.local.slots import LEAST, Slots
from aios.drivers.core.text import Tail

WORTH_BREAKING = 4
"""Tokens of a pass; those of fewer are over soon."""


def _all_in(sequences: list[Sequence], calls: Callable[[], Container[int]]) -> bool:
    found = calls()
    return all(sequence.call in found for sequence in sequences)


class Batcher:
    """Generations over one engine. `step` does one pass; all else only changes what the next pass does."""

    def __init__(self, engine: Engine, slots: Slots, *, chunk: int, backlog: int) -> None:
        self._engine = engine
        self._slots = slots
        self._constraints = Constraints(engine)
        self._chunk = chunk
        self._backlog = backlog
        self._waiting: list[Sequence] = []
        self._running: deque[Sequence] = deque()
        self._parked: set[Sequence] = set()
        self._calls: dict[int, Sequence] = {}
        self._broken_off = False

    def open(self, opening: Open) -> TooLong | Refused | None:
        """Take a call, or say that it does not fit, or that its constraint is none."""
        tokens = self._fitting(opening.call, opening.prompt, room=1)
        if isinstance(tokens, TooLong):
            return tokens
        matcher = None
        if opening.constraint is not None:
            try:
                matcher = self._constraints.matcher(opening.constraint, opening.delivered)
            except BadConstraint as problem:
                return Refused(opening.call, str(problem))
        room = self._engine.window - len(tokens)
        sequence = Generation(
            call=opening.call,
            tenant=opening.tenant,
            opening=opening,
            tokens=[*tokens, *opening.delivered],
            prompt_tokens=len(tokens),
            limit=room if opening.max_tokens is None else min(opening.max_tokens, room),
            tail=Tail(opening.stop),
            acked=opening.acked,
            matcher=matcher,
        )
        for token in opening.delivered:
            sequence.tail.push(self._engine.piece(token))
        self._calls[opening.call] = sequence
        self._waiting.append(sequence)
        return None

    def weigh(self, asked: Weigh) -> TooLong | Refused | None:
        """Take a scoring, or say why not."""
        labels = tuple(self._engine.encode(label) for label in asked.labels)
        if not all(labels):
            return Refused(asked.call, "one of the labels has no tokens")
        tokens = self._fitting(asked.call, asked.prompt, room=max(map(len, labels)))
        if isinstance(tokens, TooLong):
            return tokens
        scoring = Scoring(call=asked.call, tenant=asked.tenant, tokens=tokens, prompt_tokens=len(tokens), labels=labels)
        self._calls[asked.call] = scoring
        self._waiting.append(scoring)
        return None

    def _fitting(self, call: int, prompt: Prompt, room: int) -> list[int] | TooLong:
        """The prompt's tokens, if they leave room for so many more. What is far too long is not even looked at."""
        size, window = prompt.size(), self._engine.window
        if size > window * 16 and size > window * self._engine.longest_piece():
            return TooLong(call, size // self._engine.longest_piece(), window)
        tokens = self._engine.tokenize(prompt)
        return tokens if tokens and len(tokens) + room <= window else TooLong(call, len(tokens), window)

    def acknowledge(self, call: int, tokens: int) -> None:
        """So many of the call's tokens have reached its caller."""
        sequence = self._calls.get(call)
        if isinstance(sequence, Generation):
            sequence.acked = max(sequence.acked, tokens)
            self._unpark(sequence)

    def freeze(self, call: int) -> None:
        """Let a call wait, without its slot, until it is thawed."""
        if (sequence := self._calls.get(call)) and not sequence.frozen:
            sequence.frozen = True
            if sequence in self._waiting:
                self._waiting.remove(sequence)
                self._parked.add(sequence)
            elif sequence.slot >= 0:
                self._park(sequence)

    def thaw(self, call: int) -> None:
        """Let a frozen call go on, when a slot is free."""
        if sequence := self._calls.get(call):
            sequence.frozen = False
            self._unpark(sequence)

    def abort(self, call: int) -> None:
        """End a call; none of it is in the next pass."""
        if sequence := self._calls.get(call):
            self._end(sequence)

    def has_work(self) -> bool:
        """Whether a pass would do anything."""
        if self._waiting and (self._slots or self._running):
            return True
        return any(sequence.may_run(self._backlog) for sequence in self._running)

    def step(self, frozen: Callable[[], Container[int]] | None = None) -> Step:
        """One pass over the model, and what it brought.

        `frozen`: the calls that are to be frozen after it. If they are all that it works for, it is broken off, but not two
        passes in a row: so they come to their ends also if they are frozen again and again.
        """
        started = time.monotonic()
        self._admit()
        self._catch_up()
        fed, feeds = self._plan()
        long = frozen is not None and not self._broken_off and sum(len(feed.tokens) for feed in feeds) >= WORTH_BREAKING
        try:
            rows = self._engine.run(feeds, partial(_all_in, fed, frozen) if frozen and long else None) if feeds else []
            self._broken_off = False
        except BrokenOff:
            self._broken_off = True
            for sequence, feed in zip(fed, feeds, strict=True):
                sequence.read = feed.position
            rows, fed = [], []
        if feeds:  # else nothing has run, and what is to be copied still is
            self._slots.passed()
        ready = [sequence for sequence in fed if sequence.read == len(sequence.tokens)]
        pieces, refused, weighed = [], [], []
        for sequence, row in zip(ready, rows, strict=True):
            if isinstance(sequence, Scoring):
                weighed += self._add_up(sequence, row)
                continue
            assert isinstance(sequence, Generation)
            try:
                pieces.append(self._go_on(sequence, row))
            except BadConstraint as problem:
                self._end(sequence)
                refused.append(Refused(sequence.call, str(problem)))
        return Step(time.monotonic() - started, tuple(pieces), tuple(refused), tuple(weighed))

    def _add_up(self, scoring: Scoring, row: NDArray[np.float32]) -> list[Weighed]:
        """What the row tells of the labels; the whole, when there is no more to read."""
        scoring.take(row)
        self._engine.trim(scoring.slot, scoring.read)
        if not scoring.over:
            return []
        self._end(scoring)
        tokens = tuple(map(len, scoring.labels))
        return [Weighed(scoring.call, tuple(scoring.sums), tokens, scoring.prompt_tokens, scoring.cached or 0)]

    def _admit(self) -> None:
        """Give slots to those that wait: free ones, and those of calls that stand still because nobody reads what they say."""
        while self._waiting:
            if not self._slots:
                still = next((sequence for sequence in self._running if not sequence.may_run(self._backlog)), None)
                if still is None:
                    return
                self._park(still)
            sequence = self._waiting.pop(0)
            sequence.slot, count = self._slots.take(sequence)
            self._begin(sequence, count)
            sequence.follows = self._leader(sequence)
            self._running.append(sequence)

    def _begin(self, sequence: Sequence, count: int) -> None:
        sequence.read = count
        if sequence.cached is None or sequence.follows is not None:
            sequence.cached = min(count, sequence.prompt_tokens)

    def _leader(self, sequence: Sequence) -> tuple[Sequence, int] | None:
        """The call that is about to read the most of what this one has to read: it waits for that, rather than read it too."""
        found = [
            (goal, other.call, other)
            for other in self._running
            if other.follows is None
            and other.may_run(self._backlog)
            and (goal := self._slots.common(sequence, other, len(other.tokens))) >= sequence.read + LEAST
            and goal > other.read
        ]
        goal, _, leader = max(found, default=(0, 0, None))
        return (leader, goal) if leader is not None else None

    def _catch_up(self) -> None:
        """Those whose leader has read what they wait for, or will not, go on by themselves from the most that there is."""
        for sequence in self._running:
            if sequence.follows is None:
                continue
            leader, goal = sequence.follows
            if leader.read >= goal or leader.slot < 0:
                self._begin(sequence, self._slots.fill(sequence.slot, sequence))
                sequence.follows = None

    def _park(self, sequence: Sequence) -> None:
        """Take a call out of its slot. It goes on from its tokens, wherever they are found then."""
        self._running.remove(sequence)
        self._parked.add(sequence)
        self._slots.give_back(sequence.slot, comes_back=True)
        sequence.slot, sequence.read, sequence.follows = -1, 0, None

    def _unpark(self, sequence: Sequence) -> None:
        """Let a call that stood aside wait for a slot, in the place of its arrival, if it can go on."""
        if sequence in self._parked and not sequence.frozen and sequence.may_run(self._backlog):
            self._parked.remove(sequence)
            insort(self._waiting, sequence, key=lambda other: other.call)

    def _plan(self) -> tuple[list[Sequence], list[Feed]]:
        """What the next pass reads, in the order of the slots: the engine cuts a pass where slots do not follow each other."""
        fed, budget = [], self._chunk
        for sequence in self._running:
            unread = len(sequence.tokens) - sequence.read
            if not sequence.may_run(self._backlog) or sequence.follows is not None or (unread > 1 and not budget):
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

    def _go_on(self, sequence: Generation, row: NDArray[np.float32]) -> Piece:
        """Choose the next token, take it with those that must follow it, and say how likely it was where that is wanted.

        Raises `BadConstraint`.
        """
        opening, matcher = sequence.opening, sequence.matcher
        allowed = matcher.allowed() if matcher else None
        chance = uniform(opening.seed, sequence.made)
        token = choose_among(row, allowed, opening.temperature, opening.top_p, chance)
        if self._engine.ends(token):
            self._end(sequence)
            return Piece(opening.call, (), sequence.tail.flush(), "stop", sequence.prompt_tokens, sequence.cached or 0)
        forced = []
        if matcher:
            matcher.take(token)
            forced = matcher.take_forced() if opening.logprobs is None else []
        piece = self._take(sequence, [token, *forced])
        return piece if opening.logprobs is None else replace(piece, logprobs=(self._likelihood(row, token, opening.logprobs),))

    def _take(self, sequence: Generation, tokens: list[int]) -> Piece:
        """New tokens' consequences: each is part of the answer, completes it, or completes a stop text."""
        ids: list[int] = []
        texts: list[str] = []
        finish: Literal["stop", "length"] | None = None
        for token in tokens:
            sequence.tokens.append(token)
            ids.append(token)
            texts.append(sequence.tail.push(self._engine.piece(token)))
            if sequence.tail.stopped_by:
                finish = "stop"
            elif sequence.matcher and sequence.matcher.ended and len(ids) == len(tokens):
                finish = "stop"
            elif sequence.made >= sequence.limit:
                finish = "length"
            if finish is not None:
                texts.append(sequence.tail.flush())
                self._end(sequence)
                break
        counts = (sequence.prompt_tokens, sequence.cached or 0) if finish else (0, 0)
        return Piece(sequence.call, tuple(ids), "".join(texts), finish, *counts, stopped_by=sequence.tail.stopped_by)

    def _likelihood(self, row: NDArray[np.float32], token: int, number: int) -> Likelihood:
        top = likeliest(row, number)
        own, *others = logprobs(row, [token, *top])
        pieces = [self._engine.piece(other) for other in top]
        return Likelihood(self._engine.piece(token), own, tuple(zip(pieces, others, strict=True)))

    def _end(self, sequence: Sequence) -> None:
        del self._calls[sequence.call]
        if sequence.slot >= 0:
            self._running.remove(sequence)
            self._slots.give_back(sequence.slot)
            sequence.slot = -1
        else:
            (self._parked if sequence in self._parked else self._waiting).remove(sequence)
            self._slots.ended(sequence.call)
