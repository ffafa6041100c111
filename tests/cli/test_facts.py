"""What the demo claims, asked of logs in which it holds and does not."""

from typing import Any

import pytest

from aios.abi.event import CallEnded, Preempted, Signalled
from aios.cli.facts import the_runaway_is_stopped

MS = 10**6


def told(kind: Any, seq: int, at_ms: int, name: str, **fields: Any) -> Any:
    return kind(seq=seq, at_ns=at_ms * MS, tenant="local", pid=name, name=name, **fields)


def ended(seq: int, at_ms: int, name: str, outcome: str) -> CallEnded:
    return told(
        CallEnded, seq, at_ms, name, call=f"{name}/1", row="llm.generate", cls="batch", outcome=outcome, asked_ns=0, turn_ns=1,
        first_ns=None, core="a", attempts=1, input_tokens=0, cached_tokens=0, output_tokens=0,
    )  # type: ignore[no-any-return]  # fmt: skip


def resumed(seq: int, at_ms: int) -> Preempted:
    return told(Preempted, seq, at_ms, "digest-2", call="digest-2/1", cls="batch", core="a", change="resumed")  # type: ignore[no-any-return]


KILL = told(Signalled, 1, 1000, "runaway-1", signal="kill", by="operator-1")


@pytest.mark.parametrize(
    ("events", "ok"),
    [
        ([KILL, resumed(2, 1002), ended(3, 1002, "runaway-1", "Killed")], True),
        ([KILL, resumed(2, 1800), ended(3, 1800, "runaway-1", "Killed")], False),
        ([KILL, resumed(2, 1002), ended(3, 1002, "digest-3", "ok"), ended(4, 1003, "runaway-1", "Killed")], False),
        ([KILL, ended(2, 1002, "runaway-1", "Killed")], False),
    ],
    ids=["one that stood back goes on", "too late", "in another's slot", "nobody"],
)
def test_the_slot_of_the_runaway_may_go_to_one_that_stood_back(events: list[Any], ok: bool) -> None:
    assert the_runaway_is_stopped(events).ok is ok
