"""`aios resume`: let processes go on that are held."""

from __future__ import annotations

import click

from aios.cli.command import Command, yes
from aios.cli.select import selector
from aios.cli.steering import steer


@click.command(cls=Command)
@click.argument("processes", metavar="[PID|NAME]...", nargs=-1)
@selector
@yes
@click.option("-n", "--dry-run", is_flag=True, help="Show which, and do nothing.")
def resume(processes: tuple[str, ...], query: str | None, yes: bool, dry_run: bool) -> None:
    """Let agents go on that are held.

    That were suspended, or held after repeated crashes. Calls that gave up their place queue again. Shows which ones, and asks.
    """
    steer(processes, query, "resume", yes, dry_run, lambda process: process.state == "suspended")
