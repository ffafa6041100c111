"""Chat to chat: what a client says reaches a server of the same wire without loss, and what the server says reaches the client.

The bodies are real clients' (`tests/corpus/chat`). They may reach the server in other words of the same meaning, which are these:
`null` is not said; one text part is a text; a refusal is text; `developer` is `system`, which every server knows;
`max_completion_tokens` is `max_tokens`; one stop text is a list of one; tools that are no functions come after those that are.
Not sent on is what is between the client and the kernel (`aios`, `service_tier`, `stream`); the kernel says `model` and `seed`.
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from served import CHAT, Served, served, until

from aios.abi.extra import MOST_ODD
from aios.drivers.core.openai_chat import OpenAIChat, OpenAIChatConfig
from aios.ports.core import FEATURES
from aios.testing import Script, ScriptedCore

CORPUS = sorted((Path(__file__).parents[1] / "corpus" / "chat").glob("*.json"))
ESSENTIAL = ("input_audio", "file", "video_url")
"""Content that a core of another wire refuses, for it would answer another question without it."""
OURS = ("model", "stream", "stream_options", "seed", "service_tier", "aios")
MARK = {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


@dataclass
class Upstream:
    """A server of the chat wire. `says`: the events of each of its answers; `bodies`: what it was asked."""

    says: list[dict[str, Any]]
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in self.says:
            for index in range(self.bodies[-1].get("n", 1)):
                choices = [{**one, "index": index} for one in event["choices"]] if index else event["choices"]
                await response.write(b"data: " + json.dumps({**event, "choices": choices}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}]})


def told(*deltas: dict[str, Any], **usage: Any) -> list[dict[str, Any]]:
    """An answer's events: its pieces, its end, its usage."""
    pieces = [{**MARK, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    end = {**MARK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return [*pieces, end, {**MARK, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, **usage}}]


@asynccontextmanager
async def relayed(says: list[dict[str, Any]]) -> AsyncIterator[tuple[Served, Upstream]]:
    """A kernel before a server of the chat wire."""
    upstream = Upstream(says)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.chat)
    app.router.add_get("/v1/models", upstream.models)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        core: Any = OpenAIChat(
            OpenAIChatConfig(name="kin", base_url=f"http://{host}:{port}/v1", features=frozenset(FEATURES), window=1_000_000)
        )
        async with served(core) as s:
            yield s, upstream
            await core.close()
    finally:
        await runner.cleanup()


async def whole_and_stream(s: Served, **fields: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same question, answered both ways."""
    async with s.post("/v1/chat/completions", {**CHAT, **fields}) as answer:
        assert answer.status == 200
        whole = await answer.json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with s.post("/v1/chat/completions", {**CHAT, **fields, **options}) as answer:
        lines = (await answer.text()).split("\n\n")
    assert lines[-2] == "data: [DONE]"
    return whole, [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


# what clients say


def meaning(body: dict[str, Any]) -> dict[str, Any]:
    """A body without what may be said in either way, and without what is not sent on."""
    said = {name: value for name, value in body.items() if value is not None and name not in OURS}
    if "max_completion_tokens" in said:
        said["max_tokens"] = said.pop("max_completion_tokens")
    if isinstance(said.get("stop"), str):
        said["stop"] = [said["stop"]]
    for name, default in (("n", 1), ("logprobs", False), ("tools", []), ("stop", [])):
        if said.get(name) == default:
            del said[name]
    if "tools" in said:
        said["tools"] = sorted(map(tool_meaning, said["tools"]), key=lambda tool: tool["type"] != "function")
    return {**said, "messages": [message_meaning(message) for message in said["messages"]]}


def message_meaning(message: dict[str, Any]) -> dict[str, Any]:
    said = {name: value for name, value in message.items() if value is not None}
    said["role"] = said["role"].replace("developer", "system")
    content = said.pop("content", None) or said.get("refusal", "")
    said.pop("refusal", None)
    if not isinstance(content, str):
        content = [{"type": "text", "text": part["refusal"]} if part["type"] == "refusal" else part for part in content]
        if len(content) == 1 and content[0].keys() == {"type", "text"}:
            content = content[0]["text"]
    return {**said, "content": content}


def tool_meaning(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function":
        return tool
    function = {name: value for name, value in tool["function"].items() if value not in (None, "", {})}
    return {**tool, "function": function}


def test_there_are_bodies_of_many_clients() -> None:
    assert len(CORPUS) >= 100
    assert len({path.stem.rpartition("-")[0] for path in CORPUS}) >= 8


@pytest.mark.real
@pytest.mark.slow
async def test_what_real_clients_send_reaches_a_server_of_the_same_wire_without_loss() -> None:
    async with relayed(told({"content": "ok"})) as (s, upstream):
        for path in CORPUS:
            body = {**json.loads(path.read_bytes()), "model": "default"}
            async with s.post("/v1/chat/completions", body) as answer:
                assert answer.status == 200, (path.name, await answer.text())
                assert "x-aios-ignored" not in answer.headers
            assert meaning(upstream.bodies[-1]) == meaning(body), path.name
            assert upstream.bodies[-1]["stream"] is True and upstream.bodies[-1]["model"] == "m"


@pytest.mark.real
@pytest.mark.slow
async def test_a_core_of_another_kind_takes_what_real_clients_send_and_leaves_out_what_it_does_not_know() -> None:
    """What changes the question is refused with its place, and nothing else is."""
    refused = []
    async with served(ScriptedCore(features=frozenset(FEATURES), window=1_000_000)) as s:
        for path in CORPUS:
            body = {**json.loads(path.read_bytes()), "model": "default"}
            async with s.post("/v1/chat/completions", body) as answer:
                text = await answer.text()
            if answer.status != 200:
                refused.append(path.name)
                error = json.loads(text)["error"]
                assert (answer.status, error["code"]) == (400, "no_core"), (path.name, text)
                assert any(f'"type":"{kind}"' in path.read_text() for kind in ESSENTIAL) or "audio" in body["modalities"]
    assert 1 <= len(refused) <= 6


@pytest.mark.real
async def test_unknown_fields_at_every_place_are_never_refused() -> None:
    def odd(value: Any) -> Any:
        if isinstance(value, dict):
            return {**{name: odd(below) for name, below in value.items()}, "odd": {"x": [1]}}
        return [odd(below) for below in value] if isinstance(value, list) else value

    function = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    picture = {"type": "image_url", "image_url": {"url": "data:x"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, picture]},
        {"role": "assistant", "content": "x", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    body = odd({"messages": messages, "tools": [function], "model": "default"})
    async with relayed(told({"content": "ok"})) as (s, upstream):
        async with s.post("/v1/chat/completions", body) as answer:
            assert answer.status == 200, await answer.text()
        assert meaning(upstream.bodies[0]) == meaning(body)
    async with served(ScriptedCore(features=frozenset(FEATURES))) as s, s.post("/v1/chat/completions", body) as answer:
        assert answer.status == 200 and answer.headers["x-aios-ignored"] == "odd"


@pytest.mark.real
async def test_no_extra_says_anew_what_the_kernel_has_said() -> None:
    """A call is what it was granted and counted for, whatever its client smuggles along."""
    smuggled = {"n_predict": 9999, "best_of": 50, "priority": -5, "id_slot": 3, "max_new_tokens": 9, "stream_options": {"x": 1}}
    names = {"service_tier": "priority", "max_completion_tokens": 7, "max_tokens": 5000}
    async with relayed(told({"content": "ok"})) as (s, upstream):
        async with s.post("/v1/chat/completions", {**CHAT, **smuggled, **names}) as answer:
            assert answer.status == 200
        extra = {"model": "other", "n": 50, "messages": [], "stream": False, "max_completion_tokens": 9, "top_k": 3}
        native = {"messages": CHAT["messages"], "wire": "openai_chat", "extra": extra, "max_tokens": 4}
        async with s.post("/v1/call/llm.generate", native) as answer:
            assert answer.status == 200, await answer.text()
    sent, own = upstream.bodies
    assert not sent.keys() & {*smuggled, "service_tier", "max_completion_tokens"} - {"stream_options"}
    assert (sent["max_tokens"], sent["stream_options"]) == (7, {"include_usage": True})
    assert (own["model"], own["stream"], own["max_tokens"], own["top_k"]) == ("m", True, 4, 3)
    assert own["messages"] == CHAT["messages"] and own.keys().isdisjoint({"n", "max_completion_tokens"})


@pytest.mark.real
async def test_extras_are_bounded() -> None:
    async with served() as s:
        large = io.BytesIO(json.dumps({**CHAT, "blob": "x" * (1 << 20)}).encode())
        headers = {**s.headers, "content-type": "application/json"}
        async with s.http.post(s.url + "/v1/chat/completions", data=large, headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, "extra")
        many = {**CHAT, "messages": [{"role": "user", "content": "x", "odd": 1}] * (MOST_ODD + 1)}
        async with s.post("/v1/chat/completions", many) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (413, "too_large")
        async with s.post("/v1/call/llm.generate", {"prompt": "x", "extra": {"a": 1}}) as answer:
            assert (answer.status, (await answer.json())["error"]["field"]) == (400, "wire")


HOSTED = {"tools": [{"type": "web_search"}, {"type": "custom", "custom": {"name": "p"}}], "tool_choice": "required"}
LEFT_OUT = "tools.web_search, tools.custom"


@pytest.mark.real
@pytest.mark.parametrize("stream", [True, False])
async def test_a_hosted_tool_is_left_out_with_a_word_and_the_rest_is_done(stream: bool) -> None:
    async with served() as s, s.post("/v1/chat/completions", {**CHAT, **HOSTED, "stream": stream}) as answer:
        assert (answer.status, answer.headers["x-aios-ignored"]) == (200, LEFT_OUT)
        assert "error" not in await answer.text()


@pytest.mark.real
async def test_a_stream_whose_head_left_before_its_core_was_known_says_so_in_a_comment() -> None:
    async with served(ScriptedCore(Script(text="x", first_s=0.2), slots=1)) as s:
        first = asyncio.create_task(whole(s))
        await until(lambda: s.core.statistics().running == 1)
        async with s.post("/v1/chat/completions", {**CHAT, **HOSTED, "stream": True}) as answer:
            told = await answer.text()
            assert "x-aios-ignored" not in answer.headers and f": x-aios-ignored: {LEFT_OUT}\n\n" in told
        await first


async def whole(s: Served) -> None:
    async with s.post("/v1/chat/completions", CHAT) as answer:
        await answer.read()


# what servers say

REASONED = told(
    {"role": "assistant", "content": "", "refusal": None},
    {"reasoning_content": "hm", "reasoning_details": [{"type": "t", "data": "a"}]},
    {"reasoning_details": [{"type": "t", "data": "b"}]},
    {"content": "so", "annotations": [{"url": "u"}]},
    {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{"},
                     "extra_content": {"google": {"thought_signature": "S"}}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
    prompt_tokens_details={"cached_tokens": 4}, completion_tokens_details={"reasoning_tokens": 1},
)  # fmt: skip
for event in REASONED:
    event["system_fingerprint"] = "fp"
REASONED[3]["choices"][0]["matched_stop"] = 7
REASONED[-1]["timings"] = {"predicted_ms": 5}


@pytest.mark.real
async def test_what_a_server_says_besides_reaches_the_client_streamed_and_whole() -> None:
    async with relayed(REASONED) as (s, _):
        whole, chunks = await whole_and_stream(s)
    choice = whole["choices"][0]
    message = choice["message"]
    assert (message["content"], message["reasoning_content"], message["annotations"]) == ("so", "hm", [{"url": "u"}])
    assert message["reasoning_details"] == [{"type": "t", "data": "a"}, {"type": "t", "data": "b"}]
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"},
         "extra_content": {"google": {"thought_signature": "S"}}}
    ]  # fmt: skip
    assert (choice["matched_stop"], whole["system_fingerprint"], whole["timings"]) == (7, "fp", {"predicted_ms": 5})

    deltas = [one for chunk in chunks for one in chunk["choices"]]
    assert [d["delta"]["reasoning_details"] for d in deltas if "reasoning_details" in d["delta"]] == [
        [{"type": "t", "data": "a"}], [{"type": "t", "data": "b"}]
    ]  # fmt: skip
    calls = [call for d in deltas for call in d["delta"].get("tool_calls", ())]
    assert calls[0]["extra_content"] == {"google": {"thought_signature": "S"}} and calls[0]["function"]["name"] == "f"
    assert [d["matched_stop"] for d in deltas if "matched_stop" in d] == [7]
    assert [chunk["system_fingerprint"] for chunk in chunks if "system_fingerprint" in chunk] == ["fp"]
    assert whole["id"] != "up-1" and {chunk["id"] for chunk in chunks}.isdisjoint({"up-1", whole["id"]})


@pytest.mark.real
@pytest.mark.parametrize(
    "details",
    [
        {},
        {"prompt_tokens_details": {"cached_tokens": 4}},
        {"prompt_tokens_details": {"cached_tokens": 9}, "completion_tokens_details": {"reasoning_tokens": 2}},
        {"prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": None}},
    ],
)
async def test_the_usage_of_a_stream_is_that_of_the_whole_and_that_of_the_server(details: dict[str, Any]) -> None:
    async with relayed(told({"content": "ok"}, **details)) as (s, _):
        whole, chunks = await whole_and_stream(s)
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    usage = whole["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (9, 2, 11)
    cached = (details.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoning = (details.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    assert usage["prompt_tokens_details"]["cached_tokens"] == cached
    assert usage["completion_tokens_details"]["reasoning_tokens"] == reasoning


@pytest.mark.real
async def test_a_call_of_a_custom_tool_and_a_refusal_come_as_they_were_said() -> None:
    custom = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "patch", "input": "***"}}
    async with relayed(told({"refusal": "I do "}, {"refusal": "not say."}, {"tool_calls": [custom]})) as (s, _):
        whole, chunks = await whole_and_stream(s)
    message = whole["choices"][0]["message"]
    assert message["refusal"] == "I do not say."
    assert message["tool_calls"] == [{"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "***"}}]
    deltas = [one["delta"] for chunk in chunks for one in chunk["choices"]]
    assert [delta["refusal"] for delta in deltas if "refusal" in delta] == ["I do ", "not say."]
    assert [call for delta in deltas for call in delta.get("tool_calls", ())] == [custom]


ODD: Sequence[Any] = (
    {"choices": [{"delta": "text"}], "odd": 1}, {"choices": "none", "odd": 1}, {"choices": [7], "odd": 1},
    {"choices": [{"delta": {"content": 5, "odd": 1}}]}, {"choices": [{"delta": {"tool_calls": [5], "odd": 1}}]},
    {"choices": [{"index": "0", "odd": 1}]},
)  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize("event", ODD)
async def test_an_event_that_is_odd_and_wrong_is_a_failure_of_the_core(event: Any) -> None:
    async with relayed([event]) as (s, _), s.post("/v1/chat/completions", CHAT) as answer:
        assert answer.status == 502 and (await answer.json())["error"]["code"] == "core_failed"
