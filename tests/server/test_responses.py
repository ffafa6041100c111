"""The door for clients of OpenAI's Responses: what comes over the wire, event by event, and what is kept of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from served import Served, served, until

from aios.abi.llm import Choice, Completion, Delta, ToolCall, ToolCallDelta, Usage
from aios.kernel.lanes.lane import LaneConfig
from aios.ports.core import FEATURES, CoreCall
from aios.server import background, kept, response_log
from aios.server.response_body import ResponseBody
from aios.server.response_events import Response
from aios.testing import Script, ScriptedCore

PATH = "/v1/responses"
ALL = frozenset(FEATURES)
ASKED = {"model": "default", "input": "hello"}
RATE = {"type": "function", "name": "rate", "parameters": {"type": "object"}, "strict": False}
CALL = ToolCall("call_1", "rate", '{"base":"EUR"}')


def caller(call: CoreCall) -> Script:
    """Asks for a function until there is its result."""
    if call.request.messages[-1].role == "tool" or not call.request.tools:
        return Script(text="one two")
    return Script(text="let me see", tool_calls=(CALL,), finish="tool_calls")


async def made(s: Served, **fields: Any) -> dict[str, Any]:
    async with s.post(PATH, {**ASKED, **fields}) as answer:
        body: dict[str, Any] = await answer.json()
        assert answer.status == 200, body
        return body


async def refused(s: Served, **fields: Any) -> tuple[int, dict[str, Any]]:
    async with s.post(PATH, {**ASKED, **fields}) as answer:
        return answer.status, (await answer.json())["error"]


async def events(answer: Any) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream; each is told by its name too. Comments are events of type `comment`."""
    assert answer.status == 200, await answer.text()
    async for line in answer.content:
        if line.startswith(b":"):
            yield {"type": "comment"}
        elif line.startswith(b"event: "):
            name = line[7:-1].decode()
        elif line.startswith(b"data: "):
            event = json.loads(line[6:])
            assert event["type"] == name
            yield event


async def streamed(s: Served, **fields: Any) -> list[dict[str, Any]]:
    async with s.post(PATH, {**ASKED, **fields, "stream": True}) as answer:
        return [event async for event in events(answer)]


def types(told: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in told]


def said(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


# whole


async def test_a_response_says_all_that_clients_look_for() -> None:
    async with served(ScriptedCore("one two three")) as s:
        response = await made(s, metadata={"a": "b"}, instructions="be brief", temperature=1)
    id, mark = response["id"], response["id"].removeprefix("resp_")
    assert response.pop("created_at") and response.pop("completed_at")
    assert response == {
        "id": id, "object": "response", "status": "completed", "background": False, "error": None, "incomplete_details": None,
        "model": "scripted-1", "instructions": "be brief", "max_output_tokens": None, "metadata": {"a": "b"},
        "parallel_tool_calls": True, "previous_response_id": None, "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None}, "safety_identifier": None, "store": True, "temperature": 1.0,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": None, "user": None,
        "service_tier": "default", "truncation": "disabled",
        "output": [
            {
                "id": f"msg_{mark}_0", "type": "message", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "one two three"}],
            }
        ],
        "usage": {
            "input_tokens": 3, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0}, "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 6,
        },
    }  # fmt: skip


async def test_a_call_of_a_function_is_an_item() -> None:
    async with served(ScriptedCore(caller, features=ALL)) as s:
        response = await made(s, tools=[RATE])
    message, call = response["output"]
    mark = response["id"].removeprefix("resp_")
    assert message["content"][0]["text"] == "let me see"
    assert call == {
        "id": f"fc_{mark}_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": "rate",
        "arguments": '{"base":"EUR"}',
    }  # fmt: skip
    assert response["tools"] == [{**RATE, "description": None}]


async def test_an_answer_that_was_cut_off_is_incomplete() -> None:
    async with served(ScriptedCore("one two three")) as s:
        response = await made(s, max_output_tokens=2)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete" and said(response) == "one two"


async def test_an_empty_answer_is_an_empty_message() -> None:
    async with served(ScriptedCore("")) as s:
        assert said(await made(s)) == ""
        told = await streamed(s)
    assert [item["type"] for item in told[-1]["response"]["output"]] == ["message"]


