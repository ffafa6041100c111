"""The door for unmodified OpenAI clients, with the real SDK and with what other clients are known to send."""

import asyncio
import json
from typing import Any

import openai
import pytest
from served import CHAT, Served, served, until

from aios.abi.errors import Invalid
from aios.abi.event import CallEnded
from aios.abi.llm import Generate, ToolCall
from aios.abi.request import Trace
from aios.kernel.lanes.lane import LaneConfig
from aios.ports.core import FEATURES
from aios.server.chat import generate_of, read_chat
from aios.testing import Script, ScriptedCore

ALL = frozenset(FEATURES)


def client_of(s: Served, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token, **options)


def read(**fields: Any) -> Generate:
    body, _ = read_chat(json.dumps({**CHAT, **fields}).encode())
    return generate_of(body)


# the unmodified SDK


@pytest.mark.real
async def test_the_sdk_gets_a_whole_answer_with_its_usage() -> None:
    async with served(ScriptedCore("one two three")) as s, client_of(s) as client:
        answer = await client.chat.completions.create(**CHAT)
        assert answer.choices[0].message.content == "one two three"
        assert (answer.choices[0].finish_reason, answer.object, answer.model) == ("stop", "chat.completion", "scripted-1")
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens == 4


@pytest.mark.real
@pytest.mark.parametrize("usage", [True, False])
async def test_the_sdk_streams(usage: bool) -> None:
    async with served(ScriptedCore("one two three")) as s, client_of(s) as client:
        options = {"stream_options": {"include_usage": True}} if usage else {}
        chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True, **options)]
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].id.startswith("chatcmpl-")
    assert {(chunk.object, chunk.model) for chunk in chunks} == {("chat.completion.chunk", "scripted-1")}
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == "one two three"
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == ([4] if usage else [])
    assert not usage or chunks[-1].choices == []


@pytest.mark.real
@pytest.mark.parametrize("stream", [True, False])
async def test_the_sdk_gets_tool_calls(stream: bool) -> None:
    script = Script(text="", tool_calls=(ToolCall("call_1", "rate", '{"base":"EUR"}'),), finish="tool_calls")
    tools = [{"type": "function", "function": {"name": "rate", "parameters": {"type": "object"}}}]
    async with served(ScriptedCore(script, features=ALL)) as s, client_of(s) as client:
        if stream:
            async with client.chat.completions.stream(**CHAT, tools=tools) as events:
                answer = await events.get_final_completion()
        else:
            answer = await client.chat.completions.create(**CHAT, tools=tools)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "rate", '{"base":"EUR"}')


@pytest.mark.real
@pytest.mark.parametrize("stream", [True, False])
async def test_several_answers_are_told_apart(stream: bool) -> None:
    async with served(ScriptedCore("one two")) as s, client_of(s) as client:
        if stream:
            async with client.chat.completions.stream(**CHAT, n=2) as events:
                answer = await events.get_final_completion()
        else:
            answer = await client.chat.completions.create(**CHAT, n=2)
        assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, "one two"), (1, "one two")]


@pytest.mark.real
async def test_the_sdk_lists_models_and_is_told_which_there_are() -> None:
    async with served() as s, client_of(s) as client:
        assert {model.id async for model in client.models.list()} == {"scripted-1", "default"}
        assert (await client.models.retrieve("default")).id == "default"
        with pytest.raises(openai.NotFoundError, match="scripted-1"):
            await client.models.retrieve("gpt-9")


@pytest.mark.real
async def test_a_wrong_key_a_wrong_model_and_a_wrong_value_are_the_sdks_own_errors() -> None:
    async with served() as s, client_of(s) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.with_options(api_key="nonsense").chat.completions.create(**CHAT)
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.NotFoundError, match="gpt-9"):
            await client.chat.completions.create(**{**CHAT, "model": "gpt-9"})
        with pytest.raises(openai.BadRequestError) as refused_value:
            await client.chat.completions.create(**CHAT, temperature=7)
        assert refused_value.value.param == "temperature"


