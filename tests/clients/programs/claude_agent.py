"""The Agent SDK of Claude, which drives the `claude` command: Messages in the older version, with a long list of betas."""

from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, StreamEvent, create_sdk_mcp_server, query, tool
from harness import FOREIGN_MODEL, QUESTION, SLOW, SUM, add, play


@tool("add", "Add two numbers.", {"a": int, "b": int})
async def plus(numbers):
    return {"content": [{"type": "text", "text": str(add(**numbers))}]}


options = ClaudeAgentOptions(
    model=FOREIGN_MODEL,  # `default` is a name of its own there
    mcp_servers={"sums": create_sdk_mcp_server("sums", tools=[plus])},
    tools=[],
    allowed_tools=["mcp__sums__add"],
    include_partial_messages=True,
    max_turns=4,
)


async def heard(text):
    return [message async for message in query(prompt=text, options=options)]


async def ask(text):
    return next(message.result for message in await heard(text) if isinstance(message, ResultMessage))


async def pieces(text):
    events = [message.event for message in await heard(text) if isinstance(message, StreamEvent)]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    return [delta["text"] for delta in deltas if delta["type"] == "text_delta"]


async def twice():
    return [await ask(QUESTION), await ask(QUESTION)]


play(
    hello=lambda: ask(QUESTION),
    stream=lambda: pieces(QUESTION),
    tools=lambda: ask(SUM),
    wait_streaming=lambda: ask(SLOW),
    cut=lambda: ask(QUESTION),
    twice=twice,
)
