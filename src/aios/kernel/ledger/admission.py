"""Who may ask for a turn, as far as accounts go: at once, when a minute is over, when an operator says so, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from functools import partial

from aios.abi.errors import OverBudget, RateLimited
from aios.abi.llm import Queued
from aios.abi.request import Class, lower
from aios.abi.waits import Wait
from aios.kernel.amounts import Amount, Bound
from aios.kernel.deadlines import Deadlines
from aios.kernel.ledger.accounts import Account
from aios.kernel.ledger.book import Book
from aios.kernel.ledger.ledger import Short
from aios.kernel.ledger.notices import Notices
from aios.kernel.ledger.payments import Measure, Payment, Place, Till
from aios.kernel.ledger.sizes import Sizes
from aios.kernel.ledger.words import NANO, why
from aios.kernel.process import Call, Process
from aios.ports.clock import Clock

MOST_AT_RATE = 1000
"""Calls of a tenant that wait at an account for the next minute; who comes then is to come again. Others wait as before."""
ONE_USE = Bound(Amount(calls=1), 0, 0, 0)
SOFT: Class = "batch"
"""The class of calls beyond a soft limit."""


class Admission:
    """Lets calls wait, or ends them, as their accounts say."""

    def __init__(self, book: Book, till: Till, clock: Clock, deadlines: Deadlines, notices: Notices) -> None:
        self._book = book
        self._till = till
        self._sizes = Sizes(till)
        self._clock = clock
        self._deadlines = deadlines
        self._notices = notices

    async def admit(
        self, call: Call, own: Account, job: str, bound_on: Callable[[Call, str], Bound], measure: Measure | None
    ) -> Payment:
        """Leave a call those servers that its accounts can pay for, once all is given back that is reserved for others.

        Where there is none it waits for the next minute, if that is all that is missing; else it is parked until there is, or
        ends in `OverBudget`. Raises `RateLimited` where it cannot wait so long.
        """
        bounds = {server: bound_on(call, server) for server in call.feasible}
        payment = Payment(self._till, own.path, bounds, call, self._book.tags, job, limited=True)
        payment.measure = measure
        while self._book.is_limited(own, job) or any(account.overbilled for account in own.path):
            found = {server: self._till.behind(payment, server) or self._lasting(payment, server) for server in bounds}
            able = frozenset([server for server, short in found.items() if short is None])
            if able:
                call.feasible = able
                for server in able:
                    self._soften(call, payment.accounts_on(server))
                break
            shorts = [(server, short) for server, short in found.items() if short is not None]
            if await self._sizes.known_better(call, payment, shorts):
                continue
            server, short = next((each for each in shorts if each[1].passes), shorts[0])
            places = {place_of(other) for _, other in shorts}
            if short.passes and call.missed and short.limit is not None:
                with self._till.first(payment, short.account, short.limit):
                    await self._changed(call, short, bounds[server], places, payment)
            else:
                await self._changed(call, short, bounds[server], places, payment)
            call.missed = call.missed or short.passes
        return payment

    def _lasting(self, payment: Payment, server: str) -> Short | None:
        return self._till.ledger.lasting(payment.accounts_on(server), payment.bounds[server])

    async def use(self, call: Call, account: Account) -> Payment:
        """Reserve a use of what has no lane, such as a tool, as soon as its account has room. See `_changed`, `used`."""
        payment = Payment(self._till, (account,), {"": ONE_USE}, call, {}, limited=bool(account.limits))
        while True:
            room = asyncio.get_running_loop().create_future()
            taken = payment.take("", partial(_set, room))
            if taken == "never":
                assert payment.short is not None
                await self._changed(call, payment.short, ONE_USE, {place_of(payment.short)}, payment)
            elif taken == "later":
                await self._wait_for_room(call, payment, room)
            elif call.process.held is None:
                return payment
            else:
                payment.release()
                await self._wait_until_resumed(call)

    @staticmethod
    async def _wait_for_room(call: Call, payment: Payment, room: asyncio.Future[None]) -> None:
        call.waits = payment.why
        try:
            await room
        except BaseException:
            payment.leave()
            raise
        finally:
            call.waits = None

    @staticmethod
    async def _wait_until_resumed(call: Call) -> None:
        call.waits = call.process.why_held
        try:
            await call.process.resumed()
        finally:
            call.waits = None

    async def _changed(self, call: Call, short: Short, bound: Bound, places: Collection[Place], payment: Payment) -> None:
        """Wait until a call may be made that may not be now: `places` are all that are in its way on one server or another.

        Raises `OverBudget`, `RateLimited` where it does not wait.
        """
        if short.passes:
            await self._wait_at_rate(call, short, bound, places, payment)
        elif parks(call.process):
            await self._park(call, short, bound, places, payment)
        else:
            raise OverBudget(self._stop(call, short, bound, "refused"), retry_after_s=None)

    async def _wait_at_rate(self, call: Call, short: Short, bound: Bound, places: Collection[Place], payment: Payment) -> None:
        """Wait for the next minute. Raises `RateLimited` if the call's deadline is before, or too many wait for it already."""
        account, limit, now_ns = short.account, short.limit, self._clock.now_ns()
        assert limit is not None
        ends_s = ((account.ends_ns(limit.window, now_ns) or now_ns) - now_ns) / NANO
        deadline_s = call.options.deadline_s
        late = deadline_s is not None and call.asked + deadline_s < self._clock.monotonic() + ends_s
        if late or self._till.parked_at(account, call.process.tenant) >= MOST_AT_RATE:
            raise RateLimited(self._stop(call, short, bound, "refused"), retry_after_s=max(1.0, ends_s))
        wait = Wait(
            code="R",
            on=why(short, bound, now_ns, self._book.tells(account, call.process)),
            since_ns=now_ns,
            holder=account.name,
            eta_s=ends_s,
        )
        call.waits = lambda: wait
        if call.tell is not None and not call.queued:
            call.queued = True
            call.tell(Queued(call=call.id, quota=self._notices.quota(call)))
        try:
            await self._till.changed(places, payment)
        finally:
            call.waits = None

    async def _park(self, call: Call, short: Short, bound: Bound, places: Collection[Place], payment: Payment) -> None:
        """Wait until the limit is raised, or its window ends. The call's deadline waits too."""
        account, now_ns = short.account, self._clock.now_ns()
        ends = account.ends_ns(short.limit.window, now_ns) if short.limit is not None else None
        eta_s = (ends - now_ns) / NANO if ends is not None and short.because == "spent" else None
        on = self._stop(call, short, bound, "parked")
        wait = Wait(code="B", on=on, since_ns=now_ns, holder=account.name, eta_s=eta_s, parked=True)
        self._deadlines.pause(call)
        call.waits = lambda: wait
        call.parked = account, short.limit
        try:
            await self._till.changed(places, payment)
        finally:
            call.waits = None
            self._deadlines.go_on(call)

    def _stop(self, call: Call, short: Short, bound: Bound, change: str) -> str:
        """Tell operators that a call may not be made; why, as its caller may hear it."""
        now_ns = self._clock.now_ns()
        said = why(short, bound, now_ns)
        needs = 0 if short.limit is None else bound.of(bound.least)[short.limit.unit]
        self._notices.tell(short.account, change, f"{call.process.name}: {said}", call, short.limit, needs)
        return why(short, bound, now_ns, self._book.tells(short.account, call.process))

    def _soften(self, call: Call, accounts: Iterable[Account]) -> None:
        """Beyond a soft limit a call is of a lower class."""
        for account in accounts:
            for limit in account.limits:
                if limit.soft is not None and account.gone(limit) >= limit.soft:
                    call.cls = lower(call.cls, SOFT)
                    self._notices.softened(call, account, limit)


def _set(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)


def parks(process: Process) -> bool:
    """Whether a process waits for a higher limit instead of being refused: native agents do, if they do not say otherwise."""
    return process.is_native and process.manifest is not None and process.manifest.on_budget == "park"


def place_of(short: Short) -> Place:
    """Where a call waits until what it is short of changes."""
    return short.account, short.limit.window if short.limit is not None else "lifetime"
