"""The rows `account.*`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from aios.abi.account import OF_TENANTS, UNITS, WINDOWS, AccountList, AccountState, SetLimit, ShowAccounts
from aios.abi.errors import Denied, NotFound, TooLarge
from aios.abi.event import AccountChanged
from aios.abi.wire import nearest
from aios.kernel.events import EventLog
from aios.kernel.ledger.accounts import Account
from aios.kernel.ledger.book import Book
from aios.kernel.ledger.cashier import Cashier
from aios.kernel.ledger.payments import Till
from aios.kernel.ledger.states import limit_state, tightest
from aios.kernel.ledger.words import per, words
from aios.kernel.process import Call, Process
from aios.kernel.record.journal import Journal
from aios.kernel.syscall import Syscall
from aios.ports.clock import Clock

MOST_SHOWN = 10_000


class AccountCalls:
    """Shows accounts, and limits them."""

    def __init__(
        self, book: Book, till: Till, clock: Clock, events: EventLog, journal: Journal, cashier: Cashier,
        known: Callable[[], Mapping[str, Collection[str]]],
    ) -> None:  # fmt: skip
        """`known`: the models and providers that there are, by what stands before their names."""
        self._book = book
        self._till = till
        self._clock = clock
        self._events = events
        self._journal = journal
        self._cashier = cashier
        self._known = known

    def syscalls(self) -> dict[str, Syscall]:
        return {"account.show": Syscall(self._show), "account.limit": Syscall(self._limit)}

    async def _show(self, call: Call) -> AccountList:
        request = call.request
        assert isinstance(request, ShowAccounts)
        pid = request.process
        account = self._visible(call, request.account) if pid is None else self._of_process(call, pid)
        found = list(self._book.below(account, request.processes)) if request.below else [account]
        if len(found) > MOST_SHOWN:
            said = f"there are {len(found):,} accounts below `{account.name}`: name one of them, as in `aios spend /TENANT/AGENT`"
            raise TooLarge(said, field="account")
        return AccountList(accounts=tuple(self.state(each, call.process) for each in found), at_ns=self._clock.now_ns())

    def _visible(self, call: Call, path: str | None) -> Account:
        """An account that a caller may see: its own and those below; operators see all. Raises `NotFound`, for others too."""
        own = self._book.of(call.process)
        if path is None:
            return own
        path = full(path, call.process)
        if call.process.operator or path == own.name or path.startswith(own.name + "/"):
            return self._book.named(path)
        raise NotFound(f"there is no account `{path[:200]}` below `{own.name}`", field="account")

    def _of_process(self, call: Call, pid: str) -> Account:
        """The account of a process that a caller may see. Raises `NotFound`, also where it has asked no model yet."""
        account = self._book.of_pid(pid)
        if account is None or not (call.process.operator or self._book.of(call.process) in account.path):
            raise NotFound(f"there is no account of a process `{pid[:80]}`", field="process")
        return account

    async def _limit(self, call: Call) -> AccountState:
        request = call.request
        assert isinstance(request, SetLimit)
        if not call.process.operator:
            raise Denied(f"`{call.process.name}` cannot limit accounts: an operator does, with `aios budget`")
        self._check_known(request.account)
        account = self._book.limited(full(request.account, call.process))
        account.turn(self._clock.now_ns())
        unit = UNITS.index(request.unit)
        self._cashier.free.limit(account)
        account.limit(request.window, unit, request.amount, request.soft)
        account.overbilled = 0
        self._journal.change(call, request)
        self._book.note_limits(account)
        most = "no limit" if request.amount is None else words(unit, request.amount)
        detail = f"{request.unit}{per(request.window)}: {most}, by {call.process.name}"
        state = self.state(account, call.process)
        limit = next((each for each in state.limits if (each.unit, each.window) == (request.unit, request.window)), None)
        self._events.add(
            AccountChanged, tenant=account.tenant, account=account.name, change="limited", limit=limit, detail=detail
        )
        self._till.tell_changed(account)
        return state

    def _check_known(self, path: str) -> None:
        """Raises `NotFound` for a model or a provider that no core is of."""
        for tag, known in self._known().items():
            name = path.removeprefix(tag)
            if name != path and name not in known:
                raise NotFound(f"no core has a {tag.rstrip(':')} `{name}`{nearest(name, known)}", field="account")

    def state(self, account: Account, asking: Process) -> AccountState:
        """An account as a process sees it."""
        now_ns = self._clock.now_ns()
        for each in account.path:
            each.turn(now_ns)
        timed = [window for window in WINDOWS if window not in ("call", "now")]
        return AccountState(
            account=account.name,
            spent={window: {name: account.spent_in(window, unit) for unit, name in enumerate(UNITS)} for window in timed},
            reserved=dict(zip(UNITS, account.reserved, strict=True)),
            limits=tuple(limit_state(account, limit, now_ns) for limit in account.limits),
            effective=tightest((each for each in account.path if self._book.tells(each, asking)), now_ns),
            overbilled=account.overbilled,
            waiting=self._till.waiting_at(account),
        )


def full(path: str, caller: Process) -> str:
    """The name of an account; a job or a tool that names no tenant is of the caller's."""
    tag, _, name = path.partition(":")
    return f"{tag}:{caller.tenant}/{name}" if path.startswith(OF_TENANTS) and "/" not in name else path
