"""A client's project is the job that its calls are booked under, at each door."""

from typing import Any

import aiohttp
import openai
import pytest
from served import CHAT, Served, served

from aios.abi.account import AccountState, SetLimit, ShowAccounts
from aios.abi.errors import NotFound
from aios.server.local import LocalGate
from aios.testing import ScriptedCore, ScriptedEmbedder

ASKED: dict[str, Any] = {"model": "scripted-1", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


def operator_of(s: Served) -> LocalGate:
    return LocalGate(s.kernel, s.kernel.attach(s.kernel.tokens.new_operator()))


async def state(s: Served, account: str) -> AccountState:
    return (await operator_of(s).call(ShowAccounts(account=account))).accounts[0]


async def messages(s: Served) -> aiohttp.ClientResponse:
    """What a client of Anthropic's wire hears."""
    headers = {"x-api-key": s.token, "x-aios-tag": "proj_1"}
    async with s.http.post(f"{s.url}/v1/messages", json=ASKED, headers=headers) as answer:
        await answer.read()
        return answer


@pytest.mark.real
async def test_what_a_project_spends_at_any_door_is_gathered_and_limited() -> None:
    async with (
        served(ScriptedCore("one two"), embedders=(ScriptedEmbedder(),)) as s,
        openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token, project="proj_1") as client,
        openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token) as other,
    ):
        await client.chat.completions.create(**CHAT)
        await client.responses.create(model="scripted-1", input="hello")
        await client.embeddings.create(model="words-1", input="one two")
        assert (await messages(s)).status == 200
        await other.chat.completions.create(**CHAT)
        assert (await state(s, "job:proj_1")).spent["lifetime"]["calls"] == 4
        assert (await state(s, "/local")).spent["lifetime"]["calls"] == 5
        await operator_of(s).call(SetLimit(account="job:proj_1", unit="calls", amount=4))
        with pytest.raises(openai.APIStatusError, match="`aios budget job:local/proj_1 --calls AMOUNT` raises it"):
            await client.chat.completions.create(**CHAT)
        refused = await messages(s)
        assert refused.status >= 400 and "`job:local/proj_1` has spent 4 calls of 4 calls" in await refused.text()
        await other.chat.completions.create(**CHAT)


@pytest.mark.real
async def test_a_project_that_cannot_be_a_job_is_none_and_a_tag_that_cannot_is_an_error() -> None:
    async with (
        served(ScriptedCore("one two")) as s,
        openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token, project="my own project/1") as client,
        openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token, default_headers={"x-aios-tag": "a/b"}) as other,
    ):
        await client.chat.completions.create(**CHAT)
        with pytest.raises(openai.BadRequestError, match="`x-aios-tag` must be 1 to 81 letters"):
            await other.chat.completions.create(**CHAT)
        for job in ("a", "b", "my"):
            with pytest.raises(NotFound):
                await state(s, f"job:{job}")
