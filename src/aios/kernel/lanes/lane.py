"""A lane: a resource with a width, and a policy that picks who is next. Event-driven; nothing polls.

Every change (an arrival, a freed slot, a server that comes up, a caller that gives up) leads to at most one dispatch.
The caller waits in its own task and does its work there.

A server may be one that can let a call stand back in the midst of its work, and go on with it later. There an urgent call has its
turn at once, and whoever is less urgent stands back as long as urgent calls run: its place is in the queue again, and the policy
says when it goes on. Who stands back to whom is the policy's word (`preempts`, `urgent`, `yields`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterable
from functools import partial
from typing import NamedTuple

import msgspec

from aios.abi.bounds import within
from aios.abi.errors import QueueFull, Unavailable
from aios.abi.request import Class
from aios.abi.system import LEAST_WEIGHT, MOST_WEIGHT
from aios.abi.waits import Code, Wait
from aios.kernel.lanes.policy import Dispatch, Payment, Policy, Suspension, Ticket, Waiter, least_loaded
from aios.kernel.lanes.rate import Rate
from aios.ports.clock import Clock

MOST_FORESEEN = 2000
"""Above so many waiting calls nobody works out in which order they will be served."""
AHEAD_TOLD = 10
"""Of those that will be served before a call, so many are named."""
FORESEEN_ANEW, FORESEEN_FOR_S = 100, 0.0002
"""Up to so many it is worked out for everyone who asks; of more it is kept for so many seconds for each of the others."""
DOWN_PATIENCE_S = 15.0
"""How long a call waits for a server that is down, before it is told so."""

MOST_FROZEN = 4
"""Calls that may stand back from a server, times its width; beyond them nobody has to."""
MOST_ASIDE = 32
"""Calls that step aside in one step of the loop, to let others have their turn."""
CLOSED_S = 20.0
"""How long urgent calls, one after the other, may keep all others from a server; then one goes on beside them, and stays."""


@dataclasses.dataclass(frozen=True)
class LaneConfig:
    """`policy`: by name (`elas`, `fair`, `priority`, `round-robin`, `fifo`). `queue`: calls that may wait, per tenant and class;
    more are refused. `weights`: for `fair`, how much an agent with its children gets beside others, 1 where nothing is said.
    """

    policy: str = "elas"
    queue: int = 2048
    weights: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        within("queue", self.queue, 1, 1_000_000)
        for agent, weight in self.weights.items():
            within(f"weights.{agent}", weight, LEAST_WEIGHT, MOST_WEIGHT)


@dataclasses.dataclass(slots=True, eq=False)
class Server:
    """One of the things that a lane gives turns on: a core. `width`: turns at once.

    `lost`: it has been down for longer than callers have patience for; `patience`: the timer of that.
    `preemptible`: calls can stand back from it; `reserved`: turns beside `width` for urgent ones. `frozen`: those who stand back;
    `preemptions`: how often one had to. `closed_since`: since when urgent calls have kept the others away.
    """

    name: str
    width: int
    up: bool = True
    lost: bool = False
    patience: asyncio.TimerHandle | None = None
    holders: dict[Ticket, None] = dataclasses.field(default_factory=dict)
    preemptible: bool = False
    reserved: int = 0
    frozen: dict[Ticket, None] = dataclasses.field(default_factory=dict)
    preemptions: int = 0
    closed_since: float | None = None

    @property
    def running(self) -> int:
        return len(self.holders)

    def has_room(self) -> bool:
        """Whether it has a turn for any call."""
        return self.up and len(self.holders) < self.width and self.closed_since is None

    def has_room_for_urgent(self) -> bool:
        """Whether it has a turn for an urgent call, when all have stood back that can."""
        if not (self.up and self.preemptible):
            return False
        staying = len(self.holders) - min(len(self.yielding()), MOST_FROZEN * self.width - len(self.frozen))
        return staying < self.width + self.reserved

    @property
    def spared(self) -> int:
        """Those who have a turn beside urgent calls."""
        return sum(holder.spared for holder in self.holders)

    def yielding(self) -> list[Ticket]:
        """Those who can stand back to an urgent call."""
        return [holder for holder in self.holders if holder.suspension is not None and not (holder.urgent or holder.spared)]


class Outlook(NamedTuple):
    """Why a ticket waits, and what comes before its turn.

    `ahead_count`: so many will be served before it, of which `ahead` are the first; `holders`: those that have what it waits for;
    `rule`: by which it will be picked. All as it is if nothing else comes. Where so many wait that nobody looks through them,
    their number is an estimate, and there is no rule.
    """

    wait: Wait
    ahead_count: int
    ahead: list[Ticket]
    holders: list[Ticket]
    rule: str


class Withdrawn(Exception):
    """A ticket was taken out of its queue, to come in again later."""


class Turn:
    """Held for one call. Released once, also when asked twice."""

    __slots__ = ("_held", "_lane", "dispatch", "waiting")

    def __init__(self, lane: Lane, dispatch: Dispatch, waiting: dict[str, int]) -> None:
        self._lane = lane
        self._held = True
        self.dispatch = dispatch
        self.waiting = waiting

    def release(self) -> None:
        """Give the turn back; the next caller gets it."""
        if self._held:
            self._held = False
            self._lane.freed(self.dispatch)

    def may_freeze(self, suspension: Suspension) -> None:
        """From the next turn of the loop on the call can stand back, if others need its turn."""
        self.dispatch.ticket.suspension = suspension
        asyncio.get_running_loop().call_soon(self._lane.may_freeze, self.dispatch)

    def quantum_over(self) -> None:
        """The call has worked for a quantum: if the policy wants it, another is next."""
        self._lane.quantum_over(self.dispatch)

    def settle(self, cost: float, at_least: bool = False) -> None:
        """Say what the call came to, once, in weighted tokens; `at_least`: what is known of it, when it did not end well."""
        self._lane.policy.settled(self.dispatch.ticket, cost, at_least)


class Lane:
    """A central queue over servers: a call is bound to a server only when it starts (late binding)."""

    def __init__(self, name: str, policy: Policy, clock: Clock, queue: int) -> None:
        self.name = name
        self.policy = policy
        self._clock = clock
        self._queue = queue
        self._servers: dict[str, Server] = {}
        self._waiting: dict[tuple[str, Class], int] = {}
        self._by_class: Counter[str] = Counter()
        self._count = 0
        self._rate = Rate()
        self._foresight: list[Dispatch] = []
        self._foreseen_at = -math.inf
        self._preemptible = False

    def add_server(self, server: Server) -> None:
        self._servers[server.name] = server
        self._rate.remember(sum(server.width for server in self._servers.values()))
        self._preemptible = self._preemptible or server.preemptible
        if not server.up:
            self._be_patient(server)
        self._dispatch()

    def server(self, name: str) -> Server:
        return self._servers[name]

    def servers(self) -> list[Server]:
        return list(self._servers.values())

    def set_up(self, name: str, up: bool) -> None:
        """A server came up or went down. Calls that only it can do wait a while for it, then are told."""
        server = self._servers[name]
        if server.up == up:
            return
        server.up = up
        if up:
            server.lost = False
            if server.patience is not None:
                server.patience.cancel()
            self._dispatch()
        else:
            self._be_patient(server)

    def _be_patient(self, server: Server) -> None:
        server.patience = asyncio.get_running_loop().call_later(DOWN_PATIENCE_S, self._give_up_on, server)

    def waiting_by_class(self) -> dict[str, int]:
        """How many calls wait, by class."""
        return {cls: count for cls, count in self._by_class.items() if count}

    def _count_waiting(self, ticket: Ticket, calls: int) -> None:
        """So many calls more wait of a ticket's tenant and class, or fewer."""
        key = ticket.tenant, ticket.cls
        if not self._count:
            self._rate.begin(self._clock.monotonic())
        self._count += calls
        self._by_class[ticket.cls] += calls
        waiting = self._waiting.get(key, 0) + calls
        if waiting:
            self._waiting[key] = waiting
        else:
            del self._waiting[key]

    def _count_all(self, calls: int) -> None:
        """So many more wait, with those who stand back, or fewer."""
        if not self._count:
            self._rate.begin(self._clock.monotonic())
        self._count += calls

    def eta_s(self, ahead: int) -> float | None:
        """Seconds until a call with so many ahead of it starts, at the rate measured lately; None if unknown."""
        rate = self._rate.per_s
        return (ahead + 1) / rate if rate > 0 else None

    def enter(self, ticket: Ticket, again: bool = False) -> None:
        """Queue a ticket; `wait` for it next. Raises `QueueFull`, also where its turn will come after its deadline, or
        `Unavailable` if all that can do it are down.

        `again`: it was let in before and had to leave; it is not turned away because others have come meanwhile.
        """
        self._check_up(ticket)
        if self._waiting.get((ticket.tenant, ticket.cls), 0) >= self._queue and not again:
            retry = min(60.0, max(1.0, self.eta_s(self._queue) or 10.0))
            raise QueueFull(
                f"{self._queue} {ticket.cls} calls of this tenant wait already; try again in {retry:.0f} s", retry_after_s=retry
            )
        if ticket.deadline is not None and not again:
            self._refuse_if_late(ticket, ticket.deadline)
        ticket.queued = True
        ticket.given = asyncio.get_running_loop().create_future()
        if not ticket.aside:
            self.policy.add(ticket)
        self._count_waiting(ticket, 1)

    def _refuse_if_late(self, ticket: Ticket, deadline: float) -> None:
        """Refuse a call at once that would wait for nothing. Where the rate is not known yet, or who will be next, nobody is."""
        predicted_s = self.predicted_s(ticket)
        left_s = deadline - self._clock.monotonic()
        if predicted_s is None or predicted_s <= left_s or (self._preempts() and self.policy.urgent(ticket)):
            return
        retry = min(60.0, max(1.0, predicted_s - left_s))
        when = f"its turn would come in about {predicted_s:.0f} s, its deadline comes in {left_s:.3g} s"
        raise QueueFull(f"{when}: try again in {retry:.0f} s, or give it more time", retry_after_s=retry)

    def predicted_s(self, ticket: Ticket) -> float | None:
        """Seconds until the turn of a ticket that would come now, at the rate measured lately; None where that is not known."""
        load = self.policy.load(ticket)
        if load is None or not self._rate.known:
            return None
        return (load.ahead + 1) / (load.share * self._rate.per_s)

    async def wait(self, ticket: Ticket) -> Turn:
        """Wait for the turn of a queued ticket. Giving up (a cancel) gives it back. Raises `Unavailable`, `Withdrawn`."""
        given = ticket.given
        assert given is not None, "enter it first"
        try:
            dispatch = await given
        except BaseException:
            self.leave(ticket)
            if given.done() and not given.cancelled() and given.exception() is None:
                self.policy.settled(ticket, 0.0)  # given and given up in the same step
                self.freed(given.result())
            raise
        finally:
            ticket.given = None  # its result holds the ticket: a ring would be left to the collector
            del given  # so does what it raised, by its traceback
        return Turn(self, dispatch, self.waiting_by_class())

    def use(self, policy: Policy) -> None:
        """From now on another policy decides; who waits goes on waiting, and who has a turn keeps it."""
        waiting = sorted(self.policy.waiting(), key=lambda ticket: ticket.asked)
        self.policy = policy
        self._foreseen_at = -math.inf
        for server in self._servers.values():
            for holder in server.holders:
                policy.started(holder)
        for ticket in waiting:
            policy.add(ticket)
        if not policy.preempts:
            for server in self._servers.values():
                server.closed_since = None
        self._dispatch()

    def change_class(self, ticket: Ticket, cls: Class) -> None:
        """A queued ticket is of another class from now on; in its queue it stands behind those that were there before."""
        if ticket.queued or ticket.frozen:
            self._take_out(ticket)
            if ticket.queued:
                self._count_waiting(ticket, -1)
            ticket.cls = cls
            if ticket.queued:
                self._count_waiting(ticket, 1)
            self.policy.add(ticket)
            self._dispatch_all(ticket.feasible)

    def _take_out(self, ticket: Ticket) -> None:
        """Out of the policy's order, or from where it stepped aside to."""
        if ticket.aside:
            assert ticket.payment is not None
            ticket.aside = False
            ticket.payment.leave()
        else:
            self.policy.remove(ticket)

    def lend(self, ticket: Ticket, waiters: tuple[Waiter, ...]) -> None:
        """From now on these wait for a ticket; if it is queued, it takes its place anew."""
        before = ticket.waiters
        if len(before) == len(waiters) and all(one.same(other) for one, other in zip(before, waiters, strict=True)):
            return
        ticket.waiters = waiters
        if (ticket.queued or ticket.frozen) and not ticket.aside:
            self.policy.changed(ticket)
            self._dispatch_all(ticket.feasible)

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket out of the queue, if it is still there."""
        if ticket.queued:
            self._take_out(ticket)
            self._uncount(ticket)

    def _uncount(self, ticket: Ticket) -> None:
        ticket.queued = False
        self._count_waiting(ticket, -1)

    def withdraw(self, ticket: Ticket) -> None:
        """Take a ticket out of the queue, if it is still there, and tell who waits for it."""
        if ticket.queued and ticket.given is not None and not ticket.given.done():
            self.leave(ticket)
            ticket.given.set_exception(Withdrawn())

    def why(self, ticket: Ticket) -> Wait:
        """Why a queued ticket waits: for a slot (`S`), for a core that is down (`C`), or for room in a budget (`B`)."""
        if ticket.aside and ticket.payment is not None:
            return ticket.payment.why()
        servers = [self._servers[name] for name in sorted(ticket.feasible)]
        code: Code = "S" if any(server.up for server in servers) else "C"
        return Wait(code=code, on=" or ".join(server.name for server in servers), since_ns=ticket.asked_ns)

    def explain(self, ticket: Ticket) -> Outlook:
        """What is known now of a queued ticket's turn. The estimate is of how long it takes if nothing else comes."""
        return self.explain_all((ticket,))[ticket]

    def explain_all(self, tickets: Collection[Ticket]) -> dict[Ticket, Outlook]:
        """The same of several, from one look at the decisions to come."""
        found: dict[Ticket, Outlook] = {}
        ahead: dict[frozenset[str], list[Ticket]] = {ticket.feasible: [] for ticket in tickets}
        wanted = set(tickets)
        for picked in self._foreseen():
            one = picked.ticket
            if not (one.queued or one.frozen):
                continue  # it had its turn since they were foreseen
            if one in wanted:
                before = ahead[one.feasible]
                found[one] = self._outlook(one, len(before), before[:AHEAD_TOLD], picked.reason)
                if len(found) == len(wanted):
                    break
            for able, others in ahead.items():
                if not able.isdisjoint(one.feasible):
                    others.append(one)
        for ticket in tickets:
            if ticket not in found:
                found[ticket] = self._outlook(ticket, 0 if ticket.aside else self._estimate_ahead(ticket), [], "")
        return found

    def _outlook(self, ticket: Ticket, count: int, ahead: list[Ticket], rule: str) -> Outlook:
        holders = [holder for name in sorted(ticket.feasible) for holder in self._servers[name].holders]
        wait = self.why(ticket)
        eta = self.eta_s(count) if wait.code == "S" else None
        return Outlook(msgspec.structs.replace(wait, eta_s=eta), count, ahead, holders, rule)

    def _estimate_ahead(self, ticket: Ticket) -> int:
        """How many will be served before a queued ticket, where that is not worked out."""
        load = self.policy.load(ticket)
        return self._count - 1 if load is None else min(self._count - 1, round(load.ahead / load.share))

    def _foreseen(self) -> list[Dispatch]:
        """The decisions to come. Of many who wait they are kept for a moment: whoever asks why again and again stops nobody."""
        now = self._clock.monotonic()
        if self._count > MOST_FORESEEN:
            return []
        if not 0 <= now - self._foreseen_at <= (self._count - FORESEEN_ANEW) * FORESEEN_FOR_S:
            self._foresight, self._foreseen_at = list(self.policy.foresee(now)), now
        return self._foresight

    def try_turn(self, ticket: Ticket) -> Turn | None:
        """A turn at once, if a server is idle: the way that costs no future.

        None of those who wait could have it: each change was followed by a dispatch. One that may not pay after all, since it is
        of another class than when it was let in, waits until the next step: who is before it may have gone on by then.
        """
        urgent = self._preempts() and self.policy.urgent(ticket)
        idle = self._idle(ticket.feasible, urgent)
        name = least_loaded(idle, ticket) if idle else None
        try:
            if name is None or (ticket.payment is not None and not self._pays(ticket, ticket.payment, name)):
                return None
        except Withdrawn:
            asyncio.get_running_loop().call_soon(self._dispatch_all, tuple(ticket.feasible))
            return None
        reason = "free" if self._servers[name].has_room() else "urgent"
        dispatch = Dispatch(ticket, name, reason, idle)
        self._start(dispatch)
        return Turn(self, dispatch, {})

    def _pays(self, ticket: Ticket, payment: Payment, server: str) -> bool:
        """Whether a ticket has what a turn on a server costs; if not, it steps aside. Raises `Withdrawn` where it never will."""
        taken = payment.take(server, partial(self._recall, ticket))
        if taken == "never":
            raise Withdrawn
        ticket.aside = taken == "later"
        return not ticket.aside

    def _recall(self, ticket: Ticket) -> None:
        """There may be room for what a ticket costs: it waits for a turn again."""
        if not ticket.queued:
            return
        ticket.aside = False
        try:
            self._check_up(ticket)
        except Unavailable as error:
            self._uncount(ticket)
            if ticket.given is not None and not ticket.given.done():
                ticket.given.set_exception(error)
            return
        self.policy.add(ticket)
        self._dispatch_all(ticket.feasible)

    def _preempts(self) -> bool:
        """Whether calls may have to stand back at all."""
        return self._preemptible and self.policy.preempts

    def _start(self, dispatch: Dispatch) -> None:
        """A ticket gets its turn; if it is urgent, those stand back for it that have to."""
        ticket, server = dispatch.ticket, self._servers[dispatch.server]
        if server.preemptible:
            ticket.urgent = self.policy.urgent(ticket)
            if not ticket.urgent:
                ticket.spared = ticket.spared or any(holder.urgent for holder in server.holders)
        else:
            ticket.urgent = False
        server.holders[ticket] = None
        self.policy.started(ticket)
        if ticket.urgent:
            if server.closed_since is None:
                server.closed_since = self._clock.monotonic()
            for holder in server.yielding():
                self._freeze(holder, server, ticket.cls)

    # --- standing back ------------------------------------------------------------------------------------------------

    def may_freeze(self, dispatch: Dispatch) -> None:
        """A ticket can stand back from now on: it has to, where urgent calls run; and who waits may have waited for that."""
        ticket, server = dispatch.ticket, self._servers[dispatch.server]
        if ticket not in server.holders:
            return
        urgent = next((holder for holder in server.holders if holder.urgent), None)
        if urgent is not None and not (ticket.urgent or ticket.spared):
            self._freeze(ticket, server, urgent.cls)
        if self._count:
            self._dispatch_all((dispatch.server,))

    def quantum_over(self, dispatch: Dispatch) -> None:
        """See `Turn.quantum_over`."""
        ticket, server = dispatch.ticket, self._servers[dispatch.server]
        if ticket not in server.holders or ticket.suspension is None or not self._count:
            return
        if self.policy.yields(ticket, server.name, self._clock.monotonic()):
            self._freeze(ticket, server, None)
            self._dispatch_all((server.name,))

    def _freeze(self, ticket: Ticket, server: Server, by: Class | None) -> None:
        """A ticket that has its turn stands back, and waits for it again, on the same server."""
        if len(server.frozen) >= MOST_FROZEN * server.width:
            return
        assert ticket.suspension is not None
        del server.holders[ticket]
        server.frozen[ticket] = None
        server.preemptions += 1
        ticket.frozen, ticket.feasible = True, frozenset((server.name,))
        self.policy.add(ticket)
        self._count_all(1)
        ticket.suspension.freeze(by)

    def _thaw(self, dispatch: Dispatch) -> None:
        """A ticket that stood back has its turn again."""
        ticket = dispatch.ticket
        del self._servers[dispatch.server].frozen[ticket]
        ticket.frozen = False
        self._start(dispatch)
        assert ticket.suspension is not None
        ticket.suspension.thaw(dispatch.reason)

    def _check_up(self, ticket: Ticket) -> None:
        for name in ticket.feasible:
            if not self._servers[name].lost:
                return
        names = ", ".join(f"`{name}`" for name in sorted(ticket.feasible))
        raise Unavailable(f"{names} is down and did not come back: `aios models` shows why", retry_after_s=10.0)

    def _give_up_on(self, server: Server) -> None:
        server.lost = True
        for ticket in [ticket for ticket in self.policy.waiting() if not ticket.frozen]:
            try:
                self._check_up(ticket)
            except Unavailable as error:
                self.leave(ticket)
                if ticket.given is not None and not ticket.given.done():
                    ticket.given.set_exception(error)

    def freed(self, dispatch: Dispatch) -> None:
        """A turn was given back. What waits can use no other idle server: each change was followed by a dispatch."""
        ticket, server = dispatch.ticket, self._servers[dispatch.server]
        if ticket.frozen:
            return self._forget(ticket, server)
        del server.holders[ticket]
        if server.closed_since is not None:
            self._reopen(server)
        if not self._count:
            return
        self._rate.tick(self._clock.monotonic())
        while self._dispatch_on((server.name,)) and server.preemptible:
            pass  # those who stood back go on

    def _forget(self, ticket: Ticket, server: Server) -> None:
        """A call that stood back has ended: it waits for nothing."""
        del server.frozen[ticket]
        ticket.frozen = False
        self.policy.remove(ticket)
        self._count_all(-1)

    def _reopen(self, server: Server) -> None:
        """A server is for all calls again if no urgent one runs there; for one of them, if it was not for too long."""
        assert server.closed_since is not None
        if not any(holder.urgent for holder in server.holders):
            server.closed_since = None
        elif self._count and self._clock.monotonic() - server.closed_since >= CLOSED_S:
            since, spared, server.closed_since = server.closed_since, server.spared, None
            self._dispatch_on((server.name,))
            server.closed_since = self._clock.monotonic() if server.spared > spared else since

    def _idle(self, names: Iterable[str], urgent: bool) -> dict[str, float]:
        """Those of the servers that have a turn to give, with their load; `urgent`: to an urgent call."""
        idle = {}
        for name in names:
            server = self._servers[name]
            running, width = len(server.holders), server.width
            room = server.up and running < width and server.closed_since is None  # as `has_room`, at each decision
            if room or (urgent and server.has_room_for_urgent()):
                idle[name] = running / width
        return idle

    def _dispatch(self) -> None:
        """Give all turns that can be given."""
        self._dispatch_all(self._servers)

    def _dispatch_all(self, names: Iterable[str]) -> None:
        """Give all turns of these servers that can be given."""
        while self._dispatch_on(names):
            pass

    def _dispatch_on(self, names: Iterable[str]) -> bool:
        """Give one turn of these servers, if there is one and somebody to take it."""
        aside = 0
        while self._count and aside < MOST_ASIDE:
            preempts = self._preemptible and self.policy.preempts
            idle = self._idle(names, preempts)
            kept = [name for name in idle if not self._servers[name].has_room()] if preempts else ()
            dispatch = self.policy.pick(idle, self._clock.monotonic(), kept) if idle else None
            if dispatch is None:
                return False
            if self._give(dispatch):
                return True
            self.policy.settled(dispatch.ticket, 0.0)  # it gave up in this very step, or stepped aside
            aside += 1
        if self._count:
            asyncio.get_running_loop().call_soon(self._dispatch_all, tuple(names))
        return False

    def _give(self, dispatch: Dispatch) -> bool:
        """Give a turn to a ticket that was picked, if it still wants it."""
        ticket = dispatch.ticket
        if ticket.frozen:
            self._count_all(-1)
            self._thaw(dispatch)
            return True
        if ticket.given is None or ticket.given.done():
            self._uncount(ticket)
            return False
        try:
            if ticket.payment is not None and not self._pays(ticket, ticket.payment, dispatch.server):
                return False
        except Withdrawn as never:
            self._uncount(ticket)
            ticket.given.set_exception(never)
            return False
        self._uncount(ticket)
        self._start(dispatch)
        ticket.given.set_result(dispatch)
        return True