# streams


@pytest.mark.parametrize("tools", [[], [RATE]])
async def test_the_events_of_a_stream_have_no_gaps_and_add_up_to_the_response(tools: list[Any]) -> None:
    async with served(ScriptedCore(caller, features=ALL)) as s:
        told = await streamed(s, tools=tools)
        whole = await made(s, tools=tools)
    message = ["output_item.added", "content_part.added", *["output_text.delta"] * (3 if tools else 2), "output_text.done",
               "content_part.done", "output_item.done"]  # fmt: skip
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert types(told) == ["created", "in_progress", *message, *(call if tools else []), "completed"]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    last = told[-1]["response"]
    assert [event["item"] for event in told if event["type"].endswith("item.done")] == last["output"]
    assert "".join(event["delta"] for event in told if event["type"].endswith("text.delta")) == said(last) == said(whole)
    assert last["usage"] == whole["usage"]
    assert set(last) == set(whole)
    assert told[0]["response"]["output"] == [] and told[0]["response"]["id"] == last["id"] != whole["id"]


async def test_a_stream_that_waits_for_a_turn_is_queued_and_hears_comments() -> None:
    slow = Script(text="one", first_s=35)
    async with served(ScriptedCore([slow, "two"], slots=1), lane=LaneConfig()) as s:
        first = asyncio.ensure_future(made(s))
        await until(lambda: s.kernel.statistics().calls_running == 1)
        told = await streamed(s)
        await first
    assert types(told) == [
        "created", "queued", "comment", "comment", "comment", "in_progress", "output_item.added", "content_part.added",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["response"]["status"] for event in told if "response" in event] == [
        "queued", "queued", "in_progress", "completed"
    ]  # fmt: skip


async def test_a_stream_that_need_not_wait_tells_after_a_second_that_it_is_under_way() -> None:
    async with served(ScriptedCore(Script(text="one", first_s=15))) as s, s.post(PATH, {**ASKED, "stream": True}) as answer:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        told = [(event["type"].removeprefix("response."), round(loop.time() - begun_s)) async for event in events(answer)]
    assert told[:4] == [("created", 0), ("in_progress", 0), ("comment", 10), ("output_item.added", 14)]


async def test_a_failure_before_the_first_word_keeps_its_status_and_a_later_one_is_an_event() -> None:
    async with served(ScriptedCore(Script(text="a b c", fail_after=0))) as s, s.post(PATH, {**ASKED, "stream": True}) as answer:
        assert answer.status == 502
    async with served(ScriptedCore(Script(text="a b c", fail_after=2))) as s:
        told = await streamed(s)
        response = told[-1]["response"]
        assert types(told)[-1] == "failed" and told[-1]["sequence_number"] == len(told) - 1
        assert response["status"] == "failed" and response["error"]["code"] == "server_error"
        assert response["output"][0]["status"] == "incomplete" and said(response) == "a b"
        async with s.get(f"{PATH}/{response['id']}") as answer:
            assert answer.status == 404


async def test_reasoning_is_an_item_ahead_of_what_is_said() -> None:
    script = Script(text="one two", reasoning="think first", cached=1)
    async with served(ScriptedCore(script, features=ALL)) as s:
        whole, told = await made(s), await streamed(s)
    last = told[-1]["response"]
    for response in (whole, last):
        assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
        assert response["output"][0]["content"] == [{"type": "reasoning_text", "text": "think first"}]
        assert response["usage"]["input_tokens_details"]["cached_tokens"] == 1
    assert whole["usage"] == last["usage"]
    thought = ["output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done"]
    assert types(told)[2:7] == thought
    assert [event["item"] for event in told if event["type"].endswith("item.done")] == last["output"]


