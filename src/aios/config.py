"""`aios.toml` and the environment as one frozen `Config`, composed of the settings that stand beside their users.

A file says what differs from the defaults, and nothing else: an unknown key is an error with the nearest name, a wrong
type one with its path, so that a slip is never a default in silence.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from aios.abi.errors import Invalid, NotFound, Unavailable
from aios.abi.wire import nearest
from aios.drivers.core.local.driver import LocalCoreConfig
from aios.drivers.core.local.models import EMBEDDED
from aios.drivers.core.local.shelf import Shelf
from aios.drivers.core.openai_chat import OpenAIChatConfig
from aios.drivers.core.providers import completed
from aios.drivers.embed.driver import EmbedderConfig
from aios.drivers.price.book import PriceConfig, PricesConfig
from aios.kernel.guard import GuardConfig
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.lanes.policies import POLICIES
from aios.sdk import client
from aios.server.http import ServerConfig

FILE_NAME = "aios.toml"
PROJECT_MARKS = (".git", FILE_NAME, "pyproject.toml")


GIVEN: Mapping[type, str] = {ServerConfig: "socket", LocalCoreConfig: "home"}
"""Fields that follow from the kernel's own folder, and are no keys of the file."""


@dataclasses.dataclass(frozen=True, slots=True)
class LanesConfig:
    """The lanes by name. `cores`: the lane before the models; `index`: before what embeds."""

    cores: LaneConfig = dataclasses.field(default_factory=LaneConfig)
    index: LaneConfig = dataclasses.field(default_factory=LaneConfig)

    def __post_init__(self) -> None:
        for lane, config in (("cores", self.cores), ("index", self.index)):
            if config.policy not in POLICIES:
                known = ", ".join(f"`{name}`" for name in POLICIES)
                raise ValueError(f"`{lane}.policy` must be one of {known}{nearest(config.policy, POLICIES)}")


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What `aios.toml` may hold.

    `server`: the doors over HTTP. `lanes`: who is next. `local`: the model on this machine, or `false` for none; not given,
    it runs unless a `core` is; without a `path` it is the model that `aios models use` chose, else the embedded one.
    `core`: endpoints that speak OpenAI's chat protocol; those that may cost money are off until keys have a limit. `embedder`:
    what turns texts into vectors, or `false` for nothing; not given, it is there if its model is installed. `aliases`: further
    names of models. `prices`: what tokens cost, where the table that comes with AIOS does not say it or is wrong. `guard`: what
    makes a runaway.
    """

    server: ServerConfig = dataclasses.field(default_factory=ServerConfig)
    lanes: LanesConfig = dataclasses.field(default_factory=LanesConfig)
    local: LocalCoreConfig | bool | None = None
    core: tuple[OpenAIChatConfig, ...] = ()
    embedder: EmbedderConfig | bool | None = None
    aliases: dict[str, str] = dataclasses.field(default_factory=dict)
    prices: PricesConfig = dataclasses.field(default_factory=PricesConfig)
    guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """All that a kernel is started with.

    `home`: its folder. `file`: where the settings come from, None if there is no file. `cores`: endpoints, which come
    before `local`, the model on this machine (None: none), unless the file names that model's own file; the first core is what
    `default` means. `added`: the name of `local`, if it is one that was added and chosen by `aios models`. `embedder`: what
    embeds, if its model is there (None: nothing, whether it is or not).
    """

    home: Path
    file: Path | None
    server: ServerConfig
    lanes: LanesConfig
    cores: tuple[OpenAIChatConfig, ...]
    local: LocalCoreConfig | None
    aliases: Mapping[str, str]
    added: str | None = None
    embedder: EmbedderConfig | None = None
    prices: PricesConfig = dataclasses.field(default_factory=PricesConfig)
    guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)

    @property
    def names_model_file(self) -> bool:
        """Whether the file of `local` stands in the configuration, and is not one that was found or chosen."""
        return self.local is not None and self.local.path is not None and self.added is None


def read_config(path: Path | None = None) -> Config:
    """The configuration of `path`, else of the first file found where one is sought, else the defaults.

    Raises `Invalid` with file and path for what is wrong in it, `NotFound` for a file that was named and does not exist,
    and what `open_home` raises.
    """
    home = open_home()
    file = find_file(path)
    settings = read_settings(file) if file else Settings()
    local, added = local_of(settings, home)
    embedder = (EmbedderConfig() if settings.embedder is None else settings.embedder) or None
    assert embedder is not True, "`read_settings` refuses it"
    cores = tuple(whole(core, f"core[{number}]", file) for number, core in enumerate(settings.core))
    return Config(
        home, file, settings.server, settings.lanes, cores, local, settings.aliases, added, embedder, settings.prices,
        settings.guard,
    )  # fmt: skip


def whole(core: OpenAIChatConfig, place: str, file: Path | None) -> OpenAIChatConfig:
    """An endpoint with what its provider is known for. Raises `Invalid` with file and place for one that cannot be asked."""
    try:
        found = completed(core)
        assert found.origin, "an address that may be asked"
    except Invalid as error:
        raise Invalid(f"{file}: `{place}`: {error.message}", field=f"{place}.{error.field}") from None
    return found


def local_of(settings: Settings, home: Path) -> tuple[LocalCoreConfig | None, str | None]:
    """The model on this machine: as it stands in the file, or, where nothing does, if there is no endpoint.

    Where the file names no path it is the one that `aios models use` chose, whose name comes second.
    """
    if isinstance(settings.local, LocalCoreConfig):
        local = dataclasses.replace(settings.local, home=home)
    elif settings.local is None and not settings.core:
        local = LocalCoreConfig(home=home)
    else:
        return None, None
    shelf = Shelf(home)
    chosen = shelf.chosen() if local.path is None else None
    if chosen is None:
        return local, None
    name, model = (chosen.name if given == EMBEDDED.name else given for given in (local.name, local.model))
    return dataclasses.replace(local, path=shelf.path(chosen.name), sha256=chosen.sha256, name=name, model=model), chosen.name


def find_file(named: Path | None = None) -> Path | None:
    """The file that was named, or that $AIOS_CONFIG names, or `aios.toml` here, or in ~/.config/aios; None if there is none."""
    asked = named or (Path(os.environ["AIOS_CONFIG"]) if os.environ.get("AIOS_CONFIG") else None)
    if asked is not None:
        if not asked.is_file():
            raise NotFound(f"there is no configuration file {asked}: `aios init` writes one")
        return asked
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    sought = (Path(FILE_NAME), config_home / "aios" / FILE_NAME)
    return next((file for file in sought if file.is_file()), None)


def read_settings(file: Path) -> Settings:
    """The settings in a file. Raises `Invalid` with the file, and the path in it, of what is wrong."""
    try:
        found = tomllib.loads(file.read_text(), parse_float=exactly)
    except ValueError as error:  # also of an integer of thousands of digits
        raise Invalid(f"{file} is no TOML: {error}") from None
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}") from None
    for place, key, names in unknown_keys(found, Settings):
        raise Invalid(f"{file}: unknown key `{place}{key}`{nearest(key, names)}", field=place + key)
    if isinstance(found.get("local"), dict):
        found["local"][GIVEN[LocalCoreConfig]] = ""
    for name in ("local", "embedder"):
        if found.get(name) is True:
            raise Invalid(f"{file}: `{name}` is a table or `false`", field=name)
    for place in (*texts_in(found.get("prices"), "prices"), *texts_in(found.get("guard"), "guard")):
        raise Invalid(f"{file}: `{place}` is a text: write it without quotes", field=place)
    try:
        return msgspec.convert(found, Settings, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        place, said = place_in(with_key(str(error), found))
        raise Invalid(f"{file}: {said}", field=place or None) from None


def texts_in(value: Any, place: str) -> Iterator[str]:
    """Where texts stand in place of numbers: the decoder would read digits of any script in them."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts_in(inner, f"{place}.{key}" if key.isidentifier() and key.isascii() else f'{place}."{key[:80]}"')


