"""Who waits for whom: the graph of waits between processes, and the calls that would close a ring in it.

The graph is not kept beside the calls: it is the calls. An open call that waits for processes says which (`Call.holders`), as
long as it does; so an edge comes and goes with its call, however that ends.

A call that would close a ring is refused, and it alone: the others go on waiting, and who was refused can still serve them. A
process that has any other call open (a timer, a model, its mailbox) may come to serve by that one, so no ring goes through it.
Nor through a session: behind one name there are as many clients as use its token. A lease that passes on closes no ring by
itself, because who gets it goes on, and its next call is looked at.
"""

from __future__ import annotations

from aios.abi.errors import Deadlock, QueueFull
from aios.kernel.process import Call, Process, kin

MOST_EDGES = 20_000
"""Waits that are looked at for one call, which takes 3 ms."""
ANOTHER = "another"
"""The name of a process that the caller may not know of."""


def refuse_ring(call: Call, holder: Process) -> None:
    """Raise `Deadlock` if the process that a call is about to wait for waits for the call's own."""
    ring = find_ring(call, holder)
    if ring:
        raise Deadlock(f"this would wait for ever: {_told(ring, call.process)}")


def find_ring(call: Call, holder: Process) -> list[Call]:
    """The waits that lead from what the call is about to wait for back to its own process, itself first; or none."""
    start = call.process
    if not _only_waits(start, but=call):
        return []
    came: dict[Process, Call] = {}
    left = [(call, holder)]
    seen = 0
    while left:
        waits, process = left.pop()
        seen += 1
        if seen > MOST_EDGES:
            raise QueueFull(f"more than {MOST_EDGES} waits hang together here: try again later", retry_after_s=10.0)
        if process in came:
            continue
        came[process] = waits
        if process is start:
            return _way_back(call, came)
        if process.calls and _only_waits(process):
            left += [(each, holder) for each in process.calls.values() if each.holders for holder in each.holders()]
    return []


def _only_waits(process: Process, but: Call | None = None) -> bool:
    """Whether nothing but the end of a wait for other processes can move it (the call `but` aside)."""
    if process.kind != "agent" or process.exit is not None:
        return False
    return all(call is but or _holds_still(call) for call in process.calls.values())


def _holds_still(call: Call) -> bool:
    return call.holders is not None and not call.ending and bool(call.holders())


def _way_back(call: Call, came: dict[Process, Call]) -> list[Call]:
    ring = [came[call.process]]
    while ring[-1] is not call:
        ring.append(came[ring[-1].process])
    return ring[::-1]


def _told(ring: list[Call], caller: Process) -> str:
    """A ring in words."""
    names = [_name_for(caller, call.process) for call in ring]
    if len(ring) > 1 and ring[0].row.name != "lease.acquire":
        names[1] = ring[1].process.name  # whom the caller itself named
    links = zip(names, ring, [*names[1:], names[0]], strict=True)
    return ", ".join(f"`{name}` {_verbs[call.row.name]} `{holder}`" for name, call, holder in links)


_verbs = {
    "process.wait": "waits for the end of",
    "mail.request": "waits for a reply of",
    "lease.acquire": "waits for a lease of",
}


def _name_for(caller: Process, process: Process) -> str:
    return process.name if kin(caller, process) or caller.operator else ANOTHER
