"""One line of the journal."""

from __future__ import annotations

from typing import Literal

import msgspec

ABI_VERSION = 1

Kind = Literal["intent", "result", "error", "end"]


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
