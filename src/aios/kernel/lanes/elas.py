"""The policy `elas`, eligible least attained service: classes share, in them tenants, and of a tenant who needs least goes first.

1. Class: interactive, standard and batch are charged what their calls cost over 16, 3 and 1. The most urgent is served that is
   not further than `CLASS_LEAD` ahead of the one that is furthest behind, and not ahead at all while a call of a less urgent one
   is overdue: on a slow core the lead alone would take hours. `system` (what a waiting call needs of the kernel) goes
   first for up to 5 % of all, `idle` when nothing else waits.
2. Account: of siblings the least served over its weight, down the path: tenants are equal, and in a tenant its users.
3. Program: the lowest level, which is logarithmic in what it still needs, and in a level who came first. One whose deadline is
   at risk is below all levels, the earliest deadline first.
4. Who waits: a call stands in the queue of whoever waits for it too, and the one in which it is picked pays for it.
Of four turns that a server gives to an account, one is for its oldest overdue call.

What a call costs is not known when it starts: its account is charged what calls of its kind cost on average, and the difference
when it has ended. From Least Attained Service as in Autellix (Luo et al. 2025, PLAS), the virtual token counter (Sheng et al.
2024), and eligibility and lift as in EEVDF (Stoica and Abdel-Wahab 1995). Tried and found useless or harmful: to let tenants
lead by more than one call, the longest path first across programs, to move a helper to the queue of who waits for it.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from aios.abi.request import Class
from aios.kernel.lanes.ageing import AGED, AGEING_EVERY, overdue
from aios.kernel.lanes.means import Means
from aios.kernel.lanes.places import STALE, Account, Ages, Line, Waiting
from aios.kernel.lanes.policy import Accounts, Dispatch, Load, Policy, Ticket, Waiter
from aios.kernel.lanes.queue import dispatch

Band = Literal["system"] | Class
"""A class, or what stands above them."""
URGENT: tuple[Band, ...] = ("system", "interactive")
"""Those to which others stand back."""

CLASS_WEIGHTS: dict[Band, float] = {"interactive": 16.0, "standard": 3.0, "batch": 1.0}
BANDS: dict[Band, float] = {"system": 1.0, **CLASS_WEIGHTS, "idle": 1.0}
"""The most urgent first."""
WITHOUT_SHARE: tuple[Band, ...] = ("system", "idle")
CLASS_LEAD = 60_000.0
"""Weighted tokens over its weight by which a more urgent class may be ahead of one that waits."""
SYSTEM_SHARE = 0.05
SYSTEM_BURST = 60_000.0
"""Weighted tokens that `system` may have had less than its share and still get."""
FIRST_LEVEL_S = 8.0
"""Seconds of service below which all programs are of level 0."""
MOST_NEEDED_S = 1e9
RISK_FACTOR, RISK_MARGIN_S = 6.0, 5.0
"""A deadline is at risk when so many times what the program needs, and a margin, do not fit before it."""
AT_RISK = -1.0
LEVELS_APART = 1.5
"""By how many levels a waiting call must be lower than a running one to have its turn, where calls can stand back."""
MOST_WAITERS = 8
"""Of those who wait for one call, so many may pay for it."""


class Charge(msgspec.Struct, frozen=True):
    """What a call that has begun was charged, and its number of arrival, which it keeps when it stands back."""

    band: Band
    account: Account
    estimate: float
    number: int


class Elas(Policy):
    """See above. An account that ends a ticket's path stands for the ticket's owner; without a path its `share` does."""

    name = "elas"
    preempts = True

    def __init__(self) -> None:
        self._top = Account("", 1.0, None)
        self._top.slack = CLASS_LEAD
        self._bands: dict[Band, Account] = {band: self._top.child(band, weight) for band, weight in BANDS.items()}
        self._sharing = [(band, self._bands[band]) for band in CLASS_WEIGHTS]
        self._waiting: dict[Ticket, Waiting] = {}
        self._arrivals = itertools.count()
        self._risks: list[tuple[float, int, float, Waiting]] = []
        self._charged: dict[Ticket, Charge] = {}
        self._ages: dict[Band, Ages] = {band: Ages() for band in BANDS}
        self._moved: dict[Account, None] = {}
        self._means = Means()
        self._system_spare = SYSTEM_BURST

    # --- who waits ----------------------------------------------------------------------------------------------------

    def add(self, ticket: Ticket) -> None:
        self._add(ticket, self._charged[ticket].number if ticket in self._charged else next(self._arrivals))

    def changed(self, ticket: Ticket) -> None:
        before = self._waiting[ticket]
        assert before.rank is not None
        self._add(ticket, before.rank[2])  # first: who has a call in a line all along is not lifted
        self._leave(before)

    def _add(self, ticket: Ticket, number: int) -> None:
        waiting = self._waiting[ticket] = Waiting(ticket, (*level_of(ticket, ticket.asked), number))
        if ticket.deadline is None and not ticket.waiters:  # as most are
            self._stand_in(self._own(ticket), waiting)
        else:
            for at, deadline in risks(ticket):
                heapq.heappush(self._risks, (at, number, deadline, waiting))
            for home in self._homes(ticket):
                line = home.places.get(ticket.feasible)
                if line is None or line not in waiting.lines:  # who waits for it may be of its own account
                    self._stand_in(home, waiting)
        if not ticket.system:
            self._ages[ticket.cls].add(waiting, len(self._waiting))

    def _stand_in(self, home: Account, waiting: Waiting) -> None:
        """It waits in the line of an account that may pay for it."""
        if not home.waiting:
            home.lift()
        home.line(waiting.ticket.feasible).add(waiting)
        if home not in self._moved:
            self._mark(home)

    def remove(self, ticket: Ticket) -> None:
        self._leave(self._waiting.pop(ticket))

    def _leave(self, waiting: Waiting) -> None:
        """Take a ticket out of its lines."""
        waiting.rank = None
        for line in waiting.lines:
            line.gone()
            if line.account not in self._moved:
                self._mark(line.account)
        if self._risks and len(self._risks) > STALE + 2 * MOST_WAITERS * len(self._waiting):
            self._risks = [risk for risk in self._risks if risk[3].rank is not None]
            heapq.heapify(self._risks)

    def _mark(self, account: Account) -> None:
        """It has moved, as those above it have. It may have been marked before."""
        self._moved[account] = None
        if len(self._moved) > STALE + 2 * len(self._waiting):  # many come and go, and nothing can be decided
            self._stand_anew()

    def _stand_anew(self) -> None:
        """Once per decision, whatever came about since the last one."""
        for account in self._moved:
            account.moved()
        self._moved.clear()

    def _homes(self, ticket: Ticket) -> Iterator[Account]:
        """The accounts that may pay: the ticket's own, and those of who waits for it. To look for one may forget idle ones."""
        yield self._own(ticket)
        for waiter in ticket.waiters[:MOST_WAITERS]:
            yield self._account(waiter.cls, waiter.accounts)

    def _own(self, ticket: Ticket) -> Account:
        return self._account("system" if ticket.system else ticket.cls, ticket.accounts or ((ticket.share, 1.0),))

    def _account(self, band: Band, accounts: Accounts) -> Account:
        account, last = self._bands[band], len(accounts) - 1
        for depth, (name, weight) in enumerate(accounts):
            key: object = (name,) if depth == last else name
            found = account.children.get(key)
            if found is None:
                found = account.child(key, weight)
            else:
                found.weight = weight
            account = found
        return account

    # --- who is next --------------------------------------------------------------------------------------------------

    def urgent(self, ticket: Ticket) -> bool:
        """Interactive calls are, and what they wait for, as long as their class is not too far ahead of another that has work."""
        if ticket.system:
            return True
        if ticket.cls != "interactive" and not any(waiter.cls == "interactive" for waiter in ticket.waiters[:MOST_WAITERS]):
            return False
        served = self._bands["interactive"].served
        busy = (band for band in map(self._bands.__getitem__, CLASS_WEIGHTS) if band.waiting or band.running)
        return all(served <= band.served + CLASS_LEAD for band in busy)

    def yields(self, ticket: Ticket, server: str, now: float) -> bool:
        """To a call of a class above, and to one of its own account that is of a much lower level; not when it was overdue."""
        charged = self._charged.get(ticket)
        if charged is None or overdue(ticket, ticket.cls, now):
            return False
        own = self._bands[charged.band]
        for band, root in itertools.takewhile(lambda each: each[0] != charged.band, self._bands.items()):
            ahead = band in CLASS_WEIGHTS and charged.band in CLASS_WEIGHTS and root.served > own.served + CLASS_LEAD
            if not ahead and root.can_use({server: 0.0}):
                return True
        ranks = (place.rank() for able, place in charged.account.places.items() if server in able)
        lowest = min((rank[0] for rank in ranks if rank is not None), default=math.inf)
        return lowest + LEVELS_APART <= level_of(ticket, ticket.asked)[0]

    def pick(self, idle: dict[str, float], now: float, kept: Collection[str] = ()) -> Dispatch | None:
        while self._risks and self._risks[0][0] < now:
            self._put_first(*heapq.heappop(self._risks)[2:])
        self._stand_anew()
        band = self._band(idle, now)
        if kept and band not in URGENT:
            idle = {name: load for name, load in idle.items() if name not in kept}
            band = self._band(idle, now)
        if band is None:
            return None
        lines = self._lines(band, idle)
        payer = lines[0].account
        chosen = None
        if len(lines) > 1 or overdue(lines[0].oldest_call().ticket, patient(band), now):
            chosen = self._overdue(lines, band, idle, now)
        if chosen is None:
            chosen = self._first(lines, band, idle)
        since_aged = payer.since_aged
        waiting = self._waiting.pop(chosen.ticket)
        rank = waiting.rank
        since_aged[chosen.server] = 0 if chosen.reason == AGED else since_aged.get(chosen.server, 0) + 1
        goes_on = chosen.ticket in self._charged
        self._leave(waiting)
        if not goes_on:
            assert rank is not None
            self._charge(chosen.ticket, band, payer, rank[2])
        return chosen

    def _band(self, idle: Mapping[str, float], now: float) -> Band | None:
        """The class that is next, of those that have a call which an idle server can do."""
        system = self._bands["system"]
        if system.places and self._system_spare > 0 and system.can_use(idle):
            return "system"
        sharing = [(band, root.served) for band, root in self._sharing if root.places and root.can_use(idle)]
        if not sharing:
            return next((band for band in WITHOUT_SHARE if self._bands[band].can_use(idle)), None)
        least = sharing[0][1] if len(sharing) == 1 else min([served for _, served in sharing])
        if least > self._top.floor:
            self._top.floor = least
        if len(sharing) == 1:
            return sharing[0][0]
        while sharing[0][1] > least + CLASS_LEAD:
            del sharing[0]
        if sharing[0][1] > least and self._is_overdue([band for band, _ in sharing[1:]], idle, now):
            return next(band for band, served in sharing if served == least)
        return sharing[0][0]

    def _is_overdue(self, bands: Iterable[Band], idle: Mapping[str, float], now: float) -> bool:
        """Whether a call of these classes, that an idle server can do, has waited for longer than it should."""
        return any(overdue(oldest, patient(band), now) for band in bands for oldest in self._ages[band].oldest(idle))

    def _lines(self, band: Band, idle: Mapping[str, float]) -> list[Line]:
        """The lines of the account that is next in a class, for the sets of servers of which one is idle."""
        account = self._bands[band]
        while True:
            if len(account.places) == 1:  # as where one core does it all
                (place,) = account.places.values()
                if type(place) is Line:
                    return [place]
                entry = place.first()
            else:
                places = [place for place in account.places.values() if not place.servers.isdisjoint(idle)]
                if type(places[0]) is Line:
                    return places  # type: ignore[return-value]  # an account has only lines, or none
                entry = min([first for each in places if (first := each.first()) is not None])
            assert entry is not None
            account.floor = entry[0]  # lower than it was where calls came to less than was expected of them
            account = entry[3].account

    def _first(self, lines: list[Line], band: Band, idle: dict[str, float]) -> Dispatch:
        """The call with the least rank."""
        line = lines[0] if len(lines) == 1 else min(lines, key=Line.rank)  # type: ignore[arg-type]  # none of them is empty
        first = line.first_call()
        assert first.rank is not None
        return dispatch(first.ticket, idle, reason_of(band, first.rank[0]))

    def _overdue(self, lines: list[Line], band: Band, idle: dict[str, float], now: float) -> Dispatch | None:
        """The oldest call, if it is overdue, on a server whose turn for one has come."""
        late = [line for line in lines if overdue(line.oldest_call().ticket, patient(band), now)]
        if not late:
            return None
        since_aged = lines[0].account.since_aged
        due = {name: load for name, load in idle.items() if since_aged.get(name, 0) >= AGEING_EVERY - 1}
        able = [line.oldest_call() for line in late if not line.servers.isdisjoint(due)]
        return dispatch(min(able, key=Waiting.since).ticket, due, AGED) if able else None

    def _put_first(self, deadline: float, waiting: Waiting) -> None:
        """A waiting call's deadline has come to be at risk."""
        rank = waiting.rank
        if rank is not None and (rank[0] != AT_RISK or deadline < rank[1]):
            waiting.rank = (AT_RISK, deadline, rank[2])
            for line in waiting.lines:
                line.add_rank(waiting)
                self._mark(line.account)

    # --- what it costs ------------------------------------------------------------------------------------------------

    def started(self, ticket: Ticket) -> None:
        if ticket in self._charged:
            return
        account = self._own(ticket)  # it was not picked: a server was free
        account.lift()
        account.raise_floors()
        self._charge(ticket, "system" if ticket.system else ticket.cls, account, next(self._arrivals))

    def settled(self, ticket: Ticket, cost: float, at_least: bool = False) -> None:
        charged = self._charged.pop(ticket, None)
        if charged is None:
            return  # it had its turn of another policy
        account = charged.account
        if at_least:
            cost = max(cost, self._means.expected(ticket.program.kind))
        elif cost:
            self._means.add(ticket.program.kind, cost)
        if account.running > 1:
            account.running -= 1
        else:
            account.run_no_more()
        self._spend(charged.band, account, cost - charged.estimate)

    def _charge(self, ticket: Ticket, band: Band, account: Account, number: int) -> None:
        estimate = self._means.estimate(ticket.program.kind)
        self._charged[ticket] = Charge(band, account, estimate, number)
        if account.running:
            account.running += 1
        else:
            account.run()
        self._spend(band, account, estimate)

    def _spend(self, band: Band, account: Account, cost: float) -> None:
        served = account  # it and those above it were served so much, or less than was thought
        while served.parent is not None:
            served.served += cost / served.weight
            served = served.parent
        if account not in self._moved and self._bands[band].waiting:
            self._mark(account)
        spare = self._system_spare + (-cost if band == "system" else cost * SYSTEM_SHARE / (1 - SYSTEM_SHARE))
        self._system_spare = spare if spare < SYSTEM_BURST else SYSTEM_BURST

    # --- what stands before it ----------------------------------------------------------------------------------------

    def load(self, ticket: Ticket) -> Load | None:
        """In the account in which it would be next first: its own, or that of one who waits for it."""
        if ticket.system or ticket.cls == "idle":
            return None  # nobody knows when nothing else waits
        level, _ = level_of(ticket, ticket.asked)
        loads = [Load(self._before(home, ticket, level), self._part(home)) for home in self._homes(ticket)]
        return min(loads, key=lambda load: (load.ahead + 1) / load.share)

    def _before(self, account: Account, ticket: Ticket, level: float) -> float:
        """Calls of average cost that wait in an account and go before a ticket of that level, on a server that can do it.

        Those do that are of no worse level, and whose deadline is no later: else it goes before them when it comes to be at risk.
        """
        cost, deadline = 0.0, ticket.deadline
        for line in account.places.values():
            assert isinstance(line, Line)
            if line.servers.isdisjoint(ticket.feasible):
                continue
            for rank, waiting in line.ranked:
                theirs = waiting.ticket.deadline
                first = deadline is None or (theirs is not None and theirs <= deadline)
                if waiting.rank is rank and rank[0] <= level and first:
                    cost += self._means.expected(waiting.ticket.program.kind)
        return cost / max(self._means.expected(""), 1.0)

    def _part(self, account: Account) -> float:
        """What an account gets of the lane while those wait that wait now."""
        part, idle = 1.0, self._bands["idle"]
        while account.parent is not None:
            siblings = account.parent.children.values()
            others = sum(other.weight for other in siblings if other.waiting and other is not account and other is not idle)
            part *= account.weight / (account.weight + others)
            account = account.parent
        return part

    # --- what would be ------------------------------------------------------------------------------------------------

    def waiting(self) -> Iterable[Ticket]:
        return iter(self._waiting)

    def order(self, now: float) -> Iterable[Ticket]:
        return (picked.ticket for picked in self.foresee(now))

    def foresee(self, now: float) -> Iterable[Dispatch]:
        """As it would be if each call cost what is expected of it, by what a copy picks when all servers are idle."""
        copy = self.copy()
        anywhere = dict.fromkeys(sorted({name for ticket in self._waiting for name in ticket.feasible}), 0.0)
        for ticket in self._charged:
            if ticket not in self._waiting:
                copy.settled(ticket, 0.0, at_least=True)
        while (picked := copy.pick(anywhere, now)) is not None:
            yield picked
            copy.settled(picked.ticket, 0.0, at_least=True)

    def copy(self) -> Elas:
        """The same with what waits, to be played on; what ends there is not learned from."""
        copy = Elas()
        copied: dict[Account, Account] = {}
        copy._top = self._top.copied(None, copied)
        copy._bands = {band: copied[root] for band, root in self._bands.items()}
        copy._sharing = [(band, copied[root]) for band, root in self._sharing]
        copy._means, copy._system_spare = self._means, self._system_spare
        copy._charged = {
            ticket: Charge(one.band, copied[one.account], one.estimate, one.number) for ticket, one in self._charged.items()
        }
        for ticket, waiting in self._waiting.items():
            assert waiting.rank is not None
            again = copy._waiting[ticket] = Waiting(ticket, waiting.rank)
            for line in waiting.lines:
                copied[line.account].line(line.servers).add(again)
            if not ticket.system:
                copy._ages[ticket.cls].add(again, len(self._waiting))
        copy._moved = dict.fromkeys(account for account in copied.values() if not account.children)
        risks = (
            (at, number, deadline, copy._waiting[waiting.ticket]) for at, number, deadline, waiting in self._risks if waiting.rank
        )
        copy._risks = list(risks)
        heapq.heapify(copy._risks)
        return copy


