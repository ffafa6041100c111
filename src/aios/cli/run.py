"""`aios run`: run an agent of a Python file as a process of the kernel."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import msgspec

from aios.abi.errors import Cancelled, ChildFailed, Invalid, Killed, NotFound
from aios.abi.lines import visible
from aios.abi.manifest import Manifest
from aios.abi.process import Spawn
from aios.abi.request import CLASSES, Class
from aios.abi.wire import nearest
from aios.cli.call import value_of
from aios.cli.command import Command, yes
from aios.cli.learn import manifests_of
from aios.cli.show import json_text
from aios.sdk.client import Client
from aios.sdk.run import attended, spawned


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@click.argument("place", metavar="FILE[:FUNCTION]")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--class", "cls", type=click.Choice(CLASSES), help="The highest class of its calls, instead of the manifest's.")
@yes
@click.option("-d", "--detach", is_flag=True, help="Print its name and leave it running.")
def run(place: str, arguments: tuple[str, ...], cls: Class | None, yes: bool, detach: bool) -> None:
    """Run an agent of a Python file.

    A file with one agent needs no FUNCTION. Each of ARGS is JSON, or else text. The first time, and whenever the agent asks
    for something else, shows what it asks for and asks you once. Prints what it prints, then what it returns. Ctrl-C asks it to
    stop, a second one kills it.
    """
    manifest = manifest_at(place)
    if cls is not None:
        manifest = msgspec.structs.replace(manifest, cls=cls)
    with Client() as kernel:
        process = spawned(kernel, Spawn(manifest=manifest, arguments=tuple(map(value_of, arguments))), yes)
        if detach:
            click.echo(process.name)
            return
        with interrupts() as seen:
            try:
                result = attended(kernel, process)
            except (Killed, Cancelled):
                if seen:
                    raise KeyboardInterrupt from None
                raise
            except ChildFailed as error:
                raise ChildFailed(_said_by(process.name, error.message)) from None
    click.echo(visible(result) if isinstance(result, str) else json_text(result))


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
        raise NotFound(f"there is no file {path}")
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
