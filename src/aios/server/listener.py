"""Who is connected: connections are taken as far as there is room, watched while they are silent, and closed in that order.

Anybody may connect, also to the unix socket, and a connection costs a descriptor before it has said who it is. So each listener
has a number of places; when they are taken, whoever has been silent for longest goes, strangers before those that have shown a
token; then whoever has long not read what it was sent. The places of all listeners together are fewer than the process has
descriptors: there is always one for the next. A client that reads nothing for hours keeps its answer as long as nobody needs the
place: it may be suspended.

Listeners are read here and not by the loop's own server, which takes all that come before it tells of the first, and with the
last descriptor gone closes whatever comes, an operator's connection too.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from aios.outbox import Outbox
from aios.server.exchange import MAX_BUFFER_BYTES, Headers, do_nothing, no_answer
from aios.server.strays import denial, target_of

HEAD_S = 10.0
"""In which the request line and the headers must have come."""
IDLE_S = 75.0
"""How long a connection is kept for the next request."""
GRACE_S = 0.1
"""In which nobody has to give up a place: a client sends its head as soon as it is connected."""
STALLED_S = 10.0
"""In which nobody has to give up a place because it does not read."""
MOST_UNREAD_BYTES = 256 << 20
"""Of answers that clients of one listener do not read; beyond it, who has most of it to read goes."""
MOST_AHEAD = 16
"""Requests that may wait behind the one at work while more is read of a connection."""
TICK_S = 1.0
ACCEPTS_PER_TURN = 16
"""Connections taken in one turn of the loop."""
MAX_HEAD_BYTES = 64 * 1024
MOST_DESCRIPTORS = 65_536

log = logging.getLogger("aios.server")


def raise_descriptors() -> None:
    """Let the process open as many files as it may, up to 65,536: shells give 1,024 out of habit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def descriptors() -> int:
    """How many files the process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


class Wire:
    """A connection's transport. What is written in one turn of the loop leaves at its end, in one write.

    The library writes head and body by themselves, and its pieces as they come.
    """

    __slots__ = ("_held", "_outbox", "_transport", "abort", "get_extra_info", "is_closing")

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        self._transport = transport
        self._outbox = outbox
        self._held = b""
        self.abort, self.is_closing, self.get_extra_info = transport.abort, transport.is_closing, transport.get_extra_info

    def write(self, data: bytes) -> None:
        if self._held:
            self._held += data
        else:
            self._held = data
            self._outbox.add(self._send)

    def _send(self) -> None:
        held, self._held = self._held, b""
        if held and not self.is_closing():
            self._transport.write(held)

    def close(self) -> None:
        """End the connection once all is sent."""
        self._send()
        self._transport.close()

    def unsent_bytes(self) -> int:
        """What was written and is still here."""
        return self._transport.get_write_buffer_size() + len(self._held)


class Flow(FlowControl):
    """When a connection is read. `ahead`: requests that wait for the one at work; with many of them nothing more is read."""

    def __init__(self, transport: asyncio.Transport, ahead: Sized) -> None:
        super().__init__(transport)
        self._ahead = ahead

    def resume_reading(self) -> None:
        if self.read_paused and len(self._ahead) < MOST_AHEAD:
            super().resume_reading()


@dataclass(slots=True)
class Peer:
    """Who is at the other end. `known`: it has shown a token that is valid. `gone`: hears that it went.

    `at`: pid of the process whose own address it came to, "" at the addresses of all. `outbox`: of the server.
    `settle`: hears of its next request, which shows that it has read the answer before.
    `task`: does the request at work. `body`: that of this request, if it is there whole. `answer`: send a whole answer to it at
    once; whether that was done.
    """

    outbox: Outbox
    known: bool = False
    at: str = ""
    read_on: Callable[[], None] = do_nothing
    gone: Callable[[], None] = do_nothing
    settle: Callable[[], None] = do_nothing
    body: Callable[[], bytes | None] = do_nothing
    answer: Callable[[int, Headers, bytes], bool] = no_answer
    task: asyncio.Task[None] | None = None

    def watch(self, gone: Callable[[], None]) -> None:
        """Call `gone` when it goes away. What it sends is read on meanwhile, or nobody would see it go."""
        self.gone = gone
        self.read_on()

    def unwatch(self) -> None:
        self.gone = do_nothing


Silent = dict["Connection", None]
"""Connections without a request, in the order in which they fell silent."""


@dataclass(frozen=True, slots=True)
class Own:
    """A program's own address. `strayed`: hears where else it wanted to go, as `HOST:PORT`."""

    pid: str
    port: int
    strayed: Callable[[str], None]

    @property
    def addresses(self) -> frozenset[tuple[str, int]]:
        return frozenset((host, self.port) for host in ("127.0.0.1", "localhost"))


class Listener:
    """A listening socket and the connections that came by it: at most `most` at a time. `own`: if it is one program's."""

    def __init__(
        self, listening: socket.socket, most: int, settings: uvicorn.Config, state: ServerState, outbox: Outbox,
        own: Own | None = None,
    ) -> None:  # fmt: skip
        self.own = own
        self.outbox = outbox
        self._socket = listening
        self._most = most
        self._settings = settings
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[object]] = set()
        self._heads: dict[bool, Silent] = {False: {}, True: {}}
        self._idle: dict[bool, Silent] = {False: {}, True: {}}
        self._stalled: dict[Connection, int] = {}
        self._unread_bytes = 0
        self._listens = True
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Take no more connections; those that there are stay."""
        self._closed = True
        self._pause()
        self._socket.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._opening:
            task.cancel()

    # connections come and go

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            longest = None
            if len(self._all) >= self._most:
                longest = self._longest_silent()
                if longest is None:
                    return self._pause()  # all are at work: whoever comes waits until one of them is through
                if longest.yields_s > self._loop.time():
                    return self._pause(GRACE_S)
            try:
                accepted, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor, no memory
                log.warning("no connection can be taken: %s", error.strerror)
                return self._pause(TICK_S)
            if longest is not None:
                longest.end()
            self._open(accepted)

    def _open(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        connection = Connection(self, self._settings, self._state, self._loop)
        self._all.add(connection)
        self.wait_for_head(connection)
        opening = self._loop.create_task(self._loop.connect_accepted_socket(lambda: connection, accepted))
        self._opening.add(opening)
        opening.add_done_callback(lambda task: self._opened(connection, accepted, task))

    def _opened(self, connection: Connection, accepted: socket.socket, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if task.cancelled() or task.exception() is not None:
            accepted.close()
            self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self.be_busy(connection)
        self.flow(connection)
        self._all.discard(connection)
        self._resume()

    # connections are silent

    def wait_for_head(self, connection: Connection) -> None:
        """A connection is to send a head, or the rest of one."""
        self._be_silent(connection, self._heads)

    def wait_for_next(self, connection: Connection) -> None:
        """A connection has had its answer."""
        self._be_silent(connection, self._idle)

    def be_busy(self, connection: Connection) -> None:
        """A connection has sent a whole head, or is ending."""
        if connection.silent is not None:
            del connection.silent[connection]
            connection.silent = None

    def stall(self, connection: Connection, unread_bytes: int) -> None:
        """A connection's client does not read what it is sent: so much waits for it."""
        connection.stalled_since_s = self._loop.time()
        self._stalled[connection] = unread_bytes
        self._unread_bytes += unread_bytes
        if self._unread_bytes > MOST_UNREAD_BYTES:
            most = max(self._stalled, key=self._stalled.__getitem__)
            self.flow(most)
            self._loop.call_soon(most.end)  # this may be called while it writes

    def flow(self, connection: Connection) -> None:
        """It has read most of it, or is gone."""
        connection.stalled_since_s = -STALLED_S
        self._unread_bytes -= self._stalled.pop(connection, 0)

    def _be_silent(self, connection: Connection, kind: dict[bool, Silent]) -> None:
        self.be_busy(connection)
        connection.silent_since_s = self._loop.time()
        connection.silent = kind[connection.peer.known]
        connection.silent[connection] = None
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._tick)
        self._resume()

    def _longest_silent(self) -> Connection | None:
        """The connection that has been silent for longest: a stranger's, if there is one. If none is, one that does not read."""
        for known in (False, True):
            first = [next(iter(silent)) for silent in (self._idle[known], self._heads[known]) if silent]
            if first:
                return min(first, key=lambda connection: connection.silent_since_s)
        return next(iter(self._stalled), None)

    # time

    def _tick(self) -> None:
        """End what was silent for too long; go on for as long as anybody is silent."""
        now_s = self._loop.time()
        for kind, timeout_s in ((self._heads, HEAD_S), (self._idle, IDLE_S)):
            for silent in kind.values():
                while silent and (first := next(iter(silent))).silent_since_s <= now_s - timeout_s:
                    first.expire()
        anybody = any((*self._heads.values(), *self._idle.values()))
        self._timer = self._loop.call_later(TICK_S, self._tick) if anybody else None

    def _pause(self, again_s: float | None = None) -> None:
        """Take no connections until somebody goes or falls silent, or for so many seconds."""
        if self._listens:
            self._listens = False
            self._loop.remove_reader(self._socket)
        if again_s is not None:
            self._loop.call_later(again_s, self._resume)

    def _resume(self) -> None:
        if not self._listens and not self._closed:
            self._listens = True
            self._loop.add_reader(self._socket, self._accept)


class Connection(HttpToolsProtocol):
    """The library's connection, with an end to its silence and to its heads, which it would take without one.

    `silent`: where its listener keeps it while it has no request, None while it has one; since when, in the loop's time.
    `stalled_since_s`: since when its client has not read, long ago if it does.
    """

    def __init__(self, listener: Listener, settings: uvicorn.Config, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        self.peer = Peer(listener.outbox, at=listener.own.pid if listener.own is not None else "")
        super().__init__(settings, state, {"peer": self.peer}, loop)
        self._listener = listener
        self._head_bytes = 0
        self._ended = False
        self._answered = False
        self._stray = False
        self._whole_head = False
        self._at_work: RequestResponseCycle | None = None
        self._unsent_bytes: Callable[[], int] = int
        self.silent: Silent | None = None
        self.silent_since_s = 0.0
        self.stalled_since_s = -STALLED_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the library has it
        super().connection_made(transport)
        wire = Wire(transport, self._listener.outbox)
        self.transport = cast(asyncio.Transport, wire)
        self.peer.body, self.peer.answer = self._whole_body, self._answer
        self._unsent_bytes = wire.unsent_bytes
        self.flow = Flow(transport, self.pipeline)
        self.peer.read_on = self.flow.resume_reading
        if self._ended:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._at_work is not None:
            self._at_work.disconnected = True  # the library tells the last request only, which may wait behind this one
        super().connection_lost(exc)
        self._listener.forget(self)
        self.peer.gone()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._at_work = cycle
        self.peer.task = self.loop.create_task(self._serve(cycle, app))
        self.tasks.add(self.peer.task)

    async def _serve(self, cycle: RequestResponseCycle, app: Any) -> None:
        """As the library's `run_asgi`, for an application that answers its own faults, and with no callback at its end."""
        task = self.peer.task  # of the next request once this one is answered
        assert task is not None
        try:
            await app(cycle.scope, cycle.receive, cycle.send)
        finally:
            if not cycle.response_complete and not cycle.disconnected:
                self.transport.close()
            cycle.on_response = do_nothing
            self.tasks.discard(task)

    def _whole_body(self) -> bytes | None:
        """As the library's `receive`, without waiting; None where that has more to do."""
        cycle = self._at_work
        if cycle is None or cycle.more_body or cycle.waiting_for_100_continue or cycle.disconnected or self.flow.read_paused:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        cycle.message_event.clear()
        return body

    def _answer(self, status: int, headers: Headers, body: bytes) -> bool:
        """As the library's `send` does in two steps and with a look at each name and value; False where that has more to do."""
        cycle = self._at_work
        if cycle is None or cycle.response_started or cycle.disconnected or self.flow.write_paused or not cycle.keep_alive:
            return False
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        head, lines = b"".join(parts), 1 + len(headers)
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            raise ValueError("a header of ours has a line's end in it")
        self.transport.write(b"%b\r\n%b" % (head, body))
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._listener.stall(self, self._unsent_bytes() + MAX_BUFFER_BYTES)  # a stream that is under way collects so much more

    def resume_writing(self) -> None:
        super().resume_writing()
        self._listener.flow(self)

    def data_received(self, data: bytes) -> None:
        self._whole_head = False
        self._feed(data)
        if self._stray:
            return
        if self.peer.gone is not do_nothing and self.cycle is not None and len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()  # the library stops at the next request, and would not see that the client goes
        if self.scope is not None and not self._in_head():
            self._head_bytes = 0
            return
        self._head_bytes = self._head_bytes + len(data) if not self._whole_head else 1  # of its end nobody knows how much it is
        if self._answered and self.silent is not None:
            self._answered = False
            self._listener.wait_for_head(self)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    def _feed(self, data: bytes) -> None:
        """As the library does, but an offer to go on in another protocol is passed over: there it costs a request its body.

        Some clients (Java's) make that offer with each request.
        """
        left, head = memoryview(data), b""
        while True:
            try:
                if head:
                    self.parser.feed_data(head)
                return self.parser.feed_data(left)
            except httptools.HttpParserUpgrade as offer:
                if self._stray:
                    return
                left, head = left[offer.args[0] :], self._begin_again()
            except httptools.HttpParserError:
                return self.send_400_response("Invalid HTTP request received.")

    def _begin_again(self) -> bytes:
        """Take a new parser for the rest of a request whose head was heard; what tells it how long the body is."""
        self.parser = httptools.HttpRequestParser(Rest(self))
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        lengths = [b"%b: %b\r\n" % header for header in self.headers if header[0] in (b"content-length", b"transfer-encoding")]
        return b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(lengths)

    def on_message_begin(self) -> None:
        """As the library does, with what our application asks of a scope."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        scope: Any = {"type": "http", "server": self.server, "headers": self.headers, "state": self.app_state}
        self.scope = scope

    def on_headers_complete(self) -> None:
        self._listener.be_busy(self)
        self._answered, self._whole_head = False, True
        own = self._listener.own
        target = target_of(self.parser.get_method(), self.url, own.addresses) if own is not None else ""
        if own is not None and target:
            self._stray = True
            own.strayed(target)
            self.transport.write(denial(target))
            self.transport.close()
        elif self.url.startswith(b"/") and b"%" not in self.url and b"#" not in self.url:
            self._begin()
        else:
            super().on_headers_complete()

    def _begin(self) -> None:
        """As the library does, with a target of which nothing is to be decoded."""
        parser, before = self.parser, self.cycle
        scope: Any = self.scope
        scope["method"] = parser.get_method().decode("ascii")
        path, _, scope["query_string"] = self.url.partition(b"?")
        scope["path"] = path.decode("ascii")
        self.cycle = RequestResponseCycle(
            scope, self.transport, self.flow, self.logger, self.access_logger, self.access_log, self.server_state.default_headers,
            asyncio.Event(), self.expect_100_continue, parser.get_http_version() != "1.0" and parser.should_keep_alive(),
            self.on_response_complete,
        )  # fmt: skip
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        if not self._stray:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._stray and not self.parser.should_upgrade():  # else its body, if it has one, is yet to come
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """As the library's own, but for its timer: that would be one per connection, set anew with each request."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            if self._unsent_bytes() and self.transport.is_closing():
                self._listener.wait_for_next(self)
        else:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            self._answered = not self._in_head()
            if self._answered:
                self._listener.wait_for_next(self)
            else:
                self._listener.wait_for_head(self)

    def _in_head(self) -> bool:
        """Whether a head has begun and is not complete."""
        scope: Any = self.scope
        return scope is not None and "method" not in scope

    @property
    def yields_s(self) -> float:
        """From when on it gives up its place to who comes: soon after it fell silent, later if its client has much to read."""
        return max(self.silent_since_s + GRACE_S if self.silent is not None else 0.0, self.stalled_since_s + STALLED_S)

    def expire(self) -> None:
        """It was silent for too long. What its client has not read it may have as long as nobody needs the place."""
        self._listener.be_busy(self)
        if self._head_bytes and not self.transport.is_closing():
            self.send_400_response(f"The headers did not come within {HEAD_S:g} s.")
        elif self.transport is not None and not self._unsent_bytes():
            self.transport.close()
        if self._unsent_bytes():
            self._listener.wait_for_next(self)

    def end(self) -> None:
        """Its place is needed."""
        self._ended = True
        self._listener.forget(self)
        if self.transport is not None:
            self.transport.abort()


class Rest:
    """Tells a connection what comes after a head that it has heard: not that head again, which a new parser has to be told."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._heard = True
        self.on_body = connection.on_body
        self.on_message_complete = connection.on_message_complete

    def on_message_begin(self) -> None:
        if not self._heard:
            self._connection.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._heard:
            self._connection.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._heard:
            self._connection.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._heard:
            self._connection.on_headers_complete()
        self._heard = False
