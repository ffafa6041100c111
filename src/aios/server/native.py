"""The native door: every row of the table over HTTP, its events and what happens as server-sent events."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

import msgspec

from aios.abi.errors import AiosError, Fault
from aios.abi.llm import Queued, Started
from aios.abi.request import Event
from aios.abi.schema import schemas
from aios.abi.wire import decode_request, row_named
from aios.ports.kernel import Kernel
from aios.server.exchange import JSON, Handler, Headers, HttpRequest, Refusal, Writer
from aios.server.feed import feed
from aios.server.hints import answer_headers, label_header, options_of, patience_of, session_of

_encoder = msgspec.json.Encoder()


class _Error(msgspec.Struct, frozen=True):
    error: Fault


class NativeDoor:
    """`POST /v1/call/NAME` takes a request as JSON and answers with its reply; `GET /v1/schema` describes them all.

    `GET /v1/events` tells what happens (`feed`).
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._schema = b""
        self.routes: Mapping[tuple[str, str], Handler] = {
            ("POST", "/v1/call/"): self._call,
            ("GET", "/v1/schema"): self._schemas,
            ("GET", "/v1/events"): self._feed,
        }

    def refusal(self, error: AiosError, request_id: str) -> Refusal:
        return Refusal(error.http, _encoder.encode(_Error(error.fault())))

    def broken(self, error: AiosError, request_id: str) -> bytes:
        return b"event: error\ndata: " + _encoder.encode(_Error(error.fault())) + b"\n\n"

    async def _schemas(self, request: HttpRequest, writer: Writer) -> None:
        self._schema = self._schema or _encoder.encode(schemas())
        await writer.whole(200, self._schema, [JSON])

    async def _feed(self, request: HttpRequest, writer: Writer) -> None:
        await feed(self._kernel, request, writer)

    async def _call(self, request: HttpRequest, writer: Writer) -> None:
        row = row_named(request.rest)
        wanted = decode_request(row, request.body or b"{}", "json")
        options = options_of(request)
        caller = self._kernel.attach(request.token, session_of(request))
        if row.streams and "text/event-stream" in request.header(b"accept"):
            stream = _Events(writer)
            answer = await self._kernel.call(caller, wanted, options, stream.tell)
            await stream.end(answer.value)
        else:
            writer.be_patient(patience_of(request))
            answer = await self._kernel.call(caller, wanted, options)
            await writer.whole(200, _encoder.encode(answer.value), [*answer_headers(answer), label_header(answer)])


class _Events:
    """The events of one call as server-sent events: begun when the call is accepted, so that a refusal has its status."""

    __slots__ = ("_opened", "_writer")

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._opened = False

    def tell(self, event: Event) -> Awaitable[None] | None:
        if not self._opened:
            self._open([(b"x-aios-ticket", event.call.encode())] if isinstance(event, Queued | Started) else [])
        name = str(type(event).__struct_config__.tag).encode()
        return self._writer.write(b"event: %b\ndata: %b\n\n" % (name, _encoder.encode(event)))

    async def end(self, reply: object) -> None:
        if not self._opened:
            self._open([])  # answered from the record: nothing was told
        await self._writer.end(b"event: reply\ndata: %b\n\n" % _encoder.encode(reply))

    def _open(self, headers: Headers) -> None:
        self._opened = True
        self._writer.open(headers)
