"""One line of the journal."""

from __future__ import annotations

from typing import Literal

import msgspec

ABI_VERSION = 1

Kind = Literal["intent", "result", "error", "end", "reservation", "settlement", "change"]
"""`change`: the request of a call that changed what holds for others, such as a limit."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """Unique by (pid, path, kind, attempt). `at_ns`: nanoseconds UTC. `body`: bytes in `codec`; empty if there is none.

    `shard` and `epoch` name the writer, so that a node that lost its shard cannot append. `key_id` names the key that
    sealed the body ("" = not sealed).
    """

    lsn: int
    shard: int
    epoch: int
    tenant: str
    pid: str
    path: str
    attempt: int
    kind: Kind
    at_ns: int
    abi: int
    digest: bytes
    label: bytes
    key_id: str
    codec: Literal["msgpack", "none"]
    body: bytes


class Reserved(msgspec.Struct, frozen=True, gc=False):
    """The body of a `reservation`: what an attempt may come to on a core, in these accounts, from the widest down.

    `money` in nano-dollars. One without a `settlement` of the same attempt is charged as it stands.
    """

    core: str
    accounts: tuple[str, ...]
    money: int
    tokens: int
    calls: int


class Settled(msgspec.Struct, frozen=True, gc=False):
    """The body of a `settlement`: what an attempt came to. `known`: it was told, and is not all of what was reserved."""

    money: int
    tokens: int
    calls: int
    known: bool
