"""The door for unmodified Anthropic clients: what they send is understood, and every byte of an answer is as they expect it."""

import asyncio
import json
import re
from typing import Any

import pytest
from messages_wire import HELLO, ask, put_together, stream
from served import Served, served, until

from aios.abi.event import CallEnded
from aios.abi.llm import Generate, Message, Part, ToolCall, ToolSpec
from aios.kernel.lanes.lane import LaneConfig
from aios.ports.core import FEATURES
from aios.server.messages import OLDEST, STRICT, read_message
from aios.testing import Script, ScriptedCore

ALL = frozenset(FEATURES)
WEATHER = {"name": "weather", "description": "How it is", "input_schema": {"type": "object"}}
CALLING = Script(text="I look.", tool_calls=(ToolCall("call_1", "weather", '{"city": "Rome"}'),), finish="tool_calls")
USE = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def system(*blocks: Any) -> dict[str, Any]:
    return {"role": "system", "content": list(blocks)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def result(content: Any = "sunny", use: str = "t1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": use, "content": content, **more}


def read(version: str = OLDEST, **fields: Any) -> Generate:
    return read_message(json.dumps({**HELLO, **fields}).encode(), version).request


# answers


async def test_a_whole_answer_has_what_every_client_needs() -> None:
    async with served(ScriptedCore(Script(text="one two three", cached=1))) as s:
        answer = await ask(s, messages=[user(text("hello there"))])
        assert re.fullmatch(r"msg_[0-9a-f]{17,}", answer.pop("id"))
        assert answer == {
            "type": "message", "role": "assistant", "model": "scripted-1", "content": [{"type": "text", "text": "one two three"}],
            "stop_reason": "end_turn", "stop_sequence": None, "stop_details": None,
            "usage": {
                "input_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 1, "output_tokens": 3,
                "output_tokens_details": {"thinking_tokens": 0},
            },
        }  # fmt: skip


async def test_a_stream_is_told_in_the_events_of_the_wire() -> None:
    async with served(ScriptedCore("one two")) as s:
        async with s.post("/v1/messages", {**HELLO, "stream": True}) as answer:
            said = re.sub(r'"msg_[0-9a-f]+"', '"ID"', await answer.text())
    assert said == (
        'event: message_start\ndata: {"type":"message_start","message":{"id":"ID","type":"message","role":"assistant",'
        '"model":"scripted-1","content":[],"stop_reason":null,"stop_sequence":null,"stop_details":null,"usage":{"input_tokens":0,'
        '"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0,"output_tokens_details":'
        '{"thinking_tokens":0}}}}\n\n'
        'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n'
        'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":"one"}}\n\n'
        'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        '"delta":{"type":"text_delta","text":" two"}}\n\n'
        'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
        'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null,'
        '"stop_details":null},"usage":{"input_tokens":1,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,'
        '"output_tokens":2,"output_tokens_details":{"thinking_tokens":0}}}\n\n'
        'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        (Script(text="one two three", cached=1), {}),
        (Script(text=""), {}),
        (Script(text='quotes " and\nlines \\ ü'), {}),
        (CALLING, {"tools": [WEATHER]}),
        (Script(text="", tool_calls=(ToolCall("a", "weather", ""), ToolCall("b", "weather", "{}"))), {"tools": [WEATHER]}),
        (Script(text="so", reasoning="let me see"), {"thinking": {"type": "adaptive"}}),
        (Script(text="so", reasoning="let me see"), {}),
        (Script(text="so", reasoning="let me see"), {"thinking": {"type": "disabled"}}),
        (Script(text="one two three"), {"max_tokens": 2}),
        (Script(text="one two three"), {"stop_sequences": ["two"]}),
    ],
)
async def test_a_stream_tells_the_same_as_the_whole_answer_usage_included(script: Script, fields: dict[str, Any]) -> None:
    async with served(ScriptedCore(script, features=ALL)) as s:
        whole, told = await ask(s, **fields), put_together(await stream(s, **fields))
        assert whole.pop("id") != told.pop("id")
        assert whole == told


