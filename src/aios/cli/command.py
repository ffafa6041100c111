"""What all commands share: how they end, how they ask, and the option `--json`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import IO, Any, TypeVar

import click

from aios.abi.errors import AiosError
from aios.abi.lines import visible

T = TypeVar("T")

FAILED = 1
WRONG_USAGE = 2
PARTLY_FAILED = 7
UNVERIFIED = 8


class Said(click.ClickException):
    """What went wrong, as one sentence that says what to do, and the exit code of its kind."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click takes the instance's

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"aios: {visible(self.message)}", err=True)


class Ended(click.ClickException):
    """An error of the contract as a person sees it: what went wrong, what to do, and the exit code of its kind."""

    def __init__(self, error: AiosError) -> None:
        super().__init__(error.message)
        self.exit_code = error.exit_code  # type: ignore[misc]  # click takes the instance's
        self._way_out = error.way_out

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"aios: {visible(self.message)}", err=True)
        if "`aios " not in self.message and self._way_out != AiosError.way_out:
            click.echo(f"      {self._way_out}", err=True)


class Command(click.Command):
    """A command whose errors end it as the table of errors says, and never in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AiosError as error:
            raise Ended(error) from None


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, the same as over HTTP.")
yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def agreed(question: str, yes: bool) -> bool:
    """Whether the person agrees. Where nobody can be asked, that is wrong usage, and says so."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to answer: add --yes")
    return click.confirm(question, err=True)


def valid(make: Callable[[], T]) -> T:
    """A request made of what a person wrote. Raises `click.UsageError` with what is wrong with it."""
    try:
        return make()
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from None