@pytest.mark.real
@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_for_good_is_tried_once(stream: bool) -> None:
    async with served() as s, client_of(s) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                **CHAT, stream=stream, tools=[{"type": "function", "function": {"name": "f"}}]
            )  # fmt: skip
        assert refused.value.code == "no_core" and "tools" in refused.value.message
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert s.kernel.statistics().calls_failed == 1


@pytest.mark.real
async def test_what_is_not_granted_is_a_400_that_no_client_tries_again() -> None:
    async with served() as s:
        token = s.kernel.tokens.add("outsider", (), "standard").value
        async with openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=token) as client:
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(**CHAT)
        assert refused.value.code == "denied" and refused.value.response.headers["x-should-retry"] == "false"


@pytest.mark.real
async def test_a_failure_in_the_middle_of_a_stream_raises_in_the_sdk() -> None:
    async with served(ScriptedCore(Script(text="a b c", fail_after=2))) as s, client_of(s) as client:
        said = ""
        with pytest.raises(openai.APIError, match="the script says so"):
            async for chunk in await client.chat.completions.create(**CHAT, stream=True):
                said += chunk.choices[0].delta.content or ""
        assert said == "a b"


@pytest.mark.real
async def test_the_sdk_that_stops_reading_frees_the_core() -> None:
    async with served(ScriptedCore(Script(text="a b c", hang=True))) as s, client_of(s) as client:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        assert (await anext(stream)).choices[0].delta.role == "assistant"
        await stream.close()
        await until(lambda: s.core.statistics().running == 0)
        assert s.core.statistics().aborted == 1


@pytest.mark.real
async def test_a_queue_that_is_full_is_tried_again_by_the_sdk() -> None:
    async with served(ScriptedCore(Script(text="a", hang=True), slots=1), lane=LaneConfig(queue=1)) as s:
        async with client_of(s, max_retries=0) as client:
            held = [asyncio.ensure_future(client.chat.completions.create(**CHAT)) for _ in range(2)]
            await until(lambda: s.kernel.statistics().calls_waiting == 1)
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(**CHAT)
            assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
            for call in held:
                call.cancel()
            await asyncio.wait(held)


@pytest.mark.real
async def test_ids_are_never_the_same() -> None:
    async with served() as s:
        found = []
        for stream in (True, False):
            for _ in range(20):
                async with s.post("/v1/chat/completions", {**CHAT, "stream": stream}) as answer:
                    text = await answer.text()
                    found.append(json.loads(text.removeprefix("data: ").split("\n\n")[0])["id"])
                    found += [answer.headers["x-request-id"], answer.headers["x-aios-ticket"]]
        assert len(set(found)) == len(found) == 120


