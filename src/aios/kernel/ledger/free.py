"""Calls that cost nothing and that no limit holds for: nothing is reserved for them, and what they came to is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aios.kernel.amounts import Bound
from aios.kernel.lanes.lane import Turn
from aios.kernel.lanes.policy import Ticket
from aios.kernel.ledger.accounts import Account
from aios.kernel.ledger.book import Book, is_for_all
from aios.kernel.ledger.outcome import outcome_of
from aios.kernel.ledger.payments import Payment, Till
from aios.kernel.process import Call
from aios.kernel.syscall import Syscall
from aios.ports.clock import Clock


class Free:
    """Attempts that wait or are under way, and for which nothing is reserved."""

    def __init__(self, book: Book, till: Till, clock: Clock) -> None:
        self._book = book
        self._till = till
        self._now_ns = clock.now_ns
        self._calls: dict[Call, tuple[Account, Callable[[Call, str], Bound], str]] = {}
        """With their accounts, and the names of their jobs'."""

    def begins(self, call: Call, syscall: Syscall) -> bool:
        """Whether the next attempt of a call costs nothing and no limit holds for it: if so, it is counted at its end alone."""
        account, job = self._book.of(call.process), self._book.job_of(call)
        bound_on = syscall.bound
        assert bound_on is not None
        if not call.feasible <= syscall.costless or (self._book.has_limits and self._holds_for(call, bound_on, account, job)):
            return False
        self._calls[call] = (account, bound_on, job)
        return True

    def _holds_for(self, call: Call, bound_on: Callable[[Call, str], Bound], account: Account, job: str) -> bool:
        """Whether a limit holds for a call: as `Book.is_limited`, but of models and providers those that it may be bound to."""
        if self._book.limits(account, job):
            return True
        limits = self._book.limits_of_all
        return bool(limits) and any(not limits.isdisjoint(bound_on(call, server).tags) for server in call.feasible)

    def limit(self, account: Account) -> None:
        """An account is to have a limit: from now on something is reserved for all of its calls that wait or are under way."""
        for_all = is_for_all(account)
        for call, (own, bound_on, job) in list(self._calls.items()):
            bounds = Bounds(call, bound_on)
            if for_all:
                bounds.reckon()
            if account.name == job or account in own.path or any(account.name in bound.tags for bound in bounds.values()):
                del self._calls[call]
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

    def forget(self, call: Call) -> None:
        """An attempt got no turn."""
        self._calls.pop(call, None)

    def ended(self, call: Call, error: BaseException | None) -> None:
        """Count what an attempt that had its turn came to."""
        account, bound_on, job = self._calls.pop(call)
        actual = call.came_to
        if actual is None or error is not None:
            bound = bound_on(call, call.core)
            most = bound.of(bound.most)
            actual = outcome_of(call, bound, most, error) or most
        call.came_to = None
        if actual.calls:
            now_ns = self._now_ns()
            account.spend(actual.tokens, now_ns)
            if job or self._book.knows_for_all:
                for tag in self._tags_of(call, bound_on, job):
                    tag.spend(actual.tokens, now_ns)

    def _tags_of(self, call: Call, bound_on: Callable[[Call, str], Bound], job: str) -> Iterable[Account]:
        """The accounts of the tags of what cost nothing, as far as they are there."""
        names = bound_on(call, call.core).tags if self._book.knows_for_all else ()
        return [self._book.tags[name] for name in (job, *names) if name in self._book.tags]


def _server_of(call: Call) -> str | None:
    """Where a call has its turn; None if it waits for it."""
    ticket = call.ticket
    if not isinstance(ticket, Ticket) or ticket.frozen:
        return call.turn.dispatch.server if isinstance(call.turn, Turn) else None
    given = ticket.given
    if ticket.queued or given is None or not given.done() or given.cancelled() or given.exception() is not None:
        return None
    return given.result().server


class Bounds(dict[str, Bound]):
    """Of a call, by server; each is reckoned when it is asked for: of many calls that wait, not all in one step."""

    def __init__(self, call: Call, bound_on: Callable[[Call, str], Bound]) -> None:
        super().__init__()
        self._call = call
        self._bound_on = bound_on

    def __missing__(self, server: str) -> Bound:
        bound = self[server] = self._bound_on(self._call, server)
        return bound

    def reckon(self) -> None:
        """On all servers that can do it."""
        for server in self._call.feasible:
            self[server] = self._bound_on(self._call, server)
