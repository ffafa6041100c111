"""The facts that the demo claims, each a question to the event log alone: whoever has the log can ask again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from aios.abi.event import (
    AccountChanged,
    AnyEvent,
    CallEnded,
    CoreChanged,
    Dispatched,
    HostChanged,
    Preempted,
    ProcessChanged,
    Signalled,
)

FLEET, SLOTS = 12, 4
FREE_AT_ONCE_S = 0.5
CLERKS = 6
SHARED = 0.6
"""Of all the clerks' prompt tokens, at least: each but the first could share nine tenths of its own."""
CLIENT = "visitor"
"""The agent that the unmodified client's token speaks for."""

RUNAWAY = "/local/runaway"
"""The account of the runaway."""


class Fact(msgspec.Struct, frozen=True):
    """A claim, whether the log bears it out, and the figures."""

    name: str
    ok: bool
    detail: str


def facts(events: Sequence[AnyEvent]) -> list[Fact]:
    """All facts, in the order of the demo's acts."""
    return [fact(events) for fact in FACTS]


def agent(event: AnyEvent) -> str:
    """The agent whose process an event is about: `urgent` for `urgent-14`."""
    return str(getattr(event, "name", "")).rpartition("-")[0]


def generated(events: Sequence[AnyEvent]) -> list[CallEnded]:
    """The calls to a model that ended."""
    return [event for event in events if isinstance(event, CallEnded) and event.row == "llm.generate"]


def the_fleet_finishes(events: Sequence[AnyEvent]) -> Fact:
    fleet = [e for e in events if isinstance(e, ProcessChanged) and agent(e) in ("reply", "explain", "digest") and e.outcome]
    done, classes = [e for e in fleet if e.outcome == "result"], {e.cls for e in fleet}
    ok = len(done) >= FLEET and len(done) == len(fleet) and len(classes) == 3
    return Fact(
        "twelve agents in three classes share one model, and all finish", ok, f"{len(done)} of {len(fleet)} returned a result"
    )


def a_common_prompt_is_read_once(events: Sequence[AnyEvent]) -> Fact:
    calls = [call for call in generated(events) if agent(call) == "clerk" and call.outcome == "ok"]
    tokens, cached = sum(call.input_tokens for call in calls), sum(call.cached_tokens for call in calls)
    return Fact(
        "agents with a common prompt share its cost",
        len(calls) >= CLERKS and cached >= SHARED * tokens,
        f"{len(calls)} agents, {tokens:,} tokens of prompts, of which {tokens - cached:,} were read",
    )


def the_urgent_goes_first(events: Sequence[AnyEvent]) -> Fact:
    name = "under a full house of batch calls, an urgent agent has its turn at once: they stand back for it, and go on"
    urgent = next((call for call in generated(events) if agent(call) == "urgent" and call.first_ns and call.turn_ns), None)
    if urgent is None or urgent.first_ns is None or urgent.turn_ns is None:
        return Fact(name, False, "no urgent call was answered")
    before = [c for c in generated(events) if c.cls == "batch" and c.asked_ns < urgent.asked_ns < c.at_ns]
    held = [call for call in before if call.turn_ns is not None and call.turn_ns < urgent.asked_ns]
    waited = [call for call in before if call not in held]
    passed = [call for call in waited if call.first_ns is None or call.first_ns > urgent.first_ns]
    back = {e.call for e in events if isinstance(e, Preempted) and e.change == "frozen" and e.by == "interactive"}
    went_on = [call for call in held if call.call in back and call.at_ns > urgent.turn_ns and call.outcome == "ok"]
    full = len(held) >= SLOTS <= len(waited)
    seconds = (urgent.first_ns - urgent.asked_ns) / 1e9
    detail = (
        f"first token after {seconds:.1f} s, ahead of {len(passed)} of {len(waited)} that waited; "
        f"{len(went_on)} of {len(held)} that had a slot stood back, and went on"
    )
    return Fact(name, full and passed == waited and went_on == held, detail)


def the_runaway_keeps_to_its_budget(events: Sequence[AnyEvent]) -> Fact:
    name = "a runaway whose budget is spent is parked before its call begins, not refused, and goes on when the limit is raised"
    told = [e for e in events if isinstance(e, AccountChanged) and e.account == RUNAWAY]
    parked = next((e for e in told if e.change == "parked"), None)
    raised = next((e for e in told if parked is not None and e.change == "limited" and e.seq > parked.seq), None)
    resumed = next((e for e in told if raised is not None and e.change == "resumed" and e.seq > raised.seq), None)
    if parked is None or raised is None or resumed is None:
        return Fact(name, False, f"of its account the log tells: {', '.join(e.change for e in told) or 'nothing'}")
    before, after = parked.limit, resumed.limit
    if before is None or after is None or resumed.call != parked.call:
        return Fact(name, False, "the call that went on is not the one that was parked")
    spent = sum(
        call.input_tokens + call.output_tokens for call in generated(events) if of_runaway(call) and call.seq < parked.seq
    )
    turns = [e for e in events if isinstance(e, Dispatched) and of_runaway(e) and e.seq > parked.seq]
    states = [e.limit for e in told if e.limit is not None]
    ok = (
        spent == before.spent > 0
        and before.spent + before.reserved + parked.needs > before.amount
        and all(state.spent + state.reserved <= state.amount for state in states)
        and bool(turns) and turns[0].call == parked.call and turns[0].seq > raised.seq
        and all(e.change != "refused" for e in told)
    )  # fmt: skip
    detail = (
        f"parked at {before.spent} tokens spent and {before.reserved} reserved of {before.amount} a day, as its call may come to "
        f"{parked.needs} more; raised to {after.amount:,}, it went on: {after.spent} spent and {after.reserved} reserved"
    )
    return Fact(name, ok, detail)


