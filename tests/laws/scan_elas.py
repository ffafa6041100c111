"""The policy `elas` as one would say it: each decision looks at every waiting call. What the fast one must equal."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterable

from aios.kernel.lanes.ageing import AGED, AGEING_EVERY, PATIENCE_S
from aios.kernel.lanes.elas import (
    AT_RISK,
    BANDS,
    CLASS_LEAD,
    CLASS_WEIGHTS,
    SYSTEM_BURST,
    SYSTEM_SHARE,
    level_for,
    needed_s,
    principals,
    risk_at,
)
from aios.kernel.lanes.means import Means
from aios.kernel.lanes.policy import Dispatch, Policy, Ticket
from aios.kernel.lanes.queue import dispatch

Path = tuple[str, ...]
"""A class, and the names of accounts below it."""
Rank = tuple[float, float, int]


@dataclasses.dataclass(eq=False)
class Queued:
    ticket: Ticket
    number: int
    level: float
    deadline: float
    homes: list[Path]

    @property
    def rank(self) -> Rank:
        return self.level, self.deadline, self.number


class ScanElas(Policy):
    """What each path of accounts was served, and the calls as they came."""

    name = "elas"

    def __init__(self) -> None:
        self.queue: list[Queued] = []
        self.served: dict[Path, float] = defaultdict(float)
        self.weights: dict[Path, float] = {(band,): weight for band, weight in BANDS.items()}
        self.floors: dict[Path, float] = defaultdict(float)
        self.since_aged: dict[tuple[Path, str], int] = defaultdict(int)
        self.charged: dict[Ticket, tuple[Path, float]] = {}
        self.means = Means()
        self.spare = SYSTEM_BURST
        self.born: dict[Path, int] = {}
        self.number = 0

    def add(self, ticket: Ticket) -> None:
        self.queue.append(self.queued(ticket, self.number))
        self.number += 1

    def changed(self, ticket: Ticket) -> None:
        at = next(at for at, one in enumerate(self.queue) if one.ticket is ticket)
        self.queue[at] = self.queued(ticket, self.queue[at].number)

    def queued(self, ticket: Ticket, number: int) -> Queued:
        homes = list(dict.fromkeys(self.homes(ticket)))
        for home in homes:
            self.lift(home)
        one = Queued(ticket, number, min(level_for(needed_s(who)) for who in principals(ticket)), 0.0, homes)
        self.find_risks(one, ticket.asked)
        return one

    def homes(self, ticket: Ticket) -> Iterable[Path]:
        for who in principals(ticket):
            path: Path = ("system" if who is ticket and ticket.system else who.cls,)
            for name, weight in who.accounts:
                path += (name,)
                self.weights[path] = weight
                self.born.setdefault(path, len(self.born))
            yield path

    def lift(self, home: Path) -> None:
        for depth in range(len(home), 0, -1):
            path = home[:depth]
            if not any(under(each, path) for one in self.queue for each in one.homes):
                least = self.floors[path[:-1]] - (CLASS_LEAD if depth == 1 else 0.0)
                self.served[path] = max(self.served[path], least)

    def find_risks(self, one: Queued, now: float) -> None:
        for who in principals(one.ticket):
            if who.deadline is not None and now > risk_at(who.deadline, needed_s(who)):
                one.deadline = min(one.deadline, who.deadline) if one.level == AT_RISK else who.deadline
                one.level = AT_RISK

    def remove(self, ticket: Ticket) -> None:
        self.queue = [one for one in self.queue if one.ticket is not ticket]

    def pick(self, idle: dict[str, float], now: float, kept: Collection[str] = ()) -> Dispatch | None:
        for one in self.queue:
            self.find_risks(one, now)
        able = [one for one in self.queue if not one.ticket.feasible.isdisjoint(idle)]
        if not able:
            return None
        home: Path = (self.band({each[0] for one in able for each in one.homes}, self.overdue(able, now)),)
        while below := sorted(
            {each[: len(home) + 1] for one in able for each in one.homes if under(each, home) and each != home}
        ):
            chosen = min(below, key=lambda path: (self.served[path], self.rank(able, path), self.born[path]))
            self.floors[home] = self.served[chosen]
            home = chosen
        found = self.aged(able, home, idle, now) or self.first(able, home, idle)
        aged = found.reason == AGED
        self.since_aged[home, found.server] = 0 if aged else self.since_aged[home, found.server] + 1
        self.remove(found.ticket)
        self.charge(found.ticket, home)
        return found

    def overdue(self, able: list[Queued], now: float) -> set[str]:
        """The classes of which a call has waited for longer than it should."""
        calls = [one.ticket for one in able if not one.ticket.system]
        return {ticket.cls for ticket in calls if now - ticket.asked > PATIENCE_S[ticket.cls]}

    def band(self, waiting: set[str], overdue: set[str]) -> str:
        sharing = [band for band in CLASS_WEIGHTS if band in waiting]
        if "system" in waiting and (self.spare > 0 or not sharing):
            return "system"
        if not sharing:
            return "idle"
        least = min(self.served[band,] for band in sharing)
        self.floors[()] = max(self.floors[()], least)
        first = next(band for band in sharing if self.served[band,] <= least + CLASS_LEAD)
        less_urgent = sharing[sharing.index(first) + 1 :]
        lead = 0.0 if overdue.intersection(less_urgent) else CLASS_LEAD
        return next(band for band in sharing if self.served[band,] <= least + lead)

    def rank(self, able: list[Queued], path: Path) -> Rank:
        """That of the call that would be served below a path: for each set of servers by itself, and the least of those."""
        return min(
            self.rank_of([one for one in able if one.ticket.feasible == servers], path)
            for servers in {one.ticket.feasible for one in able if any(under(each, path) for each in one.homes)}
        )

    def rank_of(self, able: list[Queued], path: Path) -> Rank:
        while below := {each[: len(path) + 1] for one in able for each in one.homes if under(each, path) and each != path}:
            path = min(below, key=lambda each: (self.served[each], self.rank_of(able, each), self.born[each]))
        return min(one.rank for one in able if path in one.homes)

    def first(self, able: list[Queued], home: Path, idle: dict[str, float]) -> Dispatch:
        one = min((one for one in able if home in one.homes), key=lambda one: one.rank)
        level = "deadline at risk" if one.level == AT_RISK else f"level {one.level:g}"
        return dispatch(one.ticket, idle, f"class {home[0]}, {level}")

    def aged(self, able: list[Queued], home: Path, idle: dict[str, float], now: float) -> Dispatch | None:
        due = {name: load for name, load in idle.items() if self.since_aged[home, name] >= AGEING_EVERY - 1}
        here = [one for one in able if home in one.homes and not one.ticket.feasible.isdisjoint(due)]
        if not here:
            return None
        one = min(here, key=lambda one: (one.ticket.asked, one.number))
        patience_s = PATIENCE_S["interactive" if home[0] == "system" else home[0]]  # type: ignore[index]
        return dispatch(one.ticket, due, AGED) if now - one.ticket.asked > patience_s else None

    def started(self, ticket: Ticket) -> None:
        if ticket in self.charged:
            return
        home = next(iter(self.homes(ticket)))
        self.lift(home)
        for depth in range(len(home), 0, -1):
            above = home[: depth - 1]
            if not any(under(each, above) for one in self.queue for each in one.homes):
                self.floors[above] = max(self.floors[above], self.served[home[:depth]])
        self.charge(ticket, home)

    def settled(self, ticket: Ticket, cost: float, at_least: bool = False) -> None:
        if ticket in self.charged:
            home, estimate = self.charged.pop(ticket)
            if at_least:
                cost = max(cost, self.means.expected(ticket.program.kind))
            elif cost:
                self.means.add(ticket.program.kind, cost)
            self.spend(home, cost - estimate)

    def charge(self, ticket: Ticket, home: Path) -> None:
        self.charged[ticket] = home, self.means.estimate(ticket.program.kind)
        self.spend(home, self.charged[ticket][1])

    def spend(self, home: Path, cost: float) -> None:
        for depth in range(1, len(home) + 1):
            self.served[home[:depth]] += cost / self.weights[home[:depth]]
        spare = self.spare + (-cost if home[0] == "system" else cost * SYSTEM_SHARE / (1 - SYSTEM_SHARE))
        self.spare = min(SYSTEM_BURST, spare)

    def order(self, now: float) -> Iterable[Ticket]:
        return [one.ticket for one in self.queue]


def under(path: Path, above: Path) -> bool:
    """Whether a path of accounts is another one, or goes on from it."""
    return path[: len(above)] == above
