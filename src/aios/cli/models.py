"""`aios models`: the models that may be used and the cores they are on; the model files of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import click
import msgspec

from aios.abi.errors import Conflict
from aios.abi.llm import Model, Models
from aios.abi.system import CoreState, EmbedderState, ListCores
from aios.cli.adding import added_from_hub, added_from_path
from aios.cli.command import Command, agreed, as_json, yes
from aios.cli.running import running
from aios.cli.show import put_json, say, size, table
from aios.config import Config, chosen_core, open_home, read_config
from aios.drivers.core.local.models import EMBEDDED
from aios.drivers.core.local.shelf import EMBEDDED_CHOICE, Shelf
from aios.sdk.client import Client

HEADERS = ("MODEL", "ALSO", "WINDOW", "CORE", "STATE", "RUNNING", "EXACT", "CAN")
FILE_HEADERS = ("FILE", "SIZE", "SHA-256", "FROM", "USE")


class File(msgspec.Struct, frozen=True):
    """An added model. `used`: the kernel that runs has it, or else the next one will."""

    name: str
    size_bytes: int
    sha256: str
    source: str
    architecture: str
    added_ns: int
    used: bool


class Listing(msgspec.Struct, frozen=True):
    """The models that may be used, as over HTTP, and the files that were added."""

    models: tuple[Model, ...]
    added: tuple[File, ...]


class Group(click.Group):
    """A group whose bare call is `ls`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        bare = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, ["ls", *args] if bare else args)


@click.group(cls=Group)
def models() -> None:
    """List, add, choose and remove models.

    Without a command it lists them, as `ls` does.
    """


@models.command(cls=Command)
@as_json
def ls(as_json: bool) -> None:
    """List the models that may be used.

    With their other names, their window in tokens, the cores they are on, how busy these are, what they can do, and
    whether they are exact: then an answer is the same, bit by bit, whatever runs beside it. Then the model files that were
    added here, which needs no kernel.
    """
    found, cores, embedders = in_kernel()
    shelf = Shelf(open_home())
    files = tuple(File(**msgspec.structs.asdict(added), used=is_used(shelf, added.name, cores)) for added in shelf.list())
    if as_json:
        put_json(Listing(found, files))
        return
    if found:
        table(HEADERS, rows(found, {**cores, **embedders}))
    if files:
        table(FILE_HEADERS, [cells(file) for file in files])
    if any(core.driver == "local" and EMBEDDED.name in core.models for core in cores.values()):
        say(f"{EMBEDDED.name}: {EMBEDDED.caveat}")
    for name, detail in [(each.name, each.detail) for listed in (cores, embedders) for each in listed.values() if each.detail]:
        say(f"{name}: {detail}")
    if not running():
        say("no kernel runs here, so none of them can be used now: start it with `aios up`")
    elif not cores:
        say("no model can be asked: `aios doctor` says what is missing")


def in_kernel() -> tuple[tuple[Model, ...], dict[str, CoreState], dict[str, EmbedderState]]:
    """What the running kernel has: its models, its cores by name, and what embeds; nothing if none runs."""
    if not running():
        return (), {}, {}
    with Client() as kernel:
        models, listed = kernel.call(Models()).models, kernel.call(ListCores())
    return models, {core.name: core for core in listed.cores}, {each.name: each for each in listed.embedders}


def rows(found: tuple[Model, ...], cores: Mapping[str, CoreState | EmbedderState]) -> list[tuple[str, ...]]:
    """A line for each model and core, or what embeds with it."""
    lines: list[tuple[str, ...]] = []
    for model in found:
        for name in model.cores:
            core = cores.get(name)
            state = ("up" if core.up else "down") if core else "?"
            frozen = f" + {core.frozen} frozen" if isinstance(core, CoreState) and core.frozen else ""
            busy = f"{core.running}/{core.slots}{frozen}" if core else ""
            exact = "yes" if isinstance(core, CoreState) and core.exact else ""
            can = ", ".join(model.features)
            lines.append((model.name, ", ".join(model.aliases), f"{model.window:,}", name, state, busy, exact, can))
    return lines