@pytest.mark.parametrize(
    ("script", "fields", "stop"),
    [
        (Script(text="a b c"), {}, ("end_turn", None)),
        (Script(text="a b c"), {"max_tokens": 2}, ("max_tokens", None)),
        (Script(text="a b c"), {"stop_sequences": ["x", "b"]}, ("stop_sequence", "b")),
        (Script(text="a", finish="content_filter"), {}, ("refusal", None)),
        (CALLING, {"tools": [WEATHER]}, ("tool_use", None)),
    ],
)
async def test_why_it_ended_is_said_in_the_words_of_the_wire(script: Script, fields: dict[str, Any], stop: Any) -> None:
    async with served(ScriptedCore(script, features=ALL)) as s:
        answer = await ask(s, **fields)
        assert (answer["stop_reason"], answer["stop_sequence"]) == stop


async def test_a_tool_is_called_and_its_result_goes_back_to_the_model() -> None:
    async with served(ScriptedCore((CALLING, "It is sunny."), features=ALL)) as s:
        first = await ask(s, tools=[WEATHER])
        assert first["content"] == [text("I look."), {**USE, "id": "call_1"}]
        talk = [*HELLO["messages"], {"role": "assistant", "content": first["content"]}, user(result(use="call_1"))]
        assert (await ask(s, tools=[WEATHER], messages=talk))["content"] == [text("It is sunny.")]
        assert s.core.calls[1].request.messages == (
            Message("user", "hello"),
            Message("assistant", "I look.", tool_calls=(ToolCall("call_1", "weather", '{"city": "Rome"}'),)),
            Message("tool", "sunny", tool_call_id="call_1"),
        )


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ("", {}),
        (' {"a":1} ', {"a": 1}),
        ('{"a":', {"INVALID_JSON": '{"a":'}),
        ("[1]", {"INVALID_JSON": "[1]"}),
    ],
)
async def test_arguments_are_an_object_whatever_the_model_wrote(arguments: str, found: Any) -> None:
    script = Script(text="", tool_calls=(ToolCall("", "weather", arguments),))
    async with served(ScriptedCore(script, features=ALL)) as s:
        (block,) = (await ask(s, tools=[WEATHER]))["content"]
        assert block["input"] == found
        assert re.fullmatch(r"toolu_[0-9a-f]{17,}", block["id"])


async def test_reasoning_is_shown_to_who_asked_for_it() -> None:
    async with served(ScriptedCore(Script(text="so", reasoning="let me see"))) as s:
        shown = await ask(s, thinking={"type": "enabled", "budget_tokens": 2000})
        assert shown["content"] == [{"type": "thinking", "thinking": "let me see", "signature": "unsigned"}, text("so")]
        assert shown["usage"]["output_tokens"] == 4
        assert shown["usage"]["output_tokens_details"] == {"thinking_tokens": 3}
        again = await ask(
            s, messages=[*HELLO["messages"], {"role": "assistant", "content": shown["content"]}, user(text("go on"))]
        )
        assert again["content"] == [text("so")]
        assert [m.content for m in s.core.calls[1].request.messages] == ["hello", "so", "go on"]


async def test_ids_are_never_the_same() -> None:
    async with served() as s:
        found = [(await ask(s))["id"] for _ in range(20)] + [(await stream(s))[0]["message"]["id"] for _ in range(20)]
        assert len(set(found)) == 40


async def test_an_answer_says_which_request_and_which_call_it_was() -> None:
    async with served() as s:
        for streamed in (True, False):
            async with s.post("/v1/messages", {**HELLO, "stream": streamed}) as answer:
                assert answer.headers["request-id"] == answer.headers["x-request-id"]
                assert answer.headers["x-aios-ticket"]


# waiting


async def test_who_streams_and_has_to_wait_hears_a_ping_at_once_and_every_ten_seconds() -> None:
    async with served(ScriptedCore(Script(text="a b", first_s=35), slots=1)) as s:
        first = asyncio.create_task(ask(s))
        await until(lambda: s.core.statistics().running == 1)
        events = await stream(s)
        assert (await first)["content"] == [text("a b")]
        names = [event["type"] for event in events]
        assert names[: names.index("message_start")] == ["ping"] * 7  # at admission, then at 10, 20 ... 60 of 70 s
        assert put_together(events)["content"] == [text("a b")]


