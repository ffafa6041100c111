"""No call is paid twice: a client that asks again because its connection broke gets the call that it made before.

Two calls are the same if token, path and body are (SHA-256 over the three). That alone says nothing: an agent may ask the same
question twice and mean it. So a request takes over a call of another only if that one's client is gone without its answer, or if
the client says that it tries again (`x-stainless-retry-count`, which the SDKs of OpenAI and Anthropic send) and an earlier try is
here. Among equal calls any may go to any of their retries: equals have the same answers to give, at the same price.

When is a client gone without its answer? While the call runs, the connection tells. Afterwards nobody does: bytes that were
written may have been lost behind the socket. The next request on the same connection is the proof that they were read; until it
comes, or a minute has passed, the answer is kept for a retry. A try that was refused has its retry too, which is a call of its
own and must not take that of another: the refusal is kept as a note.

Only clients that say that they retry are waited for, and only before they have heard anything; others are cancelled as they go.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable
from functools import partial
from typing import Any, Literal

import msgspec

from aios.abi.errors import AiosError, Draining
from aios.abi.llm import Delta
from aios.abi.request import CallOptions, Event, Request
from aios.ports.kernel import Answer, Caller, Kernel, Tell
from aios.server.exchange import HttpRequest, State, Writer

LINGER_S = 5.0
"""How long a call goes on whose client went away before it had heard anything."""
KEEP_S = 60.0
"""How long an answer is kept that may not have arrived."""
MOMENT_S = 0.001
"""What is due within it goes too: sums of times are not exact, and a timer for this very moment would come for ever."""
MOST_KEPT, MOST_KEPT_BYTES = 1024, 16 << 20
"""Answers of one token that are kept at a time; the oldest go first."""
MOST_EQUAL = 32
"""Of one and the same body."""
MOST_LINGERING = 256
"""Calls of one token that go on without their clients."""
MOST_BYTES = 64 << 20
"""Of all tokens; those of the token with the most go first."""
MOST_TOLD_CHARACTERS = 1 << 18
"""Of a stream that nobody hears; beyond it, who comes gets the whole at its end."""
MOST_RETRIES = 1000
SILENT: frozenset[State] = frozenset(("new", "spaces"))
"""States of an answer of which its client has heard nothing that counts."""

Fate = Literal["runs", "broken", "unproved", "refused"]

_size = msgspec.msgpack.Encoder()


class Held:
    """A call that may be asked for again. `tries`: how often its client had tried before; `fate`: how it stands.

    `broken`: its end is here and did not reach its client; `unproved`: nobody knows; `refused`: its client was told to try again.
    """

    __slots__ = (
        "end", "fate", "full", "kept_s", "key", "listeners", "reader", "size_bytes", "task", "tell_to", "timer", "token", "told",
        "told_characters", "tries", "waiters",
    )  # fmt: skip

    def __init__(self, key: bytes, token: str, tries: int, writer: Writer, tell: Tell | None) -> None:
        self.key = key
        self.token = token
        self.tries = tries
        self.fate: Fate = "runs"
        self.listeners: dict[Writer, None] = {writer: None}
        self.reader = writer
        self.tell_to = tell
        self.told: list[Event] = []
        self.told_characters = 0
        self.full = False
        self.task: asyncio.Task[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.waiters: list[asyncio.Future[None]] = []
        self.end: Answer | AiosError | None = None
        self.kept_s = 0.0
        self.size_bytes = 0

    def tell(self, event: Event) -> Awaitable[None] | None:
        """Pass an event on; note it while nobody has heard a word."""
        if type(event) is not Delta:
            self._note(event, 0)
        elif not self.listeners:
            self._note(event, len(event.text) + len(event.reasoning) + sum(len(tool.arguments) for tool in event.tool_calls))
        return self.tell_to(event) if self.tell_to is not None else None

    def _note(self, event: Event, characters: int) -> None:
        self.told_characters += characters
        if self.told_characters > MOST_TOLD_CHARACTERS and not self.full:
            self.full = True
            self.told = [earlier for earlier in self.told if type(earlier) is not Delta]
        if not self.full:
            self.told.append(event)

    def hear(self, tell: Tell | None) -> None:
        """Tell somebody else from now on, from the beginning; of a stream with too long a beginning nothing but its end."""
        self.tell_to = None if self.full else tell
        if tell is not None:
            for event in self.told:
                tell(event)

    def finish(self, end: Answer | AiosError) -> None:
        """It has ended: wake who waits for it."""
        self.end = end
        self.told = []
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)


class _Kept:
    """What is kept of one token's calls, the oldest first."""

    __slots__ = ("calls", "size_bytes")

    def __init__(self) -> None:
        self.calls: dict[Held, None] = {}
        self.size_bytes = 0


