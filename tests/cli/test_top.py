"""`aios top` without a terminal: a real kernel, the real screen, keys as a person presses them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from click.testing import CliRunner
from textual.widgets import DataTable, Input, Static

from aios.abi.llm import Generate
from aios.abi.process import List
from aios.cli.group import aios
from aios.cli.live import Live, Question
from aios.sdk.client import Client
from aios.server.doors import doors_to
from aios.server.http import HttpServer, ServerConfig
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import RunningKernel, kernel_for_tests

pytestmark = [pytest.mark.real, pytest.mark.slow]


async def ask(gate: Any) -> None:
    await gate.call(Generate(prompt="x"))


class Seen:
    """The screen, as a person sees it."""

    def __init__(self, app: Live, pilot: Any, k: RunningKernel) -> None:
        self.app, self.pilot, self.k = app, pilot, k

    def rows(self) -> list[tuple[str, ...]]:
        table = self.app.query_one("#agents", DataTable)
        return [tuple(str(cell) for cell in table.get_row_at(number)) for number in range(table.row_count)]

    def said(self) -> str:
        return str(self.app.query_one("#said", Static).content)

    def lanes(self) -> str:
        return str(self.app.query_one("#lanes", Static).content)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await self.pilot.pause(0.02)


@asynccontextmanager
async def top(agents: int = 3, agent: str = "ask") -> AsyncIterator[Seen]:
    """The screen of a kernel whose agents wait for a core of one slot."""
    core = ScriptedCore(Script(hang=True), slots=1)
    async with kernel_for_tests([core], {"ask": ask}) as k:
        server = HttpServer(k.kernel, doors_to(k.kernel), ServerConfig(port=0))
        await server.start()
        for _ in range(agents):
            await k.spawn("ask", agent=agent, cls="standard")
        app = Live(Client(server.url, k.kernel.tokens.new_operator()))
        async with app.run_test(size=(110, 30)) as pilot:
            seen = Seen(app, pilot, k)
            await seen.until(lambda: len(seen.rows()) == agents)
            yield seen
        await server.close(grace_s=1.0)


async def test_the_agents_and_the_lanes_are_shown() -> None:
    async with top() as seen:
        await seen.until(lambda: "waiting 2 standard" in seen.lanes())
        assert "cores  elas         running 1 of 1" in seen.lanes() and "3 agents" in seen.lanes()
        await seen.until(lambda: sorted(row[2] for row in seen.rows()) == ["○ queued", "○ queued", "● running"])
        assert {row[1] for row in seen.rows()} == {"standard"} and "scripted" in str(seen.rows())


async def test_keys_move_tell_why_and_change_the_class() -> None:
    async with top() as seen:
        names = [row[0] for row in seen.rows()]
        await seen.pilot.press("j", "j", "w")
        await seen.until(lambda: names[2] in seen.said())
        assert "would move it" in seen.said()
        await seen.pilot.press("minus")
        await seen.until(lambda: f"`aios nice {names[2]} batch`" in seen.said())
        assert [row[1] for row in seen.rows()] == ["standard", "standard", "batch"]
        await seen.pilot.press("k", "k", "plus")
        await seen.until(lambda: seen.rows()[0][1] == "interactive")


async def test_an_agent_is_suspended_resumed_and_killed_after_a_question() -> None:
    async with top() as seen:
        first = seen.rows()[0][0]
        await seen.pilot.press("s")
        await seen.until(lambda: "suspended" in seen.rows()[0][2])
        await seen.pilot.press("r")
        await seen.until(lambda: "suspended" not in seen.rows()[0][2] and f"`aios resume {first}`" in seen.said())
        await seen.pilot.press("K")
        await seen.until(lambda: isinstance(seen.app.screen, Question))
        await seen.pilot.press("n")
        await seen.until(lambda: not isinstance(seen.app.screen, Question))
        assert len((await seen.k.operator.call(List(ended=False))).processes) == 3
        await seen.pilot.press("K", "y")
        await seen.until(lambda: len(seen.rows()) == 2)
        assert first not in str(seen.rows())


async def test_a_filter_shows_some_and_says_what_it_does_not_understand() -> None:
    async with top() as seen:
        last = seen.rows()[-1][0]
        await seen.pilot.press("slash", *last.replace("-", "|").replace("|", "-"), "enter")
        await seen.until(lambda: [row[0] for row in seen.rows()] == [last])
        assert "1 of 3 agents" in seen.lanes()
        await seen.pilot.press("escape")
        await seen.until(lambda: len(seen.rows()) == 3)
        await seen.pilot.press("slash")
        seen.app.query_one("#filter", Input).value = "stat:waiting"
        await seen.pilot.press("enter")
        await seen.until(lambda: "no term of a selector" in seen.said())
        assert len(seen.rows()) == 3


async def test_what_an_agent_calls_itself_is_text_and_no_markup() -> None:
    async with top(agents=1) as seen:
        waits = seen.rows()[0][-1]
        assert isinstance(waits, str)
        seen.app._put("x", ("[red]name[/] \x1b[2J", *seen.rows()[0][1:]))
        assert seen.rows()[-1][0].startswith("[red]name[/]") and "\x1b" not in seen.rows()[-1][0]


async def test_a_kernel_that_went_away_is_said_and_the_screen_stays() -> None:
    app = Live(Client("http://127.0.0.1:9", "token"))
    async with app.run_test() as pilot:
        seen = Seen(app, pilot, None)  # type: ignore[arg-type]
        await seen.until(lambda: "no kernel answers" in seen.said())
        await pilot.press("w", "s", "K", "plus")
        assert app.is_running


def test_without_textual_the_line_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.delitem(sys.modules, "aios.cli.live")
    result = CliRunner().invoke(aios, ["top"])
    assert result.exit_code == 1 and "pip install 'aios[top]'" in result.output


def test_nothing_is_drawn_where_nobody_looks() -> None:
    result = CliRunner().invoke(aios, ["top"])
    assert (result.exit_code, result.stdout) == (2, "") and "`aios ps`" in result.stderr
