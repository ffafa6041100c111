"""The door for unmodified Anthropic clients: messages, streamed and not, and their number of tokens.

Answers are the least that all clients accept, in both versions of the wire, which differ in what they refuse only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from aios.abi.errors import AiosError, ContextFull
from aios.abi.ids import UniqueIds
from aios.ports.kernel import Kernel
from aios.server.exchange import JSON, Handler, Headers, HttpRequest, Refusal, Writer, code_of
from aios.server.hints import answer_headers, ignored_header, options_of, patience_of, session_of
from aios.server.message_events import MessageStream, whole_message
from aios.server.messages import read_message, read_question, version_of
from aios.server.quota import anthropic_quota_headers
from aios.server.repeats import Repeats

KINDS: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Types of errors by status; others are the client's below 500, and ours above."""

TOOL_SCHEMA = re.compile(r"^(tools\[\d+\])\.parameters\b")
FORM = re.compile(r"^response_format(\.json_schema)?\b")
"""Fields of our requests that have other names on this wire."""

_encode = msgspec.json.Encoder().encode


class AnthropicDoor:
    """`POST /v1/messages`, `POST /v1/messages/count_tokens`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._repeats = Repeats(kernel)
        self._ids = UniqueIds("msg", "_")
        self.routes: Mapping[tuple[str, str], Handler] = {
            ("POST", "/v1/messages"): self._message,
            ("POST", "/v1/messages/count_tokens"): self._count,
        }

    def refusal(self, error: AiosError, request_id: str) -> Refusal:
        return Refusal(error.http, _error(error, request_id), ((b"request-id", request_id.encode()),))

    def broken(self, error: AiosError, request_id: str) -> bytes:
        return b"event: error\ndata: %b\n\n" % _error(error, request_id)

    async def _message(self, request: HttpRequest, writer: Writer) -> None:
        asked = read_message(request.body, version_of(request.header(b"anthropic-version")))
        options = options_of(request, asked.hints, asked.tier)
        caller = self._kernel.attach(request.token, session_of(request))
        more: Headers = [(b"request-id", request.id.encode())]
        if asked.ignored:
            more.append(ignored_header(asked.ignored))
        if asked.stream:
            stream = MessageStream(writer, self._ids(), asked.request.model, asked.thinks, more)
            answer = await self._repeats.call(request, writer, caller, asked.request, options, stream.tell)
            await stream.end(answer.value)
        else:
            writer.be_patient(patience_of(request))
            answer = await self._repeats.call(request, writer, caller, asked.request, options)
            body = whole_message(answer.value, self._ids(), asked.thinks)
            await writer.whole(200, body, [*answer_headers(answer, anthropic_quota_headers), *more])

    async def _count(self, request: HttpRequest, writer: Writer) -> None:
        question = read_question(request.body, version_of(request.header(b"anthropic-version")))
        caller = self._kernel.attach(request.token, session_of(request))
        writer.be_patient(patience_of(request))
        counted = (await self._kernel.call(caller, question, options_of(request))).value
        await writer.whole(200, b'{"input_tokens":%d}' % counted.tokens, [JSON, (b"request-id", request.id.encode())])


def _error(error: AiosError, request_id: str) -> bytes:
    message = error.message
    if isinstance(error, ContextFull):
        message = f"prompt is too long: {message}"  # the words by which clients know that they should send less
    details = {"error_code": code_of(error)}
    if error.field is not None:
        details["field"] = TOOL_SCHEMA.sub(r"\1.input_schema", FORM.sub("output_config.format", error.field))
    kind = KINDS.get(error.http, "invalid_request_error" if error.http < 500 else "api_error")
    said = {"type": kind, "message": message, "details": details}
    return _encode({"type": "error", "error": said, "request_id": request_id})
