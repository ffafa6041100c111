"""A spent budget at each door: one attempt of every client, and what is left stands in the headers that it knows."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from msgspec.structs import replace
from served import CHAT, Served, served

from aios.abi.account import SetLimit, Unit, Window
from aios.abi.llm import Completion, Generate, Usage
from aios.ports.core import CoreCall, CoreInfo, Emit, Price
from aios.server.local import LocalGate
from aios.testing import Script, ScriptedCore, ScriptedEmbedder

QUESTION: dict[str, Any] = {"model": "scripted-1", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


async def limit(s: Served, amount: int, unit: Unit = "calls", window: Window = "lifetime") -> None:
    operator = LocalGate(s.kernel, s.kernel.attach(s.kernel.tokens.new_operator()))
    await operator.call(SetLimit(account="/", unit=unit, amount=amount, window=window))


def refused(s: Served) -> int:
    """How many calls the kernel refused: a client that tries again makes another one."""
    return s.kernel.statistics().calls_failed


@pytest.mark.real
@pytest.mark.parametrize("stream", [False, True])
async def test_an_openai_client_makes_one_attempt(stream: bool) -> None:
    async with served(ScriptedCore("one two")) as s, openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token) as client:
        await limit(s, 0)
        asked: dict[str, Any] = {**CHAT, "stream": stream}
        for again in (1, 2):  # whoever asks once more hears the same
            with pytest.raises(openai.APIStatusError) as spent:
                await client.chat.completions.create(**asked)
            assert type(spent.value) is openai.APIStatusError and spent.value.status_code == 402
            assert spent.value.code == spent.value.type == "insufficient_quota"
            assert "`aios budget / --calls AMOUNT` raises it" in spent.value.message
            assert spent.value.response.headers["x-should-retry"] == "false" and refused(s) == again


@pytest.mark.real
async def test_so_does_one_that_asks_for_responses() -> None:
    async with served(ScriptedCore("one two")) as s, openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token) as client:
        await limit(s, 0)
        for again in (1, 2):
            with pytest.raises(openai.BadRequestError) as spent:
                await client.responses.create(model="scripted-1", input="hello")
            assert spent.value.code == "insufficient_quota" and "raises it" in spent.value.message
            assert spent.value.response.headers["x-should-retry"] == "false" and refused(s) == again


@pytest.mark.real
async def test_so_does_one_that_asks_for_vectors() -> None:
    async with (
        served(embedders=(ScriptedEmbedder(),)) as s,
        openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token) as client,
    ):
        await limit(s, 0)
        with pytest.raises(openai.APIStatusError) as spent:
            await client.embeddings.create(model="words-1", input="one two")
        assert (spent.value.status_code, spent.value.code) == (402, "insufficient_quota") and refused(s) == 1


# a budget that is spent while a call waits for its turn


def script(call: CoreCall) -> Script:
    """The call that holds the slot does so until it is given up."""
    assert isinstance(call.request, Generate)
    return Script(text="well", hang=call.request.prompt == "hold")


@asynccontextmanager
async def spent_in_the_queue(s: Served, call: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Make a call that waits for the only slot. At the end of the block its budget is spent, and then it has its turn."""
    operator = LocalGate(s.kernel, s.kernel.attach(s.kernel.tokens.new_operator()))
    holding = asyncio.ensure_future(operator.call(Generate(prompt="hold")))
    await until(lambda: bool(s.core.calls))
    calling = asyncio.ensure_future(call)
    await until(lambda: s.kernel.statistics().calls_waiting == 1)
    yield calling
    await limit(s, 0)
    holding.cancel()
    await asyncio.wait((calling,))


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def asked_once(s: Served) -> bool:
    """Nobody came again, and no model worked but for who held the slot."""
    return refused(s) == 2 and len(s.core.calls) == 1


async def streamed(client: openai.AsyncOpenAI) -> list[Any]:
    """The chunks of an answer, of which the client's user hears before it ends."""
    return [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]


@pytest.mark.real
async def test_a_chat_that_waits_is_told_in_its_stream_that_nothing_is_left() -> None:
    core = ScriptedCore(script, slots=1)
    async with served(core) as s, openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token) as client:
        async with spent_in_the_queue(s, streamed(client)) as calling:
            pass
        with pytest.raises(openai.APIError, match="`aios budget / --calls AMOUNT` raises it") as spent:
            await calling
        assert (spent.value.code, spent.value.type) == ("insufficient_quota", "insufficient_quota")
        assert asked_once(s)


async def events_of(client: openai.AsyncOpenAI) -> list[Any]:
    return [event async for event in await client.responses.create(model="scripted-1", input="hello", stream=True)]


