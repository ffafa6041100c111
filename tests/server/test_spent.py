"""A spent budget at each door: one attempt of every client, and what is left stands in the headers that it knows."""

import asyncio
from typing import Any

import openai
import pytest
from msgspec.structs import replace
from served import CHAT, Served, served

from aios.abi.account import SetLimit, Unit, Window
from aios.abi.llm import Completion, Usage
from aios.ports.core import CoreCall, CoreInfo, Emit, Price
from aios.server.local import LocalGate
from aios.testing import Script, ScriptedCore

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