class Repeats:
    """Makes calls for a door, and joins those that are tries of the same call."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._by_key: dict[bytes, list[Held]] = {}
        self._kept: dict[str, _Kept] = {}
        self._lingering: Counter[str] = Counter()
        self._size_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def call(
        self, request: HttpRequest, writer: Writer, caller: Caller, wanted: Request[Any], options: CallOptions,
        tell: Tell | None = None,
    ) -> Awaitable[Answer]:  # fmt: skip
        """As the kernel's `call`. `tell` may hear nothing, if the answer is here already. Raises `AiosError`."""
        tries = tries_of(request)
        if tries is None and not self._by_key:
            return self._plain(request, writer, caller, wanted, options, tell)
        return self._tried(request, writer, caller, wanted, options, tell, tries)

    async def _tried(
        self, request: HttpRequest, writer: Writer, caller: Caller, wanted: Request[Any], options: CallOptions,
        tell: Tell | None, tries: int | None,
    ) -> Answer:  # fmt: skip
        """A call that may be a try of another, or have others."""
        key = key_of(request)
        known = self._find(key, tries or 0)
        if known is None and tries is None:
            return await self._plain(request, writer, caller, wanted, options, tell)
        if known is not None:
            return await self._join(known, writer, tell, tries)
        return await self._begin(Held(key, request.token_id, tries or 0, writer, tell), writer, caller, wanted, options)

    # making calls

    async def _plain(
        self, request: HttpRequest, writer: Writer, caller: Caller, wanted: Request[Any], options: CallOptions, tell: Tell | None
    ) -> Answer:
        """A call of a client that does not say that it retries; but what it cannot be told any more is kept."""
        try:
            return await self._kernel.call(caller, wanted, options, tell)
        except AiosError as error:
            if writer.state == "spaces" and not error.retry:
                held = Held(key_of(request), request.token_id, 0, writer, None)
                held.finish(error)
                self._by_key.setdefault(held.key, []).append(held)
                self._keep(held, "broken")
            raise

    async def _begin(self, held: Held, writer: Writer, caller: Caller, wanted: Request[Any], options: CallOptions) -> Answer:
        held.task = asyncio.current_task()
        self._by_key.setdefault(held.key, []).append(held)
        writer.left = partial(self._leave, held, writer, True, True)
        try:
            answer = await self._kernel.call(caller, wanted, options, held.tell if held.tell_to is not None else None)
        except AiosError as error:
            self._failed(held, error)
            raise
        except BaseException:
            self._drop(held)
            held.finish(Draining("the kernel is going down", retry_after_s=5.0))
            raise
        finally:
            self._stop_lingering(held)
        held.finish(answer)
        self._keep(held, "unproved" if held.listeners else "broken")
        self._await_proof(held, held.reader)
        return answer

    def _failed(self, held: Held, error: AiosError) -> None:
        """Its retry is to be a call of its own; but an error for good is said once more where nobody heard it."""
        heard = any(listener.state != "spaces" for listener in held.listeners)
        held.finish(error)
        if error.retry:
            self._keep(held, "refused")
        elif not heard:
            self._keep(held, "broken")
        else:
            self._drop(held)

    async def _join(self, held: Held, writer: Writer, tell: Tell | None, tries: int | None) -> Answer:
        """Get what a call that was made before comes to."""
        held.tries = max(held.tries, tries or 0)
        held.reader = writer
        held.listeners[writer] = None
        if held.end is None:
            await self._hear_out(held, writer, tell, retries=tries is not None)
        elif isinstance(held.end, AiosError):
            self._drop(held)  # it is told now, with its own status
        if isinstance(held.end, AiosError):
            raise held.end
        assert held.end is not None
        held.fate = "unproved"
        self._await_proof(held, writer)
        return held.end

    async def _hear_out(self, held: Held, writer: Writer, tell: Tell | None, retries: bool) -> None:
        """Listen to a call that runs in another request's task until its end."""
        self._stop_lingering(held)
        held.hear(tell)
        writer.left = partial(self._leave, held, writer, False, retries)
        waiter = asyncio.get_running_loop().create_future()
        held.waiters.append(waiter)
        await waiter

    # clients go away

    def _leave(self, held: Held, writer: Writer, runs: bool, retries: bool, state: State) -> bool:
        """A client went away; whether its request's own task is to go on, in which the call `runs` or not."""
        held.listeners.pop(writer, None)
        if held.listeners:
            return runs
        if held.end is not None:
            held.fate = "broken" if held.fate == "unproved" else held.fate
            return runs
        if retries and state in SILENT and self._lingering[held.token] < MOST_LINGERING:
            self._lingering[held.token] += 1
            held.tell_to = None
            held.timer = asyncio.get_running_loop().call_later(LINGER_S, self._give_up, held)
            return runs
        self._give_up(held)
        return runs

    def _give_up(self, held: Held) -> None:
        """End a call: nobody came back for it."""
        self._drop(held)
        assert held.task is not None
        held.task.cancel()

    def _stop_lingering(self, held: Held) -> None:
        """Somebody listens again, or it is over."""
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
            self._lingering[held.token] -= 1
            if not self._lingering[held.token]:
                del self._lingering[held.token]

    def _await_proof(self, held: Held, writer: Writer) -> None:
        """Keep the answer until its last reader sends another request on the same connection."""

        def settle() -> None:
            if held.reader is writer:
                self._drop(held)

        writer.settle = settle

    # finding and keeping

    def _find(self, key: bytes, tries: int) -> Held | None:
        """The call that a request is another try of."""
        held = self._by_key.get(key)
        if held is None:
            return None
        for call in held:
            if call.fate == "broken" or (call.fate == "runs" and not call.listeners):
                return call
        for call in held:
            if call.fate == "refused" and tries == call.tries + 1:
                self._drop(call)
                return None
        for call in held:
            if tries > call.tries and (call.fate == "unproved" or _unheard(call)):
                return call
        return None

    def _keep(self, held: Held, fate: Fate) -> None:
        loop = asyncio.get_running_loop()
        held.fate = fate
        held.kept_s = loop.time()
        held.size_bytes = len(_size.encode(held.end.value)) if isinstance(held.end, Answer) else 0
        mine = self._kept.setdefault(held.token, _Kept())
        mine.calls[held] = None
        mine.size_bytes += held.size_bytes
        self._size_bytes += held.size_bytes
        equal = [call for call in self._by_key.get(held.key, ()) if call.fate != "runs"]
        if len(equal) > MOST_EQUAL:
            self._drop(equal[0])
        while len(mine.calls) > MOST_KEPT or mine.size_bytes > MOST_KEPT_BYTES:
            self._drop(next(iter(mine.calls)))
        while self._size_bytes > MOST_BYTES:
            most = max(self._kept.values(), key=lambda kept: kept.size_bytes)
            self._drop(next(iter(most.calls)))
        if self._timer is None and self._kept:
            self._timer = loop.call_later(KEEP_S, self._expire)

    def _drop(self, held: Held) -> None:
        """Nobody can ask for it any more."""
        equal = self._by_key.get(held.key, [])
        if held in equal:
            equal.remove(held)
            if not equal:
                del self._by_key[held.key]
        mine = self._kept.get(held.token)
        if mine is not None and held in mine.calls:
            del mine.calls[held]
            mine.size_bytes -= held.size_bytes
            self._size_bytes -= held.size_bytes
            if not mine.calls:
                del self._kept[held.token]

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        before_s = loop.time() - KEEP_S + MOMENT_S
        for mine in list(self._kept.values()):
            for held in list(mine.calls):
                if held.kept_s > before_s:
                    break
                self._drop(held)
        oldest_s = min((next(iter(mine.calls)).kept_s for mine in self._kept.values()), default=None)
        self._timer = loop.call_at(oldest_s + KEEP_S, self._expire) if oldest_s is not None else None


def _unheard(held: Held) -> bool:
    """Whether a call runs, and its clients have heard nothing of it."""
    return held.fate == "runs" and all(listener.state in SILENT for listener in held.listeners)


def tries_of(request: HttpRequest) -> int | None:
    """How often the client has tried before, None if it does not say."""
    said = request.headers.get(b"x-stainless-retry-count")
    if said is None or not said.isdigit() or len(said) > 9:
        return None
    return min(int(said), MOST_RETRIES)


def key_of(request: HttpRequest) -> bytes:
    """What is the same in all tries of a call."""
    whole = hashlib.sha256(b"%b %b\n" % (request.token_id.encode(), request.path.encode()))
    whole.update(request.body)
    return whole.digest()
