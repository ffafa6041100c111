"""Laws of preemption: whoever comes, gives up or is cut off, and when, no slot is held twice, no call is lost, repeated or kept
waiting behind one that is less urgent, and whoever stood back goes on and ends.

The core is one that says words, one in a tenth of a second, and can freeze calls; the schedule is drawn, the time is virtual.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aios.abi.llm import Delta, Generate
from aios.abi.request import CLASSES, CallOptions, Class
from aios.kernel.cores.standing_back import StandingBack
from aios.kernel.lanes.lane import Lane, LaneConfig, Server
from aios.kernel.lanes.policy import Ticket
from aios.ports.core import CoreCall, Feature
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests

FEATURES: frozenset[Feature] = frozenset({"completion", "suspend"})
TOKEN_S = 0.1
SLOTS, RESERVED = 2, 1
CLIENTS = 3
PATIENCE_S = 1000.0


@dataclass
class Arrival:
    """A call: how long after the one before it comes, whose it is, how many words it is answered, when its caller gives up."""

    after_s: float
    client: int
    cls: Class
    words: int
    gives_up_s: float | None = None


@dataclass
class Seen:
    """What the caller of a call saw, and when: words, the moments when it asked and when it was over."""

    arrival: Arrival
    asked: float
    words: list[tuple[str, float]] = field(default_factory=list)
    over: float | None = None


def says(call: CoreCall) -> Script:
    number, words = (call.request.prompt or "").split()
    return Script(text=text_of(int(number), int(words)), first_s=TOKEN_S, token_s=TOKEN_S)


def text_of(number: int, words: int) -> str:
    return " ".join(f"{number}:{word}" for word in range(words))


async def play(policy: str, arrivals: list[Arrival]) -> list[Seen]:
    """What comes of a schedule; the slots are looked at whenever somebody hears something."""
    core = ScriptedCore(says, slots=SLOTS, reserved=RESERVED, features=FEATURES)
    seen: list[Seen] = []
    async with kernel_for_tests([core], lane=LaneConfig(policy=policy)) as k, asyncio.timeout(PATIENCE_S):
        gates = [await k.session(f"client-{number}", cls="interactive") for number in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for number, arrival in enumerate(arrivals):
                await asyncio.sleep(arrival.after_s)
                seen.append(Seen(arrival, time()))
                group.create_task(one(k, core, gates[arrival.client], number, seen[-1]))
        server = k.kernel.pool.lane.server("scripted")
        assert not (server.holders or server.frozen or server.closed_since), "nothing is left"
        assert not k.kernel.pool.lane._count and core.statistics().running == 0
    return seen


async def one(k: RunningKernel, core: ScriptedCore, gate: Gate, number: int, seen: Seen) -> None:
    """One call, heard to its end or until its caller gives up."""
    request = Generate(prompt=f"{number} {seen.arrival.words}")
    try:
        async with asyncio.timeout(seen.arrival.gives_up_s), aclosing(stream(gate, request, seen.arrival.cls)) as events:
            async for event in events:
                if isinstance(event, Delta) and event.text:
                    seen.words.append((event.text, time()))
                    look(k.kernel.pool.lane.server("scripted"), core)
    except TimeoutError:
        pass
    seen.over = time()


def stream(gate: Gate, request: Generate, cls: Class) -> Any:
    return gate.stream(request, CallOptions(cls=cls))


def look(server: Server, core: ScriptedCore) -> None:
    """No slot is held twice: by the lane's books, and at the core."""
    assert not server.holders.keys() & server.frozen.keys()
    assert len(server.holders) <= SLOTS + RESERVED
    assert sum(not holder.urgent for holder in server.holders) <= SLOTS
    working = [place for place in core._places.values() if place._may_run.is_set()]
    assert len(working) <= SLOTS + RESERVED, "the core works for no more calls than it has slots"


