"""What a policy is told of the calls that wait, and what it decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Literal, NamedTuple, Protocol

import msgspec

from aios.abi.request import Class
from aios.abi.waits import Wait
from aios.kernel.programs import Program

Accounts = tuple[tuple[str, float], ...]
"""A path of accounts with their weights, from the widest down: a tenant, then a user of it.

The children of one account are fair to each other. An account that ends a path never stands in the midst of another.
"""


class Waiter(msgspec.Struct, frozen=True, eq=False):
    """Who waits for what a call is part of, so that its turn may be theirs too. Fields as a ticket's."""

    cls: Class
    accounts: Accounts
    program: Program
    remaining_s: float | None = None
    deadline: float | None = None
    pid: str = ""
    name: str = ""

    def same(self, other: Waiter) -> bool:
        """Whether it is the same one that waits, as urgently."""
        return (self.pid, self.cls, self.accounts, self.deadline) == (other.pid, other.cls, other.accounts, other.deadline)


class Suspension(Protocol):
    """How a call stands back in the midst of its work, and goes on."""

    def freeze(self, by: Class | None) -> None:
        """Stop at the next boundary, for a call of that class; None: a quantum is over."""
        ...

    def thaw(self, reason: str) -> None:
        """Go on: it has its turn again, for that reason."""
        ...


class Payment(Protocol):
    """What a call has to reserve in the step that gives it a turn, and how that goes."""

    def take(self, server: str, recall: Callable[[], None]) -> Literal["taken", "later", "never"]:
        """Reserve for a turn on a server. `later`: others have it now; `recall` is called when there may be room."""
        ...

    def leave(self) -> None:
        """Wait for room no longer."""
        ...

    def why(self) -> Wait:
        """What a call waits for that stepped aside."""
        ...


class Ticket(msgspec.Struct, eq=False):
    """One call waiting for a turn: what a policy may know of it. `feasible`: names of the servers that can do it.

    `share`: whose share of the work it belongs to, `tenant/agent`: that of the agent or client that it all began with. `near`:
    the server that it had best go to, if that one has a turn to give.
    `accounts`: the share as a path. `program`: what it is part of; `remaining_s`: what that declared to need still, seconds of
    service; `deadline`: when that should be done, by the lane's clock. `waiters`: who waits for it. `system`: the kernel's own
    work, which a waiting call needs.
    `payment`: what it reserves with its turn, if anything. `aside`: it waits for room for that, and not for a turn.
    `suspension`: how it can stand back, once it has begun. `frozen`: it does, and waits for its turn again. `urgent`: it got its
    turn as such; `spared`: it need not stand back any more.
    """

    tenant: str
    cls: Class
    pid: str
    name: str
    asked: float
    asked_ns: int
    feasible: frozenset[str]
    share: str = ""
    near: str = ""
    accounts: Accounts = ()
    program: Program = msgspec.field(default_factory=Program)
    remaining_s: float | None = None
    deadline: float | None = None
    waiters: tuple[Waiter, ...] = ()
    system: bool = False
    payment: Payment | None = None
    aside: bool = False
    queued: bool = False
    suspension: Suspension | None = None
    frozen: bool = False
    urgent: bool = False
    spared: bool = False
    given: asyncio.Future[Dispatch] | None = None


class Dispatch(msgspec.Struct, frozen=True):
    """A decision: this ticket on this server, and why. `loads`: of the servers that had a turn to give, 0 to 1, by name."""

    ticket: Ticket
    server: str
    reason: str
    loads: dict[str, float] = {}


class Load(NamedTuple):
    """What a ticket that comes would wait behind: so many calls of average cost, in a part (0 to 1) of what the lane does."""

    ahead: float
    share: float


class Policy(Protocol):
    """Decides who is next. It sees tickets, never how long a call will take.

    `preempts`: it knows urgent calls, to which others stand back where they can.
    """

    name: str
    preempts: bool = False

    def add(self, ticket: Ticket) -> None:
        """It waits from now on; one that is `frozen` has had its turn, stays charged for it, and stands before who has not."""
        ...

    def remove(self, ticket: Ticket) -> None:
        """It gave up waiting."""
        ...

    def changed(self, ticket: Ticket) -> None:
        """Others wait for it than before. It came when it came."""
        return

    def pick(self, idle: dict[str, float], now: float, kept: Collection[str] = ()) -> Dispatch | None:
        """Take out the ticket that is next among those that an idle server can do. `idle`: name → load, 0 to 1.

        `kept`: those of them that are for urgent calls alone; none where `preempts` is not set.
        """
        ...

    def urgent(self, ticket: Ticket) -> bool:
        """Whether others have to stand back for it now."""
        return False

    def yields(self, ticket: Ticket, server: str, now: float) -> bool:
        """Whether a ticket whose quantum on a server is over has to stand back for one that waits."""
        return False

    def load(self, ticket: Ticket) -> Load | None:
        """What stands before a ticket that is about to come, and will when its deadline is near; None if that is not known."""
        return None

    def started(self, ticket: Ticket) -> None:
        """It has its turn: it was picked, or never waited because a server was free."""

    def settled(self, ticket: Ticket, cost: float, at_least: bool = False) -> None:
        """What started has ended, and came to so many weighted tokens; or to that at least, where more is not known."""

    def waiting(self) -> Iterable[Ticket]:
        """The waiting tickets, in no order."""
        return self.order(0.0)

    def order(self, now: float) -> Iterable[Ticket]:
        """The waiting tickets as they would be dispatched if nothing else came and no time passed."""
        ...

    def foresee(self, now: float) -> Iterable[Dispatch]:
        """The same with the reasons that the decisions would have; they name no server."""
        return (Dispatch(ticket, "", "") for ticket in self.order(now))


def least_loaded(idle: dict[str, float], ticket: Ticket) -> str | None:
    """The idle server with the least load that can do a ticket; or the one that it is near to, if that is idle too."""
    if ticket.near in idle and ticket.near in ticket.feasible:
        return ticket.near
    able = [(load, name) for name, load in idle.items() if name in ticket.feasible]
    return min(able)[1] if able else None
