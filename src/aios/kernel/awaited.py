"""Who waits for a process now, so that what it asks for may be as urgent to others as what they asked for.

An open call waits for the process that it names, by what it does (`process.wait`, `mail.request`) or because its caller says so
(`waits_for`); a process that is to begin after others waits for those. An edge lasts as long as that. Beside the graph in
`waiting.py`, which is asked for rings and has the calls alone, this one is kept at the processes that are waited for: it is asked
for each call of theirs.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from aios.abi.errors import Deadlock, NotFound
from aios.kernel.process import Call, Process, ProcessTable, kin

MOST_TOLD = 64
"""Calls that take their places anew in one turn of the loop; and processes that are looked at for them."""


@contextmanager
def awaiting(waiter: Call | Process, holders: Iterable[Process]) -> Iterator[None]:
    """In this block a call, or a process that has not begun, waits for these processes."""
    process = waiter.process if isinstance(waiter, Call) else waiter
    holders = tuple(holder for holder in holders if waiter not in holder.awaited and holder is not process)
    before = process.awaits.get(waiter, ())
    for holder in holders:
        holder.awaited[waiter] = None
    process.awaits[waiter] = before + holders
    tell(holders)
    try:
        yield
    finally:
        for holder in holders:
            holder.awaited.pop(waiter, None)
        process.awaits[waiter] = before
        if not before:
            del process.awaits[waiter]
        tell(holders)


def reached(start: Process) -> Iterator[Process]:
    """A process and those that it waits for, and those that they wait for; no more than `MOST_TOLD`."""
    seen, left = {start: None}, [start]
    while left:
        process = left.pop()
        yield process
        for holder in itertools.chain.from_iterable(process.awaits.values()):
            if holder not in seen and len(seen) < MOST_TOLD:
                seen[holder] = None
                left.append(holder)


def waited_for(call: Call, processes: ProcessTable) -> list[Process]:
    """The living processes that a call's `waits_for` names. Raises `NotFound`, and `Deadlock` for an agent that waits for it.

    A session has as many hands as there are clients that use its token: two of them may well wait for each other.
    """
    found, caller = [], call.process
    for name in call.options.waits_for:
        process = processes.named(caller, name) or processes.named(caller, name.partition("/")[0])
        if process is None or not _may_wait(caller, process, processes):
            raise NotFound(f"there is no process `{name[:80]}` that `{caller.name}` may wait for", field="waits_for")
        if process is caller or process.exit is not None:
            continue
        if caller.kind == process.kind == "agent" and caller in reached(process):
            ring = f"`{caller.name}` waits for `{process.name}`, which waits for `{caller.name}`"
            raise Deadlock(f"this would wait for ever: {ring}", field="waits_for")
        found.append(process)
    return found


def _may_wait(caller: Process, process: Process, processes: ProcessTable) -> bool:
    """Whether a process is the caller's own, of its family, or a session of the same token."""
    same_token = bool(caller.token) and caller.token == process.token
    return same_token or processes.knows(caller, process) or kin(caller, process)


def tell(processes: Iterable[Process]) -> None:
    """Who waits for these processes, or how urgently, has changed: their calls in queues take their places anew.

    The first of them do now, the others in the next turns of the loop, all for one process in one row: whoever makes many others
    wait and give up does not hold up the kernel.
    """
    for process in processes:
        if process.telling is None:
            _tell(process, _queued(process))
        else:
            process.tell_again = True


def _queued(process: Process) -> Iterator[Call]:
    return iter([call for each in reached(process) for call in each.calls.values() if call.requeue is not None])


def _tell(process: Process, calls: Iterator[Call]) -> None:
    for call in itertools.islice(calls, MOST_TOLD):
        if call.requeue is not None:
            call.requeue()
    left = next(calls, None)
    if left is not None:
        process.telling = itertools.chain((left,), calls)
    elif process.tell_again:
        process.telling, process.tell_again = _queued(process), False
    else:
        process.telling = None
        return
    asyncio.get_running_loop().call_soon(_tell, process, process.telling)
