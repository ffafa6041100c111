"""Which processes a person means: a pid, a name, the beginning of one, or a selector such as `state:waiting class:batch`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import click

from aios.abi.errors import Conflict, NotFound
from aios.abi.process import List, ProcessInfo
from aios.abi.system import LOCAL
from aios.abi.wire import nearest
from aios.sdk.client import Client

FIELDS: dict[str, Callable[[ProcessInfo], str]] = {
    "state": lambda process: process.state,
    "word": lambda process: process.word,
    "class": lambda process: process.cls,
    "agent": lambda process: process.agent,
    "name": lambda process: process.name,
    "kind": lambda process: process.kind,
    "tenant": lambda process: process.tenant,
    "parent": lambda process: process.parent or "",
    "outcome": lambda process: process.outcome or "",
    "wait": lambda process: process.wait.code if process.wait else "",
}
"""What a selector can ask for."""

selector = click.option(
    "-q", "query", metavar="SELECTOR", help=f"Only those that match: `state:waiting class:batch`. Fields: {', '.join(FIELDS)}."
)


def matching(processes: Iterable[ProcessInfo], query: str) -> list[ProcessInfo]:
    """The processes for which every term `field:value[,value]` holds. Raises click's `UsageError` for what is no term."""
    terms = [_term(text) for text in query.split()]
    return [process for process in processes if all(value(process) in wanted for value, wanted in terms)]


def matching_all(processes: Iterable[ProcessInfo], query: str) -> list[ProcessInfo]:
    """The same for a line that a person types into: words without a colon are parts of names. Raises `ValueError`."""
    words = query.split()
    parts = [word for word in words if ":" not in word]
    found = [process for process in processes if all(part in process.name for part in parts)]
    try:
        return matching(found, " ".join(word for word in words if ":" in word))
    except click.UsageError as wrong:
        raise ValueError(wrong.message) from None


def _term(text: str) -> tuple[Callable[[ProcessInfo], str], frozenset[str]]:
    field, colon, values = text.partition(":")
    if not colon or field not in FIELDS:
        raise click.UsageError(f"`{text}` is no term of a selector: write `field:value`{nearest(field, FIELDS)}")
    return FIELDS[field], frozenset(values.split(","))


def named(processes: Sequence[ProcessInfo], text: str) -> ProcessInfo:
    """The process with that pid or name, or the only one whose name or pid begins so.

    Where one of several still lives, and the others have ended, it is that one.
    A process of another tenant than the operator's may be called `TENANT/NAME`. Raises `NotFound` with the nearest name,
    `Conflict` if more than one is meant.
    """
    exact = [process for process in processes if text in names_of(process)]
    if len(exact) == 1:
        return exact[0]
    begins = [process for process in processes if any(name.startswith(text) for name in names_of(process))] if text else []
    found = exact or begins
    living = [process for process in found if process.outcome is None]
    if len(living) == 1:
        found = living
    if len(found) == 1:
        return found[0]
    if found:
        name_of = (lambda process: f"{process.tenant}/{process.name}") if exact else full_name
        some = ", ".join(f"`{name_of(process)}`" for process in found[:5])
        what = "names" if exact else "is the beginning of"
        raise Conflict(f"`{text}` {what} {len(found)}: {some}{', …' if len(found) > 5 else ''}")
    near = nearest(text, [full_name(process) for process in processes])
    raise NotFound(f"there is no process `{text}`: `aios ps --all` lists them{near}")


def names_of(process: ProcessInfo) -> tuple[str, str, str]:
    """What a process may be called by."""
    return process.pid, process.name, f"{process.tenant}/{process.name}"


def full_name(process: ProcessInfo) -> str:
    """A process's name, with its tenant if that is not the operator's."""
    return process.name if process.tenant == LOCAL else f"{process.tenant}/{process.name}"


def every_process(kernel: Client) -> tuple[ProcessInfo, ...]:
    """All processes that the operator may see, also those that have ended."""
    return kernel.call(List(kinds=("agent", "session"))).processes


def find(kernel: Client, text: str) -> ProcessInfo:
    """The process that a person means by a pid, a name, or its beginning. Raises what `named` does."""
    return named(every_process(kernel), text)
