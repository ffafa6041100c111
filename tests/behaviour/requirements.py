"""What the kernel promises to whoever calls it: one row each, with where it stands written.

Each row has a scenario in this folder, which runs over every transport, and each scenario says which rows it proves;
`test_requirements.py` holds both directions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import pytest

from aios.testing.transports import TRANSPORTS

F = TypeVar("F", bound=Callable[..., Any])


class Requirement(NamedTuple):
    """`id`: `row NAME` for rows of the table. `source`: chapter and words, or line of the issue."""

    id: str
    sentence: str
    source: str


CALLS = "chapter 10, calls"
PATH = "chapter 10, the call path"
ERRORS = "chapter 10, errors"
WAITS = "chapter 10, waits"
LANES = "chapter 20, lanes"
MAP = "chapter 00, invariants"
SPINE = "issue 3"

REQUIREMENTS = (
    Requirement("row llm.generate", "A question to a model is answered by a completion.", f"{CALLS}: llm.generate"),
    Requirement("row llm.score", "A model says how likely given continuations are.", f"{CALLS}: llm.score"),
    Requirement("row llm.embed", "Texts become vectors, the nearer the more alike.", f"{CALLS}: llm.embed"),
    Requirement("row llm.count", "Tokens are counted by the model's own tokenizer.", f"{CALLS}: llm.count"),
    Requirement("row llm.models", "A process hears which models it may use.", f"{CALLS}: models: what this process may use"),
    Requirement("row process.spawn", "An agent is started as a child of the caller.", f"{CALLS}: process.spawn"),
    Requirement("row process.wait", "Who waits for a process hears how it ended.", f"{CALLS}: process.wait"),
    Requirement("row process.signal", "A process is stopped or killed.", f"{CALLS}: process.signal"),
    Requirement("row process.renice", "A process and its waiting calls are of another class.", "issue 5: aios nice"),
    Requirement("row process.list", "A process lists itself and its descendants.", f"{CALLS}: process.list"),
    Requirement("row process.self", "A process hears what the kernel knows of it.", f"{CALLS}: process.self"),
    Requirement("row process.explain", "Why a process waits is answered from its waiting state.", f"{WAITS}: explain(pid)"),
    Requirement("row process.logs", "What a process printed is read after a cursor.", f"{CALLS}: process.logs"),
    Requirement("row mail.send", "What is sent to a process lies in its mailbox.", f"{CALLS}: mail.send"),
    Requirement("row mail.receive", "A process takes its mail, oldest first, and waits for it.", f"{CALLS}: mail.receive"),
    Requirement("row mail.request", "Who asks by mail waits for the reply.", f"{CALLS}: mail.request"),
    Requirement("row mail.reply", "A reply reaches who asked.", f"{CALLS}: mail.reply"),
    Requirement("row board.put", "A value is put on a board under a key.", f"{CALLS}: board.put, versioned values"),
    Requirement("row board.get", "What stands on a board is read.", f"{CALLS}: board.get"),
    Requirement("row board.list", "What stands on a board is listed.", f"{CALLS}: board.list"),
    Requirement("row board.watch", "Who watches a board hears of what is put on it.", f"{CALLS}: board.watch"),
    Requirement("row lease.acquire", "A lease is held by one process at a time, in order.", f"{CALLS}: lease.acquire"),
    Requirement("row lease.renew", "Who holds a lease may hold it for longer.", f"{CALLS}: lease.renew"),
    Requirement("row lease.release", "A lease that is given back passes on.", f"{CALLS}: lease.release"),
    Requirement("row tool.register", "An agent tells of functions of its own.", f"{CALLS}: tool.register"),
    Requirement("row tool.list", "An agent's own functions are listed.", f"{CALLS}: tool.list"),
    Requirement("row tool.execute", "The kernel has an agent's own child run its function.", f"{CALLS}: tool.execute"),
    Requirement("tool arguments", "A tool's arguments are checked before it runs.", "chapter 60: schema check of the arguments"),
    Requirement("tool once", "A tool that was begun and whose end nobody knows is not run again.", "chapter 10, repeat: `once`"),
    Requirement("tool bounds", "Tools are bounded in number, size and time.", "chapter 60: with timeout and cancel"),
    Requirement("row event.read", "Events are read after a cursor and waited for.", f"{CALLS}: event.read (after a cursor)"),
    Requirement("row core.list", "The cores are listed with their load.", f"{CALLS}: core.list"),
    Requirement("row account.show", "A process sees what it has spent, and what may be spent.", f"{CALLS}: account.show"),
    Requirement("row account.limit", "A limit that is set holds for all that is below it.", f"{CALLS}: account.limit"),
    Requirement("row account.prices", "A process sees what its models cost.", f"{CALLS}: account.prices"),
    Requirement("row lane.list", "The lanes are listed with their policies.", f"{LANES}: a policy, chosen by name, per lane"),
    Requirement("row lane.use", "Another policy decides, and nobody who waits is lost.", f"{LANES}: changed at run time"),
    Requirement("row token.add", "A token is made and its value told once.", f"{CALLS}: token.add"),
    Requirement("row token.list", "Tokens are listed without their values.", f"{CALLS}: token.list"),
    Requirement("row token.revoke", "A revoked token is worthless at once.", f"{CALLS}: token.revoke"),
    Requirement("row kernel.statistics", "The kernel tells its figures.", f"{SPINE}: event stream, statistics"),
    Requirement("row kernel.drain", "A draining kernel lets running calls end and takes no new ones.", f"{CALLS}: kernel.drain"),
    Requirement("row clock.now", "The time is told.", f"{CALLS}: clock.now"),
    Requirement("row clock.sleep", "A process waits for a time.", f"{CALLS}: clock.sleep"),
    Requirement("row random.bytes", "Random bytes are drawn.", f"{CALLS}: random.bytes"),
    Requirement("stream", "A stream yields typed events, and a call is the drained stream.", "chapter 10, a row: `call` is the"),
    Requirement("stream queued", "A stream that waits says so before it starts.", "chapter 20, admission: queue instead of 429"),
    Requirement("stream closed", "Closing a stream ends its call and frees its slot.", f"{SPINE}: a client that goes away frees"),
    Requirement("cancel", "A caller that gives up gives its turn back.", f"{PATH}: the turn is always given back"),
    Requirement("deadline", "A call ends at its deadline, waiting or acting.", f"{PATH}: the deadline becomes a cancel scope"),
    Requirement("bug", "A handler that raises ends its own call with a typed error and nothing else.", f"{SPINE}: a handler"),
    Requirement("denied", "Nobody does what they were not granted.", f"{MAP}: no process names what it was not granted"),
    Requirement("foreign", "A process of others does not exist.", f"{MAP}: nothing of another's is told"),
    Requirement("subset", "No child has more than its parent.", f"{MAP}: no child has more than its parent"),
    Requirement("class", "A class may be lowered for a call, and never raised.", "chapter 10: options may lower, never raise"),
    Requirement("order", "The higher class is served first.", f"{LANES}: `priority`"),
    Requirement("key", "A call with a key happens once.", f"{PATH}: recorded?"),
    Requirement("key conflict", "Another request under a used key is refused.", f"{PATH}: check the digest"),
    Requirement("queue full", "A full queue is refused with the time to come back.", f"{SPINE}: refused with Retry-After"),
    Requirement("unknown model", "An unknown model is named, with the nearest there is.", f"{SPINE}: unknown model: says which"),
    Requirement("no core", "What no core can do is refused with the list of those that can.", f"{SPINE}: `NoCore` with the list"),
    Requirement("core down", "Who waits for a core that stays down is told.", f"{SPINE}: core down: says which and what to do"),
    Requirement("core back", "A call whose core dies before its first word goes on elsewhere.", f"{SPINE}: no call is lost"),
    Requirement("core dies", "A call whose core dies in mid-sentence is never silently retried.", f"{PATH}: never retried"),
    Requirement("mail once", "Mail that is sent under one key is one mail.", f"{CALLS}: exactly once in effect"),
    Requirement("mail reach", "Nobody writes beyond their family without a grant, or learns who is there.", f"{MAP}: granted"),
    Requirement("mail bounds", "A full mailbox is refused, and so is mail that is too large.", "issue 5: of 100 MB"),
    Requirement("mail to the dead", "Who writes to a process that has ended is told how.", "issue 5: mail to the dead"),
    Requirement("mail and ends", "The end of either side ends a request.", "issue 5, bad input; chapter 00: no call hangs"),
    Requirement("deadlock", "A call that would close a ring of waits is refused, with the ring in words.", "issue 5: deadlock"),
    Requirement("label mail", "What a process receives or reads gives it its label.", "chapter 10: label stands in every"),
    Requirement("board conflict", "A put that expects another version or type is refused.", "issue 5: board conflicts"),
    Requirement("fenced", "A lease that was lost is of no use to who had it.", "issue 5: leases with fencing tokens"),
    Requirement("lease and ends", "What a process holds passes on when it ends.", "chapter 10, waits: `L`, holder"),
    Requirement("bad range", "A value out of its range is invalid and its field is named.", f"{ERRORS}: `Invalid` with the path"),
    Requirement("slow reader", "A reader that does not read holds no slot.", f"{PATH}: a slow reader fills 1 MB and then waits"),
    Requirement("crash", "An agent whose host dies begins again as the same process.", f"{SPINE}: same pid and arguments"),
    Requirement("kill", "A killed agent's slot is free at once.", f"{SPINE}: its slot is free at once"),
    Requirement(
        "preemption",
        "On a core that can freeze calls an urgent call has its turn at once, and who stood back loses nothing.",
        "chapter 20, preemption: at a token boundary, across classes; resumes exactly",
    ),
    Requirement("rate", "A call beyond a rate waits for the next minute, or hears when to come.", "chapter 20: rate limits"),
    Requirement(
        "tag", "A call is of the accounts of its model, its provider and its job, too.", "chapter 20, the ledger"
    ),
    Requirement("tool rate", "A tool has a rate, and so many calls at once, as a model has.", "chapter 20: rate limits"),
    Requirement("runaway", "Who goes round in circles is suspended, and an operator asked.", "chapter 20: runaway guard"),
    Requirement("suspend", "A suspended agent makes no call until it is resumed.", "chapter 30: signals suspend, resume"),
    Requirement("after", "A process begins after others, with the results of those that ended well.", "chapter 80: `after=`"),
    Requirement("restart", "An agent is started again at most three times.", f"{SPINE}: at most 3 times"),
)  # fmt: skip

PROVEN: dict[str, str] = {}
"""Requirement → the scenario that proves it."""


def proves(*ids: str) -> Callable[[F], F]:
    """Marks a scenario, which gets the name of each transport as its argument."""

    def mark(scenario: F) -> F:
        for id in ids:
            assert id not in PROVEN, f"`{id}` is proved by {PROVEN[id]} already"
            PROVEN[id] = scenario.__name__
        marked: F = pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda name: name.replace(" ", "-"))(scenario)
        return marked

    return mark
