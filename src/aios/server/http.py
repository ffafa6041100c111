"""The edge of everything that speaks HTTP: it listens, checks who asks, reads bodies within bounds, and maps errors.

The server library (uvicorn) is used for its protocol alone: without its own loop, signals, logging or middleware. Only this
file knows ASGI; how connections come and go is in `listener.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from aios.abi.bounds import above_zero, within
from aios.abi.errors import AiosError, Denied, Draining, Internal, Invalid, NotFound, TooLarge, Unavailable
from aios.abi.ids import UniqueIds
from aios.outbox import Outbox
from aios.ports.kernel import Kernel
from aios.server import eager
from aios.server.exchange import JSON, Door, Handler, HttpRequest, Ticker, Writer, no_answer
from aios.server.hints import refusal_headers, token_of
from aios.server.listener import Connection, Listener, Own, Peer, descriptors

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HEALTH = "/health"
LINGER_S = 1.0
LINGER_BYTES = 16 * 1024 * 1024
BACKLOG = 2048
MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path that Linux takes."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the kernel listens. `hosts`: names beside loopback's by which clients may call it.

    `socket`: path of the unix socket for people's tools, "" for none. `body_timeout_s`: in which a body must have arrived.
    `connections`: at most so many at a time at the port, and half as many at the socket; not given, and at most: half of the
    files that the kernel may have open.
    """

    host: str = "127.0.0.1"
    port: int = 8642
    socket: str = ""
    hosts: tuple[str, ...] = ()
    max_body_bytes: int = 16 * 1024 * 1024
    body_timeout_s: float = 60.0
    connections: int | None = None

    def __post_init__(self) -> None:
        if not _is_loopback(self.host):
            raise ValueError("`host` must be a loopback address such as 127.0.0.1: this version listens on this machine only")
        within("port", self.port, 0, 65535)
        within("max_body_bytes", self.max_body_bytes, 1, 1 << 30)
        above_zero("body_timeout_s", self.body_timeout_s, 3600)
        within("connections", self.connections, 2, 1_000_000)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Gone(Exception):
    """The client went away: there is nobody to answer."""


class _WrongMethod(Invalid):
    """The path is there, but takes other methods."""

    http = 405
    code = Invalid.__name__

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"this path takes {allow}, not {method[:20]}")
        self.allow = allow