def test_pieces_of_calls_may_come_in_any_order_and_text_after_them() -> None:
    response = Response("resp_1", ResponseBody())
    pieces = [
        Delta(text="let me see"),
        Delta(tool_calls=(ToolCallDelta(0, "a", "f", '{"x'), ToolCallDelta(1, "b", "g", ""))),
        Delta(tool_calls=(ToolCallDelta(1, arguments="{}"), ToolCallDelta(0, arguments='":1}'))),
        Delta(text="and"),
        Delta(text=" more"),
    ]
    said = b"".join([response.created("in_progress"), *map(response.piece, pieces)])
    value = Completion(id="1", model="m", core="c", choices=(Choice(text="let me seeand more"),), usage=Usage(input_uncached=1))
    rest, whole = response.end(value)
    told = [json.loads(line[6:]) for line in (said + rest).splitlines() if line.startswith(b"data: ")]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    items = json.loads(whole)["output"]
    assert [(item["id"], item["type"]) for item in items] == [
        ("msg_1_0", "message"), ("fc_1_1", "function_call"), ("fc_1_2", "function_call"), ("msg_1_3", "message")
    ]  # fmt: skip
    assert [item["arguments"] for item in items[1:3]] == ['{"x":1}', "{}"] and items[3]["content"][0]["text"] == "and more"
    done = [event["item"] for event in told if event["type"].endswith("item.done")]
    assert sorted(done, key=lambda item: item["id"][-1]) == items


async def test_who_hangs_up_frees_the_core() -> None:
    async with served(ScriptedCore(Script(text="a b", hang=True))) as s:
        for stream in (True, False):
            asking = asyncio.ensure_future(made(s, stream=stream))
            await until(lambda: s.core.statistics().running == 1)
            asking.cancel()
            await asyncio.wait((asking,))
            await until(lambda: s.core.statistics().running == 0)
        assert s.core.statistics().aborted == 2


async def test_likelihoods_of_tokens_are_told_where_they_are_asked_for() -> None:
    async with served(ScriptedCore("one two", features=ALL)) as s:
        await made(s, include=["message.output_text.logprobs"], top_logprobs=2)
        assert (s.core.calls[-1].request.logprobs, s.core.calls[-1].request.top_logprobs) == (True, 2)
        await made(s, include=["reasoning.encrypted_content"])
        assert not s.core.calls[-1].request.logprobs


# going on from a response


async def test_a_chain_goes_on_with_the_result_of_a_function_alone() -> None:
    async with served(ScriptedCore(caller, features=ALL)) as s:
        first = await made(s, tools=[RATE], instructions="only for the first")
        result = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
        second = await made(s, tools=[RATE], previous_response_id=first["id"], input=[result])
        assert said(second) == "one two" and second["previous_response_id"] == first["id"]
        await made(s, previous_response_id=second["id"], input="and now?")
        talk = s.core.calls[-1].request.messages
    assert [(message.role, message.content) for message in talk] == [
        ("user", "hello"), ("assistant", "let me see"), ("tool", "42"), ("assistant", "one two"), ("user", "and now?"),
    ]  # fmt: skip
    assert talk[1].tool_calls == (CALL,) and talk[2].tool_call_id == "call_1"


async def test_what_is_not_stored_cannot_be_gone_on_from() -> None:
    async with served() as s:
        response = await made(s, store=False)
        status, error = await refused(s, previous_response_id=response["id"])
        assert (status, error["code"], error["param"]) == (400, "previous_response_not_found", "previous_response_id")
        async with s.get(f"{PATH}/{response['id']}") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")


async def test_another_process_finds_nothing_of_it() -> None:
    async with served() as s:
        id = (await made(s))["id"]
        stranger = {"authorization": f"Bearer {s.kernel.tokens.add('stranger', ('use /llm/*',), 'standard').value}"}
        for headers in (stranger, {"x-session-id": "another"}):
            for method, path in (
                ("get", ""),
                ("get", "/input_items"),
                ("get", "?stream=true"),
                ("post", "/cancel"),
                ("delete", ""),
            ):
                async with s.http.request(method, f"{s.url}{PATH}/{id}{path}", headers={**s.headers, **headers}) as answer:
                    assert answer.status == 404
            async with s.http.post(
                s.url + PATH, json={**ASKED, "previous_response_id": id}, headers={**s.headers, **headers}
            ) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (400, "previous_response_not_found")
        async with s.get(f"{PATH}/{id}") as answer:
            assert answer.status == 200


