"""Choosing the next token from a row of logits.

The random numbers are counted, not drawn: the one for a token is a function of the call's seed and of the token's position, so
a generation that goes on in another process needs no state of a generator to choose as it would have chosen here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

FLOORS = (7.0, 14.0, 30.0)
"""Tokens less likely than the likeliest by so much (natural logarithm of the ratio, at temperature 1): looked at only if those
above are not enough, and beyond the last (1e-13) never. Sorting a few hundred is 20 times cheaper than all."""

COLDEST = 1e-4
"""Lower temperatures are as good as greedy, and divide to infinity."""

_COUNTER = struct.Struct("<QQ")


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at `position` of a generation."""
    digest = blake2b(_COUNTER.pack(seed % 2**64, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def choose(logits: NDArray[np.float32], temperature: float, top_p: float, chance: float) -> int:
    """The token for `chance` in [0, 1). `temperature` 0: the likeliest. `top_p`: from the likeliest that make up this share."""
    likeliest = int(logits.argmax())
    if temperature <= 0:
        return likeliest
    scaled = (logits - logits[likeliest]) / np.float32(max(temperature, COLDEST))
    wanted = top_p * float(np.exp(scaled).sum(dtype=np.float64)) if top_p < 1 else math.inf
    tokens, weights = _enough(scaled, wanted)
    if top_p < 1:
        order = np.argsort(-weights, kind="stable")
        kept = int(np.searchsorted(np.cumsum(weights[order]), wanted)) + 1
        tokens, weights = tokens[order[:kept]], weights[order[:kept]]
    sums = np.cumsum(weights)
    at = int(np.searchsorted(sums, chance * sums[-1], side="right"))
    return int(tokens[min(at, len(tokens) - 1)])


def choose_among(
    logits: NDArray[np.float32], allowed: NDArray[np.intp] | None, temperature: float, top_p: float, chance: float
) -> int:
    """As `choose`, of the `allowed` tokens only, where not all are."""
    if allowed is None:
        return choose(logits, temperature, top_p, chance)
    return int(allowed[choose(logits[allowed], temperature, top_p, chance)])


def logprobs(logits: NDArray[np.float32], tokens: Sequence[int]) -> list[float]:
    """The natural logarithms of the probabilities of some tokens, at temperature 1 and before anything is ruled out."""
    shifted = logits.astype(np.float64) - float(logits.max())
    total = math.log(float(np.exp(shifted).sum()))
    return [float(shifted[token]) - total for token in tokens]


def likeliest(logits: NDArray[np.float32], number: int) -> list[int]:
    """The likeliest tokens, the likeliest first; of equal ones the first."""
    if not number:
        return []
    least = np.partition(logits, -number)[-number]
    found = np.flatnonzero(logits >= least)
    return [int(token) for token in found[np.argsort(-logits[found], kind="stable")][:number]]


def _enough(scaled: NDArray[np.float32], wanted: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The likeliest tokens whose weights make up `wanted`, perhaps more of them, in the order of their numbers."""
    tokens, weights = _above(scaled, FLOORS[0])
    for floor in FLOORS[1:]:
        if float(weights.sum()) >= wanted:
            break
        tokens, weights = _above(scaled, floor)
    return tokens, weights


def _above(scaled: NDArray[np.float32], floor: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    tokens = np.flatnonzero(scaled >= -floor)
    return tokens, np.exp(scaled[tokens].astype(np.float64))
