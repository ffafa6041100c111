"""A law of the Responses door: whatever a real body is changed into, it is taken or refused with a word; nothing else happens."""

import json
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.errors import AiosError, BadRequest, NoCore
from aios.abi.llm import Choice, Completion, Delta, Usage
from aios.server.kept import Before, Kept
from aios.server.response_body import generate_of, read_body
from aios.server.response_events import Response
from aios.server.response_items import read_input

CORPUS = [path.read_bytes() for path in sorted((Path(__file__).parent.parent / "corpus/responses").glob("*.json"))]
DONE = Completion(id="1", model="m", core="c", choices=(Choice(text="yes"),), usage=Usage(input_uncached=1, output_visible=1))
ODD: list[Any] = [
    None, 0, -1, 2**70, 1.5, "", "x", "\u2028", True, [], {}, [[]], [{}], [5], ["x"], {"type": 5}, {"type": "function"},
    "function_call_output", "item_reference", "message", "reasoning", {"a": {"b": [1]}}, [{"id": "_"}], [{"id": "msg_"}],
    [{"type": "additional_tools", "tools": [{"type": "function", "name": "z"}]}],
]  # fmt: skip


class Process:
    pid, name, alive = "1", "agent-1", True


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, below in inside for found in ((*path, key), *places(below, (*path, key)))]


@settings(max_examples=400)
@given(st.data())
def test_a_changed_body_is_taken_or_refused(data: st.DataObject) -> None:
    body = json.loads(data.draw(st.sampled_from(CORPUS)))
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(body) or [("input",)]))
        at = body
        for key in path:
            at = at[key]
        at[last] = json.loads(json.dumps(data.draw(st.sampled_from(ODD))))
    try:
        read, _ = read_body(json.dumps(body).encode())
        before = Before(Kept().of(Process(), "token", ""), None)
        wanted, _ = generate_of(read, before, read_input(read.input), before.item)
    except AiosError as error:
        assert isinstance(error, BadRequest | NoCore) and error.message
        return
    assert msgspec.msgpack.encode(wanted)
    response, told = Response("resp_1", read), Response("resp_2", read)
    assert json.loads(response.whole(DONE))["output"][0]["content"][0]["text"] == "yes"
    said = told.created("queued") + told.started("m") + told.piece(Delta(text="yes")) + told.end(DONE)[0]
    events = [json.loads(line.partition(b"data: ")[2]) for line in said.split(b"\n\n") if line]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