async def test_a_response_leads_to_the_session_in_which_it_was_made() -> None:
    async with served() as s:
        first = await made(s, prompt_cache_key="talk-1")
        second = await made(s, previous_response_id=first["id"])
        assert said(second)
        async with s.get(f"{PATH}/{second['id']}") as answer:
            assert (await answer.json()) == second
        assert [process.kind for process in s.kernel.processes.living()] == ["session"]


async def test_a_conversation_may_rest_for_longer_than_its_process_lives() -> None:
    async with served() as s:
        first = await made(s)
        (process,) = [process for process in s.kernel.processes.living() if process.kind == "session"]
        await asyncio.sleep(3 * 3600)
        assert process.exit is not None
        assert said(await made(s, previous_response_id=first["id"]))
        assert len(s.core.calls[-1].request.messages) == 3


async def test_the_oldest_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_TURNS", 3)
    async with served() as s:
        ids = [(await made(s))["id"] for _ in range(4)]
        status, error = await refused(s, previous_response_id=ids[0])
        assert (status, error["code"]) == (400, "previous_response_not_found")
        for id in ids[1:]:
            async with s.get(f"{PATH}/{id}") as answer:
                assert answer.status == 200


async def test_a_chain_outlives_the_forgetting_of_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_TURNS", 2)
    async with served(ScriptedCore("yes")) as s:
        id = (await made(s, input="1"))["id"]
        for number in "2345":
            id = (await made(s, input=number, previous_response_id=id))["id"]
        said = [message.content for message in s.core.calls[-1].request.messages if message.role == "user"]
        assert said == list("12345")


async def test_much_is_forgotten_by_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 100_000)
    async with served() as s:
        small = (await made(s))["id"]
        large = (await made(s, input="x" * 60_000))["id"]
        huge = (await made(s, input="y" * 200_000))["id"]
        assert (await refused(s, previous_response_id=huge))[1]["code"] == "previous_response_not_found"
        for id in (small, large):
            async with s.get(f"{PATH}/{id}") as answer:
                assert answer.status == 200
        again = (await made(s, input="x" * 60_000))["id"]
        for id, status in ((small, 404), (large, 404), (again, 200)):
            async with s.get(f"{PATH}/{id}") as answer:
                assert answer.status == status


# asking for it again


async def test_a_response_can_be_asked_for_and_deleted_once() -> None:
    async with served() as s:
        response = await made(s)
        path = f"{PATH}/{response['id']}"
        async with s.get(path) as answer:
            assert await answer.json() == response
        async with s.http.delete(s.url + path, headers=s.headers) as answer:
            assert await answer.json() == {"id": response["id"], "object": "response", "deleted": True}
        for method in ("get", "delete"):
            async with s.http.request(method, s.url + path, headers=s.headers) as answer:
                assert (answer.status, answer.headers["x-should-retry"]) == (404, "false")


async def test_the_items_of_an_input_are_listed_by_pages() -> None:
    items = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"type": "message", "id": "msg_mine", "role": "user", "content": [{"type": "input_text", "text": "three"}]},
    ]
    async with served() as s:
        path = f"{PATH}/{(await made(s, input=items))['id']}/input_items"
        async with s.get(path) as answer:
            listed = await answer.json()
        assert [item["content"][0]["text"] for item in listed["data"]] == ["three", "two", "one"]
        assert (listed["object"], listed["first_id"], listed["has_more"]) == ("list", "msg_mine", False)
        assert [item["content"][0]["type"] for item in listed["data"]] == ["input_text", "output_text", "input_text"]
        async with s.get(f"{path}?order=asc&limit=1&after={listed['last_id']}") as answer:
            page = await answer.json()
        assert [item["content"][0]["text"] for item in page["data"]] == ["two"] and page["has_more"]
        for wrong in ("limit=0", "limit=x", "order=up", "after=nothing", "query=&" + "a=1&" * 100):
            async with s.get(f"{path}?{wrong}") as answer:
                assert (await answer.json())["error"]["param"] == wrong.partition("=")[0]


