"""Laws of a stream on Anthropic's wire, whatever a core says and in which pieces."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aios.abi.llm import Choice, Completion, Delta, Queued, Started, ToolCall, ToolCallDelta, Usage
from aios.outbox import Outbox
from aios.server.exchange import Writer
from aios.server.message_events import MessageStream, whole_message

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
traces = st.lists(
    st.one_of(
        st.tuples(st.just("text"), texts),
        st.tuples(st.just("reasoning"), texts),
        st.tuples(st.just("call"), st.dictionaries(texts, texts, max_size=2)),
    ),
    max_size=12,
)


def told_by(trace: Sequence[tuple[str, Any]]) -> tuple[list[Delta], Choice]:
    """What a core tells, and the whole answer that it comes to. A call of a tool comes in pieces, its name with the first."""
    deltas: list[Delta] = []
    calls: list[ToolCall] = []
    for kind, what in trace:
        if kind == "text":
            deltas.append(Delta(text=what))
        elif kind == "reasoning":
            deltas.append(Delta(reasoning=what))
        else:
            at, arguments = len(calls), json.dumps(what) if what else ""
            calls.append(ToolCall(f"t{at}", "f", arguments))
            pieces = [arguments[place : place + 4] for place in range(0, len(arguments), 4)]
            deltas.append(Delta(tool_calls=(ToolCallDelta(at, f"t{at}", "f"),)))
            deltas += [Delta(tool_calls=(ToolCallDelta(at, arguments=piece),)) for piece in pieces]
    joined = {kind: "".join(what for named, what in trace if named == kind) for kind in ("text", "reasoning")}
    return deltas, Choice(joined["text"], "tool_calls" if calls else "stop", tuple(calls), joined["reasoning"])


async def streamed(deltas: Sequence[Delta], value: Completion, thinks: bool, waits: bool) -> list[dict[str, Any]]:
    """The events that a client gets of it."""
    sent = bytearray()

    async def send(message: Any) -> None:
        sent.extend(message.get("body", b""))

    stream = MessageStream(Writer(send, Outbox(asyncio.get_running_loop()), "req-1"), "msg_1", "m", thinks, [])
    if waits:
        stream.tell(Queued(call="1/1"))
    stream.tell(Started(call="1/1", id="c", model="m", core="c", wait_s=0.0))
    for delta in deltas:
        stream.tell(delta)
        await asyncio.sleep(0)
    await stream.end(value)
    events = [event.split("\n") for event in sent.decode().removesuffix("\n\n").split("\n\n")]
    found = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [name for name, _ in events] == [f"event: {event['type']}" for event in found]
    return found


@given(traces, st.booleans(), st.booleans())
async def test_blocks_follow_each_other_and_hold_what_was_said(trace: list[Any], thinks: bool, waits: bool) -> None:
    deltas, choice = told_by(trace)
    value = Completion(id="c", model="m", core="c", choices=(choice,), usage=Usage(3, 1, 2, 1))
    events = [event for event in await streamed(deltas, value, thinks, waits) if event["type"] != "ping"]
    assert [event["type"] for event in events if not event["type"].startswith("content")] == [
        "message_start", "message_delta", "message_stop",
    ]  # fmt: skip
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert not is_open and event["index"] == len(blocks)
            blocks.append(event["content_block"] | {"said": "", "signature": ""})
            is_open = True
            continue
        assert is_open and event["index"] == len(blocks) - 1
        is_open = event["type"] == "content_block_delta"
        if is_open:
            kind, said = itertools.islice(event["delta"].values(), 2)
            blocks[-1]["signature" if kind == "signature_delta" else "said"] += said
    assert not is_open and all(
        block["type"] != after["type"] or block["type"] == "tool_use" for block, after in itertools.pairwise(blocks)
    )
    whole = json.loads(whole_message(value, "msg_1", thinks))
    for kind, field in (("text", "text"), ("thinking", "thinking")):
        assert said_in(blocks, kind) == "".join(block[field] for block in whole["content"] if block["type"] == kind)
    uses = [(block["id"], json.loads(block["said"] or "{}")) for block in blocks if block["type"] == "tool_use"]
    assert uses == [(block["id"], block["input"]) for block in whole["content"] if block["type"] == "tool_use"]
    assert all(block["signature"] for block in blocks if block["type"] == "thinking")
    assert (events[-2]["delta"]["stop_reason"], events[-2]["usage"]) == (whole["stop_reason"], whole["usage"])


def said_in(blocks: Sequence[dict[str, Any]], kind: str) -> str:
    return "".join(block["said"] for block in blocks if block["type"] == kind)
