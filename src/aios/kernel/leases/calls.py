"""The rows `lease.*`."""

from __future__ import annotations

import asyncio

from aios.abi.errors import Conflict
from aios.abi.lease import AcquireLease, LeaseHeld, ReleaseLease, RenewLease
from aios.abi.request import Done
from aios.abi.waits import Wait
from aios.kernel.leases.leases import LeaseId, Leases, Waiter
from aios.kernel.process import Call, Process, kin
from aios.kernel.syscall import Syscall, check_name, check_range
from aios.kernel.waiting import ANOTHER, wait_for
from aios.ports.clock import Clock

LEAST_TTL_S, MOST_TTL_S = 1.0, 3600.0
MOST_WAIT_S = 366 * 86400.0


class LeaseCalls:
    """Acquires, renews and releases."""

    def __init__(self, leases: Leases, clock: Clock) -> None:
        self._leases = leases
        self._clock = clock

    def syscalls(self) -> dict[str, Syscall]:
        return {
            "lease.acquire": Syscall(self._acquire, prepare=_lease_of),
            "lease.renew": Syscall(self._renew, prepare=_lease_of),
            "lease.release": Syscall(self._release, prepare=_lease_of),
        }

    async def _acquire(self, call: Call) -> LeaseHeld:
        request, id = call.request, _id(call)
        assert isinstance(request, AcquireLease)
        check_range("ttl_s", request.ttl_s, LEAST_TTL_S, MOST_TTL_S)
        if request.wait_s is not None:
            check_range("wait_s", request.wait_s, 0, MOST_WAIT_S)
        token = self._leases.try_acquire(id, call.process, request.ttl_s)
        if token is None:
            token = await self._wait(call, id, request)
        return self._told(id, token)

    async def _wait(self, call: Call, id: LeaseId, request: AcquireLease) -> int:
        """Stand in line. Raises `Conflict` when the time is over, `Deadlock` if it would never be."""
        if request.wait_s == 0:
            raise Conflict(f"lease `{request.name}` is held by `{self._holder(call, id)}`", field="name")
        waiter = self._leases.enter(id, call.process, request.ttl_s)
        taken = False
        try:
            async with asyncio.timeout(request.wait_s):
                await wait_for(call, waiter.got, lambda: self._blocker(id, waiter), lambda: self._why(call, id, waiter))
            taken = True
            return waiter.got.result()
        except TimeoutError:
            raise Conflict(
                f"lease `{request.name}` is still held by `{self._holder(call, id)}` after {request.wait_s:g} s", field="name"
            ) from None
        finally:
            self._leases.leave(id, waiter, taken)

    def _blocker(self, id: LeaseId, waiter: Waiter) -> Process | None:
        lease = self._leases.find(id)
        return None if lease is None or waiter.got.done() else lease.holder

    def _why(self, call: Call, id: LeaseId, waiter: Waiter) -> Wait:
        """Held by whom; how long still is known for the first in line, if the holder does not renew."""
        lease = self._leases.find(id)
        eta = None
        if lease is not None and lease.line and lease.line[0] is waiter:
            eta = self._leases.left_s(lease)
        holder = lease.holder.name if lease is not None else ""
        return Wait(code="L", on=f"lease {id[1]}", since_ns=call.asked_ns, holder=holder, eta_s=eta)

    def _holder(self, call: Call, id: LeaseId) -> str:
        """The holder's name, for those who may know of it."""
        lease = self._leases.find(id)
        if lease is None:
            return ""
        return lease.holder.name if call.process.operator or kin(call.process, lease.holder) else ANOTHER

    async def _renew(self, call: Call) -> LeaseHeld:
        request, id = call.request, _id(call)
        assert isinstance(request, RenewLease)
        check_range("ttl_s", request.ttl_s, LEAST_TTL_S, MOST_TTL_S)
        self._leases.renew(id, call.process, request.token, request.ttl_s)
        return self._told(id, request.token)

    async def _release(self, call: Call) -> Done:
        assert isinstance(call.request, ReleaseLease)
        self._leases.release(_id(call), call.process, call.request.token)
        return Done()

    def _told(self, id: LeaseId, token: int) -> LeaseHeld:
        lease = self._leases.find(id)
        left_s = self._leases.left_s(lease) if lease is not None and lease.token == token else 0.0
        return LeaseHeld(id[1], token, self._clock.now_ns() + round(left_s * 1e9))


def _lease_of(call: Call) -> tuple[str, ...]:
    """The lease that a call is about. Raises `Invalid` for what cannot be its name."""
    name = _id(call)[1]
    check_name("name", name)
    return (f"/leases/{name}",)


def _id(call: Call) -> LeaseId:
    request = call.request
    assert isinstance(request, AcquireLease | RenewLease | ReleaseLease)
    return call.process.tenant, request.name