class HttpServer:
    """Serves doors. `start` it, and `close` it; the first door words the errors that belong to none."""

    def __init__(self, kernel: Kernel, doors: Sequence[Door], config: ServerConfig) -> None:
        self._kernel = kernel
        self._doors = doors
        self._config = config
        self._hosts = LOOPBACK | {config.host.lower()} | {name.lower() for name in config.hosts}
        self._exact: dict[tuple[str, str], tuple[Door, Handler]] = {}
        self._below: list[tuple[str, str, Door, Handler]] = []
        for door in doors:
            for (method, path), handler in door.routes.items():
                if path.endswith("/"):
                    self._below.append((method, path, door, handler))
                else:
                    self._exact[method, path] = (door, handler)
        self._ids = UniqueIds("req")
        self._ticker = Ticker()
        self._state = ServerState()
        self._listeners: list[Listener] = []
        self.port = config.port

    # listening

    @property
    def url(self) -> str:
        """Where it answers over TCP."""
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises `Unavailable` when the port or the path cannot be had."""
        settings = self._settings = uvicorn.Config(
            self.app, interface="asgi3", http=Connection, ws="none", lifespan="off", proxy_headers=False,
            access_log=False, server_header=False, date_header=False, log_config=None, log_level="critical",
        )  # fmt: skip
        settings.load()
        self._outbox = Outbox(asyncio.get_running_loop())
        most = descriptors() // 2
        if self._config.connections is not None:
            most = min(most, self._config.connections)
        for listening in self._listening():
            share = most if listening.family != socket.AF_UNIX else max(1, most // 2)
            self._listeners.append(Listener(listening, share, settings, self._state, self._outbox))

    def open(self, listening: socket.socket, own: Own, most: int) -> Listener:
        """Serve one program's own address too, over at most so many connections: there its token is good, and no other."""
        listener = Listener(listening, most, self._settings, self._state, self._outbox, own)
        self._listeners.append(listener)
        return listener

    def shut(self, listener: Listener) -> None:
        """Serve a program's address no more."""
        listener.close()
        self._listeners.remove(listener)

    def _listening(self) -> list[socket.socket]:
        listening = [_listen_port(self._config.host, self._config.port)]
        self.port = listening[0].getsockname()[1]
        if self._config.socket:
            try:
                listening.append(_listen_path(Path(self._config.socket)))
            except Unavailable:
                listening[0].close()
                raise
        return listening

    async def close(self, grace_s: float) -> None:
        """Take no new requests, let those that run end for at most `grace_s` seconds, then cut them off."""
        for listener in self._listeners:
            listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=grace_s)
        for task in self._state.tasks:
            task.cancel()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=1.0)
        for connection in list(self._state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # so that the aborted connections are told
        self._ticker.close()
        if self._config.socket:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._config.socket)

    # one request

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application: one HTTP request."""
        request = HttpRequest(self._ids(), scope["path"], dict(scope["headers"]))
        peer: Peer = scope["state"]["peer"]
        peer.settle()
        answer = peer.answer if scope["method"] != "HEAD" else no_answer  # its head leaves alone
        writer = Writer(send, peer.outbox, request.id, answer)
        door, whole = self._doors[0], False
        try:
            self._check_origin(scope, request)
            if scope["path"] == HEALTH:
                _check_method(scope["method"], {"GET", "HEAD"})
                return await writer.whole(200, b'{"status":"ok"}', [JSON])
            door, handler, request.rest = self._route(scope["method"], scope["path"])
            request.query = scope["query_string"]
            request.token = token_of(request)
            request.token_id = self._kernel.check(request.token, peer.at)
            peer.known = True
            _check_type(scope["method"], request)
            there = peer.body()
            if there is None or len(there) > self._config.max_body_bytes:
                there = await self._body(request, there, receive, peer.outbox.loop)
            request.body, whole = there, True
            await self._attend(handler(request, writer), writer, peer)
        except _Gone:
            return
        except asyncio.CancelledError:
            down = Draining("the kernel is going down", retry_after_s=5.0)
            await self._refuse(door, down, writer, request.id, None if whole else receive)
        except AiosError as error:
            await self._refuse(door, error, writer, request.id, None if whole else receive)
        except Exception as error:  # noqa: BLE001  # the edge: a bug of ours ends this request and nothing else
            incident = Internal(f"a bug of ours ended this call; its incident id is {self._kernel.fault(error)}")
            await self._refuse(door, incident, writer, request.id, None if whole else receive)

    def _route(self, method: str, path: str) -> tuple[Door, Handler, str]:
        found = self._exact.get((method, path))
        if found is not None:
            return (*found, "")
        for known, prefix, door, handler in self._below:
            if method == known and path.startswith(prefix) and len(path) > len(prefix):
                return door, handler, path[len(prefix) :]
        _check_method(method, self._methods(path))
        raise NotFound(f"there is no {path[:200]}")

    def _methods(self, path: str) -> set[str]:
        """The methods that a path takes; none where nothing is."""
        below = {known for known, prefix, _, _ in self._below if path.startswith(prefix) and len(path) > len(prefix)}
        return {known for known, exact in self._exact if exact == path} | below

    def _check_origin(self, scope: Any, request: HttpRequest) -> None:
        """A page in a browser must not reach the kernel, neither by its own name for it nor from another origin."""
        if scope["server"][1] is None:
            return  # a unix socket
        if len(scope["headers"]) > len(request.headers) and [name for name, _ in scope["headers"]].count(b"host") > 1:
            raise Invalid("there are two `Host` headers: send one", field="host")
        host = request.header(b"host")
        if _name_of(host) not in self._hosts:
            raise Denied(f"this kernel is not called `{host[:100]}`: use 127.0.0.1, or add the name to `[server] hosts`")
        origin = request.header(b"origin")
        if origin and origin.partition("://")[2] != host:
            raise Denied(f"pages of `{origin[:100]}` may not talk to this kernel")

    async def _attend(self, work: Any, writer: Writer, peer: Peer) -> None:
        """Run a handler; a client that goes away cancels it at once, unless somebody knows better (`Writer.left`)."""
        task = peer.task
        assert task is not None

        def gone() -> None:
            if writer.state != "ended":
                state, writer.state = writer.state, "gone"
                if not writer.left(state):
                    task.cancel()

        peer.watch(gone)
        self._ticker.add(writer)
        try:
            await work
        except asyncio.CancelledError:
            if writer.state == "gone":
                raise _Gone from None
            raise
        finally:
            self._ticker.remove(writer)
            peer.unwatch()
            peer.settle = writer.settle

    async def _body(self, request: HttpRequest, there: bytes | None, receive: Any, loop: asyncio.AbstractEventLoop) -> bytes:
        """A body that is not there yet, or too large, never more than it may have in memory.

        Raises `TooLarge`, or `Invalid` for one that does not come.
        """
        most = self._config.max_body_bytes
        stated = request.header(b"content-length")
        if stated and (not stated.isdecimal() or int(stated) > most):
            raise TooLarge(f"a body of {stated[:20]} bytes is above the limit of {most}")
        if there is not None:
            raise TooLarge(f"the body is above the limit of {most} bytes")
        deadline_s = loop.time() + self._config.body_timeout_s
        pieces = bytearray()
        while True:
            try:
                message = await eager.within(deadline_s - loop.time(), receive())
            except TimeoutError:
                raise Invalid(f"the body did not arrive within {self._config.body_timeout_s:g} s") from None
            if message["type"] == "http.disconnect":
                raise _Gone
            body: bytes = message["body"]
            if len(pieces) + len(body) > most:
                raise TooLarge(f"the body is above the limit of {most} bytes")
            if not message["more_body"]:
                return bytes(pieces + body) if pieces else body
            pieces += body

    async def _refuse(self, door: Door, error: AiosError, writer: Writer, request_id: str, receive: Any) -> None:
        """Answer with an error. After spaces or in the middle of the end nothing true can be said: the connection is cut.

        `receive`: of a request whose body was not read to its end.
        """
        if writer.state == "stream":
            await writer.end(door.broken(error, request_id))
        elif writer.state == "new":
            refusal = door.refusal(error, request_id)
            headers = [*refusal_headers(error), *refusal.headers]
            if isinstance(error, _WrongMethod):
                headers.append((b"allow", error.allow.encode()))
            if receive is None:
                await writer.whole(refusal.status, refusal.body, headers)
            else:
                headers.append((b"connection", b"close"))
                await writer.whole(refusal.status, refusal.body, headers, more=True)
                await _linger(receive)
                await writer.end()


async def _linger(receive: Any) -> None:
    """Swallow what a refused client still sends: a connection that is closed upon unread data takes the answer with it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            size_bytes = 0
            while size_bytes < LINGER_BYTES:
                message = await receive()
                if not message.get("more_body"):
                    return
                size_bytes += len(message["body"])


