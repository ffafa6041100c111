"""The native door: every row over HTTP, its events as server-sent events, its errors as the table has them."""

import asyncio
import io
import json
from typing import Any

import msgspec
import pytest
from served import served, until

from aios.abi.llm import Completion
from aios.abi.system import Statistics
from aios.abi.table import TABLE
from aios.kernel.lanes.lane import LaneConfig
from aios.testing import Script, ScriptedCore

pytestmark = pytest.mark.real


async def test_a_call_is_answered_with_its_reply_and_what_is_known_of_it() -> None:
    async with served(ScriptedCore("one two")) as s, s.post("/v1/call/llm.generate", {"prompt": "go"}) as answer:
        completion = msgspec.json.decode(await answer.read(), type=Completion)
        assert completion.text == "one two"
        pid, _, path = answer.headers["x-aios-ticket"].partition("/")
        assert pid.isdecimal() and path
        assert int(answer.headers["x-aios-wait-ms"]) >= 0
        assert json.loads(answer.headers["x-aios-label"]) == {"integrity": 1}


async def test_an_empty_body_is_an_empty_request_and_classic_names_find_their_row() -> None:
    async with served() as s:
        async with s.http.post(s.url + "/v1/call/clock.now", headers=s.headers) as answer:
            assert (await answer.json())["at_ns"] > 0
        async with s.post("/v1/call/llm_generate", {"prompt": "go"}) as answer:
            assert answer.status == 200


async def test_every_row_answers_or_refuses_in_the_tables_words() -> None:
    async with served() as s:
        for row in TABLE:
            async with s.post(f"/v1/call/{row.name}") as answer:
                if answer.status != 200:
                    error = (await answer.json())["error"]
                    assert (row.name, error["code"]) and error["code"] in ("Invalid", "Denied", "NotFound")
                    assert answer.headers["x-should-retry"] == "false"


async def read_events(answer: Any) -> list[tuple[str, Any]]:
    found = []
    for block in (await answer.text()).strip().split("\n\n"):
        if not block.startswith(":"):
            event, data = block.split("\n", 1)
            found.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_a_streaming_row_tells_its_events_and_then_its_reply() -> None:
    async with served(ScriptedCore("one two")) as s:
        async with s.post("/v1/call/llm.generate", {"prompt": "go"}, accept="text/event-stream") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = await read_events(answer)
        names = [name for name, _ in events]
        assert names[0] == "started" and names[-1] == "reply" and set(names[1:-1]) == {"delta"}
        assert answer.headers["x-aios-ticket"] == events[0][1]["call"]
        assert "".join(data.get("text", "") for name, data in events if name == "delta") == "one two"


async def test_a_failure_in_the_middle_of_a_stream_is_an_event() -> None:
    async with served(ScriptedCore(Script(text="a b c", fail_after=2))) as s:
        async with s.post("/v1/call/llm.generate", {"prompt": "go"}, accept="text/event-stream") as answer:
            assert answer.status == 200
            name, data = (await read_events(answer))[-1]
        assert (name, data["error"]["code"]) == ("error", "CoreFailed")


async def test_a_row_that_does_not_stream_ignores_the_wish() -> None:
    async with served() as s, s.post("/v1/call/clock.now", accept="text/event-stream") as answer:
        assert answer.headers["content-type"] == "application/json"


BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"{", None),
    (b"[]", None),
    (b'"text"', None),
    (b"\xff\xfe", None),
    (b'{"prompt":"a"} {}', None),
    (b'{"prompt":"a","promt":"b"}', "promt"),
    (b'{"prompt":1}', "prompt"),
    (b'{"prompt":"a","max_tokens":"many"}', "max_tokens"),
    (b'{"prompt":"a","max_tokens":0}', "max_tokens"),
    (b'{"prompt":"a","temperature":3}', "temperature"),
    (b'{"prompt":"a","temperature":NaN}', "temperature"),
    (b'{"prompt":"a","temperature":-Infinity}', "temperature"),
    (b'{"prompt":"a","temperature":1e999}', "temperature"),
    (b'{"prompt":"a","seed":' + b"9" * 5000 + b"}", "seed"),
    (b'{"prompt":"a","prompt":"b"}', "prompt"),
    (b'{"messages":[{"role":"user","content":"a","role":"system"}]}', "role"),
    (b'{"messages":[{"role":"king","content":"a"}]}', "messages[0].role"),
    (b'{"messages":[{"role":"user","content":"\\ud800"}]}', "messages[0].content"),
    (b'{"prompt":"\\udfff"}', "prompt"),
    (b'{"prompt":' + b"[" * 100_000, None),
    (b'{"tool_choice":' + b'{"a":' * 30_000, None),
    (b"[" * 100_000 + b"]" * 100_000, None),
]


