"""The reference pages of the command line and of the configuration, printed from the commands and the dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_origin

import click

from aios.abi.errors import ERRORS
from aios.cli.command import PARTLY_FAILED, UNVERIFIED
from aios.cli.group import COMMANDS, INTERRUPTED, SENTENCES, aios
from aios.config import Settings, keys_of, table_of

WRITTEN = "<!-- Written by `python tools/reference.py`; change the source, not this page. -->\n"


def pages() -> dict[str, str]:
    """Name of the page → its Markdown."""
    return {"cli": cli_page(), "config": config_page()}


def cli_page() -> str:
    """Every command with its help, and what the exit codes mean."""
    parts = ["# The command line\n", WRITTEN]
    for section, commands in COMMANDS.items():
        parts.append(f"## {section}\n")
        for name, sentence in commands:
            parts.append(f"- [`aios {name}`](#aios-{name}): {sentence}")
        parts.append("")
    parts.append(exit_codes())
    with click.Context(aios, info_name="aios", **aios.context_settings) as context:
        for name in SENTENCES:
            command = aios.get_command(context, name)
            assert command is not None
            parts += described(command, context)
    return "\n".join(parts).rstrip() + "\n"


def described(command: click.Command, parent: click.Context) -> Iterator[str]:
    """A command's help, and those of the commands in it."""
    assert command.name is not None
    with click.Context(command, parent=parent, info_name=command.name, terminal_width=100) as context:
        yield f"## {context.command_path}\n" if parent.parent is None else f"### {context.command_path}\n"
        yield f"```text\n{command.get_help(context)}\n```\n"
        if isinstance(command, click.Group):
            for inner in command.commands.values():
                yield from described(inner, context)


def exit_codes() -> str:
    """The table of exit codes, from the table of errors."""
    codes: dict[int, list[str]] = {0: ["it was done"], 1: ["it failed"], 2: ["wrong usage"]}
    for name, error in ERRORS.items():
        codes.setdefault(error.exit_code, []).append(f"`{name}`")
    codes.setdefault(PARTLY_FAILED, []).append("some of several failed")
    codes.setdefault(UNVERIFIED, []).append("something is not what it should be")
    codes.setdefault(INTERRUPTED, []).append("Ctrl-C")
    lines = [f"| {code} | {', '.join(codes[code])} |" for code in sorted(codes)]
    return "\n".join(["## Exit codes\n", "| code | means |", "|---|---|", *lines, ""])


def config_page() -> str:
    """Every table of `aios.toml` with its keys, their types and defaults."""
    parts = [
        "# `aios.toml`\n",
        WRITTEN,
        "Sought in this order: `--config`, `$AIOS_CONFIG`, `aios.toml` in the current folder, `~/.config/aios/aios.toml`. "
        "The kernel's own folder is `$AIOS_HOME`, or else `~/.local/share/aios`.\n",
        *tables(Settings, ""),
    ]
    return "\n".join(parts).rstrip() + "\n"


def tables(kind: type, path: str) -> Iterator[str]:
    """A dataclass as a section, and the tables in it."""
    hints = keys_of(kind)
    below = {key: inner for key, hint in hints.items() if (inner := table_of(hint))}
    if path:
        yield f"## {path}\n"
    yield f"{inspect.getdoc(kind)}\n"
    plain = [field for field in dataclasses.fields(kind) if field.name in hints and (field.name not in below or not path)]
    if plain:
        yield "| key | type | default |\n|---|---|---|"
        for field in plain:
            yield f"| `{field.name}` | {type_in_words(hints[field.name])} | {default_of(field)} |"
        yield ""
    for key, inner in below.items():
        array = get_origin(hints[key]) is tuple
        inside = f"{path.strip('[]`')}.{key}" if path else key
        if get_origin(hints[key]) is dict:
            inside += '."NAME"'
        yield from tables(inner, f"`[[{inside}]]`" if array else f"`[{inside}]`")


WORDS: Mapping[Any, str] = {
    str: "text",
    Path: "path",
    int: "integer",
    float: "number",
    Decimal: "number",
    bool: "true or false",
    type(None): "nothing",
}


def type_in_words(hint: Any) -> str:
    """A type as somebody who writes TOML knows it."""
    if hint in WORDS:
        return WORDS[hint]
    if dataclasses.is_dataclass(hint):
        return "table"
    if isinstance(hint, types.UnionType):
        return " or ".join(type_in_words(side) for side in get_args(hint) if side is not type(None))
    if get_origin(hint) in (tuple, frozenset):
        return f"list of {type_in_words(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return "table of names"
    return ", ".join(f'`"{value}"`' for value in get_args(hint)) or str(hint)


def default_of(field: dataclasses.Field[Any]) -> str:
    """A field's default as it would be written; what depends on the machine is said to."""
    if field.default is dataclasses.MISSING:
        if field.default_factory is dataclasses.MISSING:
            return "must be given"
        return "see below" if isinstance(field.default_factory, type) else "depends on the machine"
    value = field.default
    if value is None or value == ():
        return "none"
    if isinstance(value, frozenset):
        return ", ".join(f'`"{item}"`' for item in sorted(value))
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"