def is_used(shelf: Shelf, name: str, cores: dict[str, CoreState]) -> bool:
    """Whether the kernel that runs has that file in use; if none runs, whether the next one will."""
    if running():
        return any(core.driver == "local" and name in core.models for core in cores.values())
    return is_next(shelf, name)


def is_next(shelf: Shelf, name: str) -> bool:
    """Whether the next kernel will use that file."""
    local = read_config().local
    return local is not None and local.path == shelf.path(name)


def cells(file: File) -> tuple[str, ...]:
    """An added model as a row of the table."""
    return file.name, size(file.size_bytes), f"{file.sha256[:12]}…", file.source, "in use" if file.used else ""


@models.command(cls=Command)
@click.argument("source", metavar="PATH|REPO[:FILE]|ADDRESS")
@click.option("--name", metavar="NAME", help="What to call it here; not given, it is called as the file is.")
@click.option("--sha256", metavar="HEX", help="What the SHA-256 of the file must be.")
def add(source: str, name: str | None, sha256: str | None) -> None:
    """Put a GGUF model file into the kernel's home.

    A PATH is copied, or linked where that is possible. REPO is `owner/name` on the model hub whose address is in $HF_ENDPOINT;
    FILE is needed where it has several. ADDRESS begins with https. What comes from elsewhere goes on where it broke off when the
    command is given again. The file is tried in a process of its own before it is kept.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise click.UsageError("--sha256 takes 64 hexadecimal digits")
    shelf, path, wanted = Shelf(open_home()), Path(source).expanduser().absolute(), sha256.lower() if sha256 else None
    if path.exists() or looks_like_path(source):
        added = added_from_path(shelf, path, name, wanted)
    else:
        added = added_from_hub(shelf, source, name, wanted)
    say(f"added `{added.name}`: {size(added.size_bytes)}, SHA-256 {added.sha256}")
    say(f"next: `aios models use {added.name}`")


def looks_like_path(source: str) -> bool:
    """Whether it can only be meant as a path, also where nothing is there."""
    return source.startswith((".", "/", "~")) or (source.endswith(".gguf") and ":" not in source)


@models.command(cls=Command)
@click.argument("name")
@yes
def rm(name: str, yes: bool) -> None:
    """Delete a model file that was added.

    Not the one that is in use: `aios models use` another first.
    """
    shelf = Shelf(open_home())
    added = shelf.removable(name)
    _, cores, _ = in_kernel()
    if is_used(shelf, name, cores) or is_next(shelf, name):
        raise Conflict(f"`{name}` is in use: name another in aios.toml, `aios down`, then try again")
    if agreed(f"Delete `{name}`, {size(added.size_bytes)}, from {added.source}?", yes):
        shelf.remove(name)
        say(f"`{name}` is deleted")


@models.command(cls=Command)
@click.argument("name")
def use(name: str) -> None:
    """Make a model file the local model.

    `embedded` is the one that comes with AIOS. A `path` in `[local]` and a `[[core]]` of aios.toml come before it, in this order.
    """
    embedded = name == EMBEDDED_CHOICE
    Shelf(open_home()).choose(None if embedded else name)
    say(f"the local model is {'the embedded one' if embedded else f'`{name}`'}" + (next_start() if running() else ""))
    config = read_config()
    if overruled(config, None if embedded else name):
        source, why = chosen_core(config)
        say(f"but the {source} comes before it: {why}" if source != "none" else f"but no model runs: {why}")


def next_start() -> str:
    """When a choice takes effect while a kernel runs."""
    return " when the kernel starts again: `aios down`, then `aios up`"


def overruled(config: Config, chosen: str | None) -> bool:
    """Whether something in the file comes before the choice."""
    if config.cores or config.local is None:
        return True
    return config.local.path is not None and config.added is None if chosen is None else config.added != chosen
