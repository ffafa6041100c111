"""All doors over HTTP, in the order in which paths are looked for; the first words the errors that belong to none."""

from __future__ import annotations

from aios.ports.kernel import Kernel
from aios.server.anthropic import AnthropicDoor
from aios.server.embeddings import EmbeddingsDoor
from aios.server.exchange import Door
from aios.server.native import NativeDoor
from aios.server.openai import OpenAIDoor
from aios.server.responses import ResponsesDoor


def doors_to(kernel: Kernel) -> tuple[Door, ...]:
    """The doors of a kernel."""
    return (NativeDoor(kernel), OpenAIDoor(kernel), EmbeddingsDoor(kernel), ResponsesDoor(kernel), AnthropicDoor(kernel))
