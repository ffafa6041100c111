"""How a call stands back in the midst of its work on a core, and how that is told."""

from __future__ import annotations

from typing import Literal

from aios.abi.event import Preempted
from aios.abi.request import Class
from aios.kernel.events import EventLog
from aios.kernel.lanes.lane import Lane, Turn
from aios.kernel.process import Call
from aios.ports.clock import Clock
from aios.ports.core import PreemptibleCore


class StandingBack:
    """One call on a core that can freeze it. Its caller sees nothing of it but the time that it takes; its deadline goes on."""

    def __init__(self, call: Call, id: str, core: PreemptibleCore, lane: Lane, clock: Clock, events: EventLog) -> None:
        self._call = call
        self._id = id
        self._core = core
        self._lane = lane
        self._clock = clock
        self._events = events

    def freeze(self, by: Class | None) -> None:
        """See `Suspension`: until it goes on, it waits in its lane like one that has not begun."""
        call, turn = self._call, self._call.turn
        assert isinstance(turn, Turn)
        ticket = turn.dispatch.ticket
        self._core.freeze(self._id)
        call.ticket = ticket
        call.frozen = lambda: self._lane.why(ticket)
        call.frozen_s -= self._clock.monotonic()
        self._tell("frozen", by=by)

    def thaw(self, reason: str) -> None:
        """See `Suspension`."""
        self._call.ticket = self._call.frozen = None
        self._call.frozen_s += self._clock.monotonic()
        self._tell("resumed", reason=reason)
        self._core.thaw(self._id)

    def _tell(self, change: Literal["frozen", "resumed"], by: Class | None = None, reason: str = "") -> None:
        call, process = self._call, self._call.process
        self._events.add(
            Preempted, tenant=process.tenant, call=call.id, pid=process.pid, name=process.name, cls=call.cls, core=call.core,
            change=change, by=by, reason=reason, tokens=call.said_tokens,
        )  # fmt: skip
