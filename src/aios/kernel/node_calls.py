"""The rows of the node itself: events, figures, tokens, time and chance, going down."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import get_args

from msgspec.structs import replace

from aios.abi.errors import Denied, Invalid, NotFound
from aios.abi.event import AccountChanged, AnyEvent, Dispatched, EventPage, ReadEvents
from aios.abi.request import Done, lower
from aios.abi.system import (
    AddToken,
    Chance,
    Drain,
    Instant,
    NewToken,
    RandomBytes,
    RevokeToken,
    Sleep,
    Statistics,
    TokenInfo,
    TokenList,
)
from aios.abi.waits import Wait
from aios.kernel.access.grants import Grants, parse_grants
from aios.kernel.access.tokens import Tokens
from aios.kernel.events import EventLog
from aios.kernel.process import Call, Process, ProcessTable
from aios.kernel.syscall import Syscall, check_range
from aios.ports.clock import Clock

MOST_RANDOM_BYTES = 4096
MOST_EVENTS = 10_000
MOST_CURSOR = 2**63 - 1
MOST_WAIT_S = 3600.0
MOST_SLEEP_S = 366 * 86400.0
KINDS = tuple(str(kind.__struct_config__.tag) for kind in get_args(AnyEvent))


class NodeCalls:
    """`drain(grace_s)` and `revoked(token id)` are what the kernel does about it; `statistics` gathers its figures."""

    def __init__(
        self, clock: Clock, events: EventLog, processes: ProcessTable, grants: Grants, tokens: Tokens,
        statistics: Callable[[], Statistics], drain: Callable[[float], None], revoked: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._clock = clock
        self._events = events
        self._processes = processes
        self._grants = grants
        self._tokens = tokens
        self._statistics = statistics
        self._drain = drain
        self._revoked = revoked

    def syscalls(self) -> dict[str, Syscall]:
        return {
            "event.read": Syscall(self._read_events),
            "kernel.statistics": Syscall(self._read_statistics),
            "kernel.drain": Syscall(self._go_down),
            "token.add": Syscall(self._add_token),
            "token.list": Syscall(self._list_tokens),
            "token.revoke": Syscall(self._revoke_token),
            "clock.now": Syscall(self._now),
            "clock.sleep": Syscall(self._sleep),
            "random.bytes": Syscall(self._random),
        }

    async def _read_events(self, call: Call) -> EventPage:
        request = call.request
        assert isinstance(request, ReadEvents)
        check_range("wait_s", request.wait_s, 0, MOST_WAIT_S)
        check_range("limit", request.limit, 1, MOST_EVENTS)
        check_range("after", request.after, 0, MOST_CURSOR)
        if not set(request.kinds) <= set(KINDS):
            raise Invalid(f"`kinds` must be of {', '.join(KINDS)}", field="kinds")
        wanted, caller = self._filter(call, request), call.process
        end = self._clock.monotonic() + request.wait_s
        cursor, lost = request.after, 0
        wait = Wait(code="M", on="an event", since_ns=call.asked_ns)
        call.waits = lambda: wait
        while True:
            events, cursor, forgotten = self._events.after(cursor, request.limit, wanted)
            lost += forgotten
            left = end - self._clock.monotonic()
            if events or (left <= 0 and cursor >= self._events.last):
                return EventPage(events=tuple(told(caller, event) for event in events), next=cursor, lost=lost)
            await (self._events.wait_for_more(cursor, left) if cursor >= self._events.last else asyncio.sleep(0))

    def _filter(self, call: Call, request: ReadEvents) -> Callable[[AnyEvent], bool]:
        """What the caller may see and asked for."""
        caller, kinds = call.process, set(request.kinds)

        def wanted(event: AnyEvent) -> bool:
            if kinds and event.__struct_config__.tag not in kinds:
                return False
            if caller.operator:
                return True
            process = self._processes.get(getattr(event, "pid", "") or getattr(event, "call", "").partition("/")[0])
            return process is not None and self._processes.knows(caller, process)

        return wanted

    async def _read_statistics(self, call: Call) -> Statistics:
        return self._statistics()

    async def _go_down(self, call: Call) -> Done:
        assert isinstance(call.request, Drain)
        check_range("grace_s", call.request.grace_s, 0, MOST_WAIT_S)
        self._drain(call.request.grace_s)
        return Done()

    async def _add_token(self, call: Call) -> NewToken:
        request = call.request
        assert isinstance(request, AddToken)
        self._grants.check_subset(call.process, request.agent, parse_grants(request.grants))
        tenant, user = account_of(call.process, request)
        cls = lower(call.process.cls, request.cls)
        return self._tokens.add(request.agent, request.grants, cls, tenant, user, request.weight)

    async def _list_tokens(self, call: Call) -> TokenList:
        return TokenList(tokens=self._tokens_of(call.process))

    def _tokens_of(self, caller: Process) -> tuple[TokenInfo, ...]:
        """The tokens that a caller may see: of its account, or all."""
        return tuple(info for info in self._tokens.list() if caller.operator or is_within(info, caller))

    async def _revoke_token(self, call: Call) -> Done:
        id = call.request.id if isinstance(call.request, RevokeToken) else ""
        if all(info.id != id for info in self._tokens_of(call.process)):
            raise NotFound(f"there is no token `{id[:80]}`: `aios token ls` lists them", field="id")
        self._tokens.revoke(id)
        self._revoked(id)
        return Done()

    async def _now(self, call: Call) -> Instant:
        return Instant(at_ns=self._clock.now_ns())

    async def _sleep(self, call: Call) -> Done:
        assert isinstance(call.request, Sleep)
        seconds = call.request.seconds
        check_range("seconds", seconds, 0, MOST_SLEEP_S)
        wait = Wait(code="T", on="its timer", since_ns=call.asked_ns, eta_s=seconds)
        call.waits = lambda: wait
        await asyncio.sleep(seconds)
        return Done()

    async def _random(self, call: Call) -> Chance:
        assert isinstance(call.request, RandomBytes)
        check_range("size", call.request.size, 1, MOST_RANDOM_BYTES)
        return Chance(data=secrets.token_bytes(call.request.size))


def told(caller: Process, event: AnyEvent) -> AnyEvent:
    """An event as a caller may hear of it: operators alone know how many calls wait, and what all tenants have spent together."""
    if caller.operator:
        return event
    if isinstance(event, Dispatched):
        return replace(event, waiting={})
    if isinstance(event, AccountChanged) and not event.tenant:
        return replace(event, limit=None, detail="")
    return event


def is_within(info: TokenInfo, caller: Process) -> bool:
    """Whether a token is of a caller's tenant, and of its user if it has one."""
    return info.tenant == caller.tenant and caller.user in ("", info.user)


def account_of(caller: Process, asked: AddToken) -> tuple[str, str]:
    """Tenant and user of a new token: the caller's, where none are named. Raises `Denied` for an account that is not below it."""
    tenant, user = asked.tenant or caller.tenant, asked.user or caller.user
    if caller.operator:
        return tenant, user
    if tenant != caller.tenant or caller.user not in ("", user):
        own = f"{caller.tenant}/{caller.user}" if caller.user else caller.tenant
        raise Denied(f"`{caller.name}` makes tokens of its own account `{own}` alone: an operator makes others")
    if asked.weight is not None and (caller.user or not user):
        raise Denied(f"`{caller.name}` cannot say how much it gets beside others: an operator may, with `weight`")
    return tenant, user
