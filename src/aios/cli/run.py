"""`aios run`: run an agent of a Python file as a process of the kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from aios.abi.errors import ERRORS, Failed, Invalid, NeedsApproval, NotFound
from aios.abi.manifest import Manifest
from aios.abi.process import Exit, ProcessInfo, SignalProcess, Spawn, WaitFor
from aios.abi.request import CLASSES, Class
from aios.abi.wire import nearest
from aios.cli.call import value_of
from aios.cli.command import Command, agreed, yes
from aios.cli.logs import read_lines
from aios.cli.show import harmless, json_text, one_line, say
from aios.sdk.client import Client


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@click.argument("place", metavar="FILE[:FUNCTION]")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--class", "cls", type=click.Choice(CLASSES), help="The highest class of its calls, instead of the manifest's.")
@yes
@click.option("-d", "--detach", is_flag=True, help="Print its name and leave it running.")
def run(place: str, arguments: tuple[str, ...], cls: Class | None, yes: bool, detach: bool) -> None:
    """Run an agent of a Python file.

    A file with one agent needs no FUNCTION. Each of ARGS is JSON, or else text. The first time, and whenever the agent asks
    for something else, shows what it asks for and asks you once. What it prints goes to stderr, what it returns to stdout.
    """
    manifest = manifest_at(place)
    if cls is not None:
        manifest = msgspec.structs.replace(manifest, cls=cls)
    with Client() as kernel:
        process = spawn(kernel, manifest, tuple(map(value_of, arguments)), yes)
        if detach:
            click.echo(process.name)
            return
        finish(attend(kernel, process))


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


def manifests_of(file: Path) -> list[Manifest]:
    """What the agents in a file ask for; a child imports it, so that its code is never in the process that holds your token."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
    child = subprocess.run([sys.executable, "-m", "aios.cli.manifests", str(file)], capture_output=True, env=environment)
    if child.returncode:
        said = child.stderr.decode(errors="replace").strip()
        raise Failed(f"{file} does not load: {one_line(said.splitlines()[-1]) if said else f'exit {child.returncode}'}")
    return msgspec.json.decode(child.stdout, type=list[Manifest])


def spawn(kernel: Client, manifest: Manifest, arguments: tuple[Any, ...], yes: bool) -> ProcessInfo:
    """Start the agent, after the person has accepted its manifest, if nobody has before."""
    request = Spawn(manifest=manifest, arguments=arguments, accepted=manifest.hash() if yes else None)
    try:
        return kernel.call(request)
    except NeedsApproval:
        say(asks(manifest))
        if not sys.stdin.isatty():
            raise NeedsApproval(f"nobody is there to accept what `{manifest.agent}` asks for: read it, then add --yes") from None
        if not agreed("Accept?", yes=False):
            raise NeedsApproval(f"`{manifest.agent}` was not accepted, and not started") from None
        return kernel.call(msgspec.structs.replace(request, accepted=manifest.hash()))


def asks(manifest: Manifest) -> str:
    """What an agent asks for, as a person reads it."""
    lines = [f"agent {manifest.agent}  ({manifest.program}, `{manifest.entry}`)"]
    lines += [f"  may  {grant}" for grant in manifest.grants] or ["  may nothing"]
    lines.append(f"  class {manifest.cls} at most, model {manifest.model}")
    return harmless("\n".join(lines))


def attend(kernel: Client, process: ProcessInfo) -> Exit:
    """Show what a process prints until it ends, and return how. Ctrl-C kills it."""
    try:
        for page in read_lines(kernel, process.pid, follow=True):
            for line in page.lines:
                say(harmless(line.text))
        return kernel.call(WaitFor(pid=process.pid))
    except KeyboardInterrupt:
        with Client() as another:  # the first one was interrupted in the middle of a call
            another.call(SignalProcess(pid=process.pid, signal="kill"))
        say(f"{process.name}: killed")
        raise


def finish(end: Exit) -> None:
    """Print the result, or end with the error that the agent ended with."""
    if end.outcome == "result":
        click.echo(harmless(end.result) if isinstance(end.result, str) else json_text(end.result))
        return
    kind = ERRORS.get(end.error or "Killed", Failed)
    raise kind(end.message or f"it was {end.outcome}")
