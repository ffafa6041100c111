"""Where accounts and their calls stand, in order: heaps whose entries are made anew when something changes, and looked at late.

An account of a class keeps what it was served, whatever servers served it. Where it stands is kept once per set of servers: what
is next for an idle server is found without looking at what waits for others.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping

import msgspec

from aios.kernel.lanes.policy import Ticket

Rank = tuple[float, float, int]
"""Level, deadline (0 where it does not count), number of arrival: the least is next."""

KEPT_IDLE = 64
"""Accounts beside those with work that are remembered in one account."""
STALE = 64
"""Entries of a heap beyond twice those that count, before it is made anew."""

_numbers = itertools.count()


class Account:
    """What an account was served in one class, in weighted tokens over its weight, beside its siblings.

    `waiting`, `running`: its calls, or the accounts below it that have such. `floor`: the virtual time among its children: where
    the least served of them stood when it was served last. Who begins to have work stands no lower, or `slack` below it at most:
    idling earns nothing. `since_aged`: turns of a server since one of them was for an overdue call.
    """

    __slots__ = (
        "busy", "children", "floor", "name", "number", "parent", "places", "running", "served", "since_aged", "slack", "waiting",
        "weight",
    )  # fmt: skip

    def __init__(self, name: object, weight: float, parent: Account | None, served: float = 0.0) -> None:
        self.name = name
        self.weight = weight
        self.parent = parent
        self.served = served
        self.number = next(_numbers)
        self.floor = self.slack = 0.0
        self.children: dict[object, Account] = {}
        self.places: dict[frozenset[str], Place] = {}
        self.waiting = self.running = self.busy = 0
        self.since_aged: dict[str, int] = {}

    def child(self, name: object, weight: float) -> Account:
        """The account of that name below this one."""
        found = self.children.get(name)
        if found is None:
            if len(self.children) > 2 * self.busy + KEPT_IDLE:
                self._forget_idle()
            found = self.children[name] = Account(name, weight, self, self.floor)
        found.weight = weight
        return found

    def can_use(self, idle: Mapping[str, float]) -> bool:
        """Whether something of it waits that an idle server can do."""
        for able in self.places:  # half as long as a generator, at each decision
            if not able.isdisjoint(idle):
                return True
        return False

    def lift(self) -> None:
        """It is about to have something to do: where nothing of it waits, it stands no lower than its parent's floor."""
        account, parent = self, self.parent
        while parent is not None and not account.waiting:
            if account.served < parent.floor - parent.slack:
                account.served = parent.floor - parent.slack
            account, parent = parent, parent.parent

    def wait(self) -> None:
        """One of its calls more waits. Those above it count the accounts of which something waits."""
        account: Account | None = self
        while account is not None:
            account.waiting += 1
            account = account.parent if account.waiting == 1 else None

    def wait_no_more(self) -> None:
        """One of its calls fewer waits."""
        account: Account | None = self
        while account is not None:
            account.waiting -= 1
            account = None if account.waiting else account.parent

    def run(self) -> None:
        """One of its calls more runs. Those above it count the accounts of which something runs."""
        account: Account | None = self
        while account is not None:
            account.running += 1
            account = account.parent if account.running == 1 else None

    def run_no_more(self) -> None:
        """One of its calls fewer runs."""
        account: Account | None = self
        while account is not None:
            account.running -= 1
            account = None if account.running else account.parent

    def moved(self) -> None:
        """What it was served has changed, or what is first of it: it and those above it stand elsewhere among their siblings."""
        account, parent = self, self.parent
        while parent is not None and parent.parent is not None:  # classes do not stand: a decision looks at each
            for place in account.places.values():
                place.stand()
            account, parent = parent, parent.parent

    def raise_floors(self) -> None:
        """It is served without having waited: where nothing else waits, virtual time is where it stands."""
        account, parent = self, self.parent
        while parent is not None:
            if not parent.waiting:
                parent.floor = max(parent.floor, account.served)
            account, parent = parent, parent.parent

    def line(self, servers: frozenset[str]) -> Line:
        """Its line for a set of servers, made with the places above it if it is the first there."""
        place = self.places.get(servers)
        if place is None:
            assert self.parent is not None, "a class has no calls of its own"
            place = self.places[servers] = Line(self, servers, self.parent.place(servers))
        assert isinstance(place, Line), "an account that ends a path never stands in the midst of another"
        return place

    def place(self, servers: frozenset[str]) -> Place:
        """The place of an account that has children, for a set of servers. One more of them stands there."""
        place = self.places.get(servers)
        if place is None:
            above = self.parent.place(servers) if self.parent is not None and self.parent.parent is not None else None
            place = self.places[servers] = Place(self, servers, above)
        place.below += 1
        return place

    def copied(self, parent: Account | None, copies: dict[Account, Account]) -> Account:
        """The same with those below it, and without what waits. `copies`: by whom they are of."""
        copy = copies[self] = Account(self.name, self.weight, parent, self.served)
        copy.number, copy.floor, copy.slack, copy.busy = self.number, self.floor, self.slack, self.busy
        copy.running, copy.since_aged = self.running, dict(self.since_aged)
        copy.children = {name: child.copied(copy, copies) for name, child in self.children.items()}
        return copy

    def _forget_idle(self) -> None:
        """Forget children that have nothing to do. Who stood no higher than the floor would come back there anyway; of the
        others the least served go, and the floor rises to where they stood, so that nobody gains by being forgotten."""
        idle = [child for child in self.children.values() if not child.waiting and not child.running]
        idle.sort(key=lambda child: child.served)
        self.busy = len(self.children) - len(idle)
        for child in idle[: len(idle) - KEPT_IDLE // 2]:
            self.floor = max(self.floor, child.served)
            del self.children[child.name]


class Waiting(msgspec.Struct, eq=False):
    """A ticket in its lines, one of each account that may pay for it. `rank`: None when it has left them."""

    ticket: Ticket
    rank: Rank | None
    lines: list[Line] = []

    def __lt__(self, other: Waiting) -> bool:
        """Two of the same rank and arrival are one ticket, before and after it took its place anew."""
        return False

    def since(self) -> tuple[float, int]:
        """How long it has waited: less is longer. It must be waiting."""
        assert self.rank is not None
        return self.ticket.asked, self.rank[2]


class Ages:
    """The calls of a class by their age, apart for each set of servers that can do them."""

    def __init__(self) -> None:
        self._by_servers: dict[frozenset[str], list[tuple[float, int, Waiting]]] = {}
        self._count = 0

    def add(self, waiting: Waiting, alive: int) -> None:
        """`alive`: how many calls wait now, at most; those that have left are forgotten in time."""
        assert waiting.rank is not None
        calls = self._by_servers.get(waiting.ticket.feasible)
        if calls is None:
            calls = self._by_servers[waiting.ticket.feasible] = []
        heapq.heappush(calls, (waiting.ticket.asked, waiting.rank[2], waiting))
        self._count += 1
        if self._count > STALE + 2 * alive:
            self._forget()

    def oldest(self, idle: Mapping[str, float]) -> Iterator[Ticket]:
        """The oldest call for each set of servers of which one is idle."""
        for servers, calls in self._by_servers.items():
            while calls and calls[0][2].rank is None:
                heapq.heappop(calls)
                self._count -= 1
            if calls and not servers.isdisjoint(idle):
                yield calls[0][2].ticket

    def _forget(self) -> None:
        left = {servers: [one for one in calls if one[2].rank is not None] for servers, calls in self._by_servers.items()}
        self._by_servers = {servers: calls for servers, calls in left.items() if calls}
        for calls in self._by_servers.values():
            heapq.heapify(calls)
        self._count = sum(map(len, self._by_servers.values()))


class Place:
    """Where an account stands among its siblings for one set of servers, and where its children stand below it.

    `below`: how much stands there. `entry`: its own in its parent's heap; others of it there are out of date.
    """

    __slots__ = ("account", "below", "entry", "heap", "parent", "servers")

    def __init__(self, account: Account, servers: frozenset[str], parent: Place | None) -> None:
        self.account = account
        self.servers = servers
        self.parent = parent
        self.below = 0
        self.entry: Entry | None = None
        self.heap: list[Entry] = []

    def first(self) -> Entry | None:
        """The child that is next: the least served, and of equals the one whose call has the least rank."""
        heap = self.heap
        while heap:
            entry = heap[0]
            if entry[3].entry is entry:
                return entry
            heapq.heappop(heap)
        return None

    def rank(self) -> Rank | None:
        """That of the call that would be served here."""
        first = self.first()
        return first[1] if first is not None else None

    def stand(self) -> None:
        """Take the place anew that the account has among its siblings."""
        parent = self.parent
        if parent is None:
            return
        rank = self.rank()
        if rank is None:
            return
        account, heap, before = self.account, parent.heap, self.entry
        if before is not None and before[1] is rank and before[0] == account.served:
            return  # it stands there
        entry = self.entry = (account.served, rank, account.number, self)
        if heap and heap[0] is before:
            heapq.heapreplace(heap, entry)
            return
        heapq.heappush(heap, entry)
        if len(heap) > STALE + 2 * parent.below:
            heap[:] = [entry for entry in heap if entry[3].entry is entry]
            heapq.heapify(heap)

    def gone(self) -> None:
        """One less stands below; an empty place is given up."""
        place: Place | None = self
        while place is not None:
            place.below -= 1
            if place.below:
                return
            del place.account.places[place.servers]
            place.entry = None
            place.heap.clear()  # as in `Line.gone`
            place = place.parent


class Line(Place):
    """The place of an account without children: its calls, in their order and as they came."""

    __slots__ = ("oldest", "ranked")

    def __init__(self, account: Account, servers: frozenset[str], parent: Place | None) -> None:
        super().__init__(account, servers, parent)
        self.ranked: list[tuple[Rank, Waiting]] = []
        self.oldest: list[tuple[float, int, Waiting]] = []

    def add(self, waiting: Waiting) -> None:
        rank = waiting.rank
        assert rank is not None
        waiting.lines.append(self)
        self.below += 1
        account = self.account
        if account.waiting:
            account.waiting += 1
        else:
            account.wait()
        heapq.heappush(self.ranked, (rank, waiting))
        heapq.heappush(self.oldest, (waiting.ticket.asked, rank[2], waiting))

    def add_rank(self, waiting: Waiting) -> None:
        """A call of the line has another rank."""
        assert waiting.rank is not None
        heapq.heappush(self.ranked, (waiting.rank, waiting))

    def rank(self) -> Rank | None:
        ranked = self.ranked
        while ranked:
            rank, waiting = ranked[0]
            if waiting.rank is rank:
                return rank
            heapq.heappop(ranked)
        return None

    def first_call(self) -> Waiting:
        """The call that is next. The line must not be empty."""
        self.rank()
        return self.ranked[0][1]

    def oldest_call(self) -> Waiting:
        """The call that has waited for longest. The line must not be empty."""
        while self.oldest[0][2].rank is None:
            heapq.heappop(self.oldest)
        return self.oldest[0][2]

    def gone(self) -> None:
        if self.below > 1:
            self.below -= 1
        else:
            super().gone()
            self.ranked.clear()  # who has left stands there yet, and knows the line: a ring would be left to the collector
            self.oldest.clear()
        account = self.account
        if account.waiting > 1:
            account.waiting -= 1
        else:
            account.wait_no_more()
        most = STALE + 2 * self.below
        if len(self.ranked) > most:
            self.ranked = [(rank, waiting) for rank, waiting in self.ranked if waiting.rank is rank]
            heapq.heapify(self.ranked)
        if len(self.oldest) > most:
            self.oldest = [one for one in self.oldest if one[2].rank is not None]
            heapq.heapify(self.oldest)


Entry = tuple[float, Rank, int, Place]
"""An account in its parent's heap: what it was served, the rank of its first call, its number, its place."""
