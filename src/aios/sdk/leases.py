"""Leases as an agent sees them: a block that holds one, and does not go on when it is lost."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from aios.abi.errors import AiosError, Fenced
from aios.abi.lease import AcquireLease, ReleaseLease, RenewLease
from aios.ports.gate import Gate
from aios.sdk.mail import waiting

RENEWED = 3
"""So often in the time of a lease."""


class Lease:
    """A lease that is held as long as its block runs.

    `token`: see `LeaseHeld`. It is renewed in the background; when that fails, the block is cancelled and ends in `Fenced`:
    another may hold the lease already. In plain functions, which cannot be interrupted, the end of the block raises it.
    """

    def __init__(self, gate: Gate, name: str, ttl_s: float, timeout_s: float | None) -> None:
        self._gate = gate
        self.name = name
        self.token = 0
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._owner: asyncio.Task[Any] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._lost: AiosError | None = None

    def __repr__(self) -> str:
        return f"<lease {self.name}>"

    async def __aenter__(self) -> Self:
        wait_s, options = waiting(self._timeout_s)
        held = await self._gate.call(AcquireLease(name=self.name, ttl_s=self._ttl_s, wait_s=wait_s), options)
        self.token, self._lost = held.token, None
        self._owner = asyncio.current_task()
        self._renewing = asyncio.create_task(self._renew(), name=f"lease {self.name}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._renewing is not None
        self._renewing.cancel()
        try:
            await asyncio.wait((self._renewing,))
        except asyncio.CancelledError:
            if self._lost is None:
                raise
        if self._lost is None:
            await self._gate.call(ReleaseLease(name=self.name, token=self.token))
            return
        told_too = self._owner is asyncio.current_task() and self._owner is not None and self._owner.uncancel() > 0
        if not told_too:
            raise Fenced(f"the lease `{self.name}` was lost: {self._lost}", field="token") from None

    async def _renew(self) -> None:
        while self._lost is None:
            await asyncio.sleep(self._ttl_s / RENEWED)
            try:
                await self._gate.call(RenewLease(name=self.name, token=self.token, ttl_s=self._ttl_s))
            except AiosError as error:
                if not error.retry:
                    self._lost = error
        if self._owner is not None:
            self._owner.cancel()