async def test_who_does_not_stream_gets_spaces_before_the_answer() -> None:
    async with served(ScriptedCore(Script(text="a b", first_s=100))) as s:
        async with s.post("/v1/messages", HELLO) as answer:
            said = await answer.text()
        assert said.startswith("  ") and json.loads(said)["content"] == [text("a b")]


async def test_a_failure_in_the_middle_of_a_stream_is_an_event() -> None:
    async with served(ScriptedCore(Script(text="a b c", fail_after=2))) as s:
        async with s.post("/v1/messages", {**HELLO, "stream": True}) as answer:
            name, data = (await answer.text()).removesuffix("\n\n").split("\n\n")[-1].split("\n")
            said = json.loads(data.removeprefix("data: "))
            assert name == "event: error"
            assert said["request_id"] == answer.headers["request-id"]
            assert said["error"]["type"] == "api_error" and "the script says so" in said["error"]["message"]


async def test_who_stops_reading_frees_the_core() -> None:
    async with served(ScriptedCore(Script(text="a b c", hang=True))) as s:
        async with s.post("/v1/messages", {**HELLO, "stream": True}) as answer:
            assert await answer.content.readline() == b"event: message_start\n"
        await until(lambda: s.core.statistics().running == 0)
        assert s.core.statistics().aborted == 1


# refusals


async def refused(s: Served, **headers: str) -> tuple[int, dict[str, Any], Any]:
    async with s.post("/v1/messages", HELLO, **headers) as answer:
        body = await answer.json()
        assert body["type"] == "error" and body["request_id"] == answer.headers["request-id"]
        return answer.status, body["error"], answer.headers


async def test_refusals_have_the_status_and_the_type_that_clients_know() -> None:
    async with served(ScriptedCore(Script(text="a", hang=True), slots=1), lane=LaneConfig(queue=1)) as s:
        outsider = s.kernel.tokens.add("outsider", (), "standard").value
        status, error, headers = await refused(s, authorization=f"Bearer {outsider}")
        assert (status, error["type"], headers["x-should-retry"]) == (403, "permission_error", "false")
        status, error, headers = await refused(s, authorization="Bearer nonsense")
        assert (status, error["type"], headers["x-should-retry"]) == (401, "authentication_error", "false")
        held = [asyncio.create_task(ask(s)) for _ in range(2)]
        await until(lambda: s.kernel.statistics().calls_waiting == 1)
        status, error, headers = await refused(s)
        assert (status, error["type"]) == (429, "rate_limit_error") and 1 <= int(headers["retry-after"]) <= 60
        for call in held:
            call.cancel()
        await asyncio.wait(held)
        s.kernel.drain(0.0)
        status, error, headers = await refused(s)
        assert (status, error["type"]) == (503, "overloaded_error") and int(headers["retry-after"]) <= 20


async def test_a_prompt_that_is_too_long_is_said_in_the_words_that_clients_look_for() -> None:
    async with served(ScriptedCore(window=4)) as s:
        async with s.post("/v1/messages", {**HELLO, "messages": [user(text("a b c d e"))]}) as answer:
            error = (await answer.json())["error"]
        assert (answer.status, error["type"]) == (400, "invalid_request_error")
        assert error["message"].startswith("prompt is too long: ")