async def test_the_tokens_of_an_input_are_counted() -> None:
    async with served() as s, s.post(f"{PATH}/input_tokens", {"model": "default", "input": "one two three"}) as answer:
        counted = await answer.json()
        assert counted.pop("input_tokens") >= 3 and counted == {"object": "response.input_tokens"}


# in the background


async def test_a_background_response_goes_on_when_its_client_leaves() -> None:
    async with served(ScriptedCore(Script(text="one two", first_s=5))) as s:
        async with s.post(PATH, {**ASKED, "background": True}) as answer:
            response = await answer.json()
            assert "lost when the kernel goes down" in answer.headers["warning"]
            ticket = answer.headers["x-aios-ticket"]
        assert (response["status"], response["background"], response["output"]) == ("queued", True, [])
        await asyncio.sleep(1)
        async with s.get(f"{PATH}/{response['id']}") as answer:
            assert (await answer.json())["status"] == "in_progress"
        await asyncio.sleep(5)
        async with s.get(f"{PATH}/{response['id']}") as answer:
            response = await answer.json()
            assert answer.headers["x-aios-ticket"] == ticket and ticket.endswith("/1")
    assert (response["status"], said(response)) == ("completed", "one two")


async def test_a_background_stream_is_resumed_where_it_was_left() -> None:
    async with served(ScriptedCore(Script(text="a b c d e f", token_s=1))) as s:
        async with s.post(PATH, {**ASKED, "background": True, "stream": True}) as answer:
            begun: list[dict[str, Any]] = []
            async for event in events(answer):
                begun.append(event)
                if event["type"].endswith("text.delta"):
                    break
        assert types(begun)[:3] == ["created", "queued", "in_progress"]
        path = f"{PATH}/{begun[0]['response']['id']}?stream=true&starting_after={begun[-1]['sequence_number']}"
        async with s.get(path) as answer:
            rest = [event async for event in events(answer)]
        assert [event["sequence_number"] for event in [*begun, *rest]] == list(range(len(begun) + len(rest)))
        assert said(rest[-1]["response"]) == "a b c d e f"
        async with s.get(path) as answer:
            assert [event async for event in events(answer)] == rest
        for wrong in ("-2", "1000", "x"):
            async with s.get(path.rpartition("=")[0] + f"={wrong}") as answer:
                assert (answer.status, (await answer.json())["error"]["param"]) == (400, "starting_after")


async def test_who_reads_a_background_response_that_says_nothing_hears_comments() -> None:
    async with served(ScriptedCore(Script(text="one", first_s=35))) as s:
        id = (await made(s, background=True))["id"]
        readers = [s.get(f"{PATH}/{id}?stream=true") for _ in range(2)]
        for reader in readers:
            async with reader as answer:
                told = [event async for event in events(answer)]
            assert types(told).count("comment") == (3 if reader is readers[0] else 0)
            assert types(told)[-1] == "completed"


async def test_a_reader_that_leaves_ends_nothing() -> None:
    async with served(ScriptedCore(Script(text="a b c", token_s=10))) as s:
        id = (await made(s, background=True))["id"]
        reading = asyncio.ensure_future(s.get(f"{PATH}/{id}?stream=true").__aenter__())
        (await reading).close()
        await asyncio.sleep(40)
        async with s.get(f"{PATH}/{id}") as answer:
            assert said(await answer.json()) == "a b c"


async def test_a_background_response_is_cancelled_and_stays_so() -> None:
    async with served(ScriptedCore(Script(text="a b", hang=True))) as s:
        id = (await made(s, background=True))["id"]
        await until(lambda: s.core.statistics().tokens == 2)
        for _ in range(2):
            async with s.post(f"{PATH}/{id}/cancel") as answer:
                response = await answer.json()
            assert (answer.status, response["status"], response["error"]) == (200, "cancelled", None)
        assert s.core.statistics().aborted == 1
        async with s.get(f"{PATH}/{id}?stream=true") as answer:
            told = [event async for event in events(answer)]
        assert told[-1]["response"] == response