def of_runaway(event: AnyEvent) -> bool:
    return agent(event) == "runaway"


def the_runaway_is_stopped(events: Sequence[AnyEvent]) -> Fact:
    name = "a runaway is killed by the operator, and its slot is free at once"
    kill = next((e for e in events if isinstance(e, Signalled) and e.signal == "kill" and agent(e) == "runaway"), None)
    ended = next((e for e in generated(events) if agent(e) == "runaway" and e.outcome == "Killed"), None)
    if kill is None or ended is None:
        return Fact(name, False, "no call of the runaway was ended by a kill")
    given = given_after(kill, ended, events)
    if given is None:
        return Fact(name, False, "nobody got its slot")
    asked_ns = next((call.asked_ns for call in generated(events) if call.call == given.call), 0)
    since_ns, what = max((kill.at_ns, f"the kill by {kill.by}"), (asked_ns, f"it asked, which was after the kill by {kill.by}"))
    seconds = (given.at_ns - since_ns) / 1e9
    detail = f"`{given.name}` had the slot {seconds * 1000:.0f} ms after {what}"
    return Fact(name, seconds < FREE_AT_ONCE_S, detail)


def given_after(kill: AnyEvent, ended: CallEnded, events: Sequence[AnyEvent]) -> Dispatched | Preempted | None:
    """Who had the slot of a call that was killed: one that goes on in the very step in which that ended, or one that was next."""
    ends = generated(events)
    for e in events:
        if kill.seq < e.seq < ended.seq and isinstance(e, Preempted) and e.change == "resumed":
            if next(end for end in ends if end.seq > e.seq) is ended:
                return e
    after = [e for e in events if e.seq > ended.seq and (isinstance(e, Dispatched) or e in generated([e]))]
    return after[0] if after and isinstance(after[0], Dispatched) else None


def the_killed_agent_is_back(events: Sequence[AnyEvent]) -> Fact:
    name = "an agent whose host was killed with -9 is started again, under the same pid, and finishes"
    changes = [e for e in events if isinstance(e, ProcessChanged) and agent(e) == "patient"]
    again = [e for e in changes if e.restart == 1 and e.state == "running"]
    lost = next((e for e in events if isinstance(e, HostChanged) and e.change == "ended" and e.running), None)
    end = next((e for e in changes if e.outcome), None)
    ok = (
        bool(again) and lost is not None and end is not None and end.outcome == "result" and {e.pid for e in changes} == {end.pid}
    )
    how = lost.detail if lost is not None else "its host was not killed"
    return Fact(name, ok, f"host: {how}; started again {len(again)} time; {end.outcome if end else 'not ended'}")


def the_model_host_is_replaced(events: Sequence[AnyEvent]) -> Fact:
    name = "the model's host is killed with -9 in mid-generation and replaced, and no caller sees an error"
    down = next((e for e in events if isinstance(e, CoreChanged) and e.change == "down"), None)
    if down is None:
        return Fact(name, False, "the model's host never went down")
    up = next((e for e in events if isinstance(e, CoreChanged) and e.change == "up" and e.seq > down.seq), None)
    across = [c for c in generated(events) if c.turn_ns is not None and c.turn_ns < down.at_ns < c.at_ns]
    failed = [c for c in across if c.outcome != "ok" and agent(c) != "runaway"]
    seconds = (up.at_ns - down.at_ns) / 1e9 if up is not None else 0.0
    ok = up is not None and bool(across) and not failed
    return Fact(
        name, ok, f"back after {seconds:.1f} s; {len(across) - len(failed)} of {len(across)} calls that were on it went on"
    )


def the_answer_stays_the_same(events: Sequence[AnyEvent]) -> Fact:
    name = "an answer whose model host was killed in its midst is identical to its undisturbed twin's"
    downs = [e.at_ns for e in events if isinstance(e, CoreChanged) and e.change == "down"]
    twins = [call for call in generated(events) if agent(call) == "twin" and call.outcome == "ok" and call.turn_ns]
    lost = [call for call in twins if any((call.turn_ns or down) < down < call.at_ns for down in downs)]
    calm = [call for call in twins if call not in lost]
    if not lost or not calm:
        return Fact(name, False, f"{len(lost)} disturbed and {len(calm)} undisturbed twins finished")
    same = len({call.answer for call in twins}) == 1
    answers = ", ".join(f"`{call.name}` {call.answer}" for call in (*calm, *lost))
    return Fact(name, same, f"{lost[0].output_tokens} tokens, as a hash: {answers}")


def the_client_joins(events: Sequence[AnyEvent]) -> Fact:
    calls = [call for call in generated(events) if agent(call) == CLIENT]
    ok = bool(calls) and all(call.outcome == "ok" for call in calls)
    tokens = sum(call.output_tokens for call in calls)
    return Fact("an unmodified `openai` client joins", ok, f"{len(calls)} call, {tokens} tokens, as `{CLIENT}`")


FACTS: tuple[Callable[[Sequence[AnyEvent]], Fact], ...] = (
    the_fleet_finishes,
    a_common_prompt_is_read_once,
    the_urgent_goes_first,
    the_runaway_keeps_to_its_budget,
    the_runaway_is_stopped,
    the_killed_agent_is_back,
    the_model_host_is_replaced,
    the_answer_stays_the_same,
    the_client_joins,
)