@pytest.mark.parametrize(
    ("version", "fields", "field"),
    [
        ("", {"messages": []}, "messages"),
        ("", {"messages": "hello"}, "messages"),
        ("", {"messages": [{"content": "x"}]}, "messages[0].role"),
        ("", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ("", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ("", {"messages": [{"role": "assistant", "content": "x"}]}, "messages[0].role"),
        ("", {"messages": [*HELLO["messages"], {"role": "assistant", "content": "{"}]}, "messages[1].role"),
        ("", {"messages": [user({"text": "x"})]}, "messages[0].content[0].type"),
        ("", {"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ("", {"messages": [user({"type": "text", "text": 5})]}, "messages[0].content[0].text"),
        ("", {"messages": [user({"type": "document", "source": {"type": "text"}})]}, "messages[0].content[0].type"),
        ("", {"messages": [user({"type": "container_upload", "file_id": "f"})]}, "messages[0].content[0].type"),
        ("", {"messages": [user({"type": "image"})]}, "messages[0].content[0].source"),
        ("", {"messages": [user({"type": "image", "source": {"type": "url"}})]}, "messages[0].content[0].source.url"),
        ("", {"messages": [user({"type": "image", "source": {"type": "base64", "data": "x"}})]},
         "messages[0].content[0].source.media_type"),
        ("", {"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]},
         "messages[0].content[0].source.type"),
        ("", {"messages": [user(USE)]}, "messages[0].content[0].type"),
        ("", {"messages": [user(result())]}, "messages[0].content[0].tool_use_id"),
        ("", {"messages": [*HELLO["messages"], assistant(USE), user(text("x"))]}, "messages[2].content"),
        ("", {"messages": [*HELLO["messages"], assistant(USE), user(result(), result())]}, "messages[2].content[1].tool_use_id"),
        ("", {"messages": [*HELLO["messages"], assistant(USE, USE), user(result())]}, "messages[1].content[1].id"),
        ("", {"messages": [*HELLO["messages"], assistant({**USE, "id": ""}), user(result())]}, "messages[1].content[0].id"),
        ("", {"messages": [*HELLO["messages"], assistant({**USE, "input": [1]}), user(result())]},
         "messages[1].content[0].input"),
        ("", {"messages": [*HELLO["messages"], assistant(USE), user(result(5))]}, "messages[2].content[0].content"),
        ("", {"messages": [*HELLO["messages"], assistant(USE), user(result([{"type": "text", "text": 5}]))]},
         "messages[2].content[0].content[0].text"),
        ("", {"messages": [*HELLO["messages"], assistant(USE), user(result([{"type": "document"}]))]},
         "messages[2].content[0].content[0].type"),
        ("", {"messages": [*HELLO["messages"], assistant(USE), {"role": "system", "content": "x"}]}, "messages[2].content"),
        ("", {"messages": [*HELLO["messages"], assistant({"type": "compaction", "content": "x"}), user(text("x"))]},
         "messages[1].content[0].type"),
        ("", {"system": [{"type": "image"}]}, "system[0].type"),
        ("", {"messages": [user(text("a")), system({"type": "tool_addition"})]}, "messages[1].content[0].tool"),
        ("", {"model": 5}, "model"),
        ("", {"max_tokens": None}, "max_tokens"),
        ("", {"max_tokens": 0}, "max_tokens"),
        ("", {"max_tokens": "many"}, "max_tokens"),
        ("", {"stream": "yes"}, "stream"),
        ("", {"stop_sequences": [""]}, "stop_sequences"),
        ("", {"stop_sequences": "x"}, "stop_sequences"),
        ("", {"temperature": 7}, "temperature"),
        ("", {"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ("", {"tools": [WEATHER, {**WEATHER, "type": "custom"}]}, "tools[1].name"),
        ("", {"tools": [{"name": "f", "input_schema": []}]}, "tools[0].input_schema"),
        ("", {"tool_choice": {"type": "royal"}, "tools": [WEATHER]}, "tool_choice.type"),
        ("", {"tool_choice": {"type": "any"}}, "tool_choice"),
        ("", {"tool_choice": {"type": "tool", "name": "sun"}, "tools": [WEATHER]}, "tool_choice.name"),
        ("", {"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ("", {"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ("", {"compaction": {"type": "auto"}}, "compaction"),
        ("", {"aios": {"class": "royal"}}, "aios.class"),
        ("", {"aios": {"deadline_s": -1}}, "aios.deadline_s"),
        (STRICT, {"temperature": 1}, "temperature"),
        (STRICT, {"top_p": 1}, "top_p"),
        (STRICT, {"top_k": 1}, "top_k"),
        ("2027-01-01", {"temperature": 1}, "temperature"),
        (STRICT, {"messages": [user({**text("x"), "citations": [{"type": "char_location"}]})]},
         "messages[0].content[0].citations"),
        (STRICT, {"messages": [*HELLO["messages"], assistant({"type": "document"}), user(text("x"))]},
         "messages[1].content[0].type"),
        ("soon", {}, "anthropic-version"),
        ("2023-06-01, 2023-06-01", {}, "anthropic-version"),
    ],
)  # fmt: skip
async def test_a_wrong_value_is_refused_with_its_place(version: str, fields: dict[str, Any], field: str) -> None:
    headers = {"anthropic_version": version} if version else {}
    async with served() as s, s.post("/v1/messages", {**HELLO, **fields}, **headers) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["type"], error["details"]["field"]) == (400, "invalid_request_error", field), error
        assert s.core.statistics().started == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"model":"default","max_tokens":5}', "messages"),
        (b'{"model":"default","max_tokens":5,"messages":[{"role":"user","content":"x"}],"model":"x"}', "model"),
        (b'{"model":"default","max_tokens":5,"messages":[{"role":"user","content":"\\ud83d"}]}', "messages[0].content"),
        (b'{"model":"default","max_tokens":5,"messages":[{"role":"user","content":"x"}],"top_k":NaN}', "top_k"),
        (b'{"model":"default","max_tokens":5,"messages":[{"role":"user","content":"\xff"}]}', None),
        (b'{"model":"default","max_tokens":5,"messages":[{"role":"us', None),
        (b'{"x":' + b"[" * 100_000, None),
        (b"[]", None),
        (b"", None),
    ],
)
async def test_what_is_no_json_or_can_be_read_in_two_ways_is_refused(body: bytes, field: str | None) -> None:
    async with served() as s:
        headers = {**s.headers, "content-type": "application/json"}
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            async with s.http.post(s.url + path, data=body, headers=headers) as answer:
                error = (await answer.json())["error"]
                assert (answer.status, error["type"], error["details"].get("field")) == (400, "invalid_request_error", field)


async def test_a_body_that_is_too_large_is_refused() -> None:
    async with served(max_body_bytes=1000) as s:
        async with s.post("/v1/messages", {**HELLO, "messages": [user(text("x" * 2000))]}) as answer:
            assert (answer.status, (await answer.json())["error"]["type"]) == (413, "request_too_large")


# what clients send


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"stop_sequences": ["x", "y"]}, "stop", ("x", "y")),
        ({"stop_sequences": None}, "stop", ()),
        ({"temperature": 1, "top_p": 0.5}, "temperature", 1.0),
        ({"system": "be brief"}, "messages", (Message("system", "be brief"), Message("user", "hello"))),
        ({"system": []}, "messages", (Message("user", "hello"),)),
        ({"system": [text("a"), text("b")]}, "messages",
         (Message("system", (Part("text", text="a"), Part("text", text="b"))), Message("user", "hello"))),
        ({"tools": [{**WEATHER, "strict": True, "cache_control": {}}]}, "tools",
         (ToolSpec("weather", "How it is", {"type": "object"}, True),)),
        ({"tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search"}]}, "tools",
         (ToolSpec("weather", "How it is", {"type": "object"}),)),
        ({"tools": [WEATHER], "tool_choice": {"type": "auto"}}, "tool_choice", "auto"),
        ({"tools": [WEATHER], "tool_choice": {"type": "any"}}, "tool_choice", "required"),
        ({"tools": [WEATHER], "tool_choice": {"type": "none"}}, "tool_choice", "none"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}}, "tool_choice",
         {"type": "function", "function": {"name": "weather"}}),
        ({"tools": [WEATHER], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, "parallel_tool_calls", False),
        ({"tools": [WEATHER], "tool_choice": {"type": "auto", "disable_parallel_tool_use": False}}, "parallel_tool_calls", None),
        ({"tools": [], "tool_choice": {"type": "auto"}}, "tool_choice", None),
        ({"output_config": {"effort": "high"}, "thinking": {"type": "adaptive"}}, "reasoning_effort", None),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, "response_format",
         {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}),
    ],
)  # fmt: skip
def test_fields_are_understood(fields: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(read(**fields), name) == value


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
FAR = {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}}


