"""The core lane, live: who has a slot, who waits by class. On a terminal a panel that changes; elsewhere nothing but lines."""

from __future__ import annotations

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aios.abi.event import AnyEvent, CallEnded, CallSettled, Dispatched, Preempted
from aios.cli.show import COLOURS, one_line

SLOTS = 4


class LiveLanes:
    """Follows dispatches and ends of calls, and who stands back."""

    def __init__(self, headless: bool) -> None:
        self._running: dict[str, Dispatched] = {}
        self._waiting: dict[str, int] = {}
        self._frozen: set[str] = set()
        self._live = None if headless else Live(console=Console(), refresh_per_second=8, transient=True)

    def start(self) -> None:
        if self._live is not None:
            self._live.start()

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """A line above the panel."""
        if self._live is not None:
            self._live.console.print(Text(one_line(line)))
        else:
            click.echo(one_line(line))

    def show(self, event: AnyEvent) -> None:
        """Take an event into the picture."""
        if isinstance(event, Dispatched):
            self._running[event.call] = event
            self._waiting = event.waiting
        elif isinstance(event, Preempted):
            self._frozen ^= {event.call}
        elif isinstance(event, CallSettled) or (isinstance(event, CallEnded) and not event.heard_out):
            self._running.pop(event.call, None)
            self._frozen.discard(event.call)
        if self._live is not None:
            self._live.update(self._picture())

    def _picture(self) -> Group:
        table = Table("slot", "agent", "class", "chosen by", box=None, pad_edge=False)
        turns = list(self._running.values())
        for slot in range(max(SLOTS, len(turns))):
            if slot < len(turns):
                turn = turns[slot]
                frozen = turn.call in self._frozen
                table.add_row(
                    "❄" if frozen else "●", one_line(turn.name), Text(turn.cls, style=COLOURS.get(turn.cls, "")), turn.reason
                )
            else:
                table.add_row("·", "free", "", "")
        waiting = ", ".join(f"{count} {cls}" for cls, count in sorted(self._waiting.items())) or "nobody"
        return Group(table, Text(f"waiting: {waiting}"))
