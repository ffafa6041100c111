"""Leases: who holds what until when, and who is next.

A lease passes on in the step in which it comes free (released, expired, its holder gone), to who has waited longest. Tokens come
from one counter that begins at the time of boot in microseconds: they grow over all holders, and over kernels too.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, deque

from aios.abi.errors import Fenced, QueueFull
from aios.kernel.process import Process
from aios.ports.clock import Clock

MOST_WAITERS = 4096
"""Before one lease."""
MOST_HELD = 256
"""By one process."""
MOST_LEASES = 10_000
"""Of a tenant."""

LeaseId = tuple[str, str]
"""Tenant and name."""


@dataclasses.dataclass(slots=True, eq=False)
class Waiter:
    """A call in line; `got` is its token."""

    process: Process
    ttl_s: float
    got: asyncio.Future[int]


@dataclasses.dataclass(slots=True, eq=False)
class Lease:
    """Held by one process, under one token, until `ends` (monotonic seconds)."""

    holder: Process
    token: int
    ends: float
    timer: asyncio.TimerHandle
    line: deque[Waiter]


class Leases:
    """The leases of all tenants. A lease is there as long as somebody holds it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._leases: dict[LeaseId, Lease] = {}
        self._held: dict[Process, set[LeaseId]] = {}
        self._count: Counter[str] = Counter()
        self._token = clock.now_ns() // 1000

    def find(self, id: LeaseId) -> Lease | None:
        return self._leases.get(id)

    def try_acquire(self, id: LeaseId, process: Process, ttl_s: float) -> int | None:
        """A token, if nobody holds the lease. Raises `QueueFull`."""
        if id in self._leases:
            return None
        held = len(self._held.get(process, ()))
        if held >= MOST_HELD:
            raise QueueFull(f"`{process.name}` holds {held} leases, which is the most: release some", retry_after_s=1.0)
        if self._count[id[0]] >= MOST_LEASES:
            raise QueueFull(f"{MOST_LEASES} leases are held, which is the most", retry_after_s=1.0)
        self._count[id[0]] += 1
        return self._give(id, process, ttl_s, deque())

    def enter(self, id: LeaseId, process: Process, ttl_s: float) -> Waiter:
        """Stand in line; `leave` must follow. Raises `QueueFull`."""
        line = self._leases[id].line
        if len(line) >= MOST_WAITERS:
            raise QueueFull(f"{MOST_WAITERS} calls wait for lease `{id[1]}` already", retry_after_s=10.0)
        waiter = Waiter(process, ttl_s, asyncio.get_running_loop().create_future())
        line.append(waiter)
        return waiter

    def leave(self, id: LeaseId, waiter: Waiter, taken: bool) -> None:
        """No longer in line. Unless it was `taken`, a lease that came in the same step passes on."""
        lease = self._leases.get(id)
        if lease is None:
            return
        if waiter in lease.line:
            lease.line.remove(waiter)
        elif not taken and waiter.got.done() and not waiter.got.cancelled() and lease.token == waiter.got.result():
            self._pass_on(id, lease)

    def renew(self, id: LeaseId, process: Process, token: int, ttl_s: float) -> None:
        """Hold it for so long from now. Raises `Fenced`."""
        lease = self._own(id, process, token)
        lease.timer.cancel()
        lease.ends, lease.timer = self._clock.monotonic() + ttl_s, self._timer(id, token, ttl_s)

    def release(self, id: LeaseId, process: Process, token: int) -> None:
        """Give it back. Raises `Fenced`."""
        self._pass_on(id, self._own(id, process, token))

    def left(self, process: Process) -> None:
        """A life of a process is over: what it held passes on."""
        for id in tuple(self._held.get(process, ())):
            self._pass_on(id, self._leases[id])

    def place(self, id: LeaseId, waiter: Waiter) -> int:
        """How many stand before a waiter."""
        return self._leases[id].line.index(waiter)

    def left_s(self, lease: Lease) -> float:
        """Seconds until a lease ends, if it is not renewed."""
        return max(0.0, lease.ends - self._clock.monotonic())

    def _own(self, id: LeaseId, process: Process, token: int) -> Lease:
        lease = self._leases.get(id)
        if lease is None or lease.holder is not process or lease.token != token:
            raise Fenced(f"`{process.name}` does not hold lease `{id[1]}` under token {token} (any more)", field="token")
        return lease

    def _give(self, id: LeaseId, process: Process, ttl_s: float, line: deque[Waiter]) -> int:
        self._token += 1
        ends = self._clock.monotonic() + ttl_s
        self._leases[id] = Lease(process, self._token, ends, self._timer(id, self._token, ttl_s), line)
        self._held.setdefault(process, set()).add(id)
        return self._token

    def _timer(self, id: LeaseId, token: int, ttl_s: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(ttl_s, self._expire, id, token)

    def _expire(self, id: LeaseId, token: int) -> None:
        lease = self._leases.get(id)
        if lease is not None and lease.token == token:
            self._pass_on(id, lease)

    def _pass_on(self, id: LeaseId, lease: Lease) -> None:
        """Take a lease from its holder, and give it to the next who still waits."""
        lease.timer.cancel()
        held = self._held[lease.holder]
        held.discard(id)
        if not held:
            del self._held[lease.holder]
        while lease.line:
            waiter = lease.line.popleft()
            if not waiter.got.done():
                waiter.got.set_result(self._give(id, waiter.process, waiter.ttl_s, lease.line))
                return
        self._count[id[0]] -= 1
        if not self._count[id[0]]:
            del self._count[id[0]]
        del self._leases[id]
