"""What an agent asks for before it runs."""

from __future__ import annotations

import hashlib

import msgspec

from aios.abi.request import Class

_canonical = msgspec.json.Encoder(order="sorted")


class Grant(msgspec.Struct, frozen=True, order=True):
    """A right: a verb and a resource, exact (`/llm/default`) or everything below (`/llm/*`)."""

    verb: str
    resource: str

    @classmethod
    def parse(cls, text: str) -> Grant:
        """`use /llm/*` as a grant. Raises ValueError for anything else than `verb /resource`."""
        verb, _, resource = text.partition(" ")
        if not verb.isalpha() or not resource.startswith("/") or " " in resource or "*" in resource[:-1]:
            raise ValueError(f"`{text}` is no grant: write `verb /resource` or `verb /prefix/*`")
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

    def hash(self) -> str:
        """SHA-256 of the canonical manifest, in hex: what a person's acceptance is stored by."""
        return hashlib.sha256(_canonical.encode(self)).hexdigest()
