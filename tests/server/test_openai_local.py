"""An unmodified OpenAI client at a kernel with the embedded model: forms, calls of functions and likelihoods, from end to end."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from served import served

from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig

pytestmark = [pytest.mark.real, pytest.mark.slow]

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "description": "The weather of a city.", "parameters": CITY}}]
ASK = "How will the weather be in Rome?"
MODEL: Any = {"model": "default", "seed": 5, "temperature": 0.7, "max_tokens": 60}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for the module: the model file is read and proved once."""
    return tmp_path_factory.mktemp("home")


@asynccontextmanager
async def client_at(home: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    core: Any = LocalCore(LocalCoreConfig(home=home, slots=2, window=768, threads=1))
    async with served(core) as s, openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token, max_retries=0) as client:
        yield client


def valid(arguments: str) -> bool:
    value = json.loads(arguments)
    return set(value) == {"city", "days"} and value["city"] in ("Paris", "Rome") and 1 <= value["days"] <= 9


async def test_an_answer_keeps_to_a_schema_and_says_how_likely_it_was(home: Path) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": CITY, "strict": True}}
    messages: Any = [{"role": "user", "content": ASK}]
    async with client_at(home) as client:
        create = client.chat.completions.create
        answer = await create(messages=messages, response_format=form, logprobs=True, top_logprobs=3, **MODEL)
        chunks = [chunk async for chunk in await create(messages=messages, response_format=form, stream=True, **MODEL)]
        with pytest.raises(openai.BadRequestError) as refused:
            await create(messages=messages, response_format={"type": "regex", "pattern": "(a"}, **MODEL)
    choice = answer.choices[0]
    assert choice.finish_reason == "stop" and choice.message.content and valid(choice.message.content)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert choice.logprobs and choice.logprobs.content and answer.usage
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    for token in choice.logprobs.content:
        assert token.bytes is not None and len(token.top_logprobs) == 3
        assert sum(math.exp(each.logprob) for each in token.top_logprobs) <= 1 + 1e-6
    assert b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content).decode() == choice.message.content
    assert refused.value.param == "response_format" and "unclosed" in refused.value.message


async def test_a_loop_of_calls_goes_from_end_to_end(home: Path) -> None:
    messages: list[Any] = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": ASK}]
    async with client_at(home) as client:
        async with client.chat.completions.stream(messages=messages, tools=TOOLS, tool_choice="required", **MODEL) as events:
            streamed = await events.get_final_completion()
        asked = await client.chat.completions.create(messages=messages, tools=TOOLS, tool_choice="required", **MODEL)
        message = asked.choices[0].message
        assert message.tool_calls and message.content is None and asked.choices[0].finish_reason == "tool_calls"
        (call,) = message.tool_calls
        assert call.type == "function" and call.function.name == "weather" and valid(call.function.arguments)
        (again,) = streamed.choices[0].message.tool_calls or ()
        assert (again.id, again.function.arguments) == (call.id, call.function.arguments)
        assert streamed.choices[0].finish_reason == "tool_calls"
        result = {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'}
        messages += [message.model_dump(exclude_none=True), result]
        told = await client.chat.completions.create(messages=messages, tools=TOOLS, tool_choice="none", **MODEL)
        free = await client.chat.completions.create(messages=messages, tools=TOOLS, **MODEL)
    assert told.choices[0].message.content and not told.choices[0].message.tool_calls
    said = free.choices[0].message
    assert bool(said.content) != bool(said.tool_calls)
