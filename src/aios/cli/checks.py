"""What AIOS needs of this machine, one check each: what was found, and what would mend it."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from aios.abi.errors import AiosError
from aios.abi.llm import Model, Models
from aios.abi.system import ListCores
from aios.cli.allowing import limit_of
from aios.cli.detect import servers
from aios.cli.running import running
from aios.cli.show import size
from aios.config import Config, chosen_core, open_home, read_config
from aios.drivers.core.local import formats, llama, models
from aios.drivers.core.local.engine import EXACT
from aios.drivers.core.local.examine import examine
from aios.drivers.core.local.shelf import EMBEDDED_CHOICE, Shelf
from aios.drivers.embed import driver as embed
from aios.drivers.sandbox.landlock import LandlockSandbox
from aios.keys import coming, keys_in, paid_cores, read_allowance
from aios.sdk.client import Client

LEAST_FREE_BYTES = 500_000_000
OLDEST, NEWEST = (3, 11), (3, 14)


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of `aios doctor`. `fail`: something that is needed; `warn`: something that is good to know."""

    state: Literal["ok", "warn", "fail"]
    what: str
    found: str
    fix: str = ""


def checks() -> Iterator[Check]:
    """All checks, in the order in which things build on each other."""
    yield python()
    found = list(home())
    yield from found
    if any(check.state == "fail" and check.what == "home" for check in found):
        return
    try:
        config = read_config()
    except AiosError as error:
        yield Check("fail", "configuration", error.message, "mend the file; `aios init` writes a good one elsewhere")
        return
    yield Check("ok", "configuration", str(config.file) if config.file else "the defaults: no aios.toml")
    yield from local_core(config)
    yield from embedder(config)
    yield from doors(config)
    yield isolation()
    yield from cores()
    yield from core_in_use(config)
    yield from aliases(config)
    yield from offers()
    yield from provider_keys(config)


def python() -> Check:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return Check("ok", "Python", version)
    return Check("fail", "Python", version, f"use Python {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}")


def home() -> Iterator[Check]:
    """The kernel's folder: whose it is, and how much room it has."""
    try:
        folder = open_home()
    except AiosError as error:
        yield Check("fail", "home", error.message, "mend what it says, or set AIOS_HOME to another place")
        return
    yield Check("ok", "home", f"{folder}, yours alone")
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        yield Check("fail", "disk", f"{size(free)} free", f"make room for {size(LEAST_FREE_BYTES)} at {folder}, or set AIOS_HOME")
    else:
        yield Check("ok", "disk", f"{size(free)} free")


def local_core(config: Config) -> Iterator[Check]:
    """What the model on this machine needs: an engine whose structs are known, the library that it needs, the model file."""
    if config.local is None:
        return
    known = f"`pip install --no-deps {llama.PACKAGE}=={' or '.join(llama.ABI)}`"
    yield attempt("engine", lambda: f"{llama.PACKAGE} {llama.installed_version()}", known)
    yield attempt("forms", lambda: f"{formats.PACKAGE} {formats.installed_version()}", f"`{formats.INSTALL}`")
    if sys.platform == "linux":
        yield attempt("libgomp", openmp, "`apt-get install libgomp1`, or your system's package of it")
    local, fix = config.local, "run the set-up again, or name a model file: `path` in `[local]`"
    if config.added is not None:
        fix = f"`aios models use {EMBEDDED_CHOICE}`, or `aios models rm {config.added}` after it and add the file again"
    yield attempt("model file", lambda: model_file(local.path, wanted_sha256(config)), fix)
    if local.path is None:
        yield Check("ok", "model", f"{models.EMBEDDED.name}: {models.EMBEDDED.caveat}")


def embedder(config: Config) -> Iterator[Check]:
    """Whether the model that embeds is there, and undamaged: without it there is no `llm.embed`, and all else works."""
    if config.embedder is None:
        return
    try:
        folder = embed.find(config.embedder.path)
    except AiosError as error:
        state: Literal["fail", "warn"] = "warn" if config.embedder.path is None else "fail"
        yield Check(state, "embedder", f"{error.message}; until then nothing embeds", f"`{embed.INSTALL}`")
        return
    weights = folder / embed.WEIGHTS
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != embed.SHA256:
        yield Check("fail", "embedder", f"{weights} is damaged: its SHA-256 is {found[:12]}…", f"`{embed.INSTALL}` anew")
    else:
        yield Check("ok", "embedder", f"{embed.MODEL} in {folder}, SHA-256 {found[:12]}…")


def attempt(what: str, find: Callable[[], str], fix: str) -> Check:
    """A check that fails with what `find` raises."""
    try:
        return Check("ok", what, find())
    except AiosError as error:
        return Check("fail", what, error.message, fix)
    except (OSError, llama.EngineUnavailable) as error:
        return Check("fail", what, str(error), fix)


def openmp() -> str:
    """The OpenMP library, loaded."""
    ctypes.CDLL("libgomp.so.1")
    return "loads"


def wanted_sha256(config: Config) -> str | None:
    """What the model file must be: the embedded one as it was released, an added one as it was then."""
    if config.added is not None:
        chosen = Shelf(config.home).chosen()
        return chosen.sha256 if chosen else None
    return models.EMBEDDED.sha256 if config.local is not None and config.local.path is None else None


def model_file(named: Path | None, sha256: str | None) -> str:
    """The model file: one that the engine takes, which is tried in a child, and where `sha256` says so, the right one."""
    path = named or models.find(models.EMBEDDED)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 not in (None, found):
        raise OSError(f"{path} is damaged: its SHA-256 is {found[:12]}…, not {sha256[:12]}…")
    verdict = examine(path)
    if verdict.flaw is not None:
        raise OSError(f"{path} {verdict.said}")
    return f"{path}, {size(path.stat().st_size)}, SHA-256 {found[:12]}…, architecture {verdict.architecture}"


