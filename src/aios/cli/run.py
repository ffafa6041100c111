"""`aios run`: run an agent of a Python file, or any command, as a process of the kernel."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec

from aios.abi.errors import ChildFailed, Invalid, NotFound
from aios.abi.lines import visible
from aios.abi.manifest import RESTART_RULES, Grant, Manifest
from aios.abi.process import Spawn
from aios.abi.request import CLASSES
from aios.abi.wire import nearest
from aios.cli.call import value_of
from aios.cli.command import Command, valid, yes
from aios.cli.learn import manifests_of
from aios.cli.program import end, manifest_of
from aios.cli.show import json_text
from aios.sdk.process import result_of
from aios.sdk.run import attended, connected, spawned


class Running(Command):
    """A command of which what follows `--` is not its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.obj, args = args[at + 1 :], args[:at]
        return super().parse_args(ctx, args)


@click.command(cls=Running, context_settings={"ignore_unknown_options": True})
@click.argument("place", metavar="[FILE[:FUNCTION]]", required=False)
@click.argument("arguments", metavar="[ARGS]... | -- COMMAND [WORDS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--agent", metavar="NAME", help="Its name, instead of the file's or function's.")
@click.option("--class", "cls", type=click.Choice(CLASSES), help="The highest class of its calls, instead of the manifest's.")
@click.option("--model", help="What `default` means for it.")
@click.option("--job", metavar="NAME", default="", help="Book what it and all that it starts spend under a job, too.")
@click.option("--restart", type=click.Choice(RESTART_RULES), help="Whether it begins again by itself: see `Manifest`.")
@click.option(
    "--grant", "grants", multiple=True, help="A right, `verb /resource`, instead of those it asks for; may be repeated."
)
@yes
@click.option("-d", "--detach", is_flag=True, help="Print its name and leave it running.")
@click.pass_obj
def run(
    after: list[str] | None, /, place: str | None, arguments: tuple[str, ...], job: str, yes: bool, detach: bool, **asked: Any
) -> None:
    """Run an agent of a Python file, or any command.

    A file with one agent needs no FUNCTION. Each of ARGS is JSON, or else text. Prints what it prints, then what it returns.

    A command is run as it is, confined: it reaches the kernel's doors and no other address, and finds them in its environment
    (OPENAI_BASE_URL, ANTHROPIC_BASE_URL, keys); it reads the folder that it is started in, and writes its own home alone. Its
    exit code is that of `aios run`.

    Starts a kernel if none runs. The first time, and whenever it asks for something else, shows what it asks for and asks you
    once. Ctrl-C asks it to stop, a second one kills it.
    """
    if place is None and not after:
        raise click.UsageError("say what: a file, or `-- COMMAND`")
    words = after or []
    manifest = manifest_at(place) if place is not None else manifest_of(words, asked["agent"])
    manifest = changed(manifest, asked)
    values = tuple(map(value_of, (*arguments, *words))) if place is not None else ()
    with connected() as kernel:
        process = spawned(kernel, valid(lambda: Spawn(manifest=manifest, arguments=values, job=job)), yes)
        if detach:
            click.echo(process.name)
            return
        with interrupts() as seen:
            exit = attended(kernel, process)
    if seen and exit.outcome != "result":
        raise KeyboardInterrupt
    if manifest.command:
        return end(process.name, exit)
    try:
        result = result_of(exit)
    except ChildFailed as error:
        raise ChildFailed(_said_by(process.name, error.message)) from None
    click.echo(visible(result) if isinstance(result, str) else json_text(result))


def changed(manifest: Manifest, asked: dict[str, Any]) -> Manifest:
    """The manifest with what the person wants otherwise. Raises `Invalid`."""
    wanted = {name: value for name, value in asked.items() if value}
    try:
        for grant in wanted.get("grants", ()):
            Grant.parse(grant)
        return msgspec.structs.replace(manifest, **wanted)
    except ValueError as error:
        raise Invalid(str(error)) from None


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Notes each Ctrl-C of a block, which sees it as always."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def manifest_at(place: str) -> Manifest:
    """What the agent at `FILE[:FUNCTION]` asks for. Raises `NotFound`, `Invalid`, or `Failed` if the file does not load."""
    path, colon, function = (place, "", "") if Path(place).is_file() else place.partition(":")
    file = Path(path).absolute()
    if not file.is_file():
        command = f": `aios run -- {path} …` runs a command" if shutil.which(path) else ""
        raise NotFound(f"there is no file {path}{command}")
    manifests = {manifest.entry: manifest for manifest in manifests_of(file)}
    if colon:
        if function not in manifests:
            raise NotFound(f"{path} has no agent `{function}`{nearest(function, manifests)}")
        return manifests[function]
    if len(manifests) != 1:
        some = ", ".join(f"{path}:{entry}" for entry in manifests)
        raise Invalid(f"say which agent: {some}" if manifests else f"{path} has no function marked `@aios.agent`")
    return next(iter(manifests.values()))


def _said_by(name: str, message: str) -> str:
    """What an agent's code raised, so that nobody takes its words for the kernel's."""
    head = f"`{name}` failed: "
    return message if message.startswith(head) else head + message
