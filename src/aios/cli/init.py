"""`aios init`: a commented configuration and a first agent in the current folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from aios.abi.errors import Unavailable
from aios.cli.command import Command, agreed, yes
from aios.cli.detect import Detected, servers
from aios.cli.show import say
from aios.config import FILE_NAME

CONFIG = """\
# AIOS: what differs from the defaults, and nothing else. The reference lists every key; `aios doctor` says what is in use.

# [server]
# port = 8642            # the doors, on this machine only

# [lanes.cores]
# policy = "elas"        # who is next before the models: "elas", "fair", "priority", "round-robin" or "fifo"
# queue = 2048           # calls that may wait, per tenant and class

# [local]                # the model on this machine; `local = false`, before the first table, for none
# path = "/models/some-model.gguf"   # comes before what `aios models use` chose
# slots = 8
# reserve = 1            # slots more, for interactive calls, to which others stand back

# [aliases]
# fast = "smollm2-135m-instruct"

# [[core]]               # a provider: where it is and what its key is called are known; off until `aios up --budget USD`
# provider = "openai"
# models = ["gpt-5-mini"]

# [prices.local]         # dollars per million tokens of the model on this machine; not given, they cost nothing
# input = 0.02
# output = 0.08

# [prices.models."openai/gpt-5"]   # comes before what `aios prices openai/gpt-5` says
# input = 1.25
# cached = 0.125
# output = 10
"""

CORE = """
[[core]]                 # {product}, which answered here
name = {name}
base_url = {url}
models = {models}
provider = "local"       # what it answers costs nothing
"""

AGENT = '''\
import aios


@aios.agent
async def hello(k: aios.Kernel, name: str = "world") -> str:
    """Greets somebody: `aios run hello.py Ada`."""
    return await k.ask(f"Greet {name} in one short sentence.")
'''


@click.command(cls=Command)
@yes
def init(yes: bool) -> None:
    """Write a commented aios.toml and a first agent here.

    Never overwrites a file. Asks before it adds a model server that answers on this machine.
    """
    found = [] if Path(FILE_NAME).exists() else [server for server in servers() if wanted(server, yes)]
    written = [write(FILE_NAME, CONFIG + "".join(map(core_table, found))), write("hello.py", AGENT)]
    if any(written):
        say("next: `aios up --detach`, then `aios run hello.py`")


def wanted(server: Detected, yes: bool) -> bool:
    """Whether the person wants a server that answered as a core."""
    return agreed(f"{server.product} answers at {server.url} with {models_of(server.models)}. Use it?", yes)


def models_of(names: Sequence[str]) -> str:
    """Some of the names of models, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "no model") + more


def core_table(server: Detected) -> str:
    """The server as a table of the configuration."""
    quoted = {"name": server.name, "url": server.url, "models": list(server.models)}
    return CORE.format(product=server.product, **{key: json.dumps(value) for key, value in quoted.items()})


def write(name: str, text: str) -> bool:
    """Write a new file; False if there is one of that name, which is kept."""
    try:
        with open(name, "x") as file:
            file.write(text)
    except FileExistsError:
        say(f"{name} is there already and was kept")
        return False
    except OSError as error:
        raise Unavailable(f"{name} cannot be written here: {error.strerror}") from None
    say(f"wrote {name}")
    return True