@pytest.mark.parametrize(
    ("turns", "messages"),
    [
        ([user(text("a"))], [Message("user", "a")]),
        ([user(text("a")), user(text("b"))], [Message("user", (Part("text", text="a"), Part("text", text="b")))]),
        ([user(IMAGE, text("see"))],
         [Message("user", (Part("image", image="data:image/png;base64,aGk="), Part("text", text="see")))]),
        ([user(FAR)], [Message("user", (Part("image", image="https://x.example/a.png"),))]),
        ([user()], [Message("user", "")]),
        ([assistant(text("Welcome.")), user(text("a"))], [Message("assistant", "Welcome."), Message("user", "a")]),
        ([{"role": "system", "content": "now in French"}, user(text("a"))],
         [Message("system", "now in French"), Message("user", "a")]),
        (
            [user(text("a")), assistant({"type": "thinking", "thinking": "hm", "signature": "s"}, text("b")), user(text("c"))],
            [Message("user", "a"), Message("assistant", "b"), Message("user", "c")],
        ),
        (
            [user(text("a")), assistant(USE), assistant({**USE, "id": "t2"}), user(result(use="t2"), text("and?"), result(None))],
            [
                Message("user", "a"),
                Message("assistant", "", tool_calls=(
                    ToolCall("t1", "weather", '{"city": "Rome"}'), ToolCall("t2", "weather", '{"city": "Rome"}'))),
                Message("tool", "sunny", tool_call_id="t2"),
                Message("tool", "", tool_call_id="t1"),
                Message("user", "and?"),
            ],
        ),
        (
            [user(text("a")), assistant(USE), user(result("no such city", is_error=True))],
            [
                Message("user", "a"),
                Message("assistant", "", tool_calls=(ToolCall("t1", "weather", '{"city": "Rome"}'),)),
                Message("tool", "Error: no such city", tool_call_id="t1"),
            ],
        ),
        (
            [user(text("a")), assistant(USE), user(result([IMAGE, text("seen")], is_error=True))],
            [
                Message("user", "a"),
                Message("assistant", "", tool_calls=(ToolCall("t1", "weather", '{"city": "Rome"}'),)),
                Message("tool", (Part("text", text="Error: "), Part("image", image="data:image/png;base64,aGk="),
                                 Part("text", text="seen")), tool_call_id="t1"),
            ],
        ),
    ],
)  # fmt: skip
def test_turns_are_understood(turns: list[Any], messages: list[Message]) -> None:
    assert list(read(messages=turns).messages) == messages