def check(policy: str, found: list[Seen]) -> None:
    """What every caller may rely on."""
    for number, seen in enumerate(found):
        text, whole = "".join(word for word, _ in seen.words), text_of(number, seen.arrival.words)
        assert seen.over is not None
        if seen.arrival.gives_up_s is None:
            assert text == whole, "nothing is lost, changed or said twice"
        else:
            assert whole.startswith(text)
    if policy != "round-robin":
        for urgent in found:
            if urgent.arrival.cls == "interactive":
                check_nobody_is_served_before(urgent, found)


def check_nobody_is_served_before(urgent: Seen, found: list[Seen]) -> None:
    """While an interactive call is under way, nobody else is told anything, unless all of this is over within the same moment."""
    assert urgent.over is not None
    for seen in found:
        if seen.arrival.cls != "interactive":
            between = [at for _, at in seen.words if urgent.asked + 1e-6 < at < urgent.over - 1e-6]
            assert not between, f"{seen} is served while {urgent} waits"


moments = st.integers(0, 12).map(lambda tenths: tenths / 10 + 0.03)
arrivals = st.builds(
    Arrival, moments, st.integers(0, CLIENTS - 1), st.sampled_from(CLASSES), st.integers(1, 12),
    st.none() | st.integers(0, 30).map(lambda tenths: tenths / 10 + 0.07),
)  # fmt: skip
long_ones = st.builds(Arrival, moments, st.integers(0, CLIENTS - 1), st.sampled_from(CLASSES), st.integers(1, 60))


ONE_STANDS_BACK_TWICE = [*[Arrival(0.03, 0, "batch", 12)] * 3, *[Arrival(0.43, 1, "interactive", 2)] * 3]


@pytest.mark.parametrize("policy", ["priority", "elas"])
@example(ONE_STANDS_BACK_TWICE)
@given(st.lists(arrivals, min_size=1, max_size=14))
@settings(max_examples=120, deadline=None)
async def test_nobody_is_lost_or_waits_behind_who_is_less_urgent(policy: str, schedule: list[Arrival]) -> None:
    check(policy, await play(policy, schedule))


@given(st.lists(long_ones, min_size=1, max_size=14))
@settings(max_examples=60, deadline=None)
async def test_under_round_robin_nobody_is_lost(schedule: list[Arrival]) -> None:
    check("round-robin", await play("round-robin", schedule))


# --- what the laws find -----------------------------------------------------------------------------------------------

CROWD = [
    Arrival(0.03, 0, "batch", 12), Arrival(0.03, 1, "standard", 12), Arrival(0.33, 2, "interactive", 6),
    Arrival(0.1, 0, "interactive", 4),
]  # fmt: skip


def nobody_yields(_server: Server) -> list[Ticket]:
    return []


def never_thawed(_call: StandingBack, reason: str) -> None:
    """It has its turn, and the core is not told."""


def stays_awake(_call: StandingBack, by: Class | None) -> None:
    """It has lost its turn, and the core is not told."""


def kept_in_the_books(lane: Lane, ticket: Ticket, server: Server) -> None:
    """A call that ended while it stood back is not forgotten."""


PLANTED: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "nobody stands back": (Server, "yielding", nobody_yields),
    "nobody goes on": (StandingBack, "thaw", never_thawed),
    "who stands back goes on working": (StandingBack, "freeze", stays_awake),
    "who gave up is waited for": (Lane, "_forget", kept_in_the_books),
}


async def test_a_crowd_is_served_by_the_laws() -> None:
    given_up = [*CROWD, Arrival(0.03, 1, "batch", 9, 1.07)]
    for policy in ("priority", "elas"):
        check(policy, await play(policy, given_up))


@pytest.mark.parametrize("planted", PLANTED)
async def test_the_laws_find_a_lane_that(planted: str) -> None:
    owner, name, wrong = PLANTED[planted]
    gives_up = [Arrival(0.03, 0, "batch", 12, 0.97), *CROWD]
    with patch.object(owner, name, wrong), pytest.raises((AssertionError, TimeoutError, ExceptionGroup)):
        check("priority", await play("priority", gives_up if planted.startswith("who gave up") else CROWD))
