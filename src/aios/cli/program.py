"""A command line as an agent: what it asks for, and how its end is told."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence

import click

from aios.abi.errors import Invalid, NotFound
from aios.abi.manifest import Manifest
from aios.abi.process import Exit
from aios.cli.command import Said
from aios.cli.show import one_line, say

GRANTS = ("use /llm/*",)
NEVER_RAN = 126
"""The exit code of a command that could not be started, as shells have it."""
MOST_NAME = 64


def manifest_of(command: Sequence[str], agent: str | None) -> Manifest:
    """What a command asks for that is started here, once. Raises `NotFound`, or `Invalid` for what is no program."""
    found = shutil.which(command[0])
    if found is None:
        if os.path.isfile(command[0]):
            raise Invalid(f"`{command[0]}` is no program that can be run: name what runs it, or `chmod +x {command[0]}`")
        raise NotFound(f"there is no command `{command[0]}`")
    words = (os.path.abspath(found), *command[1:])
    try:
        return Manifest(agent=agent or name_of(command), command=words, folder=os.getcwd(), grants=GRANTS, restart="temporary")
    except ValueError as error:
        raise Invalid(str(error)) from None


def name_of(command: Sequence[str]) -> str:
    """What a command is called: as the first file that its words name, or as the program."""
    file = next((word for word in command[1:] if os.path.isfile(word)), command[0])
    stem = os.path.splitext(os.path.basename(file))[0]
    return re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-")[:MOST_NAME] or "program"


def end(name: str, exit: Exit) -> None:
    """End as the command did. Raises click's `Exit` with its code, `Said` if it never ran."""
    if exit.code is None:
        raise Said(f"{name}: {one_line(exit.message)}", NEVER_RAN)
    if exit.message and exit.message != f"exit {exit.code}":
        say(f"aios: {name}: {one_line(exit.message)}")
    if exit.code:
        raise click.exceptions.Exit(exit.code)