def exactly(number: str) -> Decimal:
    """A number as it is written: sums of money are made of some. Raises ValueError for one that nothing can hold."""
    try:
        return Decimal(number)
    except InvalidOperation:
        raise ValueError(f"no number is as large or small as {number[:40]}") from None


def with_key(said: str, found: Mapping[str, Any]) -> str:
    """What the decoder says, with the name of the price at fault, where it says no more than that it is one of them."""
    nameless = "$.prices.models[...]"
    if nameless not in said:
        return said
    for name, value in found["prices"]["models"].items():
        try:
            msgspec.convert(value, PriceConfig)
        except msgspec.ValidationError:
            return said.replace(nameless, f'$.prices.models."{name[:80]}"')
    return said


def place_in(said: str) -> tuple[str, str]:
    """What the decoder says of a value: the path of the key at fault, and a sentence that begins with it."""
    found = re.fullmatch(r"(?:`(?P<key>[\w.]+)` )?(?P<rest>.*?)(?: - at `\$\.?(?P<table>.*)`)?", said, re.DOTALL)
    assert found is not None, said
    key, rest, table = found["key"], found["rest"], found["table"]
    if key is None:  # the decoder's own words
        return table or "", f"`{table}`: {rest}" if table else rest
    place = f"{table}.{key}" if table else key
    return place, f"`{place}` {rest}"


