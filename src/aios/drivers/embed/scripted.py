"""An embedder for tests: the vector of a text is a sum over its words, the same each time, so that equal words lie close."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b

from aios.abi.errors import AiosError
from aios.abi.llm import EmbedKind
from aios.ports.core import CoreEvent, Health
from aios.ports.embedder import Embedded, EmbedderInfo


class ScriptedEmbedder:
    """The port `Embedder` without a model; tokens are words. `calls`: the texts of each call, as they came.

    `takes_s`: seconds that a call takes. `fails`: errors that the first calls end in, one each.
    """

    def __init__(
        self, name: str = "words", model: str = "words-1", *, dimensions: int = 8, window: int = 16, slots: int = 4,
        takes_s: float = 0.0, fails: Sequence[AiosError] = (),
    ) -> None:  # fmt: skip
        self._info = EmbedderInfo(
            name=name, model=model, dimensions=dimensions, window=window, slots=slots, driver="scripted"
        )  # fmt: skip
        self._takes_s = takes_s
        self._fails = list(fails)
        self.calls: list[tuple[str, ...]] = []
        self.changed: Callable[[CoreEvent], None] | None = None

    def info(self) -> EmbedderInfo:
        return self._info

    def health(self) -> Health:
        return Health(up=True)

    def watch(self, changed: Callable[[CoreEvent], None]) -> None:
        self.changed = changed

    async def embed(self, texts: Sequence[str], kind: EmbedKind) -> Embedded:
        self.calls.append(tuple(texts))
        if self._takes_s:
            await asyncio.sleep(self._takes_s)
        if self._fails:
            raise self._fails.pop(0)
        words = [text.split() for text in texts]
        window = self._info.window
        return Embedded(
            tuple([self._vector(found[:window]) for found in words]),
            sum(min(len(found), window) for found in words),
            sum(len(found) > window for found in words),
        )

    async def close(self) -> None:
        """Nothing is left."""

    def _vector(self, words: Sequence[str]) -> bytes:
        size = self._info.dimensions
        sums = [1e-3] * size
        for word in words:
            for at, byte in enumerate(blake2b(word.lower().encode(), digest_size=size).digest()):
                sums[at] += byte - 127.5
        length = math.sqrt(sum(number * number for number in sums))
        return struct.pack(f"<{size}f", *(number / length for number in sums))
