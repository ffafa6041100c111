"""The `aios` command itself: which commands there are.

A command's file is imported only when that command runs, so that `aios --version` costs hardly more than Python does.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import click

from aios import __version__

INTERRUPTED = 130

COMMANDS: dict[str, tuple[tuple[str, str], ...]] = {
    "start": (
        ("demo", "Show a fleet of agents sharing one local model."),
        ("up", "Start the kernel."),
        ("down", "Stop the kernel in order."),
        ("init", "Write a commented aios.toml and a first agent here."),
        ("doctor", "Say what is missing on this machine, and how to mend it."),
        ("run", "Run an agent of a Python file, or any command."),
        ("call", "Make any system call."),
    ),
    "see": (
        ("ps", "List the agents."),
        ("top", "Show the agents live, and steer them by keys."),
        ("tree", "Show the agents as a tree: who started whom."),
        ("why", "Say why an agent waits, and what would move it."),
        ("logs", "Show what an agent printed."),
        ("events", "Show what happened."),
        ("models", "List, add, choose and remove models."),
        ("spend", "Show what was spent, and what may be."),
        ("prices", "Say what models cost, and who says so."),
        ("bench", "Measure what a kernel adds, and what its model does here."),
    ),
    "steer": (
        ("kill", "End agents."),
        ("suspend", "Hold agents."),
        ("resume", "Let agents go on that are held."),
        ("nice", "Give agents another class."),
        ("token", "Make, list and revoke tokens."),
        ("budget", "Limit what an account may spend, or list the limits."),
    ),
    "know": (("prove", "Prove what AIOS promises, on this machine."),),
}
"""The commands by what they are for, each with its sentence. Command `x` is the function `x` of `aios.cli.x`."""

SENTENCES = {name: sentence for commands in COMMANDS.values() for name, sentence in commands}


def lazily(place: str) -> Any:
    """What stands at `module:name`, imported now and not when this file is."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class Interrupted(click.ClickException):
    """Ctrl-C."""

    exit_code = INTERRUPTED

    def __init__(self) -> None:
        super().__init__("interrupted")

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo("aios: interrupted", err=True)


class Commands(click.Group):
    """The group that loads its commands by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SENTENCES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SENTENCES:
            return None
        command = lazily(f"aios.cli.{cmd_name}:{cmd_name}")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in SENTENCES:
            raise click.exceptions.NoSuchCommand(args[0], possibilities=SENTENCES, ctx=ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            raise Interrupted from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl(commands)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="aios %(version)s")
def aios() -> None:
    """AIOS, an operating system for LLM agents."""


def main() -> None:
    """Run the command line. Never ends in a traceback: a bug of ours is one line and the path of a file with the rest."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = report_bug
    aios(prog_name="aios")


def report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write the trace to a file and one line to the person."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return
    text = "".join(traceback.format_exception(kind, error, trace))
    path = Path(os.environ.get("AIOS_HOME") or "~/.local/share/aios").expanduser() / "logs" / f"cli-{time.time_ns()}.log"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(text)
    except OSError:
        sys.stderr.write(f"aios: a bug of ours: {kind.__name__} (and its trace cannot be written to {path.parent})\n")
    else:
        sys.stderr.write(f"aios: a bug of ours: {kind.__name__}; please report it with {path}\n")
