"""`aios ps`: the agents."""

from __future__ import annotations

import click

from aios.abi.process import List, ProcessInfo, ProcessKind, ProcessList
from aios.cli.command import Command, as_json
from aios.cli.select import full_name, matching, selector
from aios.cli.show import put_json, say, since, state_of, table, wait_of
from aios.sdk.client import Client

HEADERS = ("NAME", "CLASS", "STATE", "AGE", "CALLS", "TOKENS", "STARTS", "WAITS FOR")


@click.command(cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that have ended, sessions and services.")
@selector
@as_json
def ps(everything: bool, query: str | None, as_json: bool) -> None:
    """List the agents.

    With their class, state, age, calls, tokens, how often they were started, and what they wait for.
    """
    kinds: tuple[ProcessKind, ...] = ("agent", "session") if everything else ("agent",)
    with Client() as kernel:
        found = kernel.call(List(kinds=kinds, ended=everything)).processes
    if query:
        found = tuple(matching(found, query))
    if as_json:
        put_json(ProcessList(processes=found))
    elif found:
        table(HEADERS, map(cells, found))
    else:
        say(nothing(everything, query))


def cells(process: ProcessInfo) -> tuple[str, ...]:
    """A process as a row of the table."""
    return (
        full_name(process),
        process.cls,
        state_of(process),
        since(process.started_ns, process.ended_ns),
        f"{process.calls:,}",
        f"{process.tokens:,}",
        str(1 + process.restarts),
        wait_of(process.wait),
    )


def nothing(everything: bool, query: str | None) -> str:
    """What an empty list says: the next command."""
    more = "" if everything else "; `aios ps --all` shows those that have ended"
    return f"nothing matches `{query}`{more}" if query else f"no agent runs: `aios run FILE` starts one{more}"
