"""What real clients were seen to send on Anthropic's wire: all of it is answered, and nothing is lost but what is listed here."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from messages_wire import ask, put_together, stream
from served import served

from aios.abi.llm import Count, Generate, Message, Part
from aios.ports.core import FEATURES
from aios.server.messages import OLDEST, STRICT, ThreadNotFound, read_message, read_question
from aios.server.turns import CUSTOM
from aios.testing import Script, ScriptedCore

FILES = sorted((Path(__file__).parents[1] / "corpus" / "messages").glob("*.json"))

LEFT_OUT = {
    "body": {
        "cache_control", "context_management", "inference_geo", "metadata", "service_tier", "speed", "thinking", "thread",
        "made_up", "mcp_servers",  # these are told back
        "aios", "stream",  # these are read, and no part of the request
    },
    "output_config": {"effort"},
    "tool": {"cache_control", "defer_loading", "eager_input_streaming", "input_examples", "type"},
    "block": {"cache_control", "caller", "citations", "toolset_name"},
}  # fmt: skip
"""Fields that have no place in a request of ours, by where they stand."""
LEFT_OUT_BLOCKS = {"thinking", "redacted_thinking", "server_tool_use", "web_search_tool_result"}


def version(file: Path) -> str:
    return OLDEST if file.stem.startswith("claude-") else STRICT


def is_continued(body: dict[str, Any]) -> bool:
    """Whether a client sends only what is new, because it takes the conversation to be kept here."""
    return bool(body.get("thread", {}).get("type") == "continue")


def test_there_are_many_and_of_several_clients() -> None:
    assert len(FILES) >= 80
    assert len({file.stem.rpartition("-")[0] for file in FILES}) >= 4
    assert sum(is_continued(json.loads(file.read_text())) for file in FILES) == 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_nothing_is_lost_but_what_is_listed(file: Path) -> None:
    raw = file.read_bytes()
    body = json.loads(raw)
    if is_continued(body):
        with pytest.raises(ThreadNotFound):
            read_message(raw, version(file))
    elif "max_tokens" in body:
        assert understood(read_message(raw, version(file)).request) == said_by(body)
    else:  # what the answer must be changes nothing about how long the question is
        assert understood(read_question(raw, version(file))) == said_by(body) | {"tool_choice": None, "schema": None}


async def test_all_are_answered_and_streams_tell_the_same() -> None:
    script = Script(text='{"city":"Paris","people":3}', reasoning="let me see", cached=1)
    models = ("scripted-1", *{json.loads(file.read_text())["model"] for file in FILES} - {"default", "scripted-1"})
    async with served(ScriptedCore(script, models=models, features=frozenset(FEATURES), window=1_000_000)) as s:
        for file in FILES:
            body = json.loads(file.read_text())
            if "max_tokens" not in body:
                async with s.post("/v1/messages/count_tokens", body, anthropic_version=version(file)) as answer:
                    assert (await answer.json())["input_tokens"] > 0
            elif not is_continued(body):
                whole = await ask(s, version(file), **body | {"stream": False})
                told = put_together(await stream(s, version(file), **body))
                assert whole.pop("id") != told.pop("id")
                assert whole == told, file


# what a body says


def said_by(body: dict[str, Any]) -> dict[str, Any]:
    """A body in one form, without what is left out. A field that is neither known nor listed fails."""
    kept = set(body) - LEFT_OUT["body"]
    assert kept <= {"max_tokens", "messages", "model", "output_config", "stop_sequences", "system", "tool_choice", "tools"}
    config = body.get("output_config", {})
    assert set(config) - LEFT_OUT["output_config"] <= {"format"}
    referred = set(re.findall(r'"tool_name": "(.*?)"', json.dumps(body)))
    own = [t for t in body.get("tools", ()) if t.get("type") in CUSTOM and (t["name"] in referred or not t.get("defer_loading"))]
    choice = dict(body.get("tool_choice", {}))
    return {
        "model": body["model"],
        "max_tokens": body.get("max_tokens"),
        "stop": list(body.get("stop_sequences", ())),
        "turns": turns_of(body),
        "tools": sorted((tool_of(tool) for tool in own), key=lambda tool: str(tool["name"])),
        "tool_choice": ({"disable_parallel_tool_use": False} | choice) if choice else None,
        "schema": config["format"]["schema"] if "format" in config else None,
    }


def tool_of(tool: dict[str, Any]) -> dict[str, Any]:
    assert set(tool) - LEFT_OUT["tool"] <= {"name", "description", "input_schema", "strict"}
    return {
        "name": tool["name"], "description": tool.get("description", ""), "schema": tool.get("input_schema", {}),
        "strict": tool.get("strict"),
    }  # fmt: skip


def turns_of(body: dict[str, Any]) -> list[Any]:
    turns = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    said: list[Any] = []
    for turn in [*turns, *body["messages"]]:
        assert set(turn) == {"role", "content"}
        blocks = [block_of(block) for block in blocks_of(turn["content"]) if block["type"] not in LEFT_OUT_BLOCKS]
        if said and said[-1][0] == turn["role"]:
            said[-1][1].extend(blocks)
        else:
            said.append((turn["role"], blocks))
    return said


def blocks_of(content: Any) -> Iterable[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


def block_of(block: dict[str, Any]) -> dict[str, Any]:
    block = {name: value for name, value in block.items() if name not in LEFT_OUT["block"]}
    if block["type"] == "image":
        source = block["source"]
        is_far = source["type"] == "url"
        return {"type": "image", "at": source["url"] if is_far else f"data:{source['media_type']};base64,{source['data']}"}
    if block["type"] == "tool_result":
        below = [block_of(inner) for inner in blocks_of(block.get("content"))]
        return {"is_error": False, **block, "content": below}
    return block


# what was understood


def understood(request: Generate | Count) -> dict[str, Any]:
    """A request in the form of a body."""
    asked = request if isinstance(request, Generate) else Generate(messages=request.messages, tools=request.tools)
    is_one = isinstance(asked.tool_choice, dict)
    choice: dict[str, Any] | None = None
    if asked.tool_choice is not None:
        choice = {"type": "tool" if is_one else {"required": "any"}.get(str(asked.tool_choice), asked.tool_choice)}
        choice |= {"name": asked.tool_choice["function"]["name"]} if isinstance(asked.tool_choice, dict) else {}
        choice |= {"disable_parallel_tool_use": asked.parallel_tool_calls is False}
    return {
        "model": request.model,
        "max_tokens": asked.max_tokens,
        "stop": list(asked.stop),
        "turns": turns_from(asked.messages),
        "tools": sorted(
            ({"name": t.name, "description": t.description, "schema": t.parameters, "strict": t.strict} for t in asked.tools),
            key=lambda tool: str(tool["name"]),
        ),
        "tool_choice": choice,
        "schema": asked.response_format["json_schema"]["schema"] if asked.response_format else None,
    }


def turns_from(messages: tuple[Message, ...]) -> list[Any]:
    said: list[Any] = []
    for message in messages:
        blocks = parts_from(message.content)
        role = message.role
        if message.role == "tool":
            role, blocks = "user", [result_from(message, blocks)]
        blocks += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
            for call in message.tool_calls
        ]
        if said and said[-1][0] == role:
            said[-1][1].extend(blocks)
        else:
            said.append((role, blocks))
    return said


def parts_from(content: str | tuple[Part, ...]) -> list[Any]:
    parts = (Part("text", text=content),) if isinstance(content, str) and content else content
    found = []
    for part in parts or ():
        assert isinstance(part, Part)
        referred = re.fullmatch(r"The tool `(.*)` can be called now\.", part.text)
        if part.type == "image":
            found.append({"type": "image", "at": part.image})
        else:
            found.append(
                {"type": "tool_reference", "tool_name": referred[1]} if referred else {"type": "text", "text": part.text}
            )
    return found


def result_from(message: Message, blocks: list[Any]) -> dict[str, Any]:
    is_error = bool(blocks) and str(blocks[0].get("text", "")).startswith("Error: ")
    if is_error:
        blocks[0] = {"type": "text", "text": blocks[0]["text"].removeprefix("Error: ")}
    return {"type": "tool_result", "tool_use_id": message.tool_call_id, "is_error": is_error, "content": blocks}