def doors(config: Config) -> Iterator[Check]:
    """Whether the kernel runs, and whether the port of its doors is free or its own."""
    found = running()
    if found:
        yield Check("ok", "kernel", f"answers at {found.http}, process {found.os_pid}")
        return
    yield Check("warn", "kernel", f"none answers at {config.home}", "`aios up --detach`")
    port = config.server.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            yield Check("fail", "port", f"{port} {why}", "`aios up --port N`, or `port` in `[server]`")
        else:
            yield Check("ok", "port", f"{port} is free")


def isolation() -> Check:
    """What really confines agents here."""
    sandbox = LandlockSandbox()
    asyncio.run(sandbox.networks())
    found = sandbox.isolation()
    text = f"{found.mechanism}: {', '.join(found.confined)}; not: {'; '.join(found.missing) or 'nothing'}"
    if "files" in found.confined:
        return Check("ok", "isolation", text)
    return Check("warn", "isolation", text, "a Linux of 5.13 or later with Landlock; until then run only agents that you trust")


def cores() -> Iterator[Check]:
    """The cores of a running kernel."""
    if not running():
        return
    try:
        with Client() as kernel:
            found = kernel.call(ListCores()).cores
    except AiosError as error:
        yield Check("fail", "cores", error.message, "`aios down`, then `aios up`")
        return
    for core in found:
        busy = f"{core.name}: {core.driver}, {core.running} of {core.slots} slots busy, {', '.join(core.models)}"
        if core.up:
            how = f"; {engine_and_profile()}" if core.driver == "local" else ""
            yield Check("ok", "core", f"{busy}{how}; {'exact' if core.exact else core.detail or 'not exact'}")
        else:
            why = f"{core.name} is down: {core.detail or 'no reason known'}"
            yield Check("fail", "core", why, "`aios events --kind core` tells more")


def engine_and_profile() -> str:
    """The engine of a local core and how it is run."""
    cache = "q8_0" if EXACT.kv_type == llama.Q8_0 else str(EXACT.kv_type)
    kept = "shared" if EXACT.unified else "split by sequence"
    flash = {-1: "automatic", 0: "off", 1: "on"}[EXACT.flash]
    return f"{llama.PACKAGE} {llama.installed_version()}, profile: cache {cache} {kept}, flash attention {flash}"


def core_in_use(config: Config) -> Iterator[Check]:
    """Which core answers, asked of the running kernel; and which one the next kernel will take, and why."""
    source, why = chosen_core(config)
    if running():
        yield default_model()
    what = "core to come" if running() else "core in use"
    if source == "none":
        yield Check("warn", what, f"none: {why}", "name a `[[core]]` in aios.toml, or take out `local = false`")
    else:
        yield Check("ok", what, f"{source}, because {why}")


def aliases(config: Config) -> Iterator[Check]:
    """Names of the file that stand for models which the running kernel does not have."""
    if not config.aliases or not running():
        return
    try:
        there = {model.name for model in known_models()}
    except AiosError:
        return  # the cores' own line says why
    for alias, model in config.aliases.items():
        if model not in there:
            text = f"`{alias}` stands for `{model}`, which no core has"
            yield Check("warn", "alias", text, f"mend `[aliases]` in {config.file}: `aios models` lists what there is")


def known_models() -> tuple[Model, ...]:
    """The models of the running kernel."""
    with Client() as kernel:
        return kernel.call(Models()).models


def default_model() -> Check:
    """What a running kernel answers `default` with."""
    try:
        models = known_models()
        found = [model for model in models if "default" in model.aliases]
    except AiosError as error:
        return Check("fail", "core in use", error.message, "`aios down`, then `aios up`")
    if not found and models:
        return Check("warn", "core in use", "`default` stands for none of its models", "name models in calls, or in `[aliases]`")
    if not found:
        return Check("warn", "core in use", "none: the kernel has no core", "`aios down`, then `aios up` without --no-local")
    return Check("ok", "core in use", f"{', '.join(found[0].cores)}: `default` stands for its model {found[0].name}")


def offers() -> Iterator[Check]:
    """What lies around and is not used by itself: servers on this machine, keys in the environment."""
    for server in servers():
        text = f"{server.product} answers at {server.url} with {len(server.models)} models; not used before you say so"
        yield Check("warn", "server", text, "`aios init` asks, or write a `[[core]]` into aios.toml")


def provider_keys(config: Config) -> Iterator[Check]:
    """The keys in this environment, by the names of their variables, and whether the next kernel uses them."""
    try:
        allowance = read_allowance(config.home)
    except AiosError as error:
        yield Check("fail", "keys", error.message, "remove the file: then every key is off")
        return
    there = keys_in(os.environ, config)
    for each in paid_cores(config, dict.fromkeys(there)):
        if not each.present:
            yield Check("warn", "key", f"core `{each.core.name}` wants one in {each.use.variable}, which holds none", "set it")
        elif allowance.allows(each.use):
            yield Check("ok", "key", f"{each.use}: may be used, within {limit_of(allowance)} for all keys")
        else:
            yield Check("warn", "key", f"{each.use}: off until there is a limit", f"`{each.use.command}`")
    for name, provider in coming(there, config):
        yield Check("warn", "key", f"{name} is set; {provider} is coming: its wire is not spoken yet", "nothing to do")
