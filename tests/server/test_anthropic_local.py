"""The Messages door at a kernel with the embedded model: counts, caches, stops and tools, from end to end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from messages_wire import ask, put_together, stream
from served import Served, served

from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig
from aios.server.messages import OLDEST

pytestmark = [pytest.mark.real, pytest.mark.slow]

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [{"name": "weather", "description": "The weather of a city.", "input_schema": CITY}]
QUESTION: dict[str, Any] = {"system": "You are brief.", "messages": [{"role": "user", "content": "How is the weather in Rome?"}]}
GREEDY: dict[str, Any] = {**QUESTION, "max_tokens": 40, "temperature": 0}
SHORT = {**GREEDY, "max_tokens": 4}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for the module: the model file is read and proved once."""
    return tmp_path_factory.mktemp("home")


@asynccontextmanager
async def kernel_at(home: Path) -> AsyncIterator[Served]:
    core: Any = LocalCore(LocalCoreConfig(home=home, slots=2, window=768, threads=1))
    async with served(core) as s:
        yield s


async def test_what_is_counted_is_what_is_read_and_what_was_read_before_is_told_apart(home: Path) -> None:
    async with kernel_at(home) as s:
        for fields in ({}, {"tools": TOOLS}):
            async with s.post("/v1/messages/count_tokens", {**QUESTION, **fields, "model": "default"}) as answer:
                counted = (await answer.json())["input_tokens"]
            usage = (await ask(s, OLDEST, **SHORT, **fields))["usage"]
            assert usage["input_tokens"] + usage["cache_read_input_tokens"] == counted
        again = (await ask(s, OLDEST, **SHORT, tools=TOOLS))["usage"]
        assert again["cache_read_input_tokens"] > again["input_tokens"] > 0


async def test_a_stop_sequence_ends_the_answer_and_is_named(home: Path) -> None:
    async with kernel_at(home) as s:
        whole = await ask(s, OLDEST, **{**GREEDY, "max_tokens": 12})
        said = whole["content"][0]["text"]
        word = said.split()[3]
        stopped = await ask(s, OLDEST, **GREEDY, stop_sequences=["never said", word])
        assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", word)
        assert stopped["content"][0]["text"] == said[: said.index(word)]
        told = put_together(await stream(s, OLDEST, **GREEDY, stop_sequences=["never said", word]))
        assert (told["stop_sequence"], told["content"]) == (word, stopped["content"])


async def test_a_tool_that_must_be_called_is_called_streamed_or_not(home: Path) -> None:
    async with kernel_at(home) as s:
        whole = await ask(s, OLDEST, **GREEDY, tools=TOOLS, tool_choice={"type": "any"})
        (use,) = whole["content"]
        assert (whole["stop_reason"], use["type"], use["name"]) == ("tool_use", "tool_use", "weather")
        assert set(use["input"]) == {"city", "days"} and use["input"]["city"] in ("Paris", "Rome")
        (told,) = put_together(await stream(s, OLDEST, **GREEDY, tools=TOOLS, tool_choice={"type": "any"}))["content"]
        assert (told["name"], told["input"]) == (use["name"], use["input"])
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": "no such city", "is_error": True}
        turns = [*QUESTION["messages"], {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
        answer = await ask(s, OLDEST, **{**SHORT, "messages": turns}, tools=TOOLS, tool_choice={"type": "none"})
        assert answer["content"][0]["text"]


async def test_an_answer_keeps_to_its_schema(home: Path) -> None:
    async with kernel_at(home) as s:
        form = {"format": {"type": "json_schema", "schema": CITY}}
        answer = await ask(s, OLDEST, **GREEDY, output_config=form)
        assert answer["content"][0]["text"].startswith("{") and '"city"' in answer["content"][0]["text"]


async def test_what_the_core_refuses_is_named_as_the_wire_names_it(home: Path) -> None:
    async with kernel_at(home) as s:
        for fields, field in (
            ({"tools": [{"name": "f", "input_schema": {"type": "string"}}]}, "tools[0].input_schema"),
            ({"output_config": {"format": {"type": "json_schema", "schema": CITY}}, "tools": TOOLS}, "output_config.format"),
        ):
            async with s.post("/v1/messages", {**GREEDY, "model": "default", **fields}) as answer:
                assert (answer.status, (await answer.json())["error"]["details"]["field"]) == (400, field)
