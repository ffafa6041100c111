"""Microsoft's Agent Framework over Responses: after a tool it sends the last response's id and the tool's output alone."""

from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient
from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play
from openai import AsyncOpenAI

agent = Agent(OpenAIChatClient(MODEL, async_client=AsyncOpenAI(timeout=PATIENCE_S)), tools=[add])


async def ask(text):
    return (await agent.run(text)).text


async def pieces(text):
    updates = [update async for update in agent.run(text, stream=True)]
    told = [content for update in updates for content in update.contents if content.type == "text"]
    return [content.text for content in told if content.text and content.merge_mode != "replace"]  # at the end it says all again


async def wait_streaming():
    return "".join(await pieces(SLOW))


async def twice():
    return [await ask(QUESTION), await ask(QUESTION)]


play(
    hello=lambda: ask(QUESTION),
    stream=lambda: pieces(QUESTION),
    tools=lambda: ask(SUM),
    wait_streaming=wait_streaming,
    cut=lambda: ask(QUESTION),
    twice=twice,
)