def _check_method(method: str, known: set[str]) -> None:
    if known and method not in known:
        raise _WrongMethod(method, ", ".join(sorted(known)))


def _check_type(method: str, request: HttpRequest) -> None:
    if request.headers.get(b"content-type") == b"application/json" and b"content-encoding" not in request.headers:
        return  # as most have it
    has_body = request.header(b"content-length") not in ("", "0") or b"transfer-encoding" in request.headers
    if method != "POST" or not has_body:
        return
    kind = request.header(b"content-type").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Invalid(f"the body must be `application/json`, not `{kind[:100]}`", field="content-type")
    if request.header(b"content-encoding") not in ("", "identity"):
        raise Invalid("the body must not be compressed", field="content-encoding")


@lru_cache(maxsize=64)
def _name_of(host: str) -> str:
    """`localhost` of `localhost:8642`, `::1` of `[::1]:8642`."""
    name, _, port = host.rpartition(":")
    if not name or not port.isdecimal():
        name = host
    return name.strip("[]").lower()


def _listen_port(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections have it from it
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} is taken by another program; choose another with `[server] port` or `--port`"
            raise Unavailable(text) from None
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener


def _listen_path(path: Path) -> socket.socket:
    """A unix socket that only its owner may use. One that a dead kernel left behind is replaced."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise Unavailable(f"the socket's path has more than {MAX_SOCKET_PATH} bytes: choose a shorter `AIOS_HOME`")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen on {path}: {error.strerror}") from None
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener
