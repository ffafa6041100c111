"""What a door sees of HTTP: a request, and a writer for its answer.

An answer is whole, or a stream whose pieces are collected and sent once per turn of the loop. While nothing can be said yet,
the writer keeps the client patient: a stream gets comments; a whole answer gets leading spaces once the client's patience is
half used up (JSON may begin with spaces, and every client that was tried lives on them; interim 1xx answers break some).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Literal, Protocol

import msgspec

from aios.abi.errors import AiosError
from aios.outbox import Outbox
from aios.server import eager

Headers = list[tuple[bytes, bytes]]
Send = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]
State = Literal["new", "spaces", "stream", "ended", "gone"]

MAX_BUFFER_BYTES = 1_000_000
COMMENT_S = 10.0
"""And of the spaces before a whole answer."""
BEAT_S = 60.0
TICK_S = 0.25
OPEN_S = 1.0
"""How long a stream that need not wait for a turn may be without a word, in which an error would keep its status."""

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
COMMENT = b": still here\n\n"


def do_nothing() -> None:
    """What is to be done where there is nothing to do."""


def no_answer(_status: int, _headers: Headers, _body: bytes) -> bool:
    """No whole answer can be sent at once."""
    return False


def never(state: State) -> bool:
    """No work goes on for a client that is gone."""
    return False


class HttpRequest(msgspec.Struct):
    """A request as a door sees it. Names of headers are in lower case; `rest`: what follows the route's path.

    `token` was checked before the body was read. Whose call it is the door says (`Kernel.attach`) when it has the body, for
    that may name the session.
    """

    id: str
    path: str
    headers: Mapping[bytes, bytes]
    rest: str = ""
    token: str = ""
    token_id: str = ""
    query: bytes = b""
    body: bytes = b""

    def header(self, name: bytes) -> str:
        """A header's value, "" without it."""
        value = self.headers.get(name)
        return value.decode("latin-1") if value else ""