# what clients send


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_completion_tokens": 5}, "max_tokens", 5),
        ({"max_tokens": 9, "max_completion_tokens": 5}, "max_tokens", 5),
        ({"stop": "x"}, "stop", ("x",)),
        ({"stop": ["x", "y"]}, "stop", ("x", "y")),
        ({"stop": None}, "stop", ()),
        ({"n": None}, "n", 1),
        ({"temperature": 1}, "temperature", 1.0),
        ({"seed": -1}, "seed", -1),
        ({"logit_bias": {"50256": -100}}, "logit_bias", {"50256": -100.0}),
        ({"logprobs": True, "top_logprobs": 3}, "top_logprobs", 3),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", False),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice",
         {"type": "function", "function": {"name": "f"}}),
        ({"response_format": {"type": "json_object"}}, "response_format", {"type": "json_object"}),
        ({"reasoning_effort": "low"}, "reasoning_effort", "low"),
        ({"modalities": ["text"]}, "n", 1),
        ({"functions": [], "function_call": None, "web_search_options": None}, "n", 1),
    ],
)  # fmt: skip
def test_fields_are_understood(fields: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(read(**fields), name) == value


def test_messages_of_all_kinds_are_understood() -> None:
    found = read(
        messages=[
            {"role": "developer", "content": "be brief", "name": "boss"},
            {"role": "user", "content": [{"type": "text", "text": "only text"}]},
            {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:x"}}]},
            {
                "role": "assistant", "content": None, "refusal": None, "audio": None, "annotations": [],
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ]
    ).messages  # fmt: skip
    assert [message.role for message in found] == ["system", "user", "user", "assistant", "tool"]
    assert found[0].name == "boss" and found[1].content == "only text"
    assert [part.image for part in found[2].content if not isinstance(part, str)] == ["", "data:x"]
    assert (found[3].content, found[3].tool_calls) == ("", (ToolCall("1", "f", "{}"),))
    assert found[4].tool_call_id == "1"


def test_what_means_nothing_here_is_taken_in_silence_and_what_nobody_knows_is_named() -> None:
    known = dict.fromkeys(("user", "metadata", "store", "prompt_cache_key", "safety_identifier", "verbosity", "prediction"), 1)
    _, unknown = read_chat(json.dumps({**CHAT, **known, "top_k": 5, "min_p": 0.1}).encode())
    assert unknown == ["min_p", "top_k"]


@pytest.mark.real
async def test_unknown_fields_are_ignored_and_told_back() -> None:
    async with served() as s:
        odd = {**CHAT, "top_k": 5, "wei\r\nrd: ü": 1, "aios": {"class": "batch", "wishes": "x"}}
        for stream in (True, False):
            async with s.post("/v1/chat/completions", {**odd, "stream": stream}) as answer:
                assert answer.status == 200
                assert answer.headers["x-aios-ignored"] == "top_k, wei??rd???"


@pytest.mark.real
async def test_a_core_that_refuses_a_tool_names_the_place_in_the_clients_words() -> None:
    for field, param in (("tools[0].name", "tools[0].function.name"), ("tools[1].parameters", "tools[1].function.parameters"),
                         ("tools", "tools"), ("messages[0].name", "messages[0].name")):  # fmt: skip
        script = Script(fail_after=0, failure=Invalid("it is wrong", field=field))
        async with served(ScriptedCore(script)) as s, s.post("/v1/chat/completions", CHAT) as answer:
            assert (await answer.json())["error"]["param"] == param


@pytest.mark.real
@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "function", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 400, "messages[0].content[0].type"),
        ({"model": 5}, 400, "model"),
        ({"max_completion_tokens": 0}, 400, "max_completion_tokens"),
        ({"n": 1000}, 400, "n"),
        ({"stop": [""]}, 400, "stop"),
        ({"stop": 5}, 400, "stop"),
        ({"stream": "yes"}, 400, "stream"),
        ({"tools": [{"type": "function"}]}, 400, "tools[0].function"),
        ({"functions": [{"name": "f"}]}, 400, "functions"),
        ({"modalities": ["audio"]}, 400, "modalities"),
        ({"aios": {"class": "royal"}}, 400, "aios.class"),
        ({"aios": {"deadline_s": -1}}, 400, "aios.deadline_s"),
    ],
)
async def test_a_wrong_value_is_refused_with_its_place(fields: dict[str, Any], status: int, param: str) -> None:
    async with served() as s, s.post("/v1/chat/completions", {**CHAT, **fields}) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["param"], error["type"]) == (status, param, "invalid_request_error")
        assert error["message"] and error["code"]
        assert s.core.statistics().started == 0


@pytest.mark.real
@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"default"}', "messages"),
        (b'{"model":"default","model":"x","messages":[]}', "model"),
        (b'{"model":"default","messages":[{"role":"user","content":"\\ud83d"}]}', "messages[0].content"),
        (b'{"model":"default","messages":[{"role":"user","content":"x"}],"seed":NaN}', "seed"),
        (b'{"model":"default","top_k":NaN,"messages":[{"role":"user","content":"x"}]}', "top_k"),
        (b'{"model":"default","top_k":' + b"[" * 100_000, None),
    ],
)
async def test_what_json_readers_disagree_about_is_refused(body: bytes, param: str | None) -> None:
    async with served() as s:
        headers = {**s.headers, "content-type": "application/json"}
        async with s.http.post(s.url + "/v1/chat/completions", data=body, headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, param)


