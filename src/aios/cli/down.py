"""`aios down`: stop the kernel."""

from __future__ import annotations

import os
import signal

import click

from aios.abi.errors import Draining, Unavailable
from aios.abi.system import Drain
from aios.cli.command import Command
from aios.cli.running import interrupted_after, running, wait_gone
from aios.cli.show import duration, say
from aios.sdk.client import Client, home

MARGIN_S = 5.0
"""What going down may take beyond the grace of the calls."""


@click.command(cls=Command)
@click.option(
    "--grace", type=click.FloatRange(0, 3600), default=10.0, show_default=True, metavar="S", help="Seconds for running calls."
)
def down(grace: float) -> None:
    """Stop the kernel in order.

    It takes no new calls, lets the running ones end, and goes; if it does not, it is killed.
    """
    found = running()
    if found is None:
        say(f"no kernel runs at {home()}")
        return
    try:
        with interrupted_after(MARGIN_S), Client() as kernel:
            kernel.call(Drain(grace_s=grace))
    except (Draining, Unavailable, TimeoutError):
        say("it goes down already, or does not answer")
    if wait_gone(grace + MARGIN_S):
        say("the kernel is down")
        return
    os.kill(found.os_pid, signal.SIGKILL)
    wait_gone(MARGIN_S)
    say(f"the kernel did not end within {duration(grace + MARGIN_S)} and was killed")
