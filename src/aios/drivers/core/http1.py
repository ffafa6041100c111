"""Kept connections to one HTTP server: what a core needs of a client, and nothing else.

It goes where it is told, by TLS if it is told so: no redirects, no proxies, no cookies. With a general client library (aiohttp) a
third of the kernel's CPU per call went into these, into timers and content codings, which a server on loopback has none of; and
11 MB of memory went into importing it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import httptools

from aios.outbox import Outbox

MOST_HEAD_BYTES = 1 << 16
MOST_UNREAD_BYTES = 1 << 16
"""Of an answer; then its server has to wait."""

HTTPS_PORT = 443
CONNECT_S = 10.0
"""Most that it may take until a server has taken our connection, and shown who it is."""

AGAIN_S = 1.0
"""A request on a kept connection that was closed is sent once more if that came sooner: later it may have been read, and worked
on for all that time, and what is asked twice is paid twice.
"""

Hear = Callable[[bytes], bool]
"""Takes a piece of a body; says whether it can take another at once. It must not raise."""


class Unreachable(OSError):
    """Nobody takes our connection, or whoever does is not who it should be; nothing was asked."""


class Untrusted(Unreachable):
    """It is not who it should be, as far as anybody vouches for it."""


class Broken(OSError):
    """The connection ended in the middle of an answer, or what came is no HTTP."""


class Answer(asyncio.Protocol):
    """A connection, and the answer that comes on it. `headers`: names in lower case."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._request = b""
        self._transport: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._lost = ""
        self._hear: Hear | None = None
        self._enough = False
        self.idle_since_s = 0.0
        self._parser = httptools.HttpResponseParser(self)  # one for all answers: what it calls is looked up once
        self._reset()

    def _reset(self) -> None:
        self._body: list[bytes] = []
        self._head_bytes = self._unread_bytes = 0
        self._headed = self._whole = self._keeps = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.touched = False

    # what a caller does

    def ask(self, request: bytes) -> None:
        """Send a request, at the end of this turn of the loop; its answer is this."""
        self._reset()
        self._request = request
        self.outbox.add(self._send)

    def _send(self) -> None:
        request, self._request = self._request, b""  # a kept connection keeps no question
        if not self._lost:
            self._transport.write(request)

    async def head(self) -> None:
        """Return when status and headers are here. Raises `Broken`."""
        while not self._headed:
            if self._lost:
                raise Broken(self._lost)
            await self._change()

    async def read(self, hear: Hear | None = None) -> bytes:
        """What has come of the body, as soon as there is something; nothing at its end. Raises `Broken`.

        While it waits, pieces go to `hear` in the very step in which they come, without waking anybody; when `hear` has
        enough, nothing is returned before the end.
        """
        while not self._body:
            if self._whole:
                return b""
            if self._lost:
                raise Broken(self._lost)
            self._hear, self._enough = hear, False
            try:
                await self._change()
            finally:
                self._hear = None
            if self._enough:
                return b""
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        if self._unread_bytes > MOST_UNREAD_BYTES and not self._lost:
            self._transport.resume_reading()
        self._unread_bytes = 0
        return data

    @property
    def at_end(self) -> bool:
        """Whether all of the body has been read."""
        return self._whole and not self._body

    @property
    def reusable(self) -> bool:
        """Whether the connection can take another request."""
        return self._keeps and not self._lost and not self._body

    def close(self) -> None:
        """End the connection at once, and what the server does for it."""
        self._lost = self._lost or "it was closed"
        self._transport.abort()
        self._wake()

    # what the connection tells

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.touched = True
        if not self._headed:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as problem:
            self._lose(f"it sent what is no HTTP: {problem}")
        if not self._headed and self._head_bytes > MOST_HEAD_BYTES:
            self._lose(f"it sent more than {MOST_HEAD_BYTES} bytes of headers")
        if self._unread_bytes > MOST_UNREAD_BYTES and not self._lost:
            self._transport.pause_reading()
        if self._hear is None or self._enough or self._body or self._whole or self._lost:
            self._wake()

    def on_message_begin(self) -> None:
        if self._whole:
            raise Broken("it spoke without being asked")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._headed = self.status >= 200  # what is below is an interim answer

    def on_body(self, body: bytes) -> None:
        if self._hear is not None and not self._enough:
            self._enough = not self._hear(body)
            return
        self._body.append(body)
        self._unread_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._headed:
            self._whole, self._keeps = True, self._parser.should_keep_alive()
        else:
            self.headers = {}

    def connection_lost(self, problem: Exception | None) -> None:
        unbounded = b"content-length" not in self.headers and b"transfer-encoding" not in self.headers
        if self._headed and unbounded and problem is None and not self._lost:
            self._whole = True
        self._lost = self._lost or (str(problem) if problem else "it closed the connection")
        self._wake()

    def _lose(self, why: str) -> None:
        self._lost = why
        self._transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _change(self) -> asyncio.Future[None]:
        self._waiter = self.outbox.loop.create_future()
        return self._waiter


