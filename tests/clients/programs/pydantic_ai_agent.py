"""Pydantic AI over Responses, which `openai:` is its name for."""

from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play
from pydantic_ai import Agent

agent = Agent(f"openai:{MODEL}", tools=[add], model_settings={"timeout": PATIENCE_S})


def ask(text):
    return agent.run_sync(text).output


async def pieces(text):
    async with agent.run_stream(text) as run:
        return [piece async for piece in run.stream_text(delta=True, debounce_by=None)]


async def wait_streaming():
    return "".join(await pieces(SLOW))


play(
    hello=lambda: ask(QUESTION),
    stream=lambda: pieces(QUESTION),
    tools=lambda: ask(SUM),
    wait_streaming=wait_streaming,
    cut=lambda: ask(QUESTION),
    twice=lambda: [ask(QUESTION), ask(QUESTION)],
)
