"""The kernel from outside: system calls over its socket or a loopback address, without a loop.

Each call has a connection of its own: on a unix socket that costs next to nothing, any number of threads may share a client,
and no request is ever lost, or made twice, because an idle connection had gone away.
"""

from __future__ import annotations

import http.client
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from urllib.parse import urlsplit

import msgspec

from aios.abi.errors import Failed, Fault, Unauthenticated, Unavailable, error_of
from aios.abi.llm import Delta, Queued, Started
from aios.abi.request import NO_OPTIONS, CallOptions, Event, Request
from aios.abi.table import ROW_OF, Row

R = TypeVar("R")

CONNECT_S = 5.0

_requests = msgspec.json.Encoder()
_events = msgspec.json.Decoder(Queued | Started | Delta)
_lost = (OSError, http.client.HTTPException)
_timeval = struct.Struct("@ll")


class _Refusal(msgspec.Struct, frozen=True):
    error: Fault


_refusals = msgspec.json.Decoder(_Refusal)


def home() -> Path:
    """The kernel's folder: $AIOS_HOME, else ~/.local/share/aios."""
    return Path(os.environ.get("AIOS_HOME") or "~/.local/share/aios").expanduser().absolute()


class Client:
    """A running kernel. `url`: its loopback address, instead of the socket in its home. `token`: whom to speak for.

    Without `token`: $AIOS_TOKEN, else the operator's in the kernel's home, which only goes to that home's socket and to
    loopback addresses. As a context manager it ends the streams that are open at the end of the block.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self._address = urlsplit(url) if url is not None else None
        if self._address is not None and (self._address.scheme not in ("http", "https") or not self._address.hostname):
            raise ValueError(f"`{url}` is no address: write `http://127.0.0.1:PORT`")
        self._token = token or os.environ.get("AIOS_TOKEN")
        self._streams: set[http.client.HTTPConnection] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the streams that are open."""
        for connection in tuple(self._streams):
            connection.close()
        self._streams.clear()

    def call(self, request: Request[R], options: CallOptions = NO_OPTIONS) -> R:
        """Make a system call and return its reply. Raises `AiosError`; `Unavailable` when no kernel answers."""
        row = ROW_OF[type(request)]
        connection = self._connection()
        try:
            body = self._ask(connection, row, request, options, "application/json").read()
        except _lost as error:
            raise _gone(error) from error
        finally:
            connection.close()
        return cast(R, _reply_decoder(row).decode(body))

    def stream(self, request: Request[Any], options: CallOptions = NO_OPTIONS) -> Iterator[Event | Any]:
        """Make a system call; yields its events, then its reply. Closing the iterator cancels the call."""
        row = ROW_OF[type(request)]
        connection = self._connection()
        self._streams.add(connection)
        try:
            response = self._ask(connection, row, request, options, "text/event-stream" if row.streams else "application/json")
            if not row.streams:
                yield _reply_decoder(row).decode(response.read())
                return
            for name, data in _sse(response):
                if name == "reply":
                    yield _reply_decoder(row).decode(data)
                    return
                if name == "error":
                    raise error_of(_refusals.decode(data).error)
                if (event := _event(data)) is not None:
                    yield event
            raise Unavailable("the kernel went away in the middle of an answer")
        except _lost as error:
            raise _gone(error) from error
        finally:
            self._streams.discard(connection)
            connection.close()

    def _ask(
        self, connection: http.client.HTTPConnection, row: Row, request: Request[Any], options: CallOptions, accept: str
    ) -> http.client.HTTPResponse:
        """The response to a request, when it is none that says no."""
        headers = {"Authorization": f"Bearer {self._bearer()}", "Content-Type": "application/json", "Accept": accept}
        headers.update(_headers(options))
        connection.request("POST", f"/v1/call/{row.name}", _requests.encode(request), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise error_of(_fault(response))
        return response

    def _connection(self) -> http.client.HTTPConnection:
        """A new connection. Raises `Unavailable` when nobody listens."""
        connection: http.client.HTTPConnection
        if self._address is None:
            connection = _UnixConnection(home() / "run" / "aios.sock")
        elif self._address.scheme == "https":
            connection = http.client.HTTPSConnection(cast(str, self._address.hostname), self._address.port, timeout=CONNECT_S)
        else:
            connection = http.client.HTTPConnection(cast(str, self._address.hostname), self._address.port, timeout=CONNECT_S)
        try:
            connection.connect()
        except OSError as error:
            where = self._address.geturl() if self._address is not None else home()
            raise Unavailable(f"no kernel answers at {where}: start it with `aios up`") from error
        connection.sock.settimeout(None)  # how long a call may take is the kernel's to say
        return connection

    def _bearer(self) -> str:
        if self._token:
            return self._token
        if self._address is not None and self._address.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise Unauthenticated(f"no token for {self._address.hostname}: set AIOS_TOKEN, or give `token=`")
        return _operator_token(home() / "run" / "operator.token")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = connected(str(self._path))


def connected(path: str) -> socket.socket:
    """A connection to a unix socket. Raises `OSError` if nobody takes it within 5 s.

    It waits in the system: with a timeout of Python's, Linux refuses at once what finds the listener's queue full, and who floods
    that queue would keep the operator out.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval.pack(int(CONNECT_S), 0))
        connection.connect(path)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval.pack(0, 0))
    except OSError:
        connection.close()
        raise
    return connection


def _operator_token(path: Path) -> str:
    try:
        with path.open() as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise Unavailable(f"others may read {path}: run `chmod 600 {path}`, then start the kernel again")
            return file.read().strip()
    except OSError as error:
        raise Unauthenticated(f"{path} cannot be read ({error.strerror}): set AIOS_TOKEN, or give `token=`") from error


def _headers(options: CallOptions) -> Mapping[str, str]:
    """The options as the headers that every HTTP door reads."""
    named = {"X-Aios-Class": options.cls, "X-Aios-Deadline-S": options.deadline_s, "X-Aios-Key": options.key}
    return {name: str(value) for name, value in named.items() if value is not None}


def _fault(response: http.client.HTTPResponse) -> Fault:
    """What a refusal says; whoever else answers at that address does not speak like a kernel."""
    body = response.read()
    try:
        return _refusals.decode(body).error
    except msgspec.DecodeError:
        return Failed(f"this is no kernel: it answered {response.status} {response.reason}").fault()


def _sse(response: http.client.HTTPResponse) -> Iterator[tuple[str, bytes]]:
    """The named events of a stream; comments keep it alive and say nothing."""
    name, data = "", []
    for line in iter(response.readline, b""):
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        if field == b"event":
            name = value.strip().decode()
        elif field == b"data":
            data.append(value.strip())
        elif not line.strip() and data:
            yield name, b"\n".join(data)
            name, data = "", []


def _event(data: bytes) -> Event | None:
    """An event; None for one of a newer kernel."""
    try:
        return cast(Event, _events.decode(data))
    except msgspec.ValidationError:
        return None


def _gone(error: Exception) -> Unavailable:
    return Unavailable(f"the kernel went away before it had answered ({type(error).__name__}): it may have been done or not")


@cache
def _reply_decoder(row: Row) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(row.reply)
