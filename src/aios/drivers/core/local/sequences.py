"""What is under way in the engine: generations, and scorings of given continuations."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aios.drivers.core.local.constraints import Matcher
from aios.drivers.core.local.protocol import Open
from aios.drivers.core.local.sampler import logprobs
from aios.drivers.core.text import Tail


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """A call that reads tokens in a slot. `tokens`: the prompt's and those behind it; `read`: how many the model has seen there.

    `cached`: tokens of the prompt that were read for others. `follows`: the call that is reading so many of its tokens just now.
    `frozen`: it waits until the kernel thaws it.
    """

    call: int
    tenant: str
    tokens: list[int]
    prompt_tokens: int
    slot: int = -1
    read: int = 0
    cached: int | None = None
    follows: tuple[Sequence, int] | None = None
    frozen: bool = False

    def may_run(self, backlog: int) -> bool:
        """Whether it can go on: a generation of which so many tokens lie unread cannot."""
        return True


@dataclass(slots=True, eq=False, kw_only=True)
class Generation(Sequence):
    """A call that makes tokens: at most `limit`, of which `acked` have reached the caller."""

    opening: Open
    limit: int
    tail: Tail
    acked: int
    matcher: Matcher | None = None

    @property
    def made(self) -> int:
        """New tokens so far."""
        return len(self.tokens) - self.prompt_tokens

    def may_run(self, backlog: int) -> bool:
        return self.made - self.acked < backlog


@dataclass(slots=True, eq=False, kw_only=True)
class Scoring(Sequence):
    """A call that wants to know how likely given continuations are.

    The logits behind the prompt tell the first token of every label. A label of more tokens is then read behind the prompt, but
    for its last one, and the next label after it in its place. `sums`: of the logarithms so far.
    """

    labels: tuple[list[int], ...]
    sums: list[float] = field(default_factory=list)
    at: int = -1
    """The label that is being read; -1: the prompt is."""

    @property
    def over(self) -> bool:
        return self.at == len(self.labels)

    def take(self, row: NDArray[np.float32]) -> None:
        """Add what the logits behind all that was read tell; then `tokens` is what to read next, perhaps less than before."""
        if self.at < 0:
            self.sums = logprobs(row, [label[0] for label in self.labels])
        else:
            done = len(self.tokens) - self.prompt_tokens
            self.sums[self.at] += logprobs(row, [self.labels[self.at][done]])[0]
        if self.at < 0 or len(self.tokens) - self.prompt_tokens == len(self.labels[self.at]) - 1:
            self._next_label()
        else:
            self.tokens.append(self.labels[self.at][len(self.tokens) - self.prompt_tokens])

    def _next_label(self) -> None:
        """Go back to the end of the prompt, and from there to the next label that has more than one token."""
        del self.tokens[self.prompt_tokens :]
        self.read = min(self.read, self.prompt_tokens)
        self.at += 1
        while not self.over and len(self.labels[self.at]) == 1:
            self.at += 1
        if not self.over:
            self.tokens.append(self.labels[self.at][0])
