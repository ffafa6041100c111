"""A writer and a critic who never speak to each other: they share a board. `python examples/paper.py`."""

import aios

BOARD = ("read /boards/paper", "write /boards/paper")


@aios.agent(grants=("use /llm/*", *BOARD))
async def critic(k: aios.Kernel, after: int) -> None:
    """Puts a review beside each draft; `if_version=0`: only where there is none yet."""
    board = k.board("paper")
    async for draft in board.watch("draft/*", after=after):
        print(f"{draft.name} put {draft.key} (version {draft.version})")
        review = await k.ask(f"Name one weakness of this text:\n{draft.value}", max_tokens=30)
        await board.put(f"review/{draft.key}/{draft.version}", review, if_version=0)


@aios.agent(grants=("use /llm/*", "spawn /agents/critic", *BOARD))
async def paper(k: aios.Kernel, topic: str) -> str:
    board = k.board("paper")
    begun = max((headline.version for headline in await board.list()), default=0)
    peer = await k.spawn(critic, begun)
    version = await board.put("draft/1", await k.ask(f"Write one sentence on {topic}.", max_tokens=40))
    review = await board.wait(f"review/draft/1/{version}", timeout_s=300)
    await peer.stop()
    text = await k.ask(f"Improve this sentence:\n{review.value}", max_tokens=40)
    await board.put("draft/1", text, if_version=version)
    return text


if __name__ == "__main__":
    print(aios.run(paper, "rivers"))