class Connections:
    """Connections to one server; what was answered in full is kept for `keep_s` seconds and used again.

    `tls`: how the server is trusted; None: without TLS.
    """

    def __init__(
        self, host: str, port: int, headers: Mapping[str, str], keep_s: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._host = host
        self._port = port
        self._keep_s = keep_s
        self._tls = tls
        name = f"[{host}]" if ":" in host else host
        at = name if tls is not None and port == HTTPS_PORT else f"{name}:{port}"
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        self._tail = f" HTTP/1.1\r\nHost: {at}\r\n{lines}Content-Length: ".encode()
        self._outbox: Outbox | None = None
        self._idle: list[Answer] = []
        self._busy: set[Answer] = set()
        self.closed = False

    async def request(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Ask, and return when status and headers are here; give it back with `done`. Raises `Unreachable`, `Broken`."""
        data = b"%b %b%b%d\r\n\r\n%b" % (method.encode(), path.encode(), self._tail, len(body), body)
        while True:
            kept = self._kept()
            answer = kept or await self._connect()
            asked_s = answer.outbox.loop.time()
            self._busy.add(answer)
            try:
                answer.ask(data)
                await answer.head()
            except Broken:
                self.done(answer)
                if kept is None or answer.touched or answer.outbox.loop.time() - asked_s > AGAIN_S:
                    raise
                # The server closed a kept connection while we sent, and has not read the request.
            except BaseException:
                self.done(answer)
                raise
            else:
                return answer

    def done(self, answer: Answer) -> None:
        """An answer is no longer read; one that is not at its end is aborted."""
        self._busy.discard(answer)
        if answer.reusable and not self.closed:
            answer.idle_since_s = answer.outbox.loop.time()
            self._idle.append(answer)
        else:
            answer.close()

    def close(self) -> None:
        """Close all connections, which ends what runs on them."""
        self.closed = True
        for answer in (*self._idle, *self._busy):
            answer.close()
        self._idle.clear()

    def _kept(self) -> Answer | None:
        """The connection that was used last, if it is fresh enough; the others are closed when none is."""
        while self._idle:
            answer = self._idle.pop()
            if answer.reusable and answer.idle_since_s > answer.outbox.loop.time() - self._keep_s:
                return answer
            answer.close()
        return None

    async def _connect(self) -> Answer:
        if self.closed:
            raise Broken("it was closed")
        if self._outbox is None:
            self._outbox = Outbox(asyncio.get_running_loop())
        outbox = self._outbox
        try:
            async with asyncio.timeout(CONNECT_S if self._tls is not None else None):
                _, answer = await outbox.loop.create_connection(lambda: Answer(outbox), self._host, self._port, ssl=self._tls)
        except TimeoutError:
            raise Unreachable(f"it does not take a connection within {CONNECT_S:.0f} s") from None
        except ssl.SSLCertVerificationError as problem:
            raise Untrusted(f"its certificate is not trusted: {problem.verify_message}") from None
        except ssl.SSLError as problem:
            raise Unreachable(f"it does not speak TLS as we do: {problem.reason or type(problem).__name__}") from None
        except socket.gaierror:
            raise Unreachable("nobody knows its name") from None
        except OSError as problem:
            if problem.errno is None:
                raise Unreachable(str(problem) or "it ends the connection before it shows who it is") from None
            raise Unreachable(problem.errno, problem.strerror or str(problem)) from None
        return answer
