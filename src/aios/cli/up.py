"""`aios up`: start the kernel, here or in the background."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click

from aios.abi.account import TOP, LimitState, ShowAccounts, Window
from aios.abi.errors import Unavailable
from aios.cli.allowing import TIMED, allow, left, per_option
from aios.cli.command import Command, yes
from aios.cli.group import lazily
from aios.cli.money import Dollars
from aios.cli.running import Running, running
from aios.cli.show import say
from aios.config import Config, read_config, with_options
from aios.sdk.client import Client

START_S = 60.0
"""How long a kernel in the background may take until it answers."""
LOG_BYTES = 4096
"""Room for a sentence."""


@click.command(cls=Command)
@click.option("-d", "--detach", is_flag=True, help="Run it in the background.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="The port of the doors; 0: any that is free.")
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="F", help="The configuration file.")
@click.option("--no-local", is_flag=True, help="Without a model on this machine.")
@click.option("--budget", type=Dollars(), metavar="USD", help="What the keys of providers may spend together; 0: they are off.")
@click.option("--per", "window", type=click.Choice(TIMED), default="month", show_default=True, help="For how long, in UTC.")
@click.option(
    "--to", "places", multiple=True, metavar="ADDRESS", help="With --budget: where else of the configuration keys may go."
)
@yes
@click.option("--ready", type=int, hidden=True, help="The descriptor that is closed when the kernel answers.")
@click.option("--until", type=int, hidden=True, help="The descriptor that ends when the kernel shall.")
def up(
    detach: bool, port: int | None, file: Path | None, no_local: bool, budget: int | None, window: Window,
    places: tuple[str, ...], yes: bool, ready: int | None, until: int | None,
) -> None:  # fmt: skip
    """Start the kernel.

    Prints where it answers, and what may be spent. Keys of providers that the environment holds are off until they have a limit:
    at a terminal it asks for one, once; elsewhere, and with --yes, nothing but --budget gives them one. Ctrl-C ends the kernel in
    order, a second one at once; in the background, `aios down` does.
    """
    if places and budget is None:
        raise click.UsageError("--to says what the amount of --budget is for: give both")
    found = running()
    if found:
        say("a kernel runs already in this home: `aios down` ends it")
        if budget is not None:
            say(f"it keeps its limit: `aios budget / --usd AMOUNT{per_option(window)}` changes it, or `aios down` first")
        show(found, budget_now())
        return
    config = with_options(read_config(file), port, no_local)
    if ready is None:  # else whoever started it has asked
        allow(config, budget, window, places, yes)
    if detach:
        show(started(config, sys.argv[1:]), budget_now())
        return
    # Only here is the server needed, which takes longer to import than the other ways out of this command take in all.
    lazily("aios.cli.foreground:serve")(config, show, ready, until)


def show(found: Running, budget: LimitState | None) -> None:
    """Where a kernel answers, and in words what it may spend."""
    click.echo(f"http    {found.http}")
    click.echo(f"socket  {found.socket}")
    for line in found.keys:
        say(line)
    if budget is not None:
        say(f"budget: {left(budget)}")


def budget_now() -> LimitState | None:
    """What all may spend of the running kernel, where that is limited; the limit that leaves least."""
    with Client() as kernel:
        limits = kernel.call(ShowAccounts(account=TOP)).accounts[0].limits
    return min((limit for limit in limits if limit.unit == "money"), key=lambda limit: limit.free, default=None)


def started(config: Config, arguments: list[str], until: int | None = None) -> Running:
    """Start a kernel in a session of its own and return once it answers. Raises `Unavailable` with what it said instead.

    `until`: a descriptor at whose end it goes down; without one nobody's end is its own.
    """
    log = config.home / "logs" / "kernel.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    theirs_left = [argument for argument in arguments if argument not in ("-d", "--detach")]
    until_words = [] if until is None else ["--until", str(until)]
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as told, open(log, "ab", opener=private) as output:
        begin = output.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "aios", *theirs_left, "--ready", str(theirs), *until_words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[theirs] if until is None else [theirs, until],
            start_new_session=True,
        )
        os.close(theirs)
        with selectors.DefaultSelector() as selector:
            selector.register(told, selectors.EVENT_READ)
            if not selector.select(START_S):
                child.send_signal(signal.SIGTERM)
                raise Unavailable(f"the kernel did not answer within {START_S:.0f} s: {log} says how far it came")
    found = running()
    if found is None:
        child.wait()
        raise Unavailable(why_not(log, begin))
    return found


def private(path: str, flags: int) -> int:
    """Opens a file that only its owner may read."""
    return os.open(path, flags, 0o600)


def why_not(log: Path, begin: int) -> str:
    """The sentence that a kernel ended with: the last of its own in the log since byte `begin`."""
    lines = log.read_bytes()[begin:].decode(errors="replace").splitlines()
    said = [line.removeprefix("aios: ") for line in lines if line.startswith("aios: ")]
    if not said and shutil.disk_usage(log.parent).free < LOG_BYTES:
        return f"no space is left on the disk of {log.parent}: not even the reason could be written there"
    return said[-1] if said else f"the kernel ended before it answered: {log} says why"
