"""Who waits for whom: the graph of waits between processes, and the calls that close a ring in it.

The graph is not kept beside the calls: it is the calls. An open call that waits for a process says for which (`Call.holder`), as
long as it does; so an edge comes and goes with its call, however that ends.

The call that closed a ring, the youngest in it, is refused, and it alone: the others go on waiting, and who was refused can
still serve them. But the kernel does not see the code of an agent between two calls: a parent whose children run in the
background may be about to reply to one of them. So a ring counts when none of its processes has made a call or had one answered
for 3 s. A process with any other call open (a timer, a model, its mailbox) may come to serve by that one: no ring goes through
it. Nor through a session, which has as many hands as there are clients that use its token.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from aios.abi.errors import Deadlock
from aios.abi.waits import Wait
from aios.kernel.process import Call, Process, kin

SURE_S = 3.0
"""So long must all processes of a ring have been silent."""
LOOK_S = 60.0
"""A wait without a ring is looked at again after 3, 6, 12 s and so on, at last every so often: its holder may stop serving."""
MOST_PROCESSES = 2000
"""That are looked at for one call; where more hang together, nothing is concluded."""
_numbers = itertools.count(1)
ANOTHER = "another"
"""The name of a process that the caller may not know of."""


class Edge(NamedTuple):
    """`process` waits for `holder`; `how`: the words between their names; `number` counts waits."""

    process: Process
    how: str
    holder: Process
    number: int


async def wait_for(
    call: Call, arrived: asyncio.Future[Any], holder: Callable[[], Process | None], why: Callable[[], Wait]
) -> None:
    """Wait until the future is done, which stays its owner's. Raises `Deadlock` if it never would be.

    `holder`: the process that the call waits for now; None when it is about to go on.
    """
    call.waits, call.holder, call.wait_number = why, holder, next(_numbers)
    now = asyncio.get_running_loop().time
    pause_s = SURE_S / 2
    while not arrived.done():
        ring = find_ring(call)
        quiet_s = now() - max((edge.process.last_call for edge in ring), default=0.0)
        if ring and quiet_s >= SURE_S and call.wait_number == max(edge.number for edge in ring):
            raise Deadlock(f"this would wait for ever: {_told(ring, call)}")
        pause_s = SURE_S - quiet_s if ring and quiet_s < SURE_S else min(LOOK_S, 2 * pause_s)
        await asyncio.wait((arrived,), timeout=pause_s)  # not by a cancel, in which the call would seem to end


def find_ring(call: Call) -> list[Edge]:
    """The waits that lead from the call back to its own process, its own first; or none."""
    start, first = call.process, _edge(call)
    if first is None or _edges(start) is None:
        return []
    came: dict[Process, Edge] = {}
    left = [first]
    while left and len(came) < MOST_PROCESSES:
        edge = left.pop()
        if edge.holder in came:
            continue
        came[edge.holder] = edge
        if edge.holder is start:
            return _way_back(first, came)
        left += _edges(edge.holder) or ()
    return []


def _edges(process: Process) -> list[Edge] | None:
    """For whom a process waits; None if something else may move it."""
    if process.kind != "agent" or process.exit is not None:
        return None
    if not process.begun:
        return [Edge(process, "begins after", other, 0) for other in process.after.living] if process.after is not None else []
    edges = [_edge(call) for call in process.calls.values()]
    waits = [edge for edge in edges if edge is not None]
    return waits if len(waits) == len(edges) else None


def _edge(call: Call) -> Edge | None:
    holder = call.holder() if call.holder is not None and not call.ending else None
    return Edge(call.process, _hows[call.row.name], holder, call.wait_number) if holder is not None else None


_hows = {
    "process.wait": "waits for the end of",
    "mail.request": "waits for a reply of",
    "lease.acquire": "waits for a lease of",
}


def _way_back(first: Edge, came: dict[Process, Edge]) -> list[Edge]:
    ring = [came[first.process]]
    while ring[-1] is not first:
        ring.append(came[ring[-1].process])
    return ring[::-1]


def _told(ring: list[Edge], call: Call) -> str:
    """A ring in words. The caller hears no names but of its family, and of whom it named itself."""
    caller = call.process
    known = {ring[0].holder} if call.row.name != "lease.acquire" else set()

    def name_of(process: Process) -> str:
        return process.name if process in known or kin(caller, process) else ANOTHER

    return ", ".join(f"`{name_of(edge.process)}` {edge.how} `{name_of(edge.holder)}`" for edge in ring)
