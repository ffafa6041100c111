"""`aios kill`: end processes."""

from __future__ import annotations

import click

from aios.cli.command import Command, yes
from aios.cli.select import selector
from aios.cli.steering import steer


@click.command(cls=Command)
@click.argument("processes", metavar="[PID|NAME]...", nargs=-1)
@click.option("--stop", is_flag=True, help="Ask them to end, so that they may clean up.")
@selector
@yes
@click.option("-n", "--dry-run", is_flag=True, help="Show which, and do nothing.")
def kill(processes: tuple[str, ...], stop: bool, query: str | None, yes: bool, dry_run: bool) -> None:
    """End agents.

    Their calls end at once and give their turns back. Shows which ones, and asks.
    """
    steer(processes, query, "stop" if stop else "kill", yes, dry_run, lambda process: True)
