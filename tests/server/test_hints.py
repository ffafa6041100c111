"""What rides beside a request and its answer at the doors of unmodified clients: hints, waiting, refusals."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from served import CHAT, Visitor, running_kernel, server_of, visit

from aios.abi.errors import ERRORS, AiosError, Draining, Internal, Invalid, QueueFull, RateLimited
from aios.abi.event import CallEnded
from aios.abi.request import CallOptions, Trace
from aios.kernel.main import Kernel
from aios.server.exchange import HttpRequest
from aios.server.hints import OPTIONS, SESSIONS, Hints, options_of, refusal_headers
from aios.server.http import ServerConfig
from aios.testing import Script, ScriptedCore

ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{ID}-b7ad6b7169203331-01"
MESSAGE = {"model": "default", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
DOORS = {"/v1/chat/completions": CHAT, "/v1/messages": MESSAGE}


async def ask(kernel: Kernel, path: str, body: Any, **headers: str) -> Visitor:
    """One request under a token of class standard, in virtual time."""
    server = server_of(kernel, ServerConfig())
    token = kernel.tokens.add("tester", ("use /llm/*",), "standard").value
    visitor = Visitor(path, body, {"x-api-key": token} | {name.replace("_", "-"): value for name, value in headers.items()})
    await visitor.visit(server)
    await server.close(0)
    return visitor


def ended(kernel: Kernel) -> list[CallEnded]:
    return [event for event in kernel.events.after(0, 1000, lambda event: True)[0] if isinstance(event, CallEnded)]


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize(
    ("headers", "trace"),
    [
        ({"traceparent": PARENT}, Trace(ID)),
        ({"traceparent": PARENT.replace("00-", "cc-", 1) + "-more"}, Trace(ID)),
        ({"baggage": "aios.task=audit%20books;x=1, aios.step=3,aios.task=other"}, Trace(task="audit books", step="3")),
        ({"traceparent": PARENT, "baggage": "user=ann,aios.step = two"}, Trace(ID, step="two")),
        ({"x_aios_tag": "audit", "openai_project": "proj_1"}, Trace(tag="audit")),
        ({"openai_project": "proj_1", "traceparent": PARENT}, Trace(ID, tag="proj_1")),
        ({"openai_project": "x" * 200}, None),
        ({}, None),
        ({"traceparent": ""}, None),
        ({"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"}, None),
        ({"traceparent": PARENT.replace("00-", "ff-", 1)}, None),
        ({"traceparent": PARENT.upper()}, None),
        ({"traceparent": "x" * 5000}, None),
        ({"baggage": "aios.task=" + "x" * 200}, None),
        ({"baggage": "aios.task=%00%1b[31m,aios.step=,=,;,,"}, None),
        ({"baggage": ",".join(["a=b"] * 1000 + ["aios.task=late"])}, None),
    ],
)
async def test_a_clients_trace_stands_in_the_event_and_a_broken_one_refuses_nothing(
    path: str, headers: dict[str, str], trace: Trace | None
) -> None:
    async with running_kernel(ScriptedCore()) as kernel:
        assert (await ask(kernel, path, DOORS[path], **headers)).status == 200
        assert [event.trace for event in ended(kernel)] == [trace]


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize(
    ("tier", "cls"),
    [("flex", "batch"), ("standard_only", "standard"), ("priority", "standard"), ("fast", "standard"), ("auto", "standard"),
     ("new", "standard"), (7, "standard"), ({"a": 1}, "standard")],
)  # fmt: skip
async def test_a_tier_lowers_the_class_and_one_that_nobody_knows_says_nothing(path: str, tier: object, cls: str) -> None:
    async with running_kernel(ScriptedCore()) as kernel:
        assert (await ask(kernel, path, {**DOORS[path], "service_tier": tier})).status == 200
        assert [event.cls for event in ended(kernel)] == [cls]


def asked(**headers: str) -> HttpRequest:
    return HttpRequest("", "", {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()})


def test_hints_stand_in_the_body_or_in_headers_which_come_first() -> None:
    body = msgspec.json.decode(
        b'{"class": "batch", "deadline_s": 9, "kind": "review", "remaining_s": 30, "waits_for": "1/k.2", "new": 1}', type=Hints
    )
    said = CallOptions(cls="batch", deadline_s=9, kind="review", remaining_s=30, waits_for=("1/k.2",))
    assert options_of(asked(), body) == said
    headers = {"x_aios_kind": "audit", "x_aios_remaining_s": "5", "x_aios_waits_for": "a-1, 7/3"}
    assert options_of(asked(**headers)) == CallOptions(kind="audit", remaining_s=5, waits_for=("a-1", "7/3"))
    both = options_of(asked(**headers), body)
    assert (both.kind, both.remaining_s, both.waits_for, both.deadline_s) == ("audit", 5, ("a-1", "7/3"), 9)


@pytest.mark.parametrize(
    ("headers", "hints", "field"),
    [
        ({"x_aios_remaining_s": "soon"}, Hints(), "x-aios-remaining-s"),
        ({"x_aios_remaining_s": "nan"}, None, "x-aios-remaining-s"),
        ({}, Hints(remaining_s=-1), "aios.remaining_s"),
        ({}, Hints(kind="x" * 200), "aios.kind"),
        ({}, Hints(waits_for=("x",) * 9), "aios.waits_for"),
        ({"x_aios_waits_for": "x," * 50}, None, "x-aios-waits-for"),
        ({"x_aios_kind": "x" * 200}, Hints(kind="y"), "x-aios-kind"),
    ],
)
def test_a_hint_that_is_none_is_refused_by_the_name_that_was_sent(
    headers: dict[str, str], hints: Hints | None, field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        options_of(asked(**headers), hints)
    assert refused.value.field == field


@pytest.mark.parametrize("path", DOORS)
async def test_who_waits_for_nobody_that_it_may_know_of_hears_so_at_every_door(path: str) -> None:
    async with running_kernel(ScriptedCore()) as kernel:
        refused = await ask(kernel, path, DOORS[path] | {"aios": {"waits_for": ["nobody-7"]}})
        assert refused.status == 404 and b"nobody-7" in refused.answer()
        assert b"model_not_found" not in refused.answer(), "no model is at fault"


# waiting


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("stream", [True, False])
async def test_three_minutes_in_the_queue_are_no_failure(path: str, stream: bool) -> None:
    """A client hears something at least every 10 s; where it can be content, at least every two minutes (see below)."""
    async with running_kernel(ScriptedCore(Script(text="busy", first_s=180), slots=1)) as kernel:
        first = asyncio.create_task(ask(kernel, "/v1/chat/completions", CHAT))
        await asyncio.sleep(0)
        visitor = await ask(kernel, path, {**DOORS[path], "stream": stream}, x_stainless_read_timeout="600")
        await first
    times = [at_s for at_s, _ in visitor.sent]
    assert visitor.status == 200 and visitor.whole and b"busy" in visitor.answer()
    begins_s = 0.0 if stream else 45.0
    assert begins_s <= times[0] <= begins_s + 1
    waited = [at_s for at_s in times if at_s <= 180]
    gaps = [later - at_s for at_s, later in zip(waited, [*waited[1:], 180], strict=True)]
    assert max(gaps) <= 10.5 and len(waited) >= 13
    if stream and path == "/v1/chat/completions":
        chunks = [at_s for at_s, said in visitor.said() if b'"choices":[]' in said]
        assert len(chunks) >= 2 and 60 <= chunks[0] <= 72
    if stream and path == "/v1/messages":
        assert visitor.answer().count(b"event: ping") >= 15
    if not stream:
        assert visitor.answer().lstrip(b" ").startswith(b"{") and json.loads(visitor.answer())


# refusals


@pytest.mark.parametrize("code", sorted(set(ERRORS) - {"Cancelled", "Internal"}))
@pytest.mark.parametrize("path", DOORS)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_has_its_status_and_says_whether_to_try_again(code: str, path: str, stream: bool) -> None:
    """And it is never a 200 with an error in its body."""
    failure = ERRORS[code]("the script says so")
    async with running_kernel(ScriptedCore(Script(text="x", fail_after=0, failure=failure))) as kernel:
        visitor = await ask(kernel, path, {**DOORS[path], "stream": stream})
    headers = dict(visitor.sent[0][1]["headers"])
    theirs = {"Denied": 400, "NeedsApproval": 400} if path == "/v1/chat/completions" else {}
    assert visitor.status == theirs.get(code, failure.http) >= 400
    assert (headers.get(b"x-should-retry") == b"false") == (not failure.retry)
    assert "the script says so" in json.loads(visitor.answer())["error"]["message"]


@pytest.mark.parametrize(
    ("error", "after"),
    [
        (QueueFull("x", retry_after_s=500), b"60"),
        (QueueFull("x"), b"1"),
        (RateLimited("x", retry_after_s=3600), b"60"),
        (Draining("x", retry_after_s=500), b"20"),
        (Draining("x", retry_after_s=2.2), b"3"),
        (Internal("x"), None),
    ],
)
def test_a_client_is_not_told_to_wait_for_longer_than_it_would(error: AiosError, after: bytes | None) -> None:
    assert dict(refusal_headers(error)).get(b"retry-after") == after


async def test_an_answer_tells_its_request_its_call_and_its_wait() -> None:
    async with running_kernel(ScriptedCore(Script(text="x", first_s=2), slots=1)) as kernel:
        first = asyncio.create_task(ask(kernel, "/v1/chat/completions", CHAT))
        await asyncio.sleep(0)
        headers = dict((await ask(kernel, "/v1/chat/completions", CHAT)).sent[0][1]["headers"])
        await first
        call = ended(kernel)[-1].call.encode()
    assert headers[b"x-request-id"].startswith(b"req-")
    assert headers[b"x-aios-ticket"] == call
    assert 1900 <= int(headers[b"x-aios-wait-ms"]) <= 2100


async def test_a_read_timeout_that_is_short_is_halved() -> None:
    visitor = await visit(Script(text="x", first_s=9), CHAT, x_stainless_read_timeout="5")
    assert [at_s for at_s, said in visitor.said() if said == b" "][0] == pytest.approx(2.5, abs=0.3)


def test_the_guide_names_every_header_that_means_something() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guide" / "clients.md").read_text().lower()
    ours = ("x-request-id", "x-aios-ticket", "x-aios-wait-ms", "x-aios-ignored", "x-stainless-read-timeout", "retry-after")
    for name in (*(name.decode() for name in (*OPTIONS, *SESSIONS)), *ours, "x-stainless-retry-count", "x-should-retry"):
        assert f"`{name}" in page, name
