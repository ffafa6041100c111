"""`aios top`: the agents, live."""

from __future__ import annotations

import sys

import click

from aios.cli.command import WRONG_USAGE, Command, Said
from aios.cli.group import lazily
from aios.sdk.client import Client

INSTALL = "pip install 'aios[top]'"
MISSING = 1


@click.command(cls=Command)
def top() -> None:
    """Show the agents live, and steer them by keys.

    Once a second: the lanes with who runs and who waits, the agents with state, class, tokens and what they wait for. Keys: `j k`
    move, `/` filter, `w` why, `s` suspend, `r` resume, `K` kill, `+ -` class, `q` quit. Needs the extra `top`.
    """
    try:
        screen = lazily("aios.cli.live:Live")
    except ModuleNotFoundError as missing:
        if missing.name is None or not missing.name.startswith("textual"):
            raise
        raise Said(f"`aios top` needs Textual, which is not installed: `{INSTALL}`", MISSING) from None
    if not sys.stdout.isatty():
        raise Said("`aios top` needs a terminal: `aios ps` lists the agents once", WRONG_USAGE)
    with Client() as kernel:
        screen(kernel).run()
