"""`aios kill`: end processes."""

from __future__ import annotations

import click

from aios.abi.errors import AiosError
from aios.abi.process import ProcessInfo, Signal, SignalProcess
from aios.cli.command import PARTLY_FAILED, Command, agreed, yes
from aios.cli.ps import HEADERS, cells
from aios.cli.select import every_process, matching, named, selector
from aios.cli.show import say, table
from aios.sdk.client import Client


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
    if not processes and query is None:
        raise click.UsageError("say which: a pid, a name, or -q SELECTOR")
    with Client() as kernel:
        found = chosen(kernel, processes, query)
        if not found:
            say(f"nothing that runs matches `{query}`")
            return
        table(HEADERS, map(cells, found))
        verb: Signal = "stop" if stop else "kill"
        if dry_run or not agreed(f"{verb.capitalize()} {'it' if len(found) == 1 else f'these {len(found)}'}?", yes):
            return
        failures = [failure for process in found if (failure := signal_one(kernel, process, verb))]
    if len(failures) == 1 == len(found):
        raise failures[0]
    if failures:
        raise click.exceptions.Exit(PARTLY_FAILED if len(failures) < len(found) else failures[0].exit_code)


def chosen(kernel: Client, texts: tuple[str, ...], query: str | None) -> list[ProcessInfo]:
    """The processes that are meant, each once: by name also one that has ended (the kernel says so), by selector live agents."""
    everything = every_process(kernel)
    found = {process.pid: process for process in (named(everything, text) for text in texts)}
    if query is not None:
        live = [process for process in everything if process.state != "ended" and process.kind == "agent"]
        found |= {process.pid: process for process in matching(live, query)}
    return list(found.values())


def signal_one(kernel: Client, process: ProcessInfo, verb: Signal) -> AiosError | None:
    """Signal one process; what was said against it, which is also shown."""
    try:
        kernel.call(SignalProcess(pid=process.pid, signal=verb))
    except AiosError as error:
        say(f"{process.name}: {error.message}")
        return error
    say(f"{process.name}: {'asked to stop' if verb == 'stop' else 'killed'}")
    return None