@pytest.mark.real
async def test_a_response_that_waits_fails_by_an_event_of_the_error_and_one_of_its_own() -> None:
    """The first for frameworks that look for no error in a response."""
    core = ScriptedCore(script, slots=1)
    async with served(core) as s, openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token) as client:
        async with spent_in_the_queue(s, events_of(client)) as calling:
            pass
        events = calling.result()
        assert [event.type for event in events] == ["response.created", "response.queued", "error", "response.failed"]
        assert [event.sequence_number for event in events] == [0, 1, 2, 3]
        error, failed = events[2:]
        assert error.code == "insufficient_quota" and "`aios budget / --calls AMOUNT` raises it" in error.message
        assert (failed.response.status, failed.response.error.message) == ("failed", error.message)
        assert asked_once(s)


async def said_to(s: Served, path: str, body: dict[str, Any], **headers: str) -> tuple[int, bytes]:
    async with s.post(path, body, **headers) as answer:
        return answer.status, await answer.read()


async def test_a_message_that_waits_is_told_in_its_stream_that_nothing_is_left() -> None:
    async with served(ScriptedCore(script, slots=1)) as s:
        call = said_to(s, "/v1/messages", {**QUESTION, "stream": True}, anthropic_version="2023-06-01")
        async with spent_in_the_queue(s, call) as calling:
            pass
        status, said = calling.result()
        event, _, data = said.decode().rstrip("\n").rpartition("event: ")[2].partition("\ndata: ")
        error = json.loads(data)["error"]
        assert (status, event, error["type"], error["details"]) == (200, "error", "billing_error", {"error_code": "over_budget"})
        assert "`aios budget / --calls AMOUNT` raises it" in error["message"] and asked_once(s)


async def test_anthropic_clients_are_told_402_and_not_to_try_again() -> None:
    async with served(ScriptedCore("one two")) as s:
        await limit(s, 0)
        for _ in range(2):
            async with s.post("/v1/messages", QUESTION, anthropic_version="2023-06-01") as spent:
                assert (spent.status, spent.headers["x-should-retry"]) == (402, "false")
                assert (await spent.json())["error"]["type"] == "billing_error"


async def test_what_is_left_stands_in_the_headers_that_clients_know() -> None:
    async with served(ScriptedCore("one two", price=Price(1, 1, 10**7))) as s:
        async with s.post("/v1/chat/completions", CHAT) as free:
            assert free.headers["x-aios-cost"].startswith("0.02") and "x-ratelimit-limit-tokens" not in free.headers
        await limit(s, 10)
        await limit(s, 100_000, "tokens", "hour")
        async with s.post("/v1/chat/completions", CHAT) as answer:
            said = answer.headers
            assert (said["x-ratelimit-limit-requests"], said["x-ratelimit-remaining-requests"]) == ("10", "8")
            assert int(said["x-ratelimit-remaining-tokens"]) < 100_000 and said["x-ratelimit-reset-tokens"].endswith("s")
        async with s.post("/v1/messages", QUESTION, anthropic_version="2023-06-01") as answer:
            said = answer.headers
            assert (said["anthropic-ratelimit-requests-limit"], said["anthropic-ratelimit-requests-remaining"]) == ("10", "7")
            assert said["anthropic-ratelimit-tokens-reset"].endswith("Z")
            assert not [name for name in said if name.lower().startswith("x-ratelimit-")], "those are another vendor's"


async def test_streams_say_what_is_left_when_they_begin() -> None:
    async with served(ScriptedCore("one two")) as s:
        await limit(s, 10)
        left = []
        async with s.post("/v1/chat/completions", {**CHAT, "stream": True}) as stream:
            left.append(stream.headers["x-ratelimit-remaining-requests"])
            await stream.read()
        async with s.post("/v1/responses", {"model": "scripted-1", "input": "hello", "stream": True}) as stream:
            left.append(stream.headers["x-ratelimit-remaining-requests"])
            await stream.read()
        async with s.post("/v1/messages", {**QUESTION, "stream": True}, anthropic_version="2023-06-01") as stream:
            left.append(stream.headers["anthropic-ratelimit-requests-remaining"])
            await stream.read()
        assert left == ["9", "8", "7"]


class Elsewhere(ScriptedCore):
    """A core that is not on this machine, which says at the end what an answer came to."""

    def info(self) -> CoreInfo:
        return replace(super().info(), local=False)

    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        return replace(await super().generate(call, emit), usage=Usage(20, 0, 3))


async def test_a_client_that_hangs_up_in_mid_stream_is_charged_what_the_provider_says_at_the_end() -> None:
    async with served(Elsewhere(Script(text="one two three", token_s=0.1), price=Price(10, 1, 100))) as s:
        await limit(s, 10**9, "money")
        top = s.kernel.accounts.top
        async with s.post("/v1/chat/completions", {**CHAT, "stream": True}) as stream:
            await stream.content.readany()
            assert top.reserved[0] > 0
        async with asyncio.timeout(20):
            while any(top.reserved):
                await asyncio.sleep(0.01)
        assert top.spent == [20 * 10 + 3 * 100, 23, 1]
