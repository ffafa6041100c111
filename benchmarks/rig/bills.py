"""What callers with one budget ask, and what a provider bills for it: the workload of `benchmarks.budget`.

Prompts of 20,000 tokens in the median, nine tenths of them read before, and answers of 220 tokens where up to 8,192 are asked
for, both log-normal. Two calls of three are streams. What a call is to come to stands at the head of its prompt, so that it goes
through any kernel unchanged. All times are a two-hundredth of a provider's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from aios.ports.core import Price

MODEL = "large"
CACHED = 0.9
"""Of a prompt, what had been read before."""
CACHED_PRICE = 300
PRICE = Price(3000, CACHED_PRICE, 15_000)
"""$3, $0.30 and $15 per million tokens."""
LIMIT = 5 * 10**9
MAX_TOKENS = 8192
SPEED = 200
FIRST_S, TOKENS_PER_S = 1.5 / SPEED, 50.0 * SPEED
STREAMS = 2 / 3
Fails = Literal["", "busy", "breaks", "silent"]
FAILS: Mapping[Fails, float] = {"busy": 0.01, "breaks": 0.01, "silent": 0.01}
"""Shares of calls that a provider refuses with 429, breaks off in the midst of the answer, or answers without a usage."""
Leaves = Literal["", "early", "midway"]
LEAVES: Mapping[Leaves, float] = {"early": 1 / 16, "midway": 1 / 16}
"""Shares of calls whose caller hangs up: before the first token, wherever the call is then, or in the midst of a stream."""
DOORS: Mapping[str, float] = {"/v1/chat/completions": 0.5, "/v1/messages": 0.25, "/v1/responses": 0.25}
"""Shares of calls by their door."""
WELL = "well"
_encode = msgspec.json.Encoder().encode


class Work(msgspec.Struct, frozen=True, array_like=True):
    """What a call is to come to: tokens of its prompt, tokens that its answer would like to have, and how it fails.

    `early`: its caller hangs up before the first of them.
    """

    given: int
    answer: int
    fails: Fails = ""
    early: bool = False

    def prompt(self, token_bytes: int) -> str:
        """A text of so many tokens, each of so many bytes, that says all of it."""
        said = f"{self.given} {self.answer} {self.fails or WELL} {self.early:d} "
        return said.ljust(self.given * token_bytes, "x")

    @classmethod
    def of(cls, prompt: str) -> Work:
        """The work that a prompt asks for. Raises ValueError."""
        given, answer, fails, early, _ = prompt.split(" ", 4)
        said = int(given), int(answer), "" if fails == WELL else fails, early == "1"
        return msgspec.convert(said, cls)


class Ask(msgspec.Struct, frozen=True):
    """One call: its work, door and form, when its caller hangs up, and after how long, if `early`."""

    work: Work
    door: str
    stream: bool
    leaves: Leaves
    leaves_s: float

    def body(self, token_bytes: int) -> bytes:
        """What is sent to its door, where a token of the prompt has so many bytes."""
        return _encode({"model": MODEL, "stream": self.stream, **BODIES[self.door](self.work.prompt(token_bytes))})


BODIES: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "/v1/chat/completions": lambda prompt: {"messages": [{"role": "user", "content": prompt}], "max_tokens": MAX_TOKENS},
    "/v1/messages": lambda prompt: {"messages": [{"role": "user", "content": prompt}], "max_tokens": MAX_TOKENS},
    "/v1/responses": lambda prompt: {"input": prompt, "max_output_tokens": MAX_TOKENS},
}


def drawn(chance: random.Random, fails: bool = True) -> Ask:
    """The next call of a caller; without `fails` the provider does not fail it."""
    given = int(min(150_000, max(500, 20_000 * math.exp(0.8 * chance.gauss(0, 1)))))
    answer = int(min(MAX_TOKENS, max(5, 220 * math.exp(1.18 * chance.gauss(0, 1)))))
    leaves = one_of(chance, LEAVES)
    stream = leaves == "midway" or chance.random() < STREAMS
    door, leaves_s = one_of(chance, DOORS), chance.uniform(0.0, FIRST_S)
    failure = one_of(chance, FAILS)
    work = Work(given, answer, failure if fails else "", early=leaves == "early")
    return Ask(work, door, stream, leaves, leaves_s)


def one_of(chance: random.Random, shares: Mapping[Any, float]) -> Any:
    """One of these by their shares; "" for the rest."""
    left = chance.random()
    for each, share in shares.items():
        left -= share
        if left < 0:
            return each
    return ""


def bill(given: int, made: int) -> int:
    """Nano-dollars for a prompt of so many tokens and so many of an answer."""
    cached = int(given * CACHED)
    return (given - cached) * PRICE.input + cached * CACHED_PRICE + made * PRICE.output
