"""The fleet of `aios demo`: small agents in three classes. Their control flow is code; only the words are the model's."""

from __future__ import annotations

import aios


@aios.agent(cls="interactive")
async def reply(k: aios.Kernel, text: str) -> str:
    """A person waits for this one."""
    return await k.ask(f"In one short sentence, what is this text about?\n\n{text}", max_tokens=16)


@aios.agent(cls="standard")
async def explain(k: aios.Kernel, text: str) -> str:
    """Two calls, one after the other."""
    topic = await k.ask(f"Name the topic of this text in a few words.\n\n{text}", max_tokens=10)
    return await k.ask(f"Write one sentence about: {topic}", max_tokens=20)


@aios.agent(cls="batch")
async def digest(k: aios.Kernel, text: str) -> str:
    """Work that can wait."""
    return await k.ask(f"Continue this text.\n\n{text}", max_tokens=48)


@aios.agent(cls="interactive")
async def urgent(k: aios.Kernel, question: str) -> str:
    """Comes when all slots are taken and others wait."""
    return await k.ask(question, max_tokens=12)


@aios.agent(cls="standard")
async def runaway(k: aios.Kernel) -> None:
    """Asks for ever, and soon for more."""
    tokens = 16
    while True:
        await k.ask("Count upwards from one, and never stop.", max_tokens=tokens)
        tokens = 400


@aios.agent(cls="standard")
async def clerk(k: aios.Kernel, handbook: str, question: str) -> str:
    """One of many that are told the same at length, and asked different things."""
    return await k.ask(question, system=handbook, max_tokens=12)


@aios.agent(cls="standard")
async def twin(k: aios.Kernel, text: str) -> str:
    """Says the same whenever it is asked the same: its random numbers are given."""
    return await k.ask(f"Tell a story about this.\n\n{text}", max_tokens=64, temperature=0.8, seed=7)
