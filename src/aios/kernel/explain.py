"""Why a process does what it does: answered from its waiting state, before any decision is made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from aios.abi.process import Ahead, CallInfo, Explanation, ProcessInfo
from aios.abi.request import is_above
from aios.abi.waits import Code, Wait
from aios.kernel.lanes.lane import Lane, Outlook
from aios.kernel.lanes.policy import Ticket
from aios.kernel.process import Call, Hold, Process

CALLS_TOLD = 20
"""Of a process's open calls so many are told of: those that act, then those that came first."""
HOLDERS_SHOWN = 4


def explain(
    process: ProcessInfo, of: Process, asking: Call, lanes: Mapping[str, Lane], name_of: Callable[[str], str],
    told: Callable[[Wait | None], Wait | None],
) -> Explanation:  # fmt: skip
    """The process, its open calls (but for the one that asks) with what each waits for, and what would move it.

    `name_of`: what the asker may call the process with that pid. `told`: a wait as the asker may hear of it.
    """
    others = [call for call in of.calls.values() if call is not asking]
    if len(others) > CALLS_TOLD:
        others.sort(key=lambda call: call.wait is not None)  # those that act say what it does
    outlooks = _outlooks(others[:CALLS_TOLD], lanes)
    calls = tuple(_explain_call(call, outlooks, name_of, told) for call in others[:CALLS_TOLD])
    moves, more = _moves(of, name_of(of.pid), calls), len(others) - len(calls)
    return Explanation(process=process, reason=_reason(of, calls), calls=calls, moves=moves, more=more)


def _outlooks(calls: Iterable[Call], lanes: Mapping[str, Lane]) -> dict[object, Outlook]:
    """Of those that wait in lanes, by their tickets: one look at each lane."""
    tickets: defaultdict[str, list[Ticket]] = defaultdict(list)
    for call in calls:
        if isinstance(call.ticket, Ticket):
            assert call.row.lane is not None
            tickets[call.row.lane].append(call.ticket)
    return {ticket: outlook for name in tickets for ticket, outlook in lanes[name].explain_all(tickets[name]).items()}


def _explain_call(
    call: Call, outlooks: Mapping[object, Outlook], name_of: Callable[[str], str], told: Callable[[Wait | None], Wait | None]
) -> CallInfo:
    wait = told(call.wait)
    ahead: tuple[Ahead, ...] = ()
    lenders: tuple[str, ...] = ()
    count, rule = 0, ""
    if isinstance(call.ticket, Ticket):
        wait, count, before, holders, rule = outlooks[call.ticket]
        some = ", ".join(name_of(holder.pid) for holder in holders[:HOLDERS_SHOWN])
        wait = replace(wait, holder=some + ", …" * (len(holders) > HOLDERS_SHOWN))
        ahead = tuple(Ahead(name_of(ticket.pid), ticket.cls) for ticket in before)
        lenders = tuple(name_of(waiter.pid) for waiter in call.ticket.waiters)
    return CallInfo(
        call.id, call.row.name, call.asked_ns, wait, call.core, ahead, count, call.about, call.frozen is not None, rule, lenders
    )


def _reason(process: Process, calls: tuple[CallInfo, ...]) -> str:
    if process.exit is not None:
        ends = {
            "result": "it returned",
            "error": f"it failed: {process.exit.message}",
            "killed": f"it was {process.exit.message}",
        }
        return ends[process.exit.outcome]
    if process.held is not None:
        return _why_held(process, process.held)
    if not process.begun:
        wait = process.after.wait if process.after is not None else None
        return f"it begins after {wait.on}" if wait is not None else "its host is starting"
    for call in calls:
        if call.wait is None:
            return f"`{call.row}` runs" + (f" `{call.about}`" if call.about else "") + (f" on `{call.core}`" if call.core else "")
    if not calls:
        return "its own code runs" if process.kind == "agent" else "it has no open call"
    first = calls[0]
    assert first.wait is not None
    if first.wait.code == "S":
        eta = f", about {first.wait.eta_s:.1f} s if nothing else comes" if first.wait.eta_s is not None else ""
        if first.frozen:
            return f"`{first.row}` is frozen on {first.wait.on}, whose slot {first.wait.holder or 'nobody'} has now{eta}"
        ahead = f"behind {first.ahead_count} calls; held by {first.wait.holder}"
        return f"`{first.row}` waits for a slot on {first.wait.on}, {ahead}{eta}"
    if first.wait.code == "L":
        eta = f", for {first.wait.eta_s:.1f} s more unless it renews" if first.wait.eta_s is not None else ""
        return f"`{first.row}` waits for {first.wait.on}, held by {first.wait.holder}{eta}"
    if first.wait.code == "C":
        return f"`{first.row}` waits for {first.wait.on}, which is down"
    if first.wait.parked:
        return f"`{first.row}` is parked: {first.wait.on}"
    if first.wait.is_reason:
        return f"`{first.row}` waits, as {first.wait.on}"
    return f"`{first.row}` waits for {first.wait.on}"


def _why_held(process: Process, held: Hold) -> str:
    return f"it is {held.why}" if held.of == process.name else f"it is held with `{held.of}`, which is {held.why}"


def _moves(process: Process, name: str, calls: tuple[CallInfo, ...]) -> tuple[str, ...]:
    if process.held is not None and process.exit is None:
        return (f"`aios resume {process.held.of}`",)
    codes = {call.wait.code for call in calls if call.wait is not None}
    moves = []
    if "S" in codes and is_above(process.most_cls, process.cls):
        moves.append(f"a higher class than {process.cls}: `aios nice {name} {process.most_cls}`")
    for call in calls:
        if call.frozen and call.wait is not None:
            moves.append(f"the end of what has its slot: {call.wait.holder or 'nothing'}")
    if "S" in codes:
        moves.append("a free slot: end what holds one (`aios kill NAME`), or add a core")
    if "C" in codes:
        moves.append("the core coming up again: `aios models` shows why it is down")
    if "R" in codes:
        moves.append(f"the next minute, or a higher rate of {_holders(calls, 'R')}")
    if "W" in codes:
        moves.append(f"{_holders(calls, 'W')}: its end, or its reply")
    if "L" in codes:
        moves.append(f"{_holders(calls, 'L')} releasing its lease, or not renewing it")
    if "M" in codes:
        heard = dict.fromkeys(call.wait.on for call in calls if call.wait is not None and call.wait.code == "M")
        moves.append(f"{' or '.join(heard)}, when it comes")
    return tuple(moves)


def _holders(calls: tuple[CallInfo, ...], code: Code) -> str:
    """Who holds what the calls wait for."""
    holders = dict.fromkeys(call.wait.holder for call in calls if call.wait is not None and call.wait.code == code)
    return " or ".join(f"`{holder}`" for holder in holders)