def reference(name: str) -> dict[str, Any]:
    return {"type": "tool_reference", "name": name}


LATER = {**WEATHER, "name": "later", "defer_loading": True}
FOUND = [user(text("a")), assistant(USE), user(result([{"type": "tool_reference", "tool_name": "later"}]))]


@pytest.mark.parametrize(
    ("turns", "names"),
    [
        ([user(text("a"))], ["weather"]),
        (FOUND, ["weather", "later"]),
        (
            [*FOUND, assistant({**USE, "id": "t2"}), user(result(FOUND[2]["content"][0]["content"], use="t2"))],
            ["weather", "later"],
        ),
        ([user(text("a")), system({"type": "tool_addition", "tool": reference("later")}), user(text("b"))], ["weather", "later"]),
        ([user(text("a")), system({"type": "tool_removal", "tool": reference("weather")})], []),
        (
            [
                user(text("a")),
                system({"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"name": "new"}}}),
            ],
            ["weather", "new"],
        ),
        ([user(text("a")), system({"type": "tool_addition", "tool": {"type": "mcp_toolset_reference"}})], ["weather"]),
    ],
)
def test_tools_are_offered_as_the_conversation_has_it(turns: list[Any], names: list[str]) -> None:
    found = read(messages=turns, tools=[WEATHER, LATER])
    assert [tool.name for tool in found.tools] == names
    assert all(message.role != "system" for message in found.messages)


def test_what_the_system_says_for_one_turn_is_over_with_the_next() -> None:
    once = {"role": "system", "content": "hurry", "clear_at": "next_user_message"}
    assert [m.content for m in read(messages=[user(text("a")), once]).messages] == ["a", "hurry"]
    talk = [user(text("a")), once, assistant(text("b")), user(text("c"))]
    assert [m.content for m in read(messages=talk).messages] == ["a", "b", "c"]


def test_what_another_provider_ran_is_left_out_and_named() -> None:
    ran = [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "content": []},
    ]
    body = {
        **HELLO, "metadata": {"user_id": "u"}, "context_management": {"edits": []}, "top_k": 5, "odd": 1,
        "tools": [{"type": "code_execution_20250825", "name": "code_execution"}],
        "messages": [user(text("a")), assistant(*ran, text("b")), user(text("c"))],
    }  # fmt: skip
    asked = read_message(json.dumps(body).encode(), OLDEST)
    assert asked.ignored == ["odd", "top_k", "code_execution_20250825", "server_tool_use", "web_search_tool_result"]
    assert [message.content for message in asked.request.messages] == ["a", "b", "c"] and not asked.request.tools


async def test_unknown_fields_and_betas_are_never_refused_and_told_back() -> None:
    async with served() as s:
        for version in ("", OLDEST, STRICT, "2027-05-05"):
            headers = {"anthropic_beta": "made-up-2030-01-01,claude-code-20250219", "anthropic_version": version}
            odd = {**HELLO, "made_up": {"a": [1]}, "mcp_servers": [], "messages": [user({**text("x"), "made_up": 1})]}
            async with s.post("/v1/messages?beta=true", odd, **headers) as answer:
                assert (answer.status, answer.headers["x-aios-ignored"]) == (200, "made_up, mcp_servers")


async def test_a_conversation_that_the_client_takes_to_be_kept_here_is_asked_for_whole() -> None:
    async with served() as s:
        await ask(s, thread={"type": "create"})
        async with s.post("/v1/messages", {**HELLO, "thread": {"type": "continue", "previous_message_id": "msg_1"}}) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["type"], error["details"]["error_code"]) == (404, "not_found_error", "thread_not_found")


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_the_token_is_taken_from_either_header(header: str) -> None:
    async with served() as s:
        value = f"Bearer {s.token}" if header == "authorization" else s.token
        async with s.http.post(s.url + "/v1/messages", json=HELLO, headers={header: value}) as answer:
            assert answer.status == 200


