"""What happens is heard as server-sent events: by an operator of all, with numbers from which one goes on."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from served import Served, served

from aios.abi.account import SetLimit
from aios.server.local import LocalGate

pytestmark = pytest.mark.real


class Ear:
    """An operator who listens to the feed."""

    def __init__(self, s: Served) -> None:
        self._s = s
        self.token = s.kernel.tokens.new_operator()
        self._operator = LocalGate(s.kernel, s.kernel.attach(self.token))

    def listen(self, query: str = "", headers: Mapping[str, str] | None = None) -> Any:
        named = {"authorization": f"Bearer {self.token}", **(headers or {})}
        return self._s.http.get(f"{self._s.url}/v1/events{query}", headers=named)

    async def limit(self, calls: int) -> None:
        await self._operator.call(SetLimit(account="/", unit="calls", amount=calls))


async def block(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The next event of a stream by its fields."""
    async with asyncio.timeout(5):
        while True:
            lines = (await answer.content.readuntil(b"\n\n")).decode().strip().split("\n")
            if not lines[0].startswith(":"):
                return dict(line.split(": ", 1) for line in lines)


async def test_a_limit_and_a_refusal_are_heard_as_they_happen() -> None:
    async with served() as s:
        ear = Ear(s)
        async with ear.listen("?kinds=account,incident") as answer:
            assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            await ear.limit(0)
            limited = await block(answer)
            assert limited["event"] == "account" and json.loads(limited["data"])["change"] == "limited"
            async with s.post("/v1/chat/completions", {"model": "default", "messages": [{"role": "user", "content": "a"}]}):
                refused = await block(answer)
        said = json.loads(refused["data"])
        assert (said["change"], said["account"]) == ("refused", "/") and "aios budget / --calls" in said["detail"]
        assert int(refused["id"]) == said["seq"] > int(limited["id"])


async def test_who_comes_again_goes_on_after_what_it_heard_last() -> None:
    async with served() as s:
        ear = Ear(s)
        for calls in (1, 2, 3):
            await ear.limit(calls)
        async with ear.listen("?kinds=account") as answer:
            heard = [await block(answer) for _ in range(3)]
        async with ear.listen("?kinds=account&after=0", {"last-event-id": heard[1]["id"]}) as answer:
            assert await block(answer) == heard[2]
        async with ear.listen(f"?kinds=account&after={heard[0]['id']}") as answer:
            assert await block(answer) == heard[1]


@pytest.mark.parametrize(
    ("query", "field"),
    [("?after=-1", "after"), ("?after=1e9", "after"), ("?after=" + "9" * 30, "after"), ("?after=%D9%A1", "after"),
     ("?kinds=money", "kinds"), ("?kind=account", "kind"), ("?" + "a=1&" * 40, None)],
)  # fmt: skip
async def test_what_cannot_be_listened_to_is_refused_with_the_field(query: str, field: str | None) -> None:
    async with served() as s, Ear(s).listen(query) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"], error.get("field")) == (400, "Invalid", field)


async def test_who_may_not_read_events_hears_none() -> None:
    async with served() as s:
        async with s.get("/v1/events") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (403, "Denied")
        async with s.http.get(s.url + "/v1/events") as answer:
            assert answer.status == 401


async def test_a_kernel_that_goes_down_ends_the_feed_with_an_error() -> None:
    async with served() as s:
        ear = Ear(s)
        async with ear.listen("?kinds=incident") as answer:
            down = asyncio.create_task(s.server.close(grace_s=0.1))
            assert (await block(answer))["event"] == "error"
            await down
