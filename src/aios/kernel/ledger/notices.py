"""What becomes of accounts and limits, as operators and clients hear it."""

from __future__ import annotations

from aios.abi.account import LimitState
from aios.abi.event import AccountChanged
from aios.kernel.amounts import Amount
from aios.kernel.events import EventLog
from aios.kernel.ledger.accounts import Account, Limit
from aios.kernel.ledger.book import Book
from aios.kernel.ledger.payments import Payment
from aios.kernel.ledger.states import limit_state, tightest
from aios.kernel.ledger.windows import LATEST_NS
from aios.kernel.ledger.words import per, words
from aios.kernel.process import Call
from aios.ports.clock import Clock


class Notices:
    """Tells of accounts."""

    def __init__(self, book: Book, clock: Clock, events: EventLog) -> None:
        self._book = book
        self._clock = clock
        self._events = events

    def quota(self, call: Call) -> tuple[LimitState, ...]:
        """Of the limits of calls and of tokens those that leave a client's process least, one each; none for a native agent, and
        none that several tenants share."""
        process, book = call.process, self._book
        if not book.has_limits or process.is_native:
            return ()
        path = [account for account in book.of(process).path if account.limits and book.tells(account, process)]
        if not path:
            return ()
        least: dict[str, LimitState] = {}
        for state in tightest(path, self._clock.now_ns()):
            kept = least.get(state.unit)
            if state.unit != "money" and state.window not in ("call", "now") and (kept is None or state.free < kept.free):
                least[state.unit] = state
        return tuple(least.values())

    def resumed(self, call: Call) -> None:
        account, limit = call.parked
        call.parked = None
        now = [each for each in account.limits if limit is not None and (each.unit, each.window) == (limit.unit, limit.window)]
        self.tell(account, "resumed", f"{call.process.name}: it has its turn, and its reservation", call, now[0] if now else None)

    def softened(self, call: Call, account: Account, limit: Limit) -> None:
        """A soft limit is passed; of each window this is told once."""
        assert limit.soft is not None
        ends_ns = account.ends_ns(limit.window, self._clock.now_ns()) or LATEST_NS
        if limit.told_ns != ends_ns:
            limit.told_ns = ends_ns
            passed = f"the soft limit of {words(limit.unit, limit.soft)}{per(limit.window)} is passed"
            self.tell(account, "softened", f"{call.process.name}: {passed}, so calls are of class batch", call, limit)

    def overbilled(self, call: Call, payment: Payment, over: Amount) -> None:
        said = ", ".join(f"{words(unit, amount)}" for unit, amount in enumerate(over) if amount)
        blocked = [account for account in payment.accounts_on(payment.server) if account.overbilled]
        for account in blocked or payment.accounts[-1:]:
            self.tell(account, "overbilled", f"{call.process.name} on {call.core}: {said} beyond what was reserved", call)

    def tell(self, account: Account, change: str, detail: str, call: Call, limit: Limit | None = None, needs: int = 0) -> None:
        state = None if limit is None else limit_state(account, limit, self._clock.now_ns())
        self._events.add(
            AccountChanged, tenant=account.tenant, account=account.name, change=change, call=call.id, name=call.process.name,
            limit=state, needs=needs, detail=detail,
        )  # fmt: skip
