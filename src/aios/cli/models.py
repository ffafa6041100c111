"""`aios models`: the models that may be used, and the cores they are on."""

from __future__ import annotations

import click

from aios.abi.llm import Models
from aios.abi.system import ListCores
from aios.cli.command import Command, as_json
from aios.cli.show import put_json, say, table
from aios.drivers.core.local.models import EMBEDDED
from aios.sdk.client import Client

HEADERS = ("MODEL", "ALSO", "WINDOW", "CORE", "STATE", "RUNNING", "EXACT", "CAN")


@click.command(cls=Command)
@as_json
def models(as_json: bool) -> None:
    """List the models that may be used.

    With their other names, their window in tokens, the cores they are on, how busy these are, what they can do, and
    whether they are exact: then an answer is the same, bit by bit, whatever runs beside it.
    """
    with Client() as kernel:
        found = kernel.call(Models())
        cores = {core.name: core for core in kernel.call(ListCores()).cores}
    if as_json:
        put_json(found)
        return
    rows = []
    for model in found.models:
        for name in model.cores:
            core = cores.get(name)
            state = ("up" if core.up else "down") if core else "?"
            busy = f"{core.running}/{core.slots}" if core else ""
            exact = "yes" if core and core.exact else ""
            can = ", ".join(model.features)
            rows.append((model.name, ", ".join(model.aliases), f"{model.window:,}", name, state, busy, exact, can))
    if rows:
        table(HEADERS, rows)
    if any(core.driver == "local" and EMBEDDED.name in core.models for core in cores.values()):
        say(f"{EMBEDDED.name}: {EMBEDDED.caveat}")
    for core in cores.values():
        if core.detail:
            say(f"{core.name}: {core.detail}")
    if not rows:
        say("no model can be used: `aios doctor` says what is missing")
