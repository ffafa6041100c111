"""The deadlines of all calls, in one heap with one timer."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from aios.abi.errors import DeadlineExceeded
from aios.kernel.process import Call
from aios.ports.clock import Clock


class Deadlines:
    """A deadline costs a push, not a timer or a context of its own. It stands still while its call's process is held."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Call]] = []
        self._order = itertools.count()
        self._due: dict[Call, float] = {}
        self._paused: dict[Call, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Call) -> None:
        """Stop the call when its time is over, or its row's, whichever is shorter; some have no end."""
        deadline_s = call.row.deadline_s if call.options.deadline_s is None else deadline_of(call)
        if deadline_s is not None:
            self._push(call, call.asked + deadline_s)

    def _push(self, call: Call, when: float) -> None:
        self._due[call] = when
        heapq.heappush(self._heap, (when, next(self._order), call))
        if self._heap[0][2] is call:
            self._arm()

    def pause(self, call: Call) -> None:
        """Keep what is left of a call's time for later."""
        when = self._due.pop(call, None)
        if when is not None:
            self._paused[call] = when - self._clock.monotonic()

    def go_on(self, call: Call) -> None:
        """Let the time of a call run on that was paused."""
        left_s = self._paused.pop(call, None)
        if left_s is not None:
            self._push(call, self._clock.monotonic() + left_s)

    def done(self, call: Call) -> None:
        """A call has ended."""
        due = self._due
        due.pop(call, None)
        if self._paused:
            self._paused.pop(call, None)
        if len(self._heap) > 64 and len(self._heap) > 2 * len(due):
            self._heap = [entry for entry in self._heap if due.get(entry[2]) == entry[0]]  # `_counts`, without a call
            heapq.heapify(self._heap)

    def _counts(self, when: float, order: int, call: Call) -> bool:
        """Whether an entry of the heap still says when its call is due."""
        return self._due.get(call) == when

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._expire) if self._heap else None

    def _expire(self) -> None:
        now = self._clock.monotonic()
        while self._heap and (not self._counts(*self._heap[0]) or self._heap[0][0] <= now):
            entry = heapq.heappop(self._heap)
            call = entry[2]
            if self._counts(*entry):
                del self._due[call]
                call.stop(DeadlineExceeded(f"the deadline of {deadline_of(call):g} s passed while it {doing(call)}"))
        self._arm()


def deadline_of(call: Call) -> float | None:
    """Seconds that a call may take; None: as long as it likes."""
    mine, rows = call.options.deadline_s, call.row.deadline_s
    if mine is None:
        return rows
    return mine if rows is None else min(mine, rows)


def doing(call: Call) -> str:
    """What a call is at, for a sentence that goes on after "while it"."""
    wait = call.wait
    if wait is None:
        return f"ran on `{call.core}`" if call.core else "acted"
    return f"waited for {wait.on}"
