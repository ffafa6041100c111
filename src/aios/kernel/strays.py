"""What programs tried to reach beyond the kernel: told once in a while, so that a loop of attempts is no flood of events."""

from __future__ import annotations

from aios.abi.event import Strayed
from aios.abi.lines import visible
from aios.kernel.events import EventLog
from aios.kernel.logs import Logs
from aios.kernel.process import Process
from aios.ports.clock import Clock

QUIET_S = 60.0
"""After an attempt was told, further ones at the same target are only counted."""
MOST_TARGETS = 100
"""Of one process; what comes beyond is told as one."""
MOST_CHARACTERS = 200
OTHERS = "other places"


class Strays:
    """Tells events and lines in the logs."""

    def __init__(self, clock: Clock, events: EventLog, logs: Logs) -> None:
        self._clock = clock
        self._events = events
        self._logs = logs
        self._told: dict[Process, dict[str, tuple[float, int]]] = {}

    def note(self, process: Process, target: str) -> None:
        """A program tried to reach a target (`HOST:PORT`, or whatever it sent), and was denied."""
        target = visible(target[:MOST_CHARACTERS])
        targets = self._told.setdefault(process, {})
        if target not in targets and len(targets) >= MOST_TARGETS:
            target = OTHERS
        now = self._clock.monotonic()
        last, untold = targets.get(target, (now - QUIET_S, 0))
        if now - last < QUIET_S:
            targets[target] = (last, untold + 1)
            return
        targets[target] = (now, 0)
        self._events.add(Strayed, tenant=process.tenant, pid=process.pid, name=process.name, target=target, attempts=untold + 1)
        self._logs.write(process, "err", f"aios: {process.name} tried to reach {target}: denied")

    def forget(self, process: Process) -> None:
        self._told.pop(process, None)
