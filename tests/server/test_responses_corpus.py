"""What real clients send to the Responses door (recorded, `tests/corpus`): each body is taken, and means what it meant.

A body and the `Generate` that comes of it are both written in one form, and must be the same there. What a body holds that the
form has no word for is named here, and nothing else is left out.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from served import served

from aios.abi.llm import Generate, Message, Part, ToolCall
from aios.ports.core import FEATURES, CoreCall
from aios.server.response_body import generate_of, read_body
from aios.server.response_items import DROPPED, Item, read_input
from aios.testing import Script, ScriptedCore

CORPUS = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent.parent / "corpus/responses").glob("*.json"))}
PATH = "/v1/responses"

BESIDE = frozenset(
    ("aios", "background", "context_management", "include", "max_tool_calls", "metadata", "previous_response_id",
     "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "stream", "stream_options",
     "top_k", "truncation", "user")
)  # fmt: skip
"""Fields that say nothing about what is to be generated: whose call it is, what becomes of it, or nothing here."""
BESIDE_ITEMS = frozenset(("id", "status", "type", "phase"))
BESIDE_PARTS = frozenset(("annotations", "detail", "logprobs"))


def referred(id: str) -> dict[str, Any]:
    """An item that a body refers to."""
    if id.startswith("fc_"):
        return {"type": "function_call", "call_id": "call_weather", "name": "weather", "arguments": "{}"}
    return {"type": "message", "role": "assistant", "content": "let me see"}


def before(body: dict[str, Any]) -> list[Any]:
    """What a body goes on from: calls of the functions whose results it brings."""
    items = body["input"] if isinstance(body["input"], list) else []
    ids = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    asked = tuple([Item(type="function_call", call_id=id, name="weather", arguments="{}") for id in dict.fromkeys(ids)])
    return [asked] if body.get("previous_response_id") else []


def read(raw: bytes) -> Generate:
    body, _ = read_body(raw)
    return generate_of(body, before(json.loads(raw)), read_input(body.input), lambda id: Item(**referred(id)))[0]


# one form for both


def content_of(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [content]
    parts = []
    for part in content:
        assert set(part) - BESIDE_PARTS <= {"type", "text", "image_url", "refusal"}, part
        parts.append(part.get("image_url") and ["image", part["image_url"]] or part.get("text", part.get("refusal")))
    return parts


def talk_of(body: dict[str, Any]) -> list[Any]:
    """The items of a body, without those that are dropped."""
    said: list[Any] = [["system", body["instructions"]]] if body.get("instructions") else []
    items = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    for item in items:
        kind = item.get("type", "message")
        if kind == "item_reference":
            item = referred(item["id"])
            kind = item["type"]
        if kind == "message":
            said.append([item["role"].replace("developer", "system"), *content_of(item["content"])])
        elif kind == "function_call":
            said.append(["call", item["call_id"], item["name"], item["arguments"]])
        elif kind == "function_call_output":
            said.append(["result", item["call_id"], *content_of(item["output"])])
        else:
            assert kind in DROPPED
    return said


def talk_of_messages(messages: tuple[Message, ...]) -> list[Any]:
    said: list[Any] = []
    for message in messages:
        content = [message.content] if isinstance(message.content, str) else [part_of(part) for part in message.content]
        if message.role == "tool":
            said.append(["result", message.tool_call_id, *content])
        elif message.content or not message.tool_calls:
            said.append([message.role, *content])
        said += [["call", call.id, call.name, call.arguments] for call in message.tool_calls]
    return said


def part_of(part: Part) -> Any:
    return part.text if part.type == "text" else ["image", part.image]


def tools_of(body: dict[str, Any]) -> list[Any]:
    tools = [tool for tool in body.get("tools", ()) if tool["type"] == "function"]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        names = {tool["name"] for tool in choice["tools"]}
        tools = [tool for tool in tools if tool["name"] in names]
    return [[t["name"], t.get("description") or "", t.get("parameters") or {}, t.get("strict")] for t in tools]


def choice_of(body: dict[str, Any]) -> Any:
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        named = {"function": {"type": "function", "function": {"name": choice.get("name")}}}
        choice = named.get(choice["type"], choice.get("mode", "auto"))
    return choice if tools_of(body) else None


def format_of(body: dict[str, Any]) -> Any:
    form = body.get("text", {}).get("format", {"type": "text"})
    if form["type"] == "json_schema":
        return {"type": "json_schema", "json_schema": {k: v for k, v in form.items() if k != "type"}}
    return None if form["type"] == "text" else form


def meaning_of(body: dict[str, Any]) -> dict[str, Any]:
    """What a body asks for."""
    known = {"input", "instructions", "model", "tools", "tool_choice", "text", "reasoning", "parallel_tool_calls"}
    known |= {"temperature", "top_p", "top_logprobs", "max_output_tokens"}
    assert set(body) - BESIDE <= known, set(body) - BESIDE - known
    assert set(body.get("text", {})) <= {"format", "verbosity"} and set(body.get("reasoning", {})) <= {"effort", "summary"}
    effort = body.get("reasoning", {}).get("effort")
    return {
        "model": body.get("model", "default"), "talk": talk_of(body), "tools": tools_of(body), "tool_choice": choice_of(body),
        "parallel_tool_calls": body.get("parallel_tool_calls") if tools_of(body) else None, "response_format": format_of(body),
        "temperature": body.get("temperature"), "top_p": body.get("top_p"), "max_tokens": body.get("max_output_tokens"),
        "top_logprobs": body.get("top_logprobs"), "reasoning_effort": None if effort == "none" else effort,
    }  # fmt: skip


def meaning_of_request(wanted: Generate, given: int) -> dict[str, Any]:
    """The same of a request; its first `given` calls came before the body's own items."""
    plain = ("model", "tool_choice", "parallel_tool_calls", "response_format", "temperature", "top_p", "max_tokens",
             "top_logprobs", "reasoning_effort")  # fmt: skip
    said = talk_of_messages(wanted.messages)
    begins = 1 if said and said[0][0] == "system" and given else 0
    return {
        **{name: getattr(wanted, name) for name in plain},
        "talk": said[:begins] + said[begins + given :],
        "tools": [[tool.name, tool.description, tool.parameters, tool.strict] for tool in wanted.tools],
    }


