"""`aios suspend`: hold processes."""

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
def suspend(processes: tuple[str, ...], query: str | None, yes: bool, dry_run: bool) -> None:
    """Hold agents.

    They and their children do not go on until they are resumed: no call of theirs begins, calls that wait for a slot give up
    their place without being lost, answers are held back, and deadlines stand still. Shows which ones, and asks.
    """
    steer(processes, query, "suspend", yes, dry_run, lambda process: process.state != "suspended")
