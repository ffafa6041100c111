"""How a call comes to its reservation: in the very step that gives it a turn, or later, when others have given back.

A call that has its turn and whose accounts are short only of what is reserved for others steps aside: it waits at the one that is
short, with those of its class, tenants and their users in turn and of each in the order in which they came, and goes back into
its lane when there is room. Whoever comes after it waits behind it, so that many small calls do not keep out a large one. One
that is short of what is spent is not for this place: it is refused, or parked until the limit is raised or the window ends.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from aios.abi.account import Window
from aios.abi.request import CLASSES
from aios.abi.waits import Wait
from aios.kernel.amounts import NOTHING, Amount, Bound
from aios.kernel.ledger.accounts import Account, Limit, Whose
from aios.kernel.ledger.ledger import Ledger, Reservation, Short
from aios.kernel.ledger.windows import MINUTE_NS, begun_ns
from aios.kernel.process import Call
from aios.ports.clock import Clock

Taken = Literal["taken", "later", "never"]
Rank = tuple[int, int, int]
"""Of class, time of asking and arrival: the lower ones come first."""
Place = tuple[Account, Window]
"""Where one waits for a limit to be changed, or for a window to end."""
Measure = Callable[[Call, str], Awaitable[Bound | None]]
"""See `Syscall.measure`."""
NOWHERE: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Parked:
    """Who waits at an account until its limits change or a window ends, in their order. `begun_ns`: when that window did."""

    whose: Whose
    rank: Rank
    window: Window
    begun_ns: int
    future: asyncio.Future[None]

    def ends(self, now_ns: int) -> bool:
        """Whether its window is over; also if the clock has gone back."""
        return begun_ns(self.window, now_ns) != self.begun_ns


class Payment:
    """What one attempt of a call needs of its accounts. `bounds`: by server. `tags`: accounts beside those, by name; of the call
    are the one of its `job` and those that the bound of its server names, as far as they are there.

    `limited`: one of its accounts has a limit. `recorded`: the journal has its reservation. `measure`: how its bounds become
    closer, if they can; `counted`: on which servers that was tried; `counting`: it is, beside its wait for room.
    `missed`: a rate of which it has missed a minute.
    """

    __slots__ = (
        "_call", "_till", "accounts", "at", "bounds", "counted", "counting", "job", "limited", "measure", "missed", "rank",
        "recall", "recorded", "reservation", "server", "short", "tags", "whose",
    )  # fmt: skip

    def __init__(
        self, till: Till, accounts: tuple[Account, ...], bounds: dict[str, Bound], call: Call,
        tags: Mapping[str, Account], job: str = "", limited: bool = False,
    ) -> None:  # fmt: skip
        self.accounts = accounts
        self.tags = tags
        self.job = job
        self.bounds = bounds
        self.limited = limited
        self.recorded = False
        self.measure: Measure | None = None
        self.counted: frozenset[str] = NOWHERE
        self.counting: asyncio.Future[None] | None = None
        self.missed: Limit | None = None
        self.reservation: Reservation | None = None
        self.whose: Whose = (call.process.tenant, call.process.user)
        self.rank: Rank = (CLASSES.index(call.cls), call.asked_ns, next(till.arrivals))
        self.server = ""
        self.at: Account | None = None
        self.short: Short | None = None
        self.recall: Callable[[], None] | None = None
        self._till = till
        self._call = call

    def accounts_on(self, server: str) -> tuple[Account, ...]:
        """What pays for a turn on a server: the accounts of its tags, too."""
        tags = self.tags
        if not tags:
            return self.accounts
        found = [tags[name] for name in (self.job, *self.bounds[server].tags) if name in tags]
        return (*self.accounts, *found) if found else self.accounts

    def most(self, server: str) -> Amount:
        """All that it may come to on a server."""
        bound = self.bounds[server]
        return bound.of(bound.most)

    def take(self, server: str, recall: Callable[[], None]) -> Taken:
        """Reserve for a turn on a server. `later`: it waits now, and `recall` is called when there may be room."""
        return self._till.take(self, server, recall)

    def begin_count(self) -> None:
        """It is short of room: its question may be counted meanwhile."""
        if self.measure is not None and self._till.count is not None:
            self._till.count(self._call, self)

    def leave(self) -> None:
        """It waits no longer."""
        if self.counting is not None:
            self.counting.cancel()
            self.counting = None
        if self.recall is not None or self.short is not None:
            self._till.leave(self)

    @property
    def granted(self) -> int | None:
        """Tokens that the answer may have, if they are fewer than the call could take."""
        assert self.reservation is not None
        return self.reservation.tokens if self.reservation.tokens < self.bounds[self.server].most else None

    def insist(self, server: str) -> None:
        """Reserve for what is under way on a server already."""
        self.server, self.reservation = server, self._till.ledger.insist(self.accounts_on(server), self.bounds[server])
        self._till.held.add(self)

    def release(self) -> None:
        """Give back all that is reserved, if anything: nothing was done."""
        self.settle(NOTHING)

    def settle(self, actual: Amount | None) -> Amount:
        """See `Ledger.settle`; what was not reserved is not settled."""
        reservation, self.reservation = self.reservation, None
        if reservation is None:
            return NOTHING
        self._till.held.discard(self)
        return self._till.settle(reservation, actual)

    def why(self) -> Wait:
        """What it waits for."""
        assert self.short is not None
        name = self.short.account.name
        return Wait(code="B", on=f"room in `{name}`", since_ns=self._call.asked_ns, holder=f"calls of `{name}`")


class Line:
    """Who waits at an account: the calls of a user in the order of their ranks, and of each class users and tenants in turn.

    So nobody waits behind more than one call of each of the others there, however many these have made.
    """

    __slots__ = ("_account", "_of")

    def __init__(self, account: Account) -> None:
        self._account = account
        self._of: dict[Whose, list[Payment]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __bool__(self) -> bool:
        return bool(self._of)

    def add(self, payment: Payment) -> None:
        bisect.insort(self._of.setdefault(payment.whose, []), payment, key=_rank)

    def remove(self, payment: Payment) -> None:
        own = self._of[payment.whose]
        del own[bisect.bisect_left(own, payment.rank, key=_rank)]
        if not own:
            del self._of[payment.whose]

    def in_front_of(self, payment: Payment) -> Iterator[Payment]:
        """Who is to go on before a payment."""
        own = order_at(self._account, payment)
        for line in self._of.values():
            for other in line:
                if order_at(self._account, other) >= own:
                    break
                yield other

    def first(self) -> Payment:
        """Who is to go on next."""
        return min((own[0] for own in self._of.values()), key=partial(order_at, self._account))


def _rank(payment: Payment) -> Rank:
    return payment.rank


def order_at(account: Account, of: Payment | Parked) -> tuple[int, int, int, Rank]:
    """Of two at an account that one comes first for which this is less: of its class whose tenant, then whose user, had to wait
    longest since it was last served; of a user the one that came first."""
    served, (tenant, _) = account.served, of.whose
    return of.rank[0], served.get((tenant, ""), 0), served.get(of.whose, 0), of.rank


class Till:
    """Where reservations are made and settled, and who waits for them."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger = ledger
        self.arrivals = itertools.count()
        self.count: Callable[[Call, Payment], None] | None = None
        self._clock = clock
        self.held: set[Payment] = set()
        """Those that have a reservation."""
        self._waiting: dict[Account, Line] = {}
        self._recalled: dict[Account, set[Payment]] = {}
        self._parked: dict[Account, dict[Parked, None]] = {}
        self._parked_of: dict[tuple[Account, str], int] = {}
        """How many of them are a tenant's."""
        self._first: dict[Account, Line] = {}
        """Those that have missed a minute already."""
        self._stirred: set[Account] = set()
        self._served = 0
        self._timer: asyncio.TimerHandle | None = None

    def waiting_at(self, account: Account) -> int:
        """How many calls wait at an account."""
        return len(self._waiting.get(account, ())) + len(self._parked.get(account, ()))

    def parked_at(self, account: Account, tenant: str) -> int:
        """How many calls of a tenant are parked at an account."""
        return self._parked_of.get((account, tenant), 0)

    def take(self, payment: Payment, server: str, recall: Callable[[], None]) -> Taken:
        """See `Payment.take`."""
        again = bool(self._recalled) and self._done_with(payment)
        if CLASSES[payment.rank[0]] != payment._call.cls:  # it has got another class
            payment.rank = (CLASSES.index(payment._call.cls), *payment.rank[1:])
        if self._first and not again and (behind := self.behind(payment, server)) is not None:
            payment.server, payment.short = server, behind
            return "never"
        short = self._in_front(payment, server) if self._waiting and not again else None
        if short is None:
            got = self.ledger.reserve(payment.accounts_on(server), payment.bounds[server])
            if isinstance(got, Reservation):
                payment.reservation, payment.server = got, server
                self.held.add(payment)
                if payment.limited:
                    self._note_served(got.accounts, payment.whose)
                return "taken"
            if got.lasts:
                payment.server, payment.short = server, got
                return "never"
            short = got
        payment.server, payment.recall = server, recall
        self._wait_at(payment, short)
        return "later"

    def _note_served(self, accounts: Iterable[Account], whose: Whose) -> None:
        self._served += 1
        for account in accounts:
            if account.limits:
                account.served[whose[0], ""] = account.served[whose] = self._served

    def _in_front(self, payment: Payment, server: str) -> Short | None:
        """Those who wait at one of its accounts are in front of a newcomer, unless it is of a higher class, or its turn is, or it
        takes nothing of what they wait for: what is made on this machine costs no money."""
        for account in payment.accounts_on(server):
            for other in self._waiting[account].in_front_of(payment) if account in self._waiting else ():
                limit = other.short.limit if other.short is not None else None
                if limit is None or payment.most(server)[limit.unit]:
                    return other.short
        return None

    def _wait_at(self, payment: Payment, short: Short) -> None:
        account = short.account
        payment.at, payment.short = account, short
        payment.begin_count()
        self._waiting.setdefault(account, Line(account)).add(payment)
        self._wind()

    def leave(self, payment: Payment) -> None:
        """See `Payment.leave`."""
        self._done_with(payment)
        account, payment.at, payment.recall = payment.at, None, None
        if account is not None:
            line = self._waiting[account]
            line.remove(payment)
            if not line:
                del self._waiting[account]
            self._stir((account,))

    def join(self, account: Account) -> None:
        """A tag is there from now on: what is reserved for calls that are of it is reserved in its account too."""
        for payment in self.held:
            reservation = payment.reservation
            if reservation is not None and account not in reservation.accounts:
                if account.name in payment.bounds[payment.server].tags:
                    account.reserve(reservation.amount)
                    reservation.accounts = (*reservation.accounts, account)

    def tightened(self, payment: Payment) -> None:
        """A payment that waits needs less than it did."""
        if payment.at is not None:
            self._stir((payment.at,))

    def _done_with(self, payment: Payment) -> bool:
        """Whether it had been told that there is room. Then the next one may be told."""
        for account in [account for account, recalled in self._recalled.items() if payment in recalled]:
            self._recalled[account].discard(payment)
            if not self._recalled[account]:
                del self._recalled[account]
            self._stir((account,))
            return True
        return False

    def settle(self, reservation: Reservation, actual: Amount | None) -> Amount:
        """Settle, and let those hear of it who wait for room."""
        over = self.ledger.settle(reservation, actual)
        if self._waiting:
            self._stir(reservation.accounts)
        return over

    def _stir(self, accounts: tuple[Account, ...]) -> None:
        """There may be room in accounts: whoever is first there hears of it, each in a step of its own."""
        for account in accounts:
            if account in self._waiting and account not in self._stirred:
                self._stirred.add(account)
                asyncio.get_running_loop().call_soon(self._next, account)

    def _next(self, account: Account) -> None:
        """Let the first that waits at an account go back to its lane, if there is room for it, or never will be."""
        self._stirred.discard(account)
        line = self._waiting.get(account)
        if line is None:
            return
        first = line.first()
        recalled = self._recalled.get(account, ())
        if any(other.server == first.server for other in recalled):
            return
        short = self.ledger.room(first.accounts_on(first.server), first.bounds[first.server])
        if isinstance(short, Short) and not short.lasts:
            if short.account is not account:
                recall = first.recall
                self.leave(first)
                first.recall = recall
                self._wait_at(first, short)
            return
        recall = first.recall
        self.leave(first)
        self._recalled.setdefault(account, set()).add(first)
        assert recall is not None
        recall()

    # --- who is parked ------------------------------------------------------------------------------------------------

    @contextmanager
    def first(self, payment: Payment, account: Account, limit: Limit) -> Iterator[None]:
        """As long as the block runs, others that came later wait for the next minute too: else what they have under way when it
        begins might leave too little of it, each time."""
        line = self._first.setdefault(account, Line(account))
        payment.missed = limit
        line.add(payment)
        try:
            yield
        finally:
            line.remove(payment)
            if not line:
                self._first.pop(account, None)

    def behind(self, payment: Payment, server: str) -> Short | None:
        """Whether one comes first that has missed a minute."""
        for account in payment.accounts_on(server) if self._first else ():
            line = self._first.get(account)
            if line is not None and order_at(account, first := line.first()) < order_at(account, payment):
                return Short(account, first.missed, "behind")
        return None

    async def changed(self, places: Collection[Place], payment: Payment) -> None:
        """Return when the limits of one of these accounts have changed, or its window has ended: to those of lower rank first."""
        future, now_ns = asyncio.get_running_loop().create_future(), self._clock.now_ns()
        parked = [
            (account, Parked(payment.whose, payment.rank, window, begun_ns(window, now_ns), future)) for account, window in places
        ]
        for account, each in parked:
            self._parked.setdefault(account, {})[each] = None
            self._count_parked(account, each, 1)
        self._wind()
        try:
            await future
        finally:
            for account, each in parked:
                self._count_parked(account, each, -1)
                here = self._parked.get(account, {})
                here.pop(each, None)
                if not here:
                    self._parked.pop(account, None)

    def _count_parked(self, account: Account, parked: Parked, more: int) -> None:
        whose = account, parked.whose[0]
        count = self._parked_of.get(whose, 0) + more
        if count:
            self._parked_of[whose] = count
        else:
            del self._parked_of[whose]

    def tell_changed(self, account: Account) -> None:
        """The limits of an account have changed."""
        self._wake(account, self._parked.pop(account, ()))
        self._stir((account,))

    @staticmethod
    def _wake(account: Account, parked: Iterable[Parked]) -> None:
        """Let them look again: of each class the first of each user, then the second of each."""
        before: dict[tuple[int, Whose], int] = {}
        places: list[tuple[int, int, tuple[int, int, int, Rank], Parked]] = []
        for each in sorted(parked, key=lambda each: each.rank):
            cls = each.rank[0]
            place = before[cls, each.whose] = before.get((cls, each.whose), -1) + 1
            places.append((cls, place, order_at(account, each), each))
        for *_, each in sorted(places, key=lambda found: found[:3]):
            if not each.future.done():
                each.future.set_result(None)

    def _wind(self) -> None:
        """Windows end at full minutes: who waits for the end of one then looks again."""
        if self._timer is None:
            left_ns = MINUTE_NS - self._clock.now_ns() % MINUTE_NS
            self._timer = asyncio.get_running_loop().call_later(left_ns / 1e9, self._minute)

    def _minute(self) -> None:
        self._timer = None
        now_ns = self._clock.now_ns()
        self._stir(tuple(self._waiting))
        for account, here in self._parked.items():
            self._wake(account, [parked for parked in here if parked.ends(now_ns)])
        if self._waiting or self._parked:
            self._wind()

    def close(self) -> None:
        """Nothing is left to come."""
        if self._timer is not None:
            self._timer.cancel()
