"""`aios prove`: what AIOS promises, proved on this machine, each with its control."""

from __future__ import annotations

from typing import IO

import click

from aios.cli.command import UNVERIFIED, Command
from aios.cli.hog import BARS, MEANINGS, POLICY, TAKES_MS
from aios.cli.hog import hog as measure_hog
from aios.cli.measured import put, to_file
from aios.cli.overspend import BARS as SPEND_BARS
from aios.cli.overspend import CALLERS
from aios.cli.overspend import MEANINGS as SPEND_MEANINGS
from aios.cli.overspend import overspend as measure_overspend
from aios.cli.proof import text
from aios.cli.show import table
from aios.kernel.lanes.policies import POLICIES


@click.group(invoke_without_command=True)
@click.pass_context
def prove(context: click.Context) -> None:
    """Prove what AIOS promises, on this machine.

    Each proof starts a kernel of its own, takes less than a minute, and has its control: the same without the mechanism, where it
    must fail. Ends with 8 if it does not hold. Without a name: which proofs there are.
    """
    if context.invoked_subcommand is None:
        assert isinstance(context.command, click.Group)
        found = context.command.commands
        table(("PROOF", "WHAT HOLDS"), [(name, command.get_short_help_str(120)) for name, command in found.items()])


@prove.command(cls=Command)
@to_file
@click.option("--ms", "takes_ms", type=click.IntRange(1), default=TAKES_MS, hidden=True, help="How long a call takes.")
@click.option("--policy", type=click.Choice(tuple(POLICIES)), default=POLICY, hidden=True, help="By which it is proved.")
def hog(file: IO[bytes] | None, takes_ms: int, policy: str) -> None:
    """A tenant's hundred callers do not get in another's way.

    A hundred callers of one tenant call for ever on 8 slots of 500 ms; beside them one of another takes at most twice its time
    alone, and they get all that it leaves. The control is the policy `fifo`.
    """
    found = measure_hog(takes_ms, policy)
    put(found, text(found, BARS, MEANINGS), file)
    if not found.holds:
        raise click.exceptions.Exit(UNVERIFIED)


@prove.command(cls=Command)
@to_file
@click.option("--callers", type=click.IntRange(1, 4096), default=CALLERS, hidden=True, help="How many call at once.")
def overspend(file: IO[bytes] | None, callers: int) -> None:
    """A thousand callers at once do not spend more than they may.

    They have money for 256 calls, spend nearly all of it and nothing beyond. The control charges after each call, as gateways do,
    and spends several times as much.
    """
    found = measure_overspend(callers)
    put(found, text(found, SPEND_BARS, SPEND_MEANINGS), file)
    if not found.holds:
        raise click.exceptions.Exit(UNVERIFIED)