class Writer:
    """The answer to one request. `answer`: sends a whole one at once, where that can be done, and says whether it has.

    `state`: `spaces` is a whole answer that began with spaces, `gone` a client that went away. `due_s`: the loop's time at
    which the client should hear something. `left` is asked when the client goes away before the end, and told the state until
    then: whether the request's work goes on without it. `settle`: called when the client's next request shows that it has read
    this answer.
    """

    __slots__ = (
        "_answer", "_beat", "_beat_due_s", "_buffer", "_comment", "_drained", "_flushing", "_head", "_loop", "_outbox",
        "_request_id", "_rest", "_send", "due_s", "left", "settle", "state",
    )  # fmt: skip

    def __init__(
        self, send: Send, outbox: Outbox, request_id: str, answer: Callable[[int, Headers, bytes], bool] = no_answer
    ) -> None:
        self._send = send
        self._outbox = outbox
        self._answer = answer
        self._request_id = request_id.encode()
        self._loop = outbox.loop
        self._buffer = bytearray()
        self._head: dict[str, Any] | None = None
        self._beat = b""
        self._comment = COMMENT
        self._beat_due_s = 0.0
        self._flushing = False
        self._rest: asyncio.Task[None] | None = None
        self._drained: list[asyncio.Future[None]] = []
        self.state: State = "new"
        self.due_s = float("inf")
        self.left: Callable[[State], bool] = never
        self.settle: Callable[[], None] = do_nothing

    def be_patient(self, patience_s: float) -> None:
        """Stay silent for so long, so that an error keeps its status; then send spaces until the answer comes."""
        self.due_s = self._loop.time() + patience_s

    async def whole(self, status: int, body: bytes, headers: Headers, more: bool = False) -> None:
        """Send the answer. After spaces the status is 200 already, and headers come too late.

        `more`: nothing, but the exchange is not over until `end`.
        """
        if self.state == "spaces":
            return await self.end(body)
        self.state = "ended"
        headers += ((b"content-length", b"%d" % len(body)), (b"x-request-id", self._request_id))
        if not more and self._answer(status, headers, body):
            return
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def open(
        self, headers: Headers, beat: bytes = b"", after_s: float = 0.0, comment: bytes = COMMENT, first: bytes = b""
    ) -> None:
        """Begin a stream: its headers leave with its first piece, or after so many seconds, whichever is first.

        Until they leave, an error still has its status. `first`: what leaves with them. `comment`: what the stream says every
        10 s in which there was nothing else to say; `beat`: what it says instead each minute.
        """
        now_s = self._loop.time()
        self._head = self._start(200, [EVENTS, (b"cache-control", b"no-store"), *headers])
        self._beat, self._beat_due_s, self._comment = beat, now_s + BEAT_S, comment
        self._buffer += first
        self.due_s = now_s + after_s
        if after_s == 0.0:
            self.state = "stream"
            self._schedule()

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Add to the stream. What it returns, if anything, is to be awaited before the next: the reader is slow."""
        self._buffer += data
        if not self._flushing:
            if self.state == "new":
                self.state = "stream"
            self._schedule()
        elif len(self._buffer) > MAX_BUFFER_BYTES:
            drained = self._loop.create_future()
            self._drained.append(drained)
            return drained
        return None

    async def end(self, data: bytes = b"") -> None:
        """Send what is left, and finish."""
        self.state = "ended"
        self._buffer += data
        if self._rest is not None:
            await self._rest
        if self._head is not None:
            await self._send_head(self._head)
        await self._send({"type": "http.response.body", "body": bytes(self._buffer)})

    def encourage(self) -> None:
        """Say something to a client that has heard nothing for long, unless it has yet to read what it was told before."""
        if self.state == "gone":
            self.due_s = float("inf")
        elif self._flushing:
            self.due_s = self._loop.time() + COMMENT_S
        elif self.state == "new" and self._head is not None:
            self.state = "stream"
            self._schedule()
        elif self.state == "new":
            self.state = "spaces"
            self._head = self._start(200, [JSON])
            self.write(b" ")
        elif self.state == "spaces":
            self.write(b" ")
        elif self._beat and self._loop.time() >= self._beat_due_s:
            self.write(self._beat)
        else:
            self.write(self._comment)

    def _start(self, status: int, headers: Headers) -> dict[str, Any]:
        headers.append((b"x-request-id", self._request_id))
        return {"type": "http.response.start", "status": status, "headers": headers}

    def _schedule(self) -> None:
        self._flushing = True
        self._outbox.add(self._flush)

    def _flush(self) -> None:
        if self.state != "ended":  # else `end` sends it
            self._rest = eager.start(self._send_collected())

    async def _send_collected(self) -> None:
        """Send what has been collected, and what is collected while a slow reader makes it wait."""
        if self._head is not None:
            await self._send_head(self._head)
        buffer, send = self._buffer, self._send
        while buffer:
            data = bytes(buffer)
            buffer.clear()
            await send({"type": "http.response.body", "body": data, "more_body": True})
            if self._drained:
                self._say_drained()
            now_s = self._loop.time()
            self.due_s = now_s + COMMENT_S
            if data != self._comment:
                self._beat_due_s = now_s + BEAT_S
        self._flushing = False

    async def _send_head(self, head: dict[str, Any]) -> None:
        self._head = None
        self.due_s = self._loop.time() + COMMENT_S
        await self._send(head)

    def _say_drained(self) -> None:
        for drained in self._drained:
            if not drained.done():
                drained.set_result(None)
        self._drained.clear()


class Ticker:
    """One timer for all writers; it runs only while somebody waits."""

    def __init__(self) -> None:
        self._waiting: dict[Writer, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, writer: Writer) -> None:
        self._waiting[writer] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def remove(self, writer: Writer) -> None:
        del self._waiting[writer]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for writer in self._waiting:
            if writer.due_s <= now_s:
                writer.encourage()
        self._timer = loop.call_later(TICK_S, self._tick)


_inner_capital = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Refusal(msgspec.Struct, frozen=True):
    """An error in the words of a door's wire."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def code_of(error: AiosError) -> str:
    """An error's name as foreign wires spell theirs: `not_found`."""
    return _inner_capital.sub("_", error.code).lower()


Handler = Callable[[HttpRequest, Writer], Coroutine[Any, Any, None]]


class Door(Protocol):
    """One wire. `routes`: by method and path; a path that ends in `/` takes all below it, which becomes `rest`."""

    @property
    def routes(self) -> Mapping[tuple[str, str], Handler]: ...

    def refusal(self, error: AiosError, request_id: str) -> Refusal:
        """An error instead of an answer."""
        ...

    def broken(self, error: AiosError, request_id: str) -> bytes:
        """An error in the middle of a stream."""
        ...
