"""all-MiniLM-L6-v2 in plain numpy: six layers of BERT, the mean of what they say of each piece, length one.

The texts of a batch lie behind one another, without padding: all of them go through the weights in one multiplication, and each
looks at itself alone. So a vector hardly depends on what it was computed beside.

Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation"; Reimers and Gurevych 2019, "Sentence-BERT".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float32]]

LAYERS = 6
HEADS = 12
WIDTH = 384
"""Numbers of a vector."""
EPSILON = 1e-12


class Dense(NamedTuple):
    """A weighted sum with its bias; `weights`: (in, out)."""

    weights: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        found: Array = x @ self.weights
        found += self.bias
        return found


class Norm(NamedTuple):
    """Layer normalisation."""

    scale: Array
    shift: Array

    def __call__(self, x: Array) -> Array:
        centred: Array = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
        centred /= spread
        centred *= self.scale
        centred += self.shift
        return centred


class Layer(NamedTuple):
    """One layer: queries, keys and values in one, what attention found, and the two halves of the feed-forward part."""

    attend: Dense
    attended: Dense
    attended_norm: Norm
    widen: Dense
    narrow: Dense
    norm: Norm

    def __call__(self, x: Array, texts: Sequence[slice]) -> Array:
        x = self.attended_norm(x + self.attended(self._attention(x, texts)))
        return self.norm(x + self.narrow(gelu(self.widen(x))))

    def _attention(self, x: Array, texts: Sequence[slice]) -> Array:
        """What each piece finds in the pieces of its own text."""
        asked = self.attend(x).reshape(len(x), 3, HEADS, WIDTH // HEADS)
        found = np.empty((len(x), HEADS, WIDTH // HEADS), np.float32)
        for text in texts:
            queries, keys, values = asked[text].transpose(1, 2, 0, 3)
            found[text] = (softmax(queries @ keys.transpose(0, 2, 1)) @ values).transpose(1, 0, 2)
        return found.reshape(len(x), WIDTH)


class MiniLM:
    """The model. `weights`: a safetensors file of float32, which is mapped, not read."""

    def __init__(self, weights: Path) -> None:
        tensors = read_tensors(weights)

        def dense(*names: str) -> Dense:
            weights = [tensors[f"{name}.weight"] for name in names]
            bias = np.concatenate([tensors[f"{name}.bias"] for name in names])
            return Dense((np.concatenate(weights) if len(weights) > 1 else weights[0]).T, bias)

        def norm(name: str) -> Norm:
            return Norm(tensors[f"{name}.LayerNorm.weight"], tensors[f"{name}.LayerNorm.bias"])

        self._pieces = tensors["embeddings.word_embeddings.weight"]
        self._places = tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
        self._norm = norm("embeddings")
        self._layers = []
        for layer in (f"encoder.layer.{number}" for number in range(LAYERS)):
            own = f"{layer}.attention.self"
            attend = dense(f"{own}.query", f"{own}.key", f"{own}.value")
            attend.weights[:, :WIDTH] /= np.float32(np.sqrt(WIDTH // HEADS))
            attend.bias[:WIDTH] /= np.float32(np.sqrt(WIDTH // HEADS))
            self._layers.append(
                Layer(
                    attend, dense(f"{layer}.attention.output.dense"), norm(f"{layer}.attention.output"),
                    dense(f"{layer}.intermediate.dense"), dense(f"{layer}.output.dense"), norm(f"{layer}.output"),
                )
            )  # fmt: skip

    def __call__(self, texts: Sequence[Sequence[int]]) -> Array:
        """The vectors of texts that are given as numbers of pieces, at least one each: (texts, `WIDTH`), each of length one."""
        edges = [0, *accumulate(map(len, texts))]
        spans = [slice(start, end) for start, end in pairwise(edges)]
        places = np.concatenate([np.arange(len(text)) for text in texts])
        x = self._norm(self._pieces[np.concatenate(texts)] + self._places[places])
        for layer in self._layers:
            x = layer(x, spans)
        means: Array = np.stack([x[span].mean(axis=0) for span in spans])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        return means


def softmax(x: Array) -> Array:
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def gelu(x: Array) -> Array:
    """x·Φ(x). The error function by Abramowitz and Stegun 7.1.26, which is as exact as float32 is."""
    scaled = np.abs(x) * np.float32(1 / np.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * scaled)
    tail = t * np.float32(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail += np.float32(coefficient)
        tail *= t
    np.square(scaled, out=scaled)
    np.negative(scaled, out=scaled)
    tail *= np.exp(scaled, out=scaled)
    # erf(|x|) = 1 - tail, and it is odd: x·Φ(x) = max(x, 0) - |x|·tail/2
    tail *= np.abs(x)
    tail *= np.float32(0.5)
    found: Array = np.maximum(x, 0)
    found -= tail
    return found


def read_tensors(path: Path) -> dict[str, Array]:
    """The float32 tensors of a safetensors file, read-only and in the file. Raises `ValueError` for another kind of file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        head = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    found = {}
    for name, tensor in head.items():
        if tensor.get("dtype") == "F32":
            start, end = tensor["data_offsets"]
            found[name] = data[start:end].view(np.float32).reshape(tensor["shape"])
    return found
