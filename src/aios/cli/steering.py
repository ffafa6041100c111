"""What `kill`, `suspend`, `resume` and `nice` share: which processes are meant, showing them, asking, telling what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from aios.abi.errors import AiosError
from aios.abi.process import ProcessInfo, Signal, SignalProcess
from aios.cli.command import PARTLY_FAILED, agreed
from aios.cli.ps import HEADERS, cells
from aios.cli.select import every_process, matching, named
from aios.cli.show import say, table
from aios.sdk.client import Client

DONE: dict[Signal, str] = {"stop": "asked to stop", "kill": "killed", "suspend": "suspended", "resume": "resumed"}


def steer(
    texts: tuple[str, ...], query: str | None, verb: Signal, yes: bool, dry_run: bool, concerns: Callable[[ProcessInfo], bool]
) -> None:
    """Signal the processes that are meant, after the person has agreed.

    `concerns`: which of those that a selector matches. Raises what was said against the only one, or click's `Exit`.
    """
    if not texts and query is None:
        raise click.UsageError("say which: a pid, a name, or -q SELECTOR")
    with Client() as kernel:
        found = chosen(kernel, texts, query, concerns)
        if not found:
            say(f"nothing that {'is suspended' if verb == 'resume' else 'runs'} matches `{query}`")
            return
        living = [process for process in found if process.state != "ended"]
        for process in found:
            if process not in living:
                say(f"{process.name}: has ended already")
        if not living:
            return
        table(HEADERS, map(cells, living))
        if dry_run or not agreed(f"{verb.capitalize()} {'it' if len(living) == 1 else f'these {len(living)}'}?", yes):
            return
        each(living, lambda process: kernel.call(SignalProcess(pid=process.pid, signal=verb)), DONE[verb])


def each(found: Sequence[ProcessInfo], act: Callable[[ProcessInfo], object], done: str) -> None:
    """Do it to each of them, and tell. Raises what was said against the only one, or click's `Exit`."""
    failures = [failure for process in found if (failure := one(process, act, done))]
    if len(failures) == 1 == len(found):
        raise failures[0]
    if failures:
        raise click.exceptions.Exit(PARTLY_FAILED if len(failures) < len(found) else failures[0].exit_code)


def chosen(
    kernel: Client, texts: tuple[str, ...], query: str | None, concerns: Callable[[ProcessInfo], bool]
) -> list[ProcessInfo]:
    """The processes that are meant, each once: by name also those that have ended, by selector live agents."""
    everything = every_process(kernel)
    found = {process.pid: process for process in (named(everything, text) for text in texts)}
    if query is not None:
        live = [process for process in everything if process.state != "ended" and process.kind == "agent" and concerns(process)]
        found |= {process.pid: process for process in matching(live, query)}
    return list(found.values())


def one(process: ProcessInfo, act: Callable[[ProcessInfo], object], done: str) -> AiosError | None:
    """Do it to one process; what was said against it, which is also shown."""
    try:
        act(process)
    except AiosError as error:
        say(f"{process.name}: {error.message}")
        return error
    say(f"{process.name}: {done}")
    return None