def patient(band: Band) -> Class:
    """The class whose patience the calls have that are served as of this one."""
    return "interactive" if band == "system" else band


@functools.cache
def reason_of(band: Band, level: float) -> str:
    """Why a call is served, in words. There are few levels."""
    return f"class {band}, " + ("deadline at risk" if level == AT_RISK else f"level {level:g}")


def level_of(ticket: Ticket, now: float) -> tuple[float, float]:
    """The level of a call, and its deadline if that is at risk: of what it is part of, or of who waits for it, the better."""
    if ticket.deadline is None and not ticket.waiters:  # as most are
        needed = ticket.remaining_s
        if needed is None:
            needed = ticket.program.expected_s()
        return 0.0 if needed < FIRST_LEVEL_S else level_for(min(MOST_NEEDED_S, needed)), 0.0
    level, earliest = math.inf, math.inf
    for who in principals(ticket):
        level = min(level, level_for(needed_s(who)))
        if who.deadline is not None and now > risk_at(who.deadline, needed_s(who)):
            earliest = min(earliest, who.deadline)
    return (level, 0.0) if earliest == math.inf else (AT_RISK, earliest)


def level_for(needed_s: float) -> float:
    """Half a level more for each factor of the square root of two; 0 below the first."""
    return 0.0 if needed_s < FIRST_LEVEL_S else int(2 * math.log2(needed_s / FIRST_LEVEL_S)) / 2 + 1


def needed_s(who: Ticket | Waiter) -> float:
    """Seconds of service that a program still needs: as declared, or as is expected of it."""
    declared_s = who.remaining_s
    return min(MOST_NEEDED_S, who.program.expected_s() if declared_s is None else declared_s)


def risks(ticket: Ticket) -> Iterable[tuple[float, float]]:
    """The moments at which deadlines come to be at risk, after the call's arrival; and those deadlines."""
    if ticket.deadline is None and not ticket.waiters:
        return ()
    deadlines = {(risk_at(who.deadline, needed_s(who)), who.deadline) for who in principals(ticket) if who.deadline is not None}
    return (risk for risk in deadlines if risk[0] >= ticket.asked)


def risk_at(deadline: float, needed_s: float) -> float:
    """From when on a deadline is at risk."""
    return deadline - RISK_MARGIN_S - RISK_FACTOR * needed_s


def principals(ticket: Ticket) -> tuple[Ticket | Waiter, ...]:
    """Whom a call is for: what it is part of, and who waits for that."""
    return (ticket, *ticket.waiters[:MOST_WAITERS]) if ticket.waiters else (ticket,)
