"""Processes that are held: by a person, a parent, or by the kernel after repeated crashes."""

from __future__ import annotations

from aios.abi.errors import Conflict, Denied
from aios.kernel.deadlines import Deadlines
from aios.kernel.process import Hold, Process, ProcessTable
from aios.ports.clock import Clock


class Holds:
    """Holds processes with their descendants, and lets them go on."""

    def __init__(self, clock: Clock, deadlines: Deadlines) -> None:
        self._clock = clock
        self._deadlines = deadlines

    def hold(self, process: Process, by: Process | None, why: str, asks: bool = False) -> list[Process]:
        """Hold a process; those that are held from now on, ancestors first. An operator's word counts more than another's.

        `asks`: an operator is to say that it may go on.
        """
        known = process.hold
        if known is not None and (by is None or not by.operator or (known.by is not None and known.by.operator)):
            return []
        process.hold = Hold(process.name, by, why, self._clock.now_ns(), asks)
        changed = self._settle(process)
        if known is not None:
            known.over.set()
        return changed

    def lift(self, process: Process, by: Process) -> list[Process]:
        """Let a process go on; those that do. Raises `Denied` to who may not, `Conflict` if it is an ancestor that is held."""
        known = process.hold
        if known is None:
            if process.held is not None:
                raise Conflict(f"`{process.name}` is held with `{process.held.of}`: resume that one")
            return []
        if not known.may_be_lifted_by(by):
            raise Denied(f"`{process.name}` is held by {known.holder}: {by.name} cannot let it go on")
        process.hold = None
        changed = self._settle(process)
        known.over.set()
        return changed

    def _settle(self, process: Process) -> list[Process]:
        """Work out anew which hold counts in a family; the processes that begin or cease to be held."""
        changed = []
        for member in ProcessTable.family(process):
            before = member.held
            above = member.parent.held if member.parent is not None else None
            member.held = member.hold or above
            if member.exit is None and (before is None) != (member.held is None):
                changed.append(member)
                self._stand_still(member) if member.held is not None else self._go_on(member)
        return changed

    def _stand_still(self, process: Process) -> None:
        for call in list(process.calls.values()):
            self._deadlines.pause(call)
            if call.queue is not None:
                call.queue.withdraw(call.ticket)

    def _go_on(self, process: Process) -> None:
        for call in process.calls.values():
            self._deadlines.go_on(call)
