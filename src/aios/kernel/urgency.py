"""What of their urgency those who wait for a process lend to its calls."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from aios.abi.request import CLASSES, NO_OPTIONS, is_above, lower
from aios.kernel.lanes.policy import Accounts, Waiter
from aios.kernel.process import Call, Process
from aios.kernel.programs import Program

MOST_LENDERS = 8
"""Of those who wait for a process, so many lend to its calls: those of the highest class, and of these who came first."""
MOST_LOOKED_AT = 64


def waiters_of(
    process: Process, accounts_of: Callable[[Process], Accounts], program_of: Callable[[Process, str], Program]
) -> tuple[Waiter, ...]:
    """Who waits for a process, and for those who wait for it, as far as that may change when its calls are served."""
    if not process.awaited:
        return ()
    found, seen, left, looks = [], {process}, [process], MOST_LOOKED_AT
    while left and looks > 0:
        for who in itertools.islice(left.pop(0).awaited, looks):
            looks -= 1
            other = who.process if isinstance(who, Call) else who
            if other is process:
                continue
            if other not in seen:
                seen.add(other)
                left.append(other)
            waiter = _lender(who, other, process, accounts_of, program_of)
            if waiter is not None:
                found.append(waiter)
    found.sort(key=lambda waiter: CLASSES.index(waiter.cls))
    return tuple(found[:MOST_LENDERS])


def _lender(
    who: Call | Process, other: Process, process: Process, accounts_of: Callable[[Process], Accounts],
    program_of: Callable[[Process, str], Program],
) -> Waiter | None:  # fmt: skip
    """What one of them lends.

    Who waits for what it began itself lends no class and no share: what its children get was decided when they were begun, and a
    child of class batch is one on purpose. Its deadline counts all the same.
    """
    options = who.options if isinstance(who, Call) else NO_OPTIONS
    deadline = who.asked + options.deadline_s if isinstance(who, Call) and options.deadline_s is not None else None
    cls, giver = who.cls, other
    if process.descends_from(other):
        cls, giver = lower(process.cls, cls), process
    if deadline is None and giver.share == process.share and not is_above(cls, process.cls):
        return None
    program = giver.program or program_of(giver, options.kind)
    return Waiter(cls, accounts_of(giver), program, options.remaining_s, deadline, other.pid, other.name)
