"""`OpenAIChat` keeps the promises of the port against a server of the wire, and understands what such servers say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from chat_server import ChatServer, chat_server

from aios.abi.errors import AiosError, ContextFull, CoreFailed, Invalid, RateLimited, Unavailable
from aios.abi.llm import Count, Generate, Message, Part, TokenLogprob, ToolCall, ToolSpec, Usage
from aios.drivers.core.openai_chat import OpenAIChat, OpenAIChatConfig
from aios.drivers.core.openai_wire import WireUsage
from aios.ports.core import FEATURES, CoreEvent, NotAsked
from aios.testing import Script, ScriptedCore
from aios.testing.cores import EXAMINATION, Candidate, Case, Heard, ignore

ALL = frozenset(FEATURES)


@asynccontextmanager
async def served(core: ScriptedCore, **config: Any) -> AsyncIterator[tuple[ChatServer, Candidate]]:
    async with chat_server(core) as server:
        driver = OpenAIChat(OpenAIChatConfig(name="remote", base_url=server.base_url, **{"slots": 4, "window": 4096, **config}))
        events: list[CoreEvent] = []
        await driver.start(events.append)
        try:
            yield server, Candidate(driver, running=lambda: core.statistics().running, events=events)
        finally:
            await driver.close()


def says(*events: str, status: int = 200, **headers: str) -> Any:
    """A handler that sends these lines, whatever it is asked."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body="".join(f"{event}\n" for event in events).encode(), status=status, headers=headers)

    return handler


@pytest.mark.real
@pytest.mark.parametrize("case", EXAMINATION, ids=lambda case: case.__name__)
async def test_it_keeps_the_promises_of_the_port(case: Case) -> None:
    async with served(ScriptedCore()) as (_, candidate):
        await case(candidate)


@pytest.mark.real
async def test_without_models_in_its_configuration_it_has_those_that_are_listed() -> None:
    async with served(ScriptedCore(models=("m1", "m2"))) as (_, candidate):
        assert candidate.core.info().models == ("m1", "m2")


@pytest.mark.real
async def test_every_field_is_sent_as_the_wire_has_it() -> None:
    core = ScriptedCore(features=ALL)
    request = Generate(
        messages=(
            Message("system", "be brief"),
            Message("user", (Part("text", "what is this"), Part("image", image="data:image/png;base64,AA"))),
            Message("assistant", tool_calls=(ToolCall("t1", "look", "{}"),)),
            Message("tool", "a cat", tool_call_id="t1"),
        ),
        max_tokens=3,
        temperature=0.5,
        top_p=0.9,
        stop=("x",),
        seed=7,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logit_bias={"5": 1.0},
        logprobs=True,
        top_logprobs=2,
        tools=(ToolSpec("look", "looks", {"type": "object"}, True),),
        tool_choice="auto",
        parallel_tool_calls=False,
        response_format={"type": "json_object"},
        reasoning_effort="low",
    )
    async with served(core, features=ALL) as (server, candidate):
        server.instead = says(
            'data: {"choices": [{"delta": {"content": "ok"}, "finish_reason": "stop"}]}', "", "data: [DONE]", ""
        )
        call = candidate.call(seed=7)
        await candidate.core.generate(type(call)(id=call.id, model=call.model, request=request, seed=7), ignore)
    assert server.bodies == [
        {
            "model": "scripted-1",
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [
                {"role": "system", "content": "be brief"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is this"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                    ],
                },
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
                },
                {"role": "tool", "content": "a cat", "tool_call_id": "t1"},
            ],
            "max_tokens": 3,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["x"],
            "seed": 7,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "logit_bias": {"5": 1.0},
            "logprobs": True,
            "top_logprobs": 2,
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "look", "description": "looks", "parameters": {"type": "object"}, "strict": True},
                }
            ],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "response_format": {"type": "json_object"},
            "reasoning_effort": "low",
        }
    ]


@pytest.mark.real
async def test_tool_calls_reasoning_logprobs_and_usage_are_understood() -> None:
    async with served(ScriptedCore()) as (server, candidate):
        server.instead = says(
            ": a comment",
            'data: {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\r',
            "\r",
            'data: {"choices": [{"delta": {"reasoning_content": "hm "}}]}',
            "",
            'data:{"choices": [{"delta": {"content": "Hé", "later": 1}, "logprobs": {"content": [{"token": "Hé", "logprob": -0.5,'
            ' "bytes": null, "top_logprobs": [{"token": "Ho", "logprob": -1}]}]}}]}',
            "",
            'data: {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "t1", "type": "function",'
            ' "function": {"name": "look", "arguments": "{\\"a"}}]}}]}',
            "",
            'data: {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "\\": 1}"}}]}}]}',
            "",
            'data: {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}',
            "",
            'data: {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17,'
            ' "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 5},'
            ' "completion_tokens_details": {"reasoning_tokens": 2}}}',
            "",
            "data: [DONE]",
            "",
        )
        heard = Heard()
        done = await candidate.core.generate(candidate.call(), heard)
    choice = done.choices[0]
    assert (choice.text, choice.reasoning, choice.finish) == ("Hé", "hm ", "tool_calls")
    assert choice.tool_calls == (ToolCall("t1", "look", '{"a": 1}'),)
    assert choice.logprobs == (TokenLogprob("Hé", -0.5, (TokenLogprob("Ho", -1),)),)
    assert done.usage == Usage(input_uncached=1, cache_read=4, output_visible=5, reasoning=2, cache_write=5)
    assert [piece.arguments for delta in heard.deltas for piece in delta.tool_calls] == ['{"a', '": 1}']


