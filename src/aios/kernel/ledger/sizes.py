"""Exact sizes: a call that is short of room by the bytes of its question has its tokens counted while it waits.

Bytes are never fewer than tokens, but often four times as many, and cost nothing to count. So they will do wherever there is room
for them, and nobody is asked. Where there is not, the tokens are counted: at its arrival, before it is refused or is to wait for
the next minute; and beside its wait for a turn where little is free, or for room when it was picked and stepped aside. The step
that gives a turn never waits for this: it takes the closest bound that is known by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from aios.abi.waits import Wait
from aios.kernel.amounts import CALLS
from aios.kernel.ledger.ledger import Short
from aios.kernel.ledger.payments import Payment, Till
from aios.kernel.process import Call

MOST_AT_ONCE = 4
"""Questions that are counted at once: they are long, and who counts them has other work too."""
PATIENCE_S = 5.0
"""Then bytes have to do."""
WORTH = 4
"""A question is counted if its bytes are at least this part of what the call needs."""

SCARCE = 16
"""A question that waits for a turn is counted if its bytes are more than this part of what is free."""

log = logging.getLogger("aios.ledger")


class Sizes:
    """Has the questions of calls counted that are short of room."""

    def __init__(self, till: Till) -> None:
        self._till = till
        self._at_once = asyncio.Semaphore(MOST_AT_ONCE)
        till.count = self.begin

    async def known_better(self, call: Call, payment: Payment, shorts: Iterable[tuple[str, Short]]) -> bool:
        """Count a call that may not be made on these servers now; whether it comes to less on any of them than was known."""
        servers = [server for server, short in shorts if worth(payment, server, short)]
        if not servers:
            return False
        wait = Wait(code="B", on="its size: its tokens are counted", since_ns=call.asked_ns)
        call.waits = lambda: wait
        found = False
        try:
            async with asyncio.timeout(PATIENCE_S):
                for server in servers:
                    found = await self._count(call, payment, server) or found
        except TimeoutError:
            pass
        finally:
            call.waits = None
        return found

    def begin(self, call: Call, payment: Payment) -> None:
        """Count a call that waits: for room, of which it hears if it comes to less, or for a turn where room is scarce."""
        if payment.counting is not None:
            return
        if payment.short is not None:
            servers = [payment.server] if worth(payment, payment.server, payment.short) else []
        else:
            servers = [server for server in call.feasible if is_scarce(payment, server)]
        if servers:
            payment.counting = asyncio.ensure_future(self._beside(call, payment, servers))
            payment.counting.add_done_callback(_tell_bug)

    async def _beside(self, call: Call, payment: Payment, servers: Iterable[str]) -> None:
        for server in servers:
            if await self._count(call, payment, server):
                self._till.tightened(payment)
        payment.counting = None

    async def _count(self, call: Call, payment: Payment, server: str) -> bool:
        payment.counted |= {server}
        assert payment.measure is not None
        async with self._at_once:
            bound = await payment.measure(call, server)
        if bound is None or bound.fixed.tokens >= payment.bounds[server].fixed.tokens:
            return False
        payment.bounds[server] = bound
        return True


def worth(payment: Payment, server: str, short: Short) -> bool:
    """Whether it may help to count: it was not tried, and the bytes of the question are a good part of what is missing."""
    if payment.measure is None or server in payment.counted or short.limit is None or short.limit.unit == CALLS:
        return False
    bound, unit = payment.bounds[server], short.limit.unit
    return short.because != "price" and bound.fixed[unit] * WORTH >= bound.of(bound.least)[unit]


def is_scarce(payment: Payment, server: str) -> bool:
    """Whether so little is free in an account of a call that its bytes, where they are too many, may cut its answer short."""
    fixed = payment.bounds[server].fixed
    return server not in payment.counted and any(
        limit.unit != CALLS and fixed[limit.unit] * SCARCE > account.free(limit)
        for account in payment.accounts_on(server)
        for limit in account.limits
    )


def _tell_bug(counting: asyncio.Future[None]) -> None:
    if not counting.cancelled() and (bug := counting.exception()) is not None:
        log.error("a question was not counted", exc_info=bug)
