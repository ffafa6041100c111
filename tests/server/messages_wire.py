"""Anthropic's wire as its clients read it, for the tests of this folder."""

import json
from typing import Any

from served import Served

from aios.server.messages import STRICT

HELLO: dict[str, Any] = {"model": "default", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}


async def ask(s: Served, version: str = STRICT, **fields: Any) -> dict[str, Any]:
    """The whole answer to a message."""
    async with s.post("/v1/messages", {**HELLO, **fields}, anthropic_version=version) as answer:
        assert answer.status == 200, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found


async def stream(s: Served, version: str = STRICT, **fields: Any) -> list[dict[str, Any]]:
    """The events of a streamed answer; each has its name twice."""
    async with s.post("/v1/messages", {**HELLO, **fields, "stream": True}, anthropic_version=version) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        said = await answer.text()
    events = []
    for event in said.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream told, as the clients' own library does it."""
    message: dict[str, Any] = {}
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append({**event["content_block"], "open": True})
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                assert block["open"]
                name = {"input_json_delta": "partial_json", "signature_delta": "signature"}.get(delta["type"], "")
                name = name or delta["type"].removesuffix("_delta")
                block[name] = block.get(name, "") + delta[name]
            case "content_block_stop":
                block = message["content"][event["index"]]
                del block["open"]
                if "partial_json" in block:
                    block["input"] = json.loads(block.pop("partial_json"))
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    return message