def test_there_are_enough_of_them() -> None:
    assert len(CORPUS) >= 60
    assert {name.partition("-settings")[0] for name in CORPUS} >= {"openai-3", "openai-agents", "pydantic-ai"}


@pytest.mark.parametrize("name", CORPUS)
def test_a_body_means_inside_what_it_meant_outside(name: str) -> None:
    body = json.loads(CORPUS[name])
    given = sum(len(items) for items in before(body))
    assert meaning_of_request(read(CORPUS[name]), given) == meaning_of(body)


def test_a_body_that_means_something_else_is_noticed() -> None:
    raw = CORPUS["openai-3-settings-01"]
    assert meaning_of_request(read(raw.replace(b"weather", b"whether")), 0) != meaning_of(json.loads(raw))


@pytest.mark.parametrize("name", CORPUS)
async def test_a_body_is_taken_over_the_wire(name: str) -> None:
    """Ids of what it goes on from are of the day when it was recorded: they are put in anew."""
    body = json.loads(CORPUS[name])
    references = [item for item in body["input"] if isinstance(item, dict) and item.get("type") == "item_reference"]

    def answer(call: CoreCall) -> Script:
        calls = tuple([ToolCall(item.call_id, "weather", "{}") for items in before(body) for item in items])
        if references:
            calls = (ToolCall("call_weather", "weather", "{}"),)
        return Script(text="let me see", tool_calls=calls, finish="tool_calls" if calls else "stop")

    async with served(ScriptedCore(answer, features=frozenset(FEATURES))) as s:
        if references or "previous_response_id" in body:
            async with s.post(PATH, {"input": "before"}) as made:
                first = await made.json()
            for number, reference in enumerate(references):
                reference["id"] = first["output"][number]["id"]
            if "previous_response_id" in body:
                body["previous_response_id"] = first["id"]
        async with s.post(PATH, body) as answered:
            assert answered.status == 200, await answered.text()
            await answered.read()
