"""The agent of `aios demo` whose host is killed: a program of its own, so that nobody else is in that host."""

from __future__ import annotations

import aios


@aios.agent(cls="standard")
async def patient(k: aios.Kernel, questions: list[str]) -> int:
    """Asks one question after the other; returns how many were answered."""
    answers = [await k.ask(question, max_tokens=24) for question in questions]
    return len(answers)
