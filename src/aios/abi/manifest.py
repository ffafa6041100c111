"""What an agent asks for before it runs."""

from __future__ import annotations

import hashlib
import re
from typing import Literal

import msgspec

from aios.abi.request import Class

_canonical = msgspec.json.Encoder(order="sorted")
_resource = re.compile(r"/[^\s*]*\*?")
_agent_name = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
Restart = Literal["permanent", "transient", "temporary"]
OnBudget = Literal["park", "fail"]
RESTART_RULES: tuple[Restart, ...] = ("permanent", "transient", "temporary")
MAX_WORDS = 1000
MAX_COMMAND_CHARACTERS = 64 * 1024
OPERATOR = "operator"
"""The name that stands for the person in front; no agent bears it."""


def check_agent(name: str) -> None:
    """Raise ValueError for what cannot be an agent's name: names are typed, and shown on terminals."""
    if not _agent_name.fullmatch(name) or name == OPERATOR:
        raise ValueError("`agent` must be 1 to 64 letters, digits, `-` or `_`, and not `operator`")


class Grant(msgspec.Struct, frozen=True, order=True):
    """A right: a verb and a resource, exact (`/llm/default`) or everything below (`/llm/*`)."""

    verb: str
    resource: str

    @classmethod
    def parse(cls, text: str) -> Grant:
        """`use /llm/*` as a grant. Raises ValueError for anything else than `verb /resource`."""
        verb, _, resource = text.partition(" ")
        if not verb.isalpha() or not _resource.fullmatch(resource) or not resource.isprintable():
            raise ValueError(f"{text[:200]!r} is no grant: write `verb /resource` or `verb /prefix/*`")
        return cls(verb, resource)

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an agent asks for. Effective = asked ∩ the rights of whoever starts it.

    `agent`: its name. It is an agent function, or a command. `program`: absolute path of the Python file, `entry`: the function
    in it. `command`: the words of a command line, the first an absolute path; `folder`: absolute path of where it is started.

    `grants`: rights as `verb /resource`. `cls`: the highest class of its calls. `model`: what `default` means for it.

    `restart`: whether it begins again by itself. `temporary`: never. `transient`: after a failure, which is the death of an agent
    function's process, or an exit code of a command that is not 0; after too many in a row it ends in an error. `permanent`:
    whenever it has ended; after too many in a row it is held.

    `on_budget`: what becomes of an agent function's call when its budget is spent: it waits (`park`) until that is raised or
    begins anew, or ends in `OverBudget` (`fail`), as a command's always does.
    """

    agent: str
    program: str = ""
    entry: str = ""
    command: tuple[str, ...] = ()
    folder: str = ""
    grants: tuple[str, ...] = ()
    cls: Class = "standard"
    model: str = "default"
    restart: Restart = "transient"
    on_budget: OnBudget = "park"

    def __post_init__(self) -> None:
        check_agent(self.agent)
        for field in ("program", "entry", "folder", "model"):
            if not getattr(self, field).isprintable():
                raise ValueError(f"`{field}` must hold no control characters")
        if self.command:
            self._check_command()
        elif not self.program or not self.entry:
            field = "entry" if self.program else "program"
            raise ValueError(f"`{field}` is missing: `program` and `entry` say what runs, or `command` and `folder`")

    def _check_command(self) -> None:
        if self.program or self.entry:
            raise ValueError("`command` must stand without `program` and `entry`")
        if len(self.command) > MAX_WORDS or sum(map(len, self.command)) > MAX_COMMAND_CHARACTERS:
            raise ValueError(f"`command` must have at most {MAX_WORDS} words and {MAX_COMMAND_CHARACTERS} characters")
        if any("\0" in word for word in self.command):
            raise ValueError("`command` must hold no NUL")

    def hash(self) -> str:
        """SHA-256 of the canonical manifest, in hex: what a person's acceptance is stored by."""
        return hashlib.sha256(_canonical.encode(self)).hexdigest()