@pytest.mark.parametrize(("body", "field"), BAD_BODIES, ids=lambda value: repr(value)[:40])
async def test_a_bad_body_is_refused_with_the_field_and_reaches_no_core(body: bytes, field: str | None) -> None:
    async with served() as s:
        headers = {**s.headers, "content-type": "application/json"}
        async with s.http.post(s.url + "/v1/call/llm.generate", data=body, headers=headers) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"], error.get("field")) == (400, "Invalid", field)
        assert s.core.statistics().started == 0


async def test_a_body_of_a_million_values_is_too_much() -> None:
    async with served() as s:
        headers = {**s.headers, "content-type": "application/json"}
        body = b'{"tool_choice":{"a":[' + b"[]," * 1_000_000 + b"[]]}}"
        async with s.http.post(s.url + "/v1/call/llm.generate", data=io.BytesIO(body), headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (413, "TooLarge")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-aios-class", "royal"),
        ("x-aios-deadline-s", "soon"),
        ("x-aios-deadline-s", "-1"),
        ("x-aios-deadline-s", "nan"),
        ("x-aios-key", "k" * 201),
    ],
)
async def test_a_bad_option_is_refused(header: str, value: str) -> None:
    async with served() as s, s.post("/v1/call/llm.generate", {"prompt": "go"}, **{header: value}) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, "Invalid")


async def test_a_deadline_ends_a_call_for_good() -> None:
    async with served(ScriptedCore(Script(text="a", hang=True))) as s:
        async with s.post("/v1/call/llm.generate", {"prompt": "go"}, x_aios_deadline_s="0.1") as answer:
            assert answer.status == 504
            assert answer.headers["x-should-retry"] == "false"
            assert (await answer.json())["error"]["code"] == "DeadlineExceeded"


async def test_a_key_makes_two_calls_one() -> None:
    async with served() as s:
        replies = []
        for _ in range(2):
            async with s.post("/v1/call/llm.generate", {"prompt": "go"}, x_aios_key="once") as answer:
                replies.append(await answer.read())
        async with s.post(
            "/v1/call/llm.generate", {"prompt": "go"}, x_aios_key="once", accept="text/event-stream"
        ) as answer:  # fmt: skip
            assert [name for name, _ in await read_events(answer)][-1] == "reply"
        assert replies[0] == replies[1]
        assert s.core.statistics().started == 1


async def test_sessions_of_one_token_are_processes_of_their_own() -> None:
    async with served() as s:
        pids = set()
        for session in ("a", "b", "a"):
            async with s.post("/v1/call/process.self", x_session_id=session) as answer:
                pids.add((await answer.json())["pid"])
        assert len(pids) == 2


async def test_a_full_queue_says_when_to_come_back() -> None:
    async with served(ScriptedCore(Script(text="a", hang=True), slots=1), lane=LaneConfig(queue=1)) as s:
        held = [asyncio.create_task(post_and_read(s)) for _ in range(2)]
        await until(lambda: s.kernel.statistics().calls_waiting == 1)
        async with s.post("/v1/call/llm.generate", {"prompt": "go"}) as answer:
            assert answer.status == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert "x-should-retry" not in answer.headers
        for call in held:
            call.cancel()
        await asyncio.wait(held)


async def post_and_read(s: Any) -> None:
    async with s.post("/v1/call/llm.generate", {"prompt": "go"}) as answer:
        await answer.read()


async def test_the_schema_describes_every_call() -> None:
    async with served() as s, s.get("/v1/schema") as answer:
        assert (await answer.json())["calls"].keys() == {row.name for row in TABLE}


async def test_figures_come_through_any_door() -> None:
    async with served() as s, s.post("/v1/call/kernel.statistics") as answer:
        assert msgspec.json.decode(await answer.read(), type=Statistics).rss_bytes > 0


async def test_a_bug_ends_its_call_with_an_incident_and_nothing_of_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as s:

        async def broken(*_: Any) -> None:
            raise RuntimeError("the secret of the house")

        monkeypatch.setattr(s.kernel, "call", broken)
        async with s.post("/v1/call/clock.now") as answer:
            assert answer.status == 500
            said = await answer.text()
        assert "incident" in said and "secret" not in said
        monkeypatch.undo()
        async with s.post("/v1/call/clock.now") as answer:
            assert answer.status == 200
