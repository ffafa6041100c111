"""What an agent asks for before it runs."""

from __future__ import annotations

import hashlib
import re

import msgspec

from aios.abi.request import Class

_canonical = msgspec.json.Encoder(order="sorted")
_resource = re.compile(r"/[^\s*]*\*?")
_agent_name = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
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

    `agent`: its name. `program`: absolute path of the Python file, `entry`: the agent function in it.
    `grants`: rights as `verb /resource`. `cls`: the highest class of its calls. `model`: what `default` means for it.
    """

    agent: str
    program: str
    entry: str
    grants: tuple[str, ...] = ()
    cls: Class = "standard"
    model: str = "default"

    def __post_init__(self) -> None:
        check_agent(self.agent)
        for field in ("program", "entry", "model"):
            if not getattr(self, field).isprintable():
                raise ValueError(f"`{field}` must hold no control characters")

    def hash(self) -> str:
        """SHA-256 of the canonical manifest, in hex: what a person's acceptance is stored by."""
        return hashlib.sha256(_canonical.encode(self)).hexdigest()
