"""The screen of `aios top`: one view of the fleet, read once a second; a key is a system call, and its command is shown.

What agents say about themselves is text here and never markup. Only this file knows Textual, and only `aios top` loads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from aios.abi.errors import AiosError
from aios.abi.lane import LaneState, ListLanes
from aios.abi.process import Explain, List, ProcessInfo, Renice, Signal, SignalProcess
from aios.abi.request import CLASSES, Request
from aios.cli.ps import HEADERS, cells
from aios.cli.select import matching_all
from aios.cli.show import COLOURS, one_line
from aios.cli.why import sentences
from aios.sdk.client import Client

EVERY_S = 1.0
MOST_ROWS = 500
"""Agents that are shown; a filter finds the others."""
DONE: dict[Signal, str] = {"kill": "killed", "suspend": "suspended", "resume": "resumed", "stop": "asked to stop"}


class View(msgspec.Struct, frozen=True):
    """What the kernel said at one moment."""

    processes: tuple[ProcessInfo, ...]
    lanes: tuple[LaneState, ...]


class Question(ModalScreen[bool]):
    """Asks before what cannot be taken back."""

    DEFAULT_CSS = "Question { align: center middle; } Question > Static { width: auto; padding: 1 3; background: $surface; }"

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield Static(Text(f"{self._text}  y / n"))

    def on_key(self, event: events.Key) -> None:
        event.stop()
        _ = self.dismiss(event.key == "y")  # to wait for it here would be to wait for oneself


class Live(App[None]):
    """The agents, live."""

    TITLE = "aios top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #lanes { height: auto; max-height: 5; }
    #agents { height: 1fr; }
    #filter { display: none; height: 1; border: none; padding: 0; }
    #filter.shown { display: block; }
    #said { height: auto; max-height: 6; }
    """
    BINDINGS = [
        Binding("j", "move(1)", "down", show=False),
        Binding("k", "move(-1)", "up", show=False),
        Binding("slash", "filter", "filter"),
        Binding("escape", "unfilter", "all", show=False),
        Binding("w", "why", "why"),
        Binding("s", "signal('suspend')", "suspend"),
        Binding("r", "signal('resume')", "resume"),
        Binding("K", "kill", "kill"),
        Binding("plus,equals_sign", "renice(-1)", "class up", key_display="+"),
        Binding("minus", "renice(1)", "class down", key_display="-"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, kernel: Client) -> None:
        super().__init__()
        self._kernel = kernel
        self._shown: dict[str, tuple[str, ...]] = {}
        self._processes: dict[str, ProcessInfo] = {}
        self._query = ""

    def compose(self) -> ComposeResult:
        yield Static(id="lanes")
        table: DataTable[Text] = DataTable(id="agents", cursor_type="row", zebra_stripes=True)
        yield table
        yield Input(id="filter", placeholder="part of a name, or state:waiting class:batch", compact=True)
        yield Static(id="said")
        yield Footer()

    def on_mount(self) -> None:
        for header in HEADERS:
            self._table.add_column(header, key=header)
        self._table.focus()
        self.run_worker(self._watch(), name="watch")

    # --- looking

    async def _watch(self) -> None:
        """Read the fleet once a second, for as long as the screen is there."""
        while True:
            try:
                self._show(await asyncio.to_thread(self._read))
            except AiosError as error:
                self._say(error.message)
            await asyncio.sleep(EVERY_S)

    def _read(self) -> View:
        return View(self._kernel.call(List(ended=False)).processes, self._kernel.call(ListLanes()).lanes)

    def _show(self, view: View) -> None:
        self._processes = {process.pid: process for process in view.processes}
        found = self._matching(view.processes)
        self.query_one("#lanes", Static).update(Text("\n".join([*map(line_of, view.lanes), counted(found, view.processes)])))
        wanted = {process.pid: cells(process) for process in found[:MOST_ROWS]}
        for pid in self._shown.keys() - wanted.keys():
            self._table.remove_row(pid)
        for pid, row in wanted.items():
            self._put(pid, row)
        self._shown = wanted

    def _put(self, pid: str, row: tuple[str, ...]) -> None:
        """Show a row; of one that is there the cells that changed."""
        before = self._shown.get(pid)
        if before is None:
            self._table.add_row(*map(safe, row), key=pid)
            return
        for header, old, new in zip(HEADERS, before, row, strict=True):
            if old != new:
                self._table.update_cell(pid, header, safe(new), update_width=True)

    def _matching(self, processes: Sequence[ProcessInfo]) -> list[ProcessInfo]:
        try:
            return matching_all(processes, self._query)
        except ValueError as wrong:
            self._say(str(wrong))
            return list(processes)

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#agents", DataTable)

    def _say(self, text: str) -> None:
        self.query_one("#said", Static).update(Text(text))

    # --- keys

    def action_move(self, by: int) -> None:
        self._table.move_cursor(row=self._table.cursor_row + by)

    def action_filter(self) -> None:
        line = self.query_one("#filter", Input)
        line.add_class("shown")
        line.focus()

    def action_unfilter(self) -> None:
        line = self.query_one("#filter", Input)
        line.value = self._query = ""
        line.remove_class("shown")
        self._table.focus()

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        self._query = submitted.value.strip()
        self._table.focus()

    def action_why(self) -> None:
        if process := self._chosen():
            self._do(lambda: "\n".join(sentences(self._kernel.call(Explain(pid=process.pid)))))

    def action_signal(self, signal: Signal) -> None:
        if process := self._chosen():
            done = f"{process.name}: {DONE[signal]}   `aios {signal} {process.name}`"
            self._call(SignalProcess(pid=process.pid, signal=signal), done)

    async def action_kill(self) -> None:
        if process := self._chosen():

            def answered(yes: bool | None) -> None:
                if yes:
                    self._call(
                        SignalProcess(pid=process.pid, signal="kill"), f"{process.name}: killed   `aios kill {process.name}`"
                    )

            await self.push_screen(Question(f"Kill {process.name}?"), answered)

    def action_renice(self, by: int) -> None:
        if process := self._chosen():
            place = CLASSES.index(process.cls) + by
            if 0 <= place < len(CLASSES):
                cls = CLASSES[place]
                self._call(Renice(pid=process.pid, cls=cls), f"{process.name}: {cls}   `aios nice {process.name} {cls}`")

    def _chosen(self) -> ProcessInfo | None:
        """The agent under the cursor."""
        if not self._table.row_count:
            return None
        pid = self._table.coordinate_to_cell_key(self._table.cursor_coordinate).row_key.value
        return self._processes.get(pid or "")

    def _call(self, request: Request[Any], done: str) -> None:
        def act() -> str:
            self._kernel.call(request)
            return done

        self._do(act)

    def _do(self, act: Callable[[], str]) -> None:
        """Make a call beside the screen, and say what came of it."""
        self.run_worker(self._done(act), name="call")

    async def _done(self, act: Callable[[], str]) -> None:
        try:
            self._say(await asyncio.to_thread(act))
            self._show(await asyncio.to_thread(self._read))
        except AiosError as error:
            self._say(error.message)


def safe(text: str) -> Text:
    """What others wrote, as text: never markup, never control characters. A class has its colour."""
    return Text(one_line(text), style=COLOURS.get(text, ""))


def line_of(lane: LaneState) -> str:
    """A lane: its policy, its turns, and who waits."""
    waiting = ", ".join(f"{count} {cls}" for cls, count in lane.waiting.items() if count) or "none"
    return f"{lane.name:<6} {lane.policy:<11}  running {lane.running} of {lane.width}  waiting {waiting}"


def counted(found: Sequence[ProcessInfo], everything: Sequence[ProcessInfo]) -> str:
    """How many agents are shown, and of how many."""
    shown = min(len(found), MOST_ROWS)
    return f"{shown} of {len(everything)} agents" if shown < len(everything) else f"{len(everything)} agents"