async def test_cancel_of_one_that_has_ended_tells_how_and_of_one_that_was_waited_for_is_refused() -> None:
    async with served(ScriptedCore("yes")) as s:
        id = (await made(s, background=True))["id"]
        await until(lambda: s.kernel.statistics().calls == 1)
        async with s.post(f"{PATH}/{id}/cancel") as answer:
            assert (await answer.json())["status"] == "completed"
        async with s.post(f"{PATH}/{(await made(s))['id']}/cancel") as answer:
            assert (answer.status, (await answer.json())["error"]["type"]) == (400, "invalid_request_error")


async def test_a_background_response_that_fails_says_so() -> None:
    async with served(ScriptedCore(Script(text="a b c", fail_after=1))) as s:
        id = (await made(s, background=True))["id"]
        await until(lambda: s.kernel.statistics().calls_failed == 1)
        async with s.get(f"{PATH}/{id}") as answer:
            response = await answer.json()
        assert response["status"] == "failed" and "the script says so" in response["error"]["message"]
        async with s.get(f"{PATH}/{id}?stream=true") as answer:
            assert types([event async for event in events(answer)])[-1] == "failed"


async def test_what_is_refused_at_once_is_no_background_response() -> None:
    async with served(ScriptedCore(Script(text="a", hang=True), slots=1), lane=LaneConfig(queue=1)) as s:
        assert (await refused(s, background=True, model="gpt-9"))[0] == 404
        assert (await refused(s, background=True, tools=[RATE]))[0] == 400
        for _ in range(2):
            await made(s, background=True)
        status, error = await refused(s, background=True)
        assert (status, error["type"]) == (429, "rate_limit_error")
        s.kernel.drain(0.1)
        assert (await refused(s, background=True))[0] == 503


async def test_a_process_has_so_many_background_responses_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MOST_RUNNING", 2)
    async with served(ScriptedCore(Script(text="a", hang=True))) as s:
        ids = [(await made(s, background=True))["id"] for _ in range(2)]
        status, error = await refused(s, background=True)
        assert status == 429 and "2 background responses" in error["message"]
        async with s.http.delete(f"{s.url}{PATH}/{ids[0]}", headers=s.headers) as answer:
            assert answer.status == 200
        await made(s, background=True)
        await until(lambda: s.core.statistics().aborted == 1)
        status, error = await refused(s, previous_response_id=ids[1])
        assert (status, error["param"]) == (400, "previous_response_id") and "not done yet" in error["message"]


async def test_background_responses_under_way_hold_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_BYTES", 100_000)
    async with served(ScriptedCore(Script(text="a", hang=True), window=10**6)) as s:
        large = "x" * 60_000
        id = (await made(s, background=True, input=large))["id"]
        status, error = await refused(s, background=True, input=large)
        assert status == 429 and "no room is left" in error["message"]
        await made(s, background=True)
        async with s.post(f"{PATH}/{id}/cancel") as answer:
            assert answer.status == 200
        await made(s, background=True, input=large)
        async with s.get(f"{PATH}/{id}") as answer:
            assert answer.status == 404


async def test_events_that_are_too_many_are_forgotten_and_the_whole_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_log, "MAX_LOG_BYTES", 5000)
    text = " ".join(["word"] * 100)
    async with served(ScriptedCore(text)) as s:
        id = (await made(s, background=True))["id"]
        await until(lambda: s.kernel.statistics().calls == 1)
        async with s.get(f"{PATH}/{id}") as answer:
            assert said(await answer.json()) == text
        async with s.get(f"{PATH}/{id}?stream=true") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (409, "conflict")


async def test_only_what_is_made_in_the_background_is_streamed_again() -> None:
    async with served() as s:
        async with s.get(f"{PATH}/{(await made(s))['id']}?stream=true") as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, "stream")
        status, error = await refused(s, background=True, store=False)
        assert (status, error["param"]) == (400, "store")


