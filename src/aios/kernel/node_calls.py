"""The rows of the node itself: events, figures, tokens, time and chance, going down."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import get_args

from aios.abi.errors import Invalid, TooLarge
from aios.abi.event import AnyEvent, EventPage, ReadEvents
from aios.abi.request import Done
from aios.abi.system import AddToken, Chance, Drain, Instant, NewToken, RandomBytes, RevokeToken, Sleep, Statistics, TokenList
from aios.abi.waits import Wait
from aios.kernel.access.grants import parse_grants
from aios.kernel.access.tokens import Tokens
from aios.kernel.events import EventLog
from aios.kernel.process import Call, ProcessTable
from aios.kernel.syscall import Syscall
from aios.ports.clock import Clock

MOST_RANDOM_BYTES = 4096
MOST_EVENTS = 10_000
MOST_WAIT_S = 3600.0
MOST_SLEEP_S = 366 * 86400.0
KINDS = tuple(str(kind.__struct_config__.tag) for kind in get_args(AnyEvent))


class NodeCalls:
    """`drain(grace_s)` and `revoked(token id)` are what the kernel does about it; `statistics` gathers its figures."""

    def __init__(
        self, clock: Clock, events: EventLog, processes: ProcessTable, tokens: Tokens, statistics: Callable[[], Statistics],
        drain: Callable[[float], None], revoked: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._clock = clock
        self._events = events
        self._processes = processes
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
        if not 0 <= request.wait_s <= MOST_WAIT_S or not 1 <= request.limit <= MOST_EVENTS or request.after < 0:
            raise Invalid(f"`wait_s` must be 0 to {MOST_WAIT_S:g}, `limit` 1 to {MOST_EVENTS}, `after` 0 or more", field="wait_s")
        if not set(request.kinds) <= set(KINDS):
            raise Invalid(f"`kinds` must be of {', '.join(KINDS)}", field="kinds")
        wanted = self._filter(call, request)
        end = self._clock.monotonic() + request.wait_s
        cursor = request.after
        wait = Wait(code="M", on="an event", since_ns=call.asked_ns)
        call.waits = lambda: wait
        while True:
            events, next, lost = self._events.after(cursor, request.limit, wanted)
            left = end - self._clock.monotonic()
            if events or left <= 0:
                return EventPage(events=tuple(events), next=next, lost=lost)
            cursor = next
            await self._events.wait_for_more(cursor, left)

    def _filter(self, call: Call, request: ReadEvents) -> Callable[[AnyEvent], bool]:
        """What the caller may see and asked for."""
        caller, kinds = call.process, set(request.kinds)
        mine = None if caller.operator else {process.pid for process in self._processes.seen_by(caller)}

        def wanted(event: AnyEvent) -> bool:
            if kinds and event.__struct_config__.tag not in kinds:
                return False
            if mine is not None:
                return getattr(event, "pid", None) in mine
            return event.tenant in ("", caller.tenant)

        return wanted

    async def _read_statistics(self, call: Call) -> Statistics:
        return self._statistics()

    async def _go_down(self, call: Call) -> Done:
        assert isinstance(call.request, Drain)
        if not 0 <= call.request.grace_s <= MOST_WAIT_S:
            raise Invalid(f"`grace_s` must be 0 to {MOST_WAIT_S:g}", field="grace_s")
        self._drain(call.request.grace_s)
        return Done()

    async def _add_token(self, call: Call) -> NewToken:
        request = call.request
        assert isinstance(request, AddToken)
        parse_grants(request.grants)
        return self._tokens.add(request.agent, request.grants, request.cls)

    async def _list_tokens(self, call: Call) -> TokenList:
        return TokenList(tokens=self._tokens.list())

    async def _revoke_token(self, call: Call) -> Done:
        assert isinstance(call.request, RevokeToken)
        self._tokens.revoke(call.request.id)
        self._revoked(call.request.id)
        return Done()

    async def _now(self, call: Call) -> Instant:
        return Instant(at_ns=self._clock.now_ns())

    async def _sleep(self, call: Call) -> Done:
        assert isinstance(call.request, Sleep)
        seconds = call.request.seconds
        if not 0 <= seconds <= MOST_SLEEP_S:
            raise Invalid("`seconds` must be 0 to a year", field="seconds")
        wait = Wait(code="T", on="its timer", since_ns=call.asked_ns, eta_s=seconds)
        call.waits = lambda: wait
        await asyncio.sleep(seconds)
        return Done()

    async def _random(self, call: Call) -> Chance:
        assert isinstance(call.request, RandomBytes)
        if not 1 <= call.request.size <= MOST_RANDOM_BYTES:
            raise TooLarge(f"`size` must be 1 to {MOST_RANDOM_BYTES}", field="size")
        return Chance(data=secrets.token_bytes(call.request.size))
