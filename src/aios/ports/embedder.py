"""The port `Embedder`: something that turns texts into vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from aios.abi.llm import EmbedKind
from aios.ports.core import CoreEvent, Health


class EmbedderInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an embedder is. `dimensions`: numbers of a vector. `window`: tokens of a text that count. `slots`: calls at once."""

    name: str
    model: str
    dimensions: int
    window: int
    slots: int
    driver: str


class Embedded(msgspec.Struct, frozen=True):
    """A vector for each text: float32 numbers, the lowest byte first, of length one.

    `tokens`: of all texts, as far as they count. `cut`: how many texts have more tokens than count.
    """

    vectors: tuple[bytes, ...]
    tokens: int
    cut: int


class Embedder(Protocol):
    """An embedder. Its methods are called on the kernel's loop and never block it."""

    def info(self) -> EmbedderInfo:
        """What it is; always the same."""
        ...

    def health(self) -> Health:
        """Its state now, without asking anybody. One that is not needed yet is up."""
        ...

    def watch(self, changed: Callable[[CoreEvent], None]) -> None:
        """From now on `changed` hears when what does the work came up or went down."""
        ...

    async def embed(self, texts: Sequence[str], kind: EmbedKind) -> Embedded:
        """Embed texts, at least one. Calls at the same time come forward side by side, whatever their sizes.

        Raises `Unavailable` with what to do when it cannot be brought up, `CoreFailed` when it failed.
        """
        ...

    async def close(self) -> None:
        """End it and all that belongs to it."""
        ...
