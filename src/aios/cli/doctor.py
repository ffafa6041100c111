"""`aios doctor`: what is missing on this machine, and how to mend it."""

from __future__ import annotations

import click

from aios.cli.checks import Check, checks
from aios.cli.command import Command, as_json
from aios.cli.show import COLOURS, one_line, put_json

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@click.command(cls=Command)
@as_json
def doctor(as_json: bool) -> None:
    """Say what is missing on this machine, and how to mend it.

    Ends with 1 if something is missing that is needed.
    """
    found = list(checks())
    if as_json:
        put_json(found)
    else:
        for check in found:
            click.echo(line_of(check))
    if any(check.state == "fail" for check in found):
        raise click.exceptions.Exit(1)


def line_of(check: Check) -> str:
    """A check as a line, and its fix as another."""
    mark = click.style(MARKS[check.state], fg=COLOURS.get(check.state))
    fix = f"\n      {'':<14}fix: {one_line(check.fix)}" if check.fix and check.state != "ok" else ""
    return f"{mark}  {check.what:<14}{one_line(check.found)}{fix}"
