"""`aios tree`: who started whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click

from aios.abi.process import List, ProcessInfo, ProcessKind, ProcessList
from aios.cli.command import Command, as_json
from aios.cli.ps import HEADERS, cells, nothing
from aios.cli.show import put_json, say, table
from aios.sdk.client import Client

BRANCH, LAST, TRUNK, NOTHING = "├─ ", "└─ ", "│  ", "   "


@click.command(cls=Command)
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that have ended, and the sessions that started them.")
@as_json
def tree(everything: bool, as_json: bool) -> None:
    """Show the agents as a tree: who started whom."""
    kinds: tuple[ProcessKind, ...] = ("agent", "session") if everything else ("agent",)
    with Client() as kernel:
        found = kernel.call(List(kinds=kinds, ended=everything)).processes
    if as_json:
        put_json(ProcessList(processes=found))
    elif found:
        table(HEADERS, ((branch + cells(process)[0], *cells(process)[1:]) for branch, process in branches(found)))
    else:
        say(nothing(everything, None))


def branches(processes: Sequence[ProcessInfo]) -> Iterator[tuple[str, ProcessInfo]]:
    """The processes in the order of the tree, each with what is drawn before its name; a root has nothing there.

    A root is a process whose parent is not among them.
    """
    shown = {process.pid for process in processes}
    children: dict[str, list[ProcessInfo]] = {}
    for process in processes:
        children.setdefault(process.parent if process.parent in shown else "", []).append(process)
    for root in children.get("", ()):
        yield "", root
        yield from _below(root, children, "")


def _below(process: ProcessInfo, children: Mapping[str, Sequence[ProcessInfo]], before: str) -> Iterator[tuple[str, ProcessInfo]]:
    below = children.get(process.pid, ())
    for number, child in enumerate(below, 1):
        last = number == len(below)
        yield before + (LAST if last else BRANCH), child
        yield from _below(child, children, before + (NOTHING if last else TRUNK))
