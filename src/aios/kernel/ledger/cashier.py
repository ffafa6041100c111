"""What the call path asks of the ledger: may this call begin, what does its turn cost, what did it come to."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Collection, Iterable
from functools import partial

from aios.abi.account import JOB, UNITS, LimitState, Window
from aios.abi.errors import BadRequest, ContextFull, OverBudget, RateLimited, Refused
from aios.abi.event import AccountChanged
from aios.abi.llm import Queued
from aios.abi.record import Reserved, Settled
from aios.abi.request import Class, lower
from aios.abi.waits import Wait
from aios.kernel.amounts import CALLS, MONEY, NOTHING, Amount, Bound
from aios.kernel.deadlines import Deadlines
from aios.kernel.events import EventLog
from aios.kernel.lanes.lane import Turn
from aios.kernel.lanes.policy import Ticket
from aios.kernel.ledger.accounts import Account, Limit
from aios.kernel.ledger.book import Book, is_for_all
from aios.kernel.ledger.ledger import Short
from aios.kernel.ledger.payments import Measure, Payment, Place, Till
from aios.kernel.ledger.sizes import Sizes
from aios.kernel.ledger.states import limit_state, tightest
from aios.kernel.process import Call, Process
from aios.kernel.record.journal import Journal
from aios.kernel.syscall import Syscall
from aios.ports.clock import Clock
from aios.ports.core import NotAsked

NANO = 10**9
NOTHING_DONE = (Refused, BadRequest, ContextFull, NotAsked)
"""A core that says this before its first word has done nothing."""
MOST_AT_RATE = 1000
"""Calls that wait at an account for the next minute; who comes then is to come again."""
ONE_USE = Bound(Amount(calls=1), 0, 0, 0)
SOFT: Class = "batch"
"""The class of calls beyond a soft limit."""


class Cashier:
    """Joins accounts, limits and calls. `book`: the accounts; `till`: where reservations are made."""

    def __init__(self, book: Book, till: Till, clock: Clock, deadlines: Deadlines, events: EventLog, journal: Journal) -> None:
        self._book = book
        self._till = till
        self._sizes = Sizes(till)
        self._clock = clock
        self._deadlines = deadlines
        self._events = events
        self._journal = journal
        self._free: dict[Call, tuple[Account, Callable[[Call, str], Bound], str]] = {}
        """Attempts that wait or are under way, and for which nothing is reserved; with the names of their jobs' accounts."""

    def is_free(self, call: Call, syscall: Syscall) -> bool:
        """Whether the next attempt of a call costs nothing and no limit holds for it: then nothing is reserved with its turn."""
        account, job = self._book.of(call.process), self._job_of(call)
        assert syscall.free is not None and syscall.bound is not None
        if not syscall.free(call) or (self._book.has_limits and self._holds_for(call, syscall.bound, account, job)):
            return False
        self._free[call] = (account, syscall.bound, job)
        return True

    def _holds_for(self, call: Call, bound_on: Callable[[Call, str], Bound], account: Account, job: str) -> bool:
        """Whether a limit holds for a call: as `_is_limited`, but of models and providers those alone that it may be bound to."""
        if self._has_limits(account, job):
            return True
        limits = self._book.limits_of_all
        return bool(limits) and any(not limits.isdisjoint(bound_on(call, server).tags) for server in call.feasible)

    def _job_of(self, call: Call) -> str:
        """The name of the account of the job that a call is of: its process's, or else the one that it names; "" for none."""
        process, trace = call.process, call.options.trace
        job = process.job or (trace.tag if trace is not None else "")
        return self._book.tagged(JOB, process.tenant, job).name if job else ""

    def _is_limited(self, account: Account, job: str) -> bool:
        """Whether a limit may hold for calls of an account and a job: theirs, one above it, or one of a model or a provider."""
        return self._has_limits(account, job) or bool(self._book.limits_of_all)

    def _has_limits(self, account: Account, job: str) -> bool:
        if job and job in self._book.tags and (self._book.tags[job].limits or self._book.tags[job].overbilled):
            return True
        for each in account.path:  # of each call more than once
            if each.limits:
                return True
        return False

    def begin_limits(self, account: Account) -> None:
        """An account is to have a limit: from now on something is reserved for all of its calls that wait or are under way."""
        for_all = is_for_all(account)
        for call, (own, bound_on, job) in list(self._free.items()):
            bounds = {server: bound_on(call, server) for server in call.feasible} if for_all else {}
            if account.name == job or account in own.path or any(account.name in bound.tags for bound in bounds.values()):
                del self._free[call]
                bounds = bounds or {server: bound_on(call, server) for server in call.feasible}
                payment = Payment(self._till, own.path, bounds, call, self._book.tags, job, limited=True)
                ticket = call.ticket
                if isinstance(ticket, Ticket):
                    ticket.payment = payment
                server = _server_of(call)
                if server is not None:
                    payment.insist(server)
                    call.payment = payment
        if for_all:
            self._till.join(account)

    async def payment(self, call: Call, syscall: Syscall) -> Payment:
        """What the next attempt of a call has to reserve with its turn. See `admit`."""
        assert syscall.bound is not None
        account, job = self._book.of(call.process), self._job_of(call)
        if self._book.has_limits and self._is_limited(account, job):
            return await self.admit(call, syscall.bound, syscall.measure)
        bounds = {server: syscall.bound(call, server) for server in call.feasible}
        return Payment(self._till, account.path, bounds, call, self._book.tags, job)

    async def admit(self, call: Call, bound_on: Callable[[Call, str], Bound], measure: Measure | None = None) -> Payment:
        """Leave a call those servers that its accounts can pay for, once all is given back that is reserved for others.

        Where there is none it waits for the next minute, if that is all that is missing; else it is parked until there is, or
        ends in `OverBudget`. Raises `RateLimited` where it cannot wait so long.
        """
        own, job = self._book.of(call.process), self._job_of(call)
        bounds = {server: bound_on(call, server) for server in call.feasible}
        payment = Payment(self._till, own.path, bounds, call, self._book.tags, job, limited=True)
        payment.measure = measure
        while self._is_limited(own, job) or any(account.overbilled for account in own.path):
            found = {server: self._till.ledger.lasting(payment.accounts_on(server), bound) for server, bound in bounds.items()}
            able = frozenset(server for server, short in found.items() if short is None)
            if able:
                call.feasible = able
                self._soften(call, {account for server in able for account in payment.accounts_on(server)})
                break
            shorts = [(server, short) for server, short in found.items() if short is not None]
            if await self._sizes.known_better(call, payment, shorts):
                continue
            server, short = next((each for each in shorts if each[1].passes), shorts[0])
            await self._changed(call, short, bounds[server], {place_of(other) for _, other in shorts})
        return payment

    async def use(self, call: Call, account: Account) -> Payment:
        """Reserve a use of what has no lane, such as a tool, as soon as its account has room. See `_changed`, `used`."""
        payment = Payment(self._till, (account,), {"": ONE_USE}, call, {}, limited=bool(account.limits))
        while True:
            room = asyncio.get_running_loop().create_future()
            taken = payment.take("", partial(_set, room))
            if taken == "never":
                assert payment.short is not None
                await self._changed(call, payment.short, ONE_USE, {place_of(payment.short)})
            elif taken == "later":
                await self._wait_for_room(call, payment, room)
            elif call.process.held is None:
                self.record(call, payment)
                return payment
            else:
                payment.release()
                await self._wait_until_resumed(call)

    def used(self, call: Call, payment: Payment) -> None:
        """A use has ended, however it did."""
        payment.settle(ONE_USE.fixed)
        if payment.recorded:
            self._journal.settlement(call, Settled(*ONE_USE.fixed, True))

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

    async def _changed(self, call: Call, short: Short, bound: Bound, places: Collection[Place]) -> None:
        """Wait until a call may be made that may not be now: `places` are all that are in its way on one server or another.

        Raises `OverBudget`, `RateLimited` where it does not wait.
        """
        if short.passes:
            await self._wait_at_rate(call, short, bound, places)
        elif parks(call.process):
            await self._park(call, short, bound, places)
        else:
            raise OverBudget(self._stop(call, short, bound, "refused"), retry_after_s=None)

    async def _wait_at_rate(self, call: Call, short: Short, bound: Bound, places: Collection[Place]) -> None:
        """Wait for the next minute. Raises `RateLimited` if the call's deadline is before, or too many wait for it already."""
        account, limit, now_ns = short.account, short.limit, self._now_ns()
        assert limit is not None
        ends_s = ((account.ends_ns(limit.window, now_ns) or now_ns) - now_ns) / NANO
        deadline_s = call.options.deadline_s
        late = deadline_s is not None and call.asked + deadline_s < self._clock.monotonic() + ends_s
        if late or self._till.waiting_at(account) >= MOST_AT_RATE:
            raise RateLimited(self._stop(call, short, bound, "refused"), retry_after_s=max(1.0, ends_s))
        wait = Wait(code="R", on=why(short, bound, now_ns), since_ns=now_ns, holder=account.name, eta_s=ends_s)
        call.waits = lambda: wait
        if call.tell is not None and not call.queued:
            call.queued = True
            call.tell(Queued(call=call.id, quota=self.quota(call)))
        try:
            await self._till.changed(places, call)
        finally:
            call.waits = None

    async def _park(self, call: Call, short: Short, bound: Bound, places: Collection[Place]) -> None:
        """Wait until the limit is raised, or its window ends. The call's deadline waits too."""
        account, now_ns = short.account, self._now_ns()
        ends = account.ends_ns(short.limit.window, now_ns) if short.limit is not None else None
        eta_s = (ends - now_ns) / NANO if ends is not None and short.because == "spent" else None
        on = self._stop(call, short, bound, "parked")
        wait = Wait(code="B", on=on, since_ns=now_ns, holder=account.name, eta_s=eta_s, parked=True)
        self._deadlines.pause(call)
        call.waits = lambda: wait
        call.parked = account, short.limit
        try:
            await self._till.changed(places, call)
        finally:
            call.waits = None
            self._deadlines.go_on(call)

    def _stop(self, call: Call, short: Short, bound: Bound, change: str) -> str:
        """Tell that a call may not be made; why."""
        said = why(short, bound, self._now_ns())
        needs = 0 if short.limit is None else bound.of(bound.least)[short.limit.unit]
        self._tell(short.account, change, f"{call.process.name}: {said}", call, short.limit, needs)
        return said

    @staticmethod
    def _soften(call: Call, accounts: Iterable[Account]) -> None:
        """Beyond a soft limit a call is of a lower class."""
        for account in accounts:
            if any(limit.soft is not None and account.gone(limit) >= limit.soft for limit in account.limits):
                call.cls = lower(call.cls, SOFT)

    def quota(self, call: Call) -> tuple[LimitState, ...]:
        """Of the limits of calls and of tokens those that leave a client's process least, one each; none for a native agent."""
        if not self._book.has_limits or is_native(call.process):
            return ()
        path = self._book.of(call.process).path
        least: dict[str, LimitState] = {}
        for state in tightest(path, self._now_ns()):
            kept = least.get(state.unit)
            if state.unit != "money" and state.window not in ("call", "now") and (kept is None or state.free < kept.free):
                least[state.unit] = state
        return tuple(least.values())

    def record(self, call: Call, payment: Payment) -> None:
        """Record what is reserved for an attempt, if any limit or any money stands on it: of others, the result tells enough."""
        reservation = payment.reservation
        if reservation is not None and (payment.limited or reservation.amount.money):
            payment.recorded = True
            if payment.limited and call.tell is not None:
                call.quota = self.quota(call)
            if call.parked is not None:
                self._tell_resumed(call)
            accounts = tuple([account.name for account in reservation.accounts])
            self._journal.reservation(call, Reserved(payment.server, accounts, *reservation.amount))

    def _tell_resumed(self, call: Call) -> None:
        account, limit = call.parked
        call.parked = None
        now = [each for each in account.limits if limit is not None and (each.unit, each.window) == (limit.unit, limit.window)]
        self._tell(
            account, "resumed", f"{call.process.name}: it has its turn, and its reservation", call, now[0] if now else None
        )

    def release(self, call: Call, ticket: Ticket) -> None:
        """An attempt got no turn, or gave it back: nothing is reserved for it any more."""
        self._free.pop(call, None)
        if isinstance(ticket.payment, Payment):
            ticket.payment.release()

    def settle(self, call: Call, error: BaseException | None) -> None:
        """An attempt that had its turn has ended, in an error or well: book what it came to."""
        payment: Payment | None = call.payment
        if payment is None:
            return self._spend(call, error)
        if payment.reservation is None:
            return
        reserved = payment.reservation.amount
        actual = self._came_to(call, payment.bounds[payment.server], reserved, error)
        over = payment.settle(actual)
        if payment.recorded:
            self._journal.settlement(call, Settled(*(reserved if actual is None else actual), actual is not None))
        if over != NOTHING:
            self._alarm(call, payment, over)

    def _spend(self, call: Call, error: BaseException | None) -> None:
        """Count what cost nothing."""
        account, bound_on, job = self._free.pop(call)
        actual = call.came_to
        if actual is None or error is not None:
            bound = bound_on(call, call.core)
            most = bound.of(bound.most)
            actual = self._came_to(call, bound, most, error) or most
        call.came_to = None
        if actual.calls:
            now_ns = self._clock.now_ns()
            account.spend(actual.tokens, now_ns)
            for tag in self._tags_of(call, bound_on, job):
                tag.spend(actual.tokens, now_ns)

    def _tags_of(self, call: Call, bound_on: Callable[[Call, str], Bound], job: str) -> Iterable[Account]:
        """The accounts of the tags of what cost nothing, as far as they are there."""
        tags = self._book.tags
        if not tags or not (job or self._book.knows_for_all):
            return ()
        names = bound_on(call, call.core).tags if self._book.knows_for_all else ()
        return [tags[name] for name in (job, *names) if name in tags]

    @staticmethod
    def _came_to(call: Call, bound: Bound, reserved: Amount, error: BaseException | None) -> Amount | None:
        """What is known of it; None for what cannot be known."""
        actual = call.came_to
        call.came_to = None
        if error is not None and (not call.acted or (isinstance(error, NOTHING_DONE) and not call.said_tokens)):
            actual = NOTHING
        elif error is not None and actual is None and bound.heard:
            actual = bound.of(min(call.said_tokens, bound.most))
        spent = reserved if actual is None else actual
        call.cost += spent.money
        return actual

    def _alarm(self, call: Call, payment: Payment, over: Amount) -> None:
        said = ", ".join(f"{words(unit, amount)}" for unit, amount in enumerate(over) if amount)
        blocked = [account for account in payment.accounts_on(payment.server) if account.overbilled]
        for account in blocked or payment.accounts[-1:]:
            self._tell(account, "overbilled", f"{call.process.name} on {call.core}: {said} beyond what was reserved", call)

    def _tell(self, account: Account, change: str, detail: str, call: Call, limit: Limit | None = None, needs: int = 0) -> None:
        state = None if limit is None else limit_state(account, limit, self._now_ns())
        self._events.add(
            AccountChanged, tenant=account.tenant, account=account.name, change=change, call=call.id, name=call.process.name,
            limit=state, needs=needs, detail=detail,
        )  # fmt: skip

    def _now_ns(self) -> int:
        return self._clock.now_ns()