def unknown_keys(found: Mapping[str, Any], kind: type, place: str = "") -> Iterator[tuple[str, str, list[str]]]:
    """The keys that a dataclass has no field for: the path before it, the key, and the names that would have been right."""
    hints = keys_of(kind)
    for key, value in found.items():
        if key not in hints:
            yield place, key, list(hints)
            continue
        below = table_of(hints[key])
        for where, item in tables_in(value, hints[key]):
            if below and isinstance(item, dict):
                yield from unknown_keys(item, below, f"{place}{key}{where}.")


def tables_in(value: Any, hint: Any) -> Iterator[tuple[str, Any]]:
    """What may be a table in a value, each after its place: the value itself, the members of a list, or of a table of tables."""
    if isinstance(value, list):
        yield from ((f"[{number}]", item) for number, item in enumerate(value))
    elif isinstance(value, dict) and get_origin(hint) is dict:
        yield from ((f'."{name[:80]}"', item) for name, item in value.items())
    else:
        yield "", value


def keys_of(kind: type) -> dict[str, Any]:
    """The keys of the table that a dataclass stands for, with their types."""
    return {key: hint for key, hint in get_type_hints(kind).items() if key != GIVEN.get(kind)}


def table_of(hint: Any) -> type | None:
    """The dataclass in a type hint: itself, one side of a union, or the members of a list or a table of tables."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint
    if isinstance(hint, types.UnionType) or get_origin(hint) in (tuple, dict):
        return next((found for found in map(table_of, get_args(hint)) if found), None)
    return None


def open_home() -> Path:
    """The kernel's folder, made for its owner alone if it does not exist.

    Raises `Unavailable` if others may enter it, or if it lies in the project folder, which agents may read.
    """
    home = client.home()
    project = project_folder(Path.cwd())
    if project and home.resolve().is_relative_to(project):
        raise Unavailable(f"the kernel's home {home} is inside {project}, which agents may read: set AIOS_HOME to another place")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = home.stat()
    except OSError as error:
        raise Unavailable(f"the kernel's home {home} cannot be used: {error.strerror}; set AIOS_HOME to another place") from None
    if state.st_uid != os.getuid():
        raise Unavailable(f"the kernel's home {home} belongs to another user: set AIOS_HOME to another place")
    if state.st_mode & 0o077:
        raise Unavailable(f"others may enter the kernel's home {home}: run `chmod 700 {home}`")
    return home


def project_folder(here: Path) -> Path | None:
    """The project that a folder belongs to: the nearest folder upwards with a mark of one, else the folder itself.

    A person's home folder and what is above it is nobody's project.
    """
    here, person = here.resolve(), Path.home().resolve()
    marked = next((folder for folder in (here, *here.parents) if any((folder / mark).exists() for mark in PROJECT_MARKS)), here)
    return None if person.is_relative_to(marked) else marked


def with_options(config: Config, port: int | None, no_local: bool) -> Config:
    """The configuration as changed on the command line."""
    server = config.server if port is None else dataclasses.replace(config.server, port=port)
    return dataclasses.replace(config, server=server, local=None if no_local else config.local)


Source = Literal["endpoint", "model file", "added model", "embedded model", "none"]


def chosen_core(config: Config) -> tuple[Source, str]:
    """Where `default` is answered and why.

    By a named model file, else a named endpoint that costs nothing, else an added model that was chosen, else the model that AIOS
    installs; by an endpoint that costs money only where there is nothing else, and if it names its models.
    """
    if config.local is not None and config.names_model_file:
        return "model file", f"{config.local.path} is named in {config.file}"
    free = [core for core in config.cores if not core.needs_limit]
    paid = [core for core in config.cores if core.needs_limit and core.models]
    if free or (paid and config.local is None):
        named = (free or paid)[0]
        return "endpoint", f"`{named.name}` stands in {config.file}" + (", once keys have a limit" if not free else "")
    if config.local is None and config.cores:
        return "none", "no `[[core]]` names its `models`: calls say which, or `[aliases]` what `default` stands for"
    if config.local is None:
        return "none", "`local` is off and no `[[core]]` is named"
    if config.added is not None:
        return "added model", f"`aios models use {config.added}` chose it, and no endpoint and no model file is named"
    return "embedded model", "no endpoint and no model file is named, and no added model is chosen"
