"""Map and reduce in a group of agents, which no child of it outlives: `python examples/digest.py`."""

import aios

TEXTS = [
    "The river rose two metres in a night, and the lower village was moved to the school.",
    "The new line opens in May; trains will run every ten minutes between six and midnight.",
    "The museum has bought three letters that were thought lost since 1912.",
    "The harvest came three weeks early, and half of the pickers had not arrived yet.",
    "",
]


@aios.agent(cls="batch")
async def note(k: aios.Kernel, text: str) -> str:
    if not text:
        raise ValueError("there is nothing to read")
    return await k.ask(f"Summarise in five words: {text}", max_tokens=20)


@aios.agent
async def merge(k: aios.Kernel, notes: list[str]) -> str:
    lines = "\n".join(f"- {note}" for note in notes)
    return await k.ask(f"Write one headline for these news:\n{lines}", max_tokens=30)


@aios.agent(grants=("use /llm/*", "spawn /agents/*"))
async def digest(k: aios.Kernel, texts: list[str]) -> str:
    """Notes of all texts, each pair of them merged as soon as it is there, and one headline over all."""
    async with k.group(width=16, on_error="collect") as g:
        notes = g.map(note, texts)
        parts = [g.start(merge, after=pair) for pair in aios.chunks(notes, 2)]
        report = g.start(merge, after=parts, cls="interactive", key="report")
    for child in g.failed:
        print(f"{child.key}: {child.error}")
    return report.result


if __name__ == "__main__":
    print(aios.run(digest, TEXTS))