# what is wrong


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [fields]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        (item(content="x"), "input[0].id"),
        (item(role="user"), "input[0].content"),
        (item(role="robot", content="x"), "input[0].role"),
        (item(role="user", content=5), "input[0].content"),
        (item(role="user", content=[{"type": "input_text"}]), "input[0].content[0].text"),
        (item(role="user", content=[{"type": "input_file", "file_id": "f"}]), "input[0].content[0].type"),
        (item(role="user", content=[{"type": "input_image", "file_id": "f"}]), "input[0].content[0].type"),
        (item(type="telepathy"), "input[0].type"),
        (item(type="message", content="x"), "input[0].role"),
        (item(type="item_reference", id="msg_nobody_0"), "input[0].id"),
        (item(type="function_call", name="f", arguments="{}"), "input[0].call_id"),
        (item(type="function_call", call_id="1", arguments="{}"), "input[0].name"),
        (item(type="function_call", call_id="1", name="f", arguments={}), "input[0].arguments"),
        (item(type="function_call_output", call_id="1", output="x"), "input[0].call_id"),
        (item(type="function_call_output", output="x"), "input[0].call_id"),
        ({"model": 5}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"store": "yes"}, "store"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 7}, "temperature"),
        ({"top_logprobs": 50, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
        ({"metadata": {"a": 5}}, "metadata[...]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": "rate"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "rate"}}, "tool_choice.name"),
        ({"tools": [RATE], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": 5}}, "tool_choice.tools"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"previous_response_id": "resp_nobody"}, "previous_response_id"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"aios": {"class": "royal"}}, "aios.class"),
    ],
)  # fmt: skip
async def test_a_wrong_value_is_refused_with_its_place(fields: dict[str, Any], param: str) -> None:
    async with served(ScriptedCore(features=ALL)) as s:
        async with s.post(PATH, {**ASKED, **fields}) as answer:
            error = (await answer.json())["error"]
        assert (answer.status, error["param"], error["type"]) == (400, param, "invalid_request_error")
        assert error["message"] and error["code"] and answer.headers["x-should-retry"] == "false"
        assert s.core.statistics().started == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"default","model":"x","input":"y"}', "model"),
        (b'{"input":[{"role":"user","role":"user","content":"x"}]}', "role"),
        (b'{"input":"\\ud83d"}', "input"),
        (b'{"input":"x","top_p":NaN}', "top_p"),
        (b'{"input":' + b"[" * 100_000, None),
        (b'{"input":"x"', None),
        (b"[]", None),
    ],
)
async def test_what_json_readers_disagree_about_is_refused(body: bytes, param: str | None) -> None:
    async with served() as s:
        headers = {**s.headers, "content-type": "application/json"}
        async with s.http.post(s.url + PATH, data=body, headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, param)


async def test_many_values_are_refused_before_they_are_read() -> None:
    items = [{}] * 60_000
    async with served() as s:
        async with s.post(PATH, {"input": items}) as answer:
            assert answer.status == 413


async def test_unknown_fields_and_foreign_tools_are_left_out_and_told_back() -> None:
    odd = {
        "top_k": 5, "truncation": "auto", "tools": [{"type": "web_search"}, {"type": "namespace", "name": "x"}, RATE],
        "tool_choice": {"type": "web_search_preview"},
        "input": [{"type": "web_search_call", "id": "1", "action": {"type": "search"}}, {"role": "user", "content": "x"}],
    }  # fmt: skip
    async with served(ScriptedCore("yes", features=ALL)) as s, s.post(PATH, odd) as answer:
        assert answer.status == 200
        names = answer.headers["x-aios-ignored"].split(", ")
        assert names == [
            "top_k", "truncation", "input.web_search_call", "tools.web_search", "tools.namespace",
            "tool_choice.web_search_preview",
        ]  # fmt: skip
        response = await answer.json()
        assert [tool["name"] for tool in response["tools"]] == ["rate"] and response["truncation"] == "disabled"
        assert [tool.name for tool in s.core.calls[-1].request.tools] == ["rate"]


async def test_no_id_is_ever_used_twice() -> None:
    async with served() as s:
        found = []
        for fields in ({}, {"stream": True}, {"background": True}) * 5:
            async with s.post(PATH, {**ASKED, **fields}) as answer:
                text = await answer.text()
            body = (
                json.loads(text.partition("data: ")[2].partition("\n")[0])["response"] if "stream" in fields else json.loads(text)
            )
            found += [body["id"], answer.headers["x-request-id"], *[item["id"] for item in body["output"]]]
    assert len(set(found)) == len(found) >= 30
