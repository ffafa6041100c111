"""The demo as a new user runs it: real kernel, real agents, real model; and each fact fails when its mechanism did."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from aios.abi.event import AccountChanged, AnyEvent, CallEnded, CoreChanged, Dispatched, EventPage, Preempted, ProcessChanged
from aios.cli.facts import Fact, agent, facts

Events = list[AnyEvent]


class Shown(msgspec.Struct):
    """What one run of the demo left behind."""

    code: int
    said: str
    report: dict[str, object]
    events: Events


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return run_demo(tmp_path_factory.mktemp("demo"))


def run_demo(folder: Path, *arguments: str) -> Shown:
    run = subprocess.run(
        [sys.executable, "-m", "aios", "demo", *arguments],
        cwd=folder,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    report = msgspec.json.decode(Path(folder, "demo-report.json").read_bytes())
    events = msgspec.json.decode(Path(folder, "demo-events.json").read_bytes(), type=EventPage).events
    return Shown(run.returncode, run.stdout + run.stderr, report, list(events))


def failing(events: Sequence[AnyEvent]) -> list[str]:
    return [fact.name for fact in facts(events) if not fact.ok]


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_every_fact_of_the_demo_holds_and_is_reported(shown: Shown) -> None:
    assert shown.code == 0, shown.said
    assert set(shown.report) == {"facts", "seconds", "tokens"}
    reported = msgspec.convert(shown.report["facts"], list[Fact])
    assert [fact.name for fact in reported] == [fact.name for fact in facts(shown.events)]
    assert all(fact.ok for fact in reported)
    assert isinstance(shown.report["tokens"], int) and shown.report["tokens"] > 0


def first_fleet_agent_failed(events: Events) -> Events:
    place = next(i for i, e in enumerate(events) if isinstance(e, ProcessChanged) and agent(e) == "reply" and e.outcome)
    return [*events[:place], replace(events[place], outcome="error"), *events[place + 1 :]]


def clerks_read_all_themselves(events: Events) -> Events:
    return [replace(e, cached_tokens=0) if isinstance(e, CallEnded) and agent(e) == "clerk" else e for e in events]


def urgent_came_last(events: Events) -> Events:
    late = max(e.at_ns for e in events)
    return [replace(e, first_ns=late) if isinstance(e, CallEnded) and agent(e) == "urgent" else e for e in events]


def stood_back_for_urgent(event: AnyEvent) -> bool:
    return isinstance(event, Preempted) and event.change == "frozen" and event.by == "interactive"


def nobody_stood_back(events: Events) -> Events:
    return [e for e in events if not stood_back_for_urgent(e)]


def who_stood_back_never_went_on(events: Events) -> Events:
    asked_ns = next(e.asked_ns for e in events if isinstance(e, CallEnded) and agent(e) == "urgent")
    back = next(e.call for e in events if isinstance(e, Preempted) and stood_back_for_urgent(e) and e.at_ns > asked_ns)
    return [replace(e, outcome="Cancelled") if isinstance(e, CallEnded) and e.call == back else e for e in events]


def a_slot_was_free(events: Events) -> Events:
    asked_ns = next(e.asked_ns for e in events if isinstance(e, CallEnded) and agent(e) == "urgent")
    held = next(
        e for e in events if isinstance(e, CallEnded) and e.cls == "batch" and (e.turn_ns or asked_ns) < asked_ns < e.at_ns
    )
    return [e for e in events if e is not held]


def told(event: AnyEvent, change: str) -> bool:
    return isinstance(event, AccountChanged) and event.change == change


def runaway_was_never_parked(events: Events) -> Events:
    return [e for e in events if not told(e, "parked")]


def runaway_was_refused(events: Events) -> Events:
    place, parked = next((i, e) for i, e in enumerate(events) if isinstance(e, AccountChanged) and told(e, "parked"))
    return [*events[: place + 1], replace(parked, change="refused"), *events[place + 1 :]]


def runaway_was_charged_afterwards(events: Events) -> Events:
    """Its first answer was as long as it liked, and the account says so."""
    first = next(e.seq for e in events if isinstance(e, CallEnded) and agent(e) == "runaway")
    longer = [
        replace(e, output_tokens=e.output_tokens + 2000) if isinstance(e, CallEnded) and e.seq == first else e for e in events
    ]
    return [
        replace(e, limit=replace(e.limit, spent=e.limit.spent + 2000))
        if isinstance(e, AccountChanged) and e.limit is not None and e.seq > first
        else e
        for e in longer
    ]


def the_ledger_lost_a_token_of_the_runaway(events: Events) -> Events:
    first = next(e.seq for e in events if isinstance(e, CallEnded) and agent(e) == "runaway")
    return [replace(e, output_tokens=e.output_tokens + 1) if isinstance(e, CallEnded) and e.seq == first else e for e in events]


def runaway_reserved_more_than_its_limit(events: Events) -> Events:
    return [
        replace(e, limit=replace(e.limit, reserved=e.limit.amount)) if isinstance(e, AccountChanged) and e.limit else e
        for e in events
    ]


def runaway_went_on_before_its_limit_was_raised(events: Events) -> Events:
    place, parked = next((i, e) for i, e in enumerate(events) if isinstance(e, AccountChanged) and told(e, "parked"))
    turn = next(e for e in events if isinstance(e, Dispatched) and e.call == parked.call)
    early = replace(turn, seq=parked.seq + 1)
    return [*events[: place + 1], early, *(e for e in events[place + 1 :] if e is not turn)]


def runaway_never_went_on(events: Events) -> Events:
    return [e for e in events if not told(e, "resumed")]


def runaway_was_not_stopped(events: Events) -> Events:
    return [replace(e, outcome="ok") if isinstance(e, CallEnded) and agent(e) == "runaway" else e for e in events]


def nobody_started_the_patient_again(events: Events) -> Events:
    return [e for e in events if not (isinstance(e, ProcessChanged) and agent(e) == "patient" and e.restart)]


def model_host_stayed_down(events: Events) -> Events:
    down = next(e.seq for e in events if isinstance(e, CoreChanged) and e.change == "down")
    return [e for e in events if not (isinstance(e, CoreChanged) and e.seq > down)]


def one_twin_said_something_else(events: Events) -> Events:
    place = next(i for i, e in enumerate(events) if isinstance(e, CallEnded) and agent(e) == "twin")
    return [*events[:place], replace(events[place], answer="0" * 16), *events[place + 1 :]]


def visitor_was_refused(events: Events) -> Events:
    return [replace(e, outcome="Denied") if isinstance(e, CallEnded) and agent(e) == "visitor" else e for e in events]


BREAKS = (
    first_fleet_agent_failed,
    clerks_read_all_themselves,
    urgent_came_last,
    runaway_was_never_parked,
    runaway_was_not_stopped,
    nobody_started_the_patient_again,
    model_host_stayed_down,
    one_twin_said_something_else,
    visitor_was_refused,
)


URGENT = BREAKS.index(urgent_came_last)
"""The number of the fact about the urgent agent."""
BREAKS_OF_THE_URGENT = (nobody_stood_back, who_stood_back_never_went_on, a_slot_was_free)
BUDGET = BREAKS.index(runaway_was_never_parked)
"""The number of the fact about the runaway's budget."""
BREAKS_OF_THE_BUDGET = (
    runaway_was_refused,
    runaway_was_charged_afterwards,
    the_ledger_lost_a_token_of_the_runaway,
    runaway_reserved_more_than_its_limit,
    runaway_went_on_before_its_limit_was_raised,
    runaway_never_went_on,
)
CASES = [
    *enumerate(BREAKS),
    *((URGENT, breaks) for breaks in BREAKS_OF_THE_URGENT),
    *((BUDGET, breaks) for breaks in BREAKS_OF_THE_BUDGET),
]


@pytest.mark.slow
@pytest.mark.timeout(320)
@pytest.mark.parametrize(("number", "breaks"), CASES, ids=[breaks.__name__ for _, breaks in CASES])
def test_a_mechanism_that_failed_makes_exactly_its_fact_fail(
    shown: Shown, number: int, breaks: Callable[[Events], Events]
) -> None:
    assert failing(shown.events) == []
    assert failing(breaks(shown.events)) == [facts(shown.events)[number].name]


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_without_the_scheduler_exactly_the_urgent_agents_fact_fails(tmp_path: Path) -> None:
    """A whole demo by `fifo`, which knows nothing of classes."""
    shown = run_demo(tmp_path, "--policy", "fifo")
    assert shown.code == 1
    assert failing(shown.events) == [facts(shown.events)[URGENT].name], shown.said
    assert f"FAIL  {facts(shown.events)[URGENT].name}" in shown.said