async def test_tokens_are_counted_with_the_system_and_the_tools() -> None:
    async def count(**fields: Any) -> int:
        body = {"model": "default", "messages": [user(text("one two"))], **fields}
        async with s.post("/v1/messages/count_tokens", body) as answer:
            assert answer.status == 200
            return int((await answer.json())["input_tokens"])

    async with served() as s:
        assert await count() == 2
        assert await count(system="be brief") == 4
        assert await count(tools=[WEATHER]) > 2
        async with s.post("/v1/messages/count_tokens", {"model": "ghost", "messages": [user(text("x"))]}) as answer:
            assert (answer.status, (await answer.json())["error"]["type"]) == (404, "not_found_error")
        assert s.core.statistics().started == 0


async def test_a_tool_that_holds_what_cannot_be_recorded_is_refused_by_name_counted_or_called() -> None:
    vast = {"name": "vast", "input_schema": {"type": "object", "maxProperties": 2**64}}
    async with served() as s:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            async with s.post(path, {**HELLO, "tools": [vast]}) as answer:
                error = (await answer.json())["error"]
                assert (answer.status, error["type"], error["details"]["field"]) == (400, "invalid_request_error", "tools")


async def test_models_are_listed_in_the_shape_of_who_asks() -> None:
    async with served() as s:
        headers = {**s.headers, "anthropic-version": STRICT}
        async with s.http.get(s.url + "/v1/models?limit=1000", headers=headers) as answer:
            listed = await answer.json()
        assert {model["id"] for model in listed["data"]} == {"scripted-1", "default"}
        assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "scripted-1", "default")
        async with s.http.get(s.url + "/v1/models/default", headers=headers) as answer:
            assert await answer.json() == {
                "type": "model", "id": "default", "display_name": "default", "created_at": "1970-01-01T00:00:00Z",
                "lifecycle": "active", "max_input_tokens": 4096, "max_tokens": 4096,
            }  # fmt: skip
        async with s.get("/v1/models") as answer:
            assert (await answer.json())["object"] == "list"
    async with served(ScriptedCore(features=frozenset({"completion"}))) as s:
        for headers, listed in (({"anthropic-version": OLDEST}, 0), ({}, 2)):  # it does not talk
            async with s.http.get(s.url + "/v1/models", headers={**s.headers, **headers}) as answer:
                assert len((await answer.json())["data"]) == listed


@pytest.mark.parametrize(
    ("fields", "cls"), [({}, "standard"), ({"service_tier": "flex"}, "batch"), ({"aios": {"class": "batch"}}, "batch")]
)
async def test_hints_lower_the_class(fields: Any, cls: str) -> None:
    async with served() as s:
        await ask(s, **fields)
        events, _, _ = s.kernel.events.after(0, 100, lambda event: isinstance(event, CallEnded))
        assert [event.cls for event in events] == [cls]
