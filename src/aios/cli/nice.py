"""`aios nice`: give processes another class."""

from __future__ import annotations

from typing import cast

import click

from aios.abi.process import Renice
from aios.abi.request import CLASSES, Class
from aios.cli.command import Command
from aios.cli.ps import HEADERS, cells
from aios.cli.select import selector
from aios.cli.show import say, table
from aios.cli.steering import chosen, each
from aios.sdk.client import Client


@click.command(cls=Command)
@click.argument("processes", metavar="[PID|NAME]...", nargs=-1)
@click.argument("cls", metavar="CLASS", type=click.Choice(CLASSES))
@selector
@click.option("-n", "--dry-run", is_flag=True, help="Show which, and do nothing.")
def nice(processes: tuple[str, ...], cls: str, query: str | None, dry_run: bool) -> None:
    """Give agents another class.

    The class is one of interactive, standard, batch, idle. Calls that wait are of it at once. A lower class is the descendants'
    too; a higher one is that one agent's, and never above what the token that it all began with may have.
    """
    if not processes and query is None:
        raise click.UsageError("say which: a pid, a name, or -q SELECTOR")
    wanted = cast(Class, cls)
    with Client() as kernel:
        found = chosen(kernel, processes, query, lambda process: process.cls != wanted)
        if not found:
            say(f"nothing that is not {cls} already matches `{query}`")
        elif dry_run:
            table(HEADERS, map(cells, found))
        else:
            each(found, lambda process: kernel.call(Renice(pid=process.pid, cls=wanted)), cls)