def _set(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)


def _server_of(call: Call) -> str | None:
    """Where a call has its turn; None if it waits for it."""
    ticket = call.ticket
    if not isinstance(ticket, Ticket) or ticket.frozen:
        return call.turn.dispatch.server if isinstance(call.turn, Turn) else None
    given = ticket.given
    if ticket.queued or given is None or not given.done() or given.cancelled() or given.exception() is not None:
        return None
    return given.result().server


def is_native(process: Process) -> bool:
    """Whether a process is an agent of the SDK, and no program or client that comes to a door."""
    return process.kind == "agent" and process.manifest is not None and not process.manifest.command


def parks(process: Process) -> bool:
    """Whether a process waits for a higher limit instead of being refused: native agents do, if they do not say otherwise."""
    return is_native(process) and process.manifest is not None and process.manifest.on_budget == "park"


def place_of(short: Short) -> Place:
    """Where a call waits until what it is short of changes."""
    return short.account, short.limit.window if short.limit is not None else "lifetime"


def why(short: Short, bound: Bound, now_ns: int) -> str:
    """Why a call may not be made, with the account, the window's end and the command that raises the limit."""
    name, limit = short.account.name, short.limit
    if limit is None:
        return f"`{name}` is blocked: more was billed than had been reserved; `aios budget {name} ...` sets its limit anew"
    most = words(limit.unit, limit.wanted) + per(limit.window)
    raises = f"`aios budget {name} --{flag(limit.unit)} AMOUNT{_per(limit.window)}` raises it"
    if short.because == "price":
        says = "say it in `[prices]` of aios.toml, see `aios prices`, or leave out what is billed by its uses"
        return f"`{name}` has a limit of {most}, and nobody knows what this call costs: {says}"
    least = words(limit.unit, bound.of(bound.least)[limit.unit])
    if short.because == "limit":
        return f"`{name}` has a limit of {most}, and this call alone may come to {least}: {raises}"
    spent = words(limit.unit, short.account.spent_in(limit.window, limit.unit))
    ends = short.account.ends_ns(limit.window, now_ns)
    resets = f", begins anew at {utc(ends)}" if ends is not None else ""
    return f"`{name}` has spent {spent} of {most}, and this call may come to {least}{resets}: {raises}"


def words(unit: int, amount: int) -> str:
    """An amount of a unit as people write it."""
    if unit == MONEY:
        whole, rest = divmod(amount, NANO)
        return f"${whole}.{rest:09d}".rstrip("0").rstrip(".")
    return f"{amount:,} {UNITS[unit]}" if amount != 1 or unit != CALLS else "1 call"


def flag(unit: int) -> str:
    """The option of `aios budget` for a unit."""
    return "usd" if unit == MONEY else UNITS[unit]


def per(window: Window) -> str:
    """` per day`; nothing for a lifetime."""
    return {"lifetime": "", "now": " at once"}.get(window, f" per {window}")


def _per(window: Window) -> str:
    return "" if window == "lifetime" else f" --per {window}"


def utc(at_ns: int) -> str:
    """A moment as people read it."""
    return f"{datetime.datetime.fromtimestamp(at_ns // NANO, datetime.UTC):%Y-%m-%d %H:%M} UTC"
