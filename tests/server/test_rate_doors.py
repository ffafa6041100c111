"""Rates at the doors: a client waits where it can, is told when to come again where it cannot, and sees what is left."""

import asyncio
import datetime
from typing import Any

import pytest
from served import CHAT, LoopClock, Served, served

from aios.abi.account import SetLimit, ShowAccounts, Unit, Window
from aios.server.local import LocalGate
from aios.testing import ScriptedCore, time
from aios.testing.kernel import EPOCH_NS

QUESTION: dict[str, Any] = {"model": "scripted-1", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
HOUR_NS = 3600 * 10**9
TO_NEXT_S = 60 - 1_700_000_000 % 60


def operator(s: Served) -> LocalGate:
    return LocalGate(s.kernel, s.kernel.attach(s.kernel.tokens.new_operator()))


async def limit(s: Served, amount: int, unit: Unit = "calls", window: Window = "minute") -> None:
    await operator(s).call(SetLimit(account="/", unit=unit, amount=amount, window=window))


async def waits(s: Served) -> None:
    """Return when a call waits for the next minute."""
    gate = operator(s)
    while not (await gate.call(ShowAccounts(account="/"))).accounts[0].waiting:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("path", "body", "headers", "code"),
    [
        ("/v1/chat/completions", CHAT, {}, "rate_limit_error"),
        ("/v1/responses", {"model": "scripted-1", "input": "hello"}, {}, "rate_limit_error"),
        ("/v1/messages", QUESTION, {"anthropic_version": "2023-06-01"}, "rate_limit_error"),
    ],
)
async def test_who_cannot_wait_is_told_when_to_come_again(path: str, body: Any, headers: dict[str, str], code: str) -> None:
    async with served(ScriptedCore("one two")) as s:
        await limit(s, 1)
        async with s.post(path, body, **headers) as first:
            assert first.status == 200
        for _ in range(2):
            async with s.post(path, body, **headers, x_aios_deadline_s="5") as refused:
                assert refused.status == 429 and (await refused.json())["error"]["type"] == code
                assert "x-should-retry" not in refused.headers, "it may come again, and hears when"
                assert TO_NEXT_S - 2 <= int(refused.headers["retry-after"]) <= TO_NEXT_S


@pytest.mark.parametrize("leap_s", [0, 366 * 86400, -366 * 86400])
@pytest.mark.parametrize("stream", [False, True])
async def test_how_long_a_window_lasts_is_reckoned_by_the_clock_that_ends_it(
    leap_s: int, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the machine's own clock says; and a part of a second is a whole one, or who waits so long comes too early."""
    async with served(ScriptedCore("one two")) as s:
        now_ns = (EPOCH_NS // HOUR_NS * HOUR_NS) + leap_s * 10**9 + 600 * 10**9 + 1
        monkeypatch.setattr(LoopClock, "now_ns", lambda self: now_ns)
        await limit(s, 10, window="hour")  # set back afterwards, a clock would have to come to the end of this hour again
        async with s.post("/v1/chat/completions", {**CHAT, "stream": stream}) as answer:
            assert answer.headers["x-ratelimit-reset-requests"] == "3000s"
        async with s.post("/v1/messages", {**QUESTION, "stream": stream}, anthropic_version="2023-06-01") as answer:
            ends = datetime.datetime.fromtimestamp((now_ns // HOUR_NS + 1) * 3600, datetime.UTC)
            assert answer.headers["anthropic-ratelimit-requests-reset"] == f"{ends:%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize("stream", [False, True])
async def test_who_can_wait_is_answered_in_the_next_minute(stream: bool) -> None:
    async with served(ScriptedCore("one two")) as s:
        await limit(s, 1)
        async with s.post("/v1/chat/completions", CHAT) as first:
            assert first.headers["x-ratelimit-limit-requests"] == "1" and first.headers["x-ratelimit-remaining-requests"] == "0"
            assert TO_NEXT_S - 2 <= int(first.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= TO_NEXT_S
        asked = asyncio.ensure_future(read(s, {**CHAT, "stream": stream}))
        await waits(s)
        status, said = await asked
        assert status == 200 and b"one" in said and TO_NEXT_S <= time() < TO_NEXT_S + 2
        assert not stream or said.count(b": ") > 1, "a stream hears meanwhile that it is not forgotten"


async def read(s: Served, body: dict[str, Any]) -> tuple[int, bytes]:
    async with s.post("/v1/chat/completions", body) as response:
        return response.status, await response.read()


async def test_limits_of_calls_at_once_are_no_rates_and_in_no_header() -> None:
    async with served(ScriptedCore("one two")) as s:
        await limit(s, 3, window="now")
        await limit(s, 5000, "tokens")
        async with s.post("/v1/chat/completions", CHAT) as answer:
            assert "x-ratelimit-limit-requests" not in answer.headers
            assert int(answer.headers["x-ratelimit-remaining-tokens"]) < int(answer.headers["x-ratelimit-limit-tokens"]) == 5000
