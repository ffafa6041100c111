"""What programs do with the `openai-agents` package: its own model is one of the Responses."""

import asyncio

from agents import Agent, ModelSettings, Runner, SQLiteSession, function_tool, set_tracing_disabled
from agents.model_settings import Reasoning
from pydantic import BaseModel

set_tracing_disabled(True)


class Forecast(BaseModel):
    city: str
    days: int


@function_tool
def weather(city: str, days: int = 1) -> str:
    """The weather of a city."""
    return f"sunny in {city} for {days} days"


def agent(**fields: object) -> Agent:
    return Agent(name="forecaster", model="default", **fields)


async def main() -> None:
    plain = agent(instructions="Answer briefly.")
    await Runner.run(plain, "What is the weather?")
    await Runner.run(agent(tools=[weather]), "What is the weather in Bern?")
    streamed = Runner.run_streamed(agent(tools=[weather]), "What is the weather in Basel?")
    async for _ in streamed.stream_events():
        pass
    await Runner.run(agent(output_type=Forecast), "A forecast, please.")
    first = await Runner.run(plain, "Hello.")
    await Runner.run(plain, "Once more.", previous_response_id=first.last_response_id)
    await Runner.run(agent(tools=[weather]), "And in Geneva?", auto_previous_response_id=True)
    session = SQLiteSession("talk")
    await Runner.run(plain, "One.", session=session)
    await Runner.run(plain, "Two.", session=session)
    await Runner.run(agent(handoffs=[plain]), "Somebody else, please.")
    settings = ModelSettings(
        temperature=0.1, top_p=0.9, max_tokens=50, metadata={"a": "b"}, store=False, truncation="auto", verbosity="low",
        parallel_tool_calls=False, response_include=["reasoning.encrypted_content"], reasoning=Reasoning(effort="low"),
    )  # fmt: skip
    await Runner.run(agent(model_settings=settings, tools=[weather]), "All settings.")


asyncio.run(main())
