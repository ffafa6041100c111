"""The OpenAI Agents SDK, over Responses, which is its own choice."""

from agents import Agent, RunConfig, Runner, function_tool
from agents.models.openai_provider import OpenAIProvider
from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play
from openai import AsyncOpenAI

config = RunConfig(model_provider=OpenAIProvider(openai_client=AsyncOpenAI(timeout=PATIENCE_S)))
agent = Agent(name="client", model=MODEL, tools=[function_tool(add)])


async def ask(text):
    return (await Runner.run(agent, text, run_config=config)).final_output


async def pieces(text):
    run = Runner.run_streamed(agent, text, run_config=config)
    events = [event async for event in run.stream_events() if event.type == "raw_response_event"]
    return [event.data.delta for event in events if event.data.type == "response.output_text.delta"]


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