@pytest.mark.real
@pytest.mark.parametrize(("told", "output"), [((3, 7), 7), ((7, 0), 7), ((7, -7), 7), ((0, 7, 7), 7)])
async def test_of_a_usage_that_is_told_more_than_once_nothing_is_taken_back(told: tuple[int, ...], output: int) -> None:
    """A server that says nothing last has not been paid nothing."""
    async with served(ScriptedCore()) as (server, candidate):
        usages = [f'data: {{"choices": [], "usage": {{"prompt_tokens": 10, "completion_tokens": {each}}}}}' for each in told]
        events = ['data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}', *usages, "data: [DONE]"]
        server.instead = says(*(line for event in events for line in (event, "")))
        done = await candidate.core.generate(candidate.call(), Heard())
    assert done.usage == Usage(input_uncached=10, output_visible=output)


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        ({"completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 2}}, (5, 2)),
        ({"completion_tokens": 7, "total_tokens": 17, "completion_tokens_details": {"reasoning_tokens": 2}}, (5, 2)),
        (
            {"completion_tokens": 1499, "total_tokens": 4318, "completion_tokens_details": {"reasoning_tokens": 2809}},
            (1499, 2809),
        ),
        ({"completion_tokens": 9, "total_tokens": 24, "completion_tokens_details": {"reasoning_tokens": 5}}, (9, 5)),
        ({"completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 386}}, (1, 386)),
        ({"completion_tokens": 7, "total_tokens": 0}, (7, 0)),
        ({"completion_tokens": -7, "total_tokens": 17}, (-7, 0)),
        ({"completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": -2}}, (9, -2)),
    ],
)
def test_tokens_of_reasoning_are_counted_once_wherever_a_server_has_them(told: dict[str, Any], counted: tuple[int, int]) -> None:
    usage = msgspec.convert({"prompt_tokens": 10, **told}, WireUsage).counted()
    assert (usage.output_visible, usage.reasoning) == counted and usage.input_uncached == 10


async def test_tokens_are_estimated_and_a_picture_is_one_whatever_its_size() -> None:
    core = OpenAIChat(OpenAIChatConfig(name="remote", base_url="http://127.0.0.1:9/v1"))
    words = Message("user", "x" * 400)
    small, large = (Message("user", (Part("text", text="x" * 400), Part("image", image="data:," + "A" * n))) for n in (10, 10**6))
    counts = [(await core.count(Count(messages=(message,)), "x")).tokens for message in (words, small, large)]
    assert counts == [100, 1100, 1100]
    told = await core.count(Count(messages=(words,), tools=(ToolSpec("f", "y" * 400),)), "x")
    assert told.tokens > 200 and not told.exact


@pytest.mark.real
async def test_several_answers_come_apart() -> None:
    features = frozenset({"chat", "n", "seed", "stop"})
    async with served(ScriptedCore("a b"), features=features) as (_, candidate):
        done = await candidate.core.generate(candidate.call(n=2), ignore)
    assert [choice.text for choice in done.choices] == ["a b", "a b"]


REFUSALS = [
    (429, '{"error": {"message": "slow down"}}', RateLimited),
    (400, '{"error": {"message": "This model\'s maximum context length is 10 tokens"}}', ContextFull),
    (400, '{"error": {"message": "bad", "param": "top_p"}}', Invalid),
    (404, '{"error": "model `x` not found"}', Invalid),
    (401, '{"detail": "no key"}', CoreFailed),
    (500, "<html>oops</html>", CoreFailed),
    (503, '{"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}', CoreFailed),
    (302, "", CoreFailed),
]


@pytest.mark.real
@pytest.mark.parametrize(("status", "body", "error"), REFUSALS)
async def test_a_refusal_becomes_its_own_error(status: int, body: str, error: type[AiosError]) -> None:
    async with served(ScriptedCore()) as (server, candidate):
        server.instead = says(body, status=status, **{"Retry-After": "7"})
        with pytest.raises(error) as refused:
            await candidate.core.generate(candidate.call(), ignore)
        server.instead = None
        assert (await candidate.core.generate(candidate.call(), ignore)).text
    if error is RateLimited:
        assert refused.value.retry_after_s == 7
    if body.startswith("{"):
        assert refused.value.field == {"bad": "top_p"}.get(body[23:26], refused.value.field)


@pytest.mark.real
@pytest.mark.parametrize(
    "events",
    [
        ['data: {"choices": [{"delta": {"content": "half an"}}]}', ""],
        ['data: {"choices": [{"delta": {"content": "half"}}]}', "", "data: [DONE]", ""],
        ["data: {nonsense", ""],
        ['data: {"choices": [{"index": 7, "delta": {"content": "x"}}]}', ""],
        ['data: {"choices": [{"index": -1, "delta": {"content": "x"}}]}', ""],
        ['data: {"error": {"message": "out of memory", "code": 500}}', ""],
        ['data: {"error": "out of memory"}', ""],
        ["<html>not a stream</html>"],
        [],
    ],
)
async def test_an_answer_that_breaks_off_or_is_none_fails(events: list[str]) -> None:
    async with served(ScriptedCore()) as (server, candidate):
        server.instead = says(*events)
        with pytest.raises(CoreFailed):
            await candidate.core.generate(candidate.call(), ignore)


@pytest.mark.real
async def test_a_spent_budget_of_the_server_is_no_failure_of_it_also_if_its_stream_says_so() -> None:
    """A kernel behind this one says so when a call's turn comes and nothing is left: trying again helps nobody."""
    async with served(ScriptedCore()) as (server, candidate):
        server.instead = says(
            'data: {"error": {"message": "spent", "type": "insufficient_quota", "code": "insufficient_quota"}}', ""
        )
        with pytest.raises(Invalid, match="spent"):
            await candidate.core.generate(candidate.call(), ignore)


@pytest.mark.real
async def test_one_connection_serves_call_after_call() -> None:
    peers = set()
    async with served(ScriptedCore()) as (server, candidate):

        async def note(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            peers.add(request.transport.get_extra_info("peername"))
            server.instead = None
            try:
                return await server.chat(request)
            finally:
                server.instead = note

        for _ in range(3):
            server.instead = note
            await candidate.core.generate(candidate.call(), ignore)
    assert len(peers) == 1


@pytest.mark.real
async def test_a_kept_connection_that_the_server_has_closed_is_replaced() -> None:
    async with served(ScriptedCore()) as (server, candidate):

        async def close(request: web.Request) -> web.StreamResponse:
            server.instead = None
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        await candidate.core.generate(candidate.call(), ignore)
        server.instead = close
        assert (await candidate.core.generate(candidate.call(), ignore)).text
        assert len(server.bodies) == 3


@pytest.mark.real
async def test_a_server_that_goes_away_is_down_and_up_again_when_it_is_back() -> None:
    async with chat_server(ScriptedCore()) as server:
        core = OpenAIChat(OpenAIChatConfig(name="remote", base_url=server.base_url))
        events: asyncio.Queue[CoreEvent] = asyncio.Queue()
        await core.start(events.put_nowait)
        assert (await events.get()).change == "up"
    candidate = Candidate(core, running=lambda: 0)
    with pytest.raises(NotAsked, match="does not answer"):
        await core.generate(candidate.call(), ignore)
    assert (await events.get()).change == "down"
    assert not core.health().up
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(server.base_url.rsplit(":", 1)[1].split("/")[0])).start()
    assert (await events.get()).change == "up"
    await core.close()
    await runner.cleanup()


@pytest.mark.real
async def test_without_a_server_it_does_not_start() -> None:
    core = OpenAIChat(OpenAIChatConfig(name="remote", base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(Unavailable, match="start it"):
        await core.start(lambda _: None)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/v1",
        "http://example.com/v1",
        "https://k@example.com/v1",
        "https://x/v1?k=1",
        "ftp://localhost",
        "",
        "nonsense",
    ],
)
def test_addresses_elsewhere_are_refused(url: str) -> None:
    with pytest.raises(Invalid):
        OpenAIChat(OpenAIChatConfig(name="remote", base_url=url))


@pytest.mark.real
async def test_a_flood_of_events_leaves_turns_to_others() -> None:
    event = 'data: {"choices": [{"delta": {"content": "x"}}]}\n'
    end = 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}'
    async with served(ScriptedCore()) as (server, candidate):
        server.instead = says(*[event] * 20_000, end, "", "data: [DONE]", "")
        call = asyncio.create_task(candidate.core.generate(candidate.call(), ignore))
        turns = 0
        while not call.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await call).text == "x" * 20_000
    assert turns > 20_000 / 64


@pytest.mark.real
async def test_a_failure_in_the_middle_is_a_failure_of_the_core() -> None:
    heard = Heard()
    async with served(ScriptedCore(Script(text="a b c", fail_after=2))) as (_, candidate):
        with pytest.raises(CoreFailed, match="the script says so"):
            await candidate.core.generate(candidate.call(), heard)
    assert heard.text == "a b"
