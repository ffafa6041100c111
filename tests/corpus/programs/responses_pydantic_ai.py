"""What programs do with the `pydantic-ai` package: its model `openai:` is one of the Responses."""

import asyncio

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.models.openai import OpenAIResponsesModelSettings

PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489")


class Forecast(BaseModel):
    city: str
    days: int


async def main() -> None:
    agent = Agent("openai:default", instructions="Answer briefly.")
    await agent.run("What is the weather?")

    @agent.tool_plain
    def weather(city: str, days: int) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    first = await agent.run("What is the weather in Bern?")
    await agent.run("And tomorrow?", message_history=first.all_messages())
    async with agent.run_stream("What is the weather in Basel?") as stream:
        await stream.get_output()
    await Agent("openai:default", output_type=NativeOutput(Forecast)).run("A forecast, please.")
    await Agent("openai:default", output_type=Forecast).run("A forecast as a call, please.")
    settings = OpenAIResponsesModelSettings(openai_previous_response_id="auto", temperature=0.5, max_tokens=40, seed=7)
    chained = Agent("openai:default", model_settings=settings)
    one = await chained.run("One.")
    await chained.run("Two.", message_history=one.all_messages())
    await Agent("openai:default", system_prompt="You see.").run(
        ["What is this?", BinaryContent(data=PIXEL, media_type="image/png")]
    )
    more = OpenAIResponsesModelSettings(
        openai_reasoning_effort="low", openai_reasoning_summary="auto", openai_truncation="auto", parallel_tool_calls=False,
        openai_user="somebody", openai_service_tier="flex",
    )  # fmt: skip
    await Agent("openai:default", model_settings=more).run("All settings.")


asyncio.run(main())
