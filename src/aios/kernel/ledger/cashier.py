"""What the call path asks of the ledger: may this call begin, what does its turn cost, what did it come to."""

from __future__ import annotations

from aios.abi.record import Reserved, Settled
from aios.kernel.amounts import NOTHING
from aios.kernel.deadlines import Deadlines
from aios.kernel.events import EventLog
from aios.kernel.lanes.policy import Ticket
from aios.kernel.ledger.accounts import Account
from aios.kernel.ledger.admission import ONE_USE, Admission
from aios.kernel.ledger.book import Book
from aios.kernel.ledger.free import Free
from aios.kernel.ledger.notices import Notices
from aios.kernel.ledger.outcome import outcome_of
from aios.kernel.ledger.payments import Payment, Till
from aios.kernel.process import Call
from aios.kernel.record.journal import Journal
from aios.kernel.syscall import Syscall
from aios.ports.clock import Clock


class Cashier:
    """Joins accounts, limits and calls. `book`: the accounts; `till`: where reservations are made."""

    def __init__(self, book: Book, till: Till, clock: Clock, deadlines: Deadlines, events: EventLog, journal: Journal) -> None:
        self._book = book
        self._till = till
        self._journal = journal
        self._notices = Notices(book, clock, events)
        self._admission = Admission(book, till, clock, deadlines, self._notices)
        self.free = Free(book, till, clock)
        self.quota = self._notices.quota

    async def payment(self, call: Call, syscall: Syscall) -> Payment:
        """What the next attempt of a call has to reserve with its turn. See `Admission.admit`."""
        assert syscall.bound is not None
        account, job = self._book.of(call.process), self._book.job_of(call)
        if self._book.has_limits and self._book.is_limited(account, job):
            return await self._admission.admit(call, account, job, syscall.bound, syscall.measure)
        bounds = {server: syscall.bound(call, server) for server in call.feasible}
        return Payment(self._till, account.path, bounds, call, self._book.tags, job)

    async def use(self, call: Call, account: Account) -> Payment:
        """Reserve a use of what has no lane, such as a tool, as soon as its account has room. See `used`."""
        payment = await self._admission.use(call, account)
        self.record(call, payment)
        return payment

    def used(self, call: Call, payment: Payment) -> None:
        """A use has ended, however it did."""
        payment.settle(ONE_USE.fixed)
        if payment.recorded:
            self._journal.settlement(call, Settled(*ONE_USE.fixed, True))

    def record(self, call: Call, payment: Payment) -> None:
        """Record what is reserved for an attempt, if any limit or any money stands on it: of others, the result tells enough."""
        reservation = payment.reservation
        if reservation is not None and (payment.limited or reservation.amount.money):
            payment.recorded = True
            if payment.limited and call.tell is not None:
                call.quota = self.quota(call)
            if call.parked is not None:
                self._notices.resumed(call)
            accounts = tuple([account.name for account in reservation.accounts])
            self._journal.reservation(call, Reserved(payment.server, accounts, *reservation.amount))

    def release(self, call: Call, ticket: Ticket) -> None:
        """An attempt got no turn, or gave it back: nothing is reserved for it any more."""
        self.free.forget(call)
        if isinstance(ticket.payment, Payment):
            ticket.payment.release()

    def settle(self, call: Call, payment: Payment, error: BaseException | None) -> None:
        """An attempt that was paid for and had its turn has ended, in an error or well: book what it came to."""
        if payment.reservation is None:
            return
        reserved = payment.reservation.amount
        actual = outcome_of(call, payment.bounds[payment.server], reserved, error)
        over = payment.settle(actual)
        if payment.recorded:
            self._journal.settlement(call, Settled(*(reserved if actual is None else actual), actual is not None))
        if error is None:
            call.quota = self.quota(call)  # a limit may have come meanwhile
        if over != NOTHING:
            self._notices.overbilled(call, payment, over)