@pytest.mark.real
@pytest.mark.parametrize(
    ("fields", "headers", "cls"),
    [
        ({}, {}, "standard"),
        ({"service_tier": "flex"}, {}, "batch"),
        ({"service_tier": "priority"}, {}, "standard"),
        ({"aios": {"class": "batch"}}, {}, "batch"),
        ({"aios": {"class": "interactive"}}, {}, "standard"),
        ({}, {"x-aios-class": "batch"}, "batch"),
        ({"service_tier": "flex"}, {"x-aios-class": "standard"}, "standard"),
    ],
)
async def test_hints_lower_the_class_and_never_raise_it(fields: Any, headers: Any, cls: str) -> None:
    async with served() as s:
        async with s.post("/v1/chat/completions", {**CHAT, **fields}, **headers) as answer:
            assert answer.status == 200
        events, _, _ = s.kernel.events.after(0, 100, lambda event: isinstance(event, CallEnded))
        assert [event.cls for event in events] == [cls]


# whose call it is


async def sessions(s: Served) -> int:
    """How many processes its clients' calls are of."""
    return len({event.pid for event in s.kernel.events.after(0, 1000, lambda event: isinstance(event, CallEnded))[0]})


@pytest.mark.real
async def test_a_client_names_its_session_in_a_header_or_with_its_cache_key_and_the_first_name_counts() -> None:
    carriers: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({}, {"x-claude-code-session-id": "one"}),
        ({}, {"session-id": "one"}),
        ({}, {"x-session-id": "one"}),
        ({"prompt_cache_key": "one"}, {}),
        ({"prompt_cache_key": "two"}, {"x-session-id": "one", "session-id": ""}),
        ({"prompt_cache_key": "two"}, {"x-session-id": "two", "x-claude-code-session-id": "one"}),
    ]
    async with served() as s:
        for fields, headers in carriers:
            async with s.post("/v1/chat/completions", {**CHAT, **fields}, **headers) as answer:
                assert answer.status == 200
        assert await sessions(s) == 1
        for fields, headers in [({"prompt_cache_key": "two"}, {}), ({}, {}), ({"prompt_cache_key": 5}, {}), ({"user": "x"}, {})]:
            async with s.post("/v1/chat/completions", {**CHAT, **fields}, **headers) as answer:
                assert answer.status == 200
        assert await sessions(s) == 3


@pytest.mark.real
async def test_many_conversations_without_a_name_are_of_one_process() -> None:
    async with served() as s:
        for number in range(20):
            messages = [{"role": "system", "content": str(number)}, {"role": "user", "content": f"question {number}"}]
            async with s.post("/v1/chat/completions", {**CHAT, "messages": messages}) as answer:
                assert answer.status == 200
        assert await sessions(s) == 1


@pytest.mark.real
async def test_a_name_of_any_length_is_taken_and_tells_sessions_apart() -> None:
    async with served() as s:
        for name in ("n" * 5000, "n" * 5000, "n" * 4999 + "m"):
            async with s.post("/v1/chat/completions", CHAT, x_session_id=name) as answer:
                assert answer.status == 200
        assert await sessions(s) == 2


@pytest.mark.real
async def test_what_the_environment_adds_to_an_unmodified_clients_calls_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    hints = {"x-aios-class": "batch", "x-session-id": "run-7", "baggage": "aios.task=audit,aios.step=3"}
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "\n".join(f"{name}: {value}" for name, value in hints.items()))
    async with served() as s, client_of(s) as client:
        await client.chat.completions.create(**CHAT)
        (event,) = s.kernel.events.after(0, 100, lambda event: isinstance(event, CallEnded))[0]
        assert isinstance(event, CallEnded)
        assert (event.cls, event.trace) == ("batch", Trace(task="audit", step="3"))
