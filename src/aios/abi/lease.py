"""Leases: named resources that one process at a time holds across its calls, each time with a larger token."""

from __future__ import annotations

from aios.abi.request import Done, Reply, Request


class LeaseHeld(Reply, frozen=True):
    """The lease is the caller's until `expires_ns` (UTC), unless it renews or releases it before.

    `token`: larger than of any holder before. A resource that remembers the largest token it has seen and refuses smaller
    ones is safe from a holder that does not know that its time is over.
    """

    name: str
    token: int
    expires_ns: int


class AcquireLease(Request[LeaseHeld], frozen=True, kw_only=True):
    """Hold a lease for `ttl_s` seconds (1 to 3,600); waits in line behind those who asked before.

    `name`: 1 to 64 letters, digits, `.`, `:`, `-` or `_`. `wait_s`: seconds to wait; None: as long as it takes; over them is
    a `Conflict` that names the holder. `Deadlock` at once if the holder waits for the caller. A lease ends when it is
    released, when its time is over, and when its holder ends or its host dies.
    """

    name: str
    ttl_s: float = 30.0
    wait_s: float | None = None


class RenewLease(Request[LeaseHeld], frozen=True, kw_only=True):
    """Hold a lease for `ttl_s` seconds from now. `Fenced` if it is no longer held under this token."""

    name: str
    token: int
    ttl_s: float = 30.0


class ReleaseLease(Request[Done], frozen=True, kw_only=True):
    """Give a lease back; the next in line has it at once. `Fenced` if it is no longer held under this token."""

    name: str
    token: int
