"""The Responses door with the unmodified `openai` package."""

import asyncio
from typing import Any

import openai
import pydantic
import pytest
from served import Served, served, until
from test_repeats import cut
from test_responses import ALL, CALL, RATE, caller

from aios.testing import Script, ScriptedCore

ASKED: Any = {"model": "default", "input": "hello"}


class Forecast(pydantic.BaseModel):
    city: str
    days: int


def client_of(s: Served, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token, **options)


@pytest.mark.real
async def test_it_gets_a_whole_answer_with_its_usage() -> None:
    async with served(ScriptedCore("one two three")) as s, client_of(s) as client:
        answer = await client.responses.create(**ASKED)
        assert (answer.output_text, answer.status, answer.object, answer.model) == (
            "one two three", "completed", "response", "scripted-1"
        )  # fmt: skip
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens == 4


@pytest.mark.real
async def test_it_streams_by_its_helper_and_loops_with_a_function() -> None:
    async with served(ScriptedCore(caller, features=ALL)) as s, client_of(s) as client:
        async with client.responses.stream(**ASKED, tools=[RATE]) as events:
            text = "".join([event.delta async for event in events if event.type == "response.output_text.delta"])
            asked = await events.get_final_response()
        call = asked.output[1]
        assert text == asked.output_text == "let me see" and call.type == "function_call"
        assert (call.call_id, call.name, call.arguments) == (CALL.id, CALL.name, CALL.arguments)
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
        answer = await client.responses.create(model="default", input=[result], previous_response_id=asked.id, tools=[RATE])
        assert answer.output_text == "one two"


@pytest.mark.real
async def test_it_parses_typed_answers() -> None:
    async with served(ScriptedCore('{"city":"Bern","days":3}', features=ALL)) as s, client_of(s) as client:
        answer = await client.responses.parse(**ASKED, text_format=Forecast)
        assert answer.output_parsed == Forecast(city="Bern", days=3)
        form = s.core.calls[-1].request.response_format
        assert form is not None and form["json_schema"]["schema"]["properties"].keys() == {"city", "days"}


@pytest.mark.real
async def test_it_resumes_cancels_lists_and_deletes_what_runs_in_the_background() -> None:
    async with served(ScriptedCore(Script(text="a b c", hang=True))) as s, client_of(s) as client:
        numbers: list[int] = []
        stream = await client.responses.create(**ASKED, background=True, stream=True)
        async for event in stream:
            numbers.append(event.sequence_number)
            if event.type == "response.created":
                id = event.response.id
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        await until(lambda: s.core.statistics().tokens == 3)
        assert (await client.responses.retrieve(id)).status == "in_progress"
        assert (await client.responses.cancel(id)).status == "cancelled"
        rest = [event async for event in await client.responses.retrieve(id, stream=True, starting_after=numbers[-1])]
        assert numbers + [event.sequence_number for event in rest] == list(range(len(numbers) + len(rest)))
        assert [item.type async for item in client.responses.input_items.list(id)] == ["message"]
        await client.responses.delete(id)
        with pytest.raises(openai.NotFoundError, match=id):
            await client.responses.retrieve(id)


@pytest.mark.real
async def test_its_errors_are_its_own() -> None:
    async with served() as s, client_of(s) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="nonsense").responses.create(**ASKED)
        with pytest.raises(openai.NotFoundError, match="gpt-9") as unknown:
            await client.responses.create(**{**ASKED, "model": "gpt-9"})
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as wrong:
            await client.responses.create(**ASKED, temperature=7)
        assert wrong.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as gone:
            await client.responses.create(**ASKED, previous_response_id="resp_nobody")
        assert gone.value.code == "previous_response_not_found"
        token = s.kernel.tokens.add("outsider", (), "standard").value
        with pytest.raises(openai.BadRequestError) as denied:
            await client.with_options(api_key=token).responses.create(**ASKED)
        assert denied.value.code == "denied" and denied.value.response.headers["x-should-retry"] == "false"
        assert s.kernel.statistics().calls_failed == 2


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("at", ["asked", "begun", "half", "answered"])
@pytest.mark.parametrize("background", [False, True])
async def test_a_cut_connection_is_one_upstream_call(at: str, background: bool) -> None:
    core = ScriptedCore(lambda call: Script(text=f"answer {call.request.messages[0].content}", first_s=0.02), slots=64)
    calls, together = 12 if background else 60, asyncio.Semaphore(30)
    async with served(core) as s, cut(s, at) as cutter:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{cutter.port}/v1", api_key=s.token) as client:

            async def ask(number: int) -> str:
                async with together:
                    return (await client.responses.create(model="default", input=str(number), background=background)).id

            ids = await asyncio.gather(*map(ask, range(calls)))
        assert len(set(ids)) == calls
        assert (cutter.cuts, core.statistics().started) == (calls, calls)


@pytest.mark.real
@pytest.mark.parametrize("background", [False, True])
async def test_two_equal_calls_that_know_nothing_of_each_other_are_two(background: bool) -> None:
    async with served(ScriptedCore("yes")) as s, client_of(s) as client:
        first = await client.responses.create(**ASKED, background=background)
        second = await client.responses.create(**ASKED, background=background)
        assert first.id != second.id
        await until(lambda: s.core.statistics().finished == 2)


@pytest.mark.real
async def test_who_stops_reading_frees_the_core() -> None:
    async with served(ScriptedCore(Script(text="a b", hang=True))) as s, client_of(s) as client:
        stream = await client.responses.create(**ASKED, stream=True)
        assert (await anext(stream)).type == "response.created"
        await stream.close()
        await until(lambda: s.core.statistics().running == 0)
        assert s.core.statistics().aborted == 1
