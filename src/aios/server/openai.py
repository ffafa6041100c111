"""The door for unmodified OpenAI clients: chat completions, streamed and not, and the list of models.

Answers are the least that all clients accept. A streamed piece is put together from bytes: what does not change from piece to
piece is made once per stream.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping
from typing import Any

import msgspec

from aios.abi.account import LimitState
from aios.abi.errors import AiosError, NotFound
from aios.abi.extra import Fields
from aios.abi.ids import UniqueIds
from aios.abi.llm import Choice, Completion, Delta, Models, Queued, Started, ToolCall, ToolCallDelta
from aios.abi.request import Event
from aios.ports.kernel import Kernel
from aios.server.chat import generate_of, read_chat
from aios.server.exchange import JSON, OPEN_S, Handler, HttpRequest, Refusal, Writer
from aios.server.hints import answer_headers, ignored_header, options_of, patience_of, session_of
from aios.server.models import Entry, entries, listing
from aios.server.openai_words import chat_param, error_body, logprob_of, status_of
from aios.server.quota import quota_headers
from aios.server.repeats import Repeats

WIRE = "openai_chat"
OWN = frozenset(("id", "object", "created", "model", "choices", "usage"))
"""Fields of an answer that are the door's to say."""

_encode = msgspec.json.Encoder().encode


class OpenAIDoor:
    """`POST /v1/chat/completions`, `GET /v1/models`, `GET /v1/models/NAME`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._repeats = Repeats(kernel)
        self._ids = UniqueIds("chatcmpl")
        self.routes: Mapping[tuple[str, str], Handler] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/v1/models/"): self._model,
        }

    def refusal(self, error: AiosError, request_id: str) -> Refusal:
        status = status_of(error)
        return Refusal(status, error_body(error, status, chat_param(error)))

    def broken(self, error: AiosError, request_id: str) -> bytes:
        return b"data: " + error_body(error, error.http, chat_param(error)) + b"\n\n"

    async def _chat(self, request: HttpRequest, writer: Writer) -> None:
        body, ignored = read_chat(request.body)
        wanted = generate_of(body)
        options = options_of(request, body.aios, body.service_tier)
        caller = self._kernel.attach(request.token, session_of(request, body.prompt_cache_key))
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            stream = _Chunks(writer, self._ids(), wanted.model, usage, ignored)
            answer = await self._repeats.call(request, writer, caller, wanted, options, stream.tell)
            await stream.end(answer.value)
        else:
            writer.be_patient(patience_of(request))
            server = _Server() if ignored else None
            tell = None if server is None else server.tell
            answer = await self._repeats.call(request, writer, caller, wanted, options, tell)
            more = [ignored_header(ignored)] if server is not None and server.leaves_out else []
            await writer.whole(200, _completion(answer.value, self._ids()), [*answer_headers(answer), *more])

    async def _models(self, request: HttpRequest, writer: Writer) -> None:
        listed = await self._listed(request)
        await writer.whole(200, _encode(listing(listed, request)), [JSON])

    async def _model(self, request: HttpRequest, writer: Writer) -> None:
        listed = await self._listed(request)
        if request.rest not in listed:
            raise NotFound(f"there is no model `{request.rest[:100]}`; there are {', '.join(listed) or 'none'}", field="model")
        await writer.whole(200, _encode(listed[request.rest]), [JSON])

    async def _listed(self, request: HttpRequest) -> Mapping[str, Entry]:
        caller = self._kernel.attach(request.token, session_of(request))
        return entries((await self._kernel.call(caller, Models())).value.models, request)


class _Server:
    """Hears who does a call: `leaves_out` is whether it has no word for what only this wire says."""

    __slots__ = ("leaves_out",)

    def __init__(self) -> None:
        self.leaves_out = True

    def tell(self, event: Event) -> None:
        if type(event) is Started:
            self.leaves_out = event.driver != WIRE


# whole answers


def _completion(value: Completion, name: str) -> bytes:
    return b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":%b,"usage":%b%b}' % (
        _encode(name),
        int(time.time()),
        _encode(value.model),
        _encode([_choice(index, choice) for index, choice in enumerate(value.choices)]),
        _usage(value),
        _fields(value.extra) if value.extra else b"",
    )


def _fields(extra: Fields) -> bytes:
    """Further fields of an object, from its comma on."""
    return b"".join([b",%b:%b" % (_encode(name), _encode(value)) for name, value in extra.items() if name not in OWN])


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text}
    if choice.tool_calls:
        message["content"] = choice.text or None
        message["tool_calls"] = [_tool_call(call) for call in choice.tool_calls]
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    logprobs = {"content": [logprob_of(token) for token in choice.logprobs]} if choice.logprobs else None
    said = {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}
    extra = choice.extra
    if not extra:
        return said
    return {**extra.get("choice", {}), **said, "message": {**extra.get("message", {}), **message}}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    if not call.extra:
        return {"id": call.id, "type": "function", "function": function}
    if not call.name:
        return {"type": "function", **call.extra, "id": call.id}
    return {**call.extra, "id": call.id, "type": "function", "function": {**call.extra.get("function", {}), **function}}


def _usage(value: Completion) -> bytes:
    usage = value.usage
    asked, said = usage.input_tokens, usage.output_tokens
    return (
        b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d},"completion_tokens_details":{"reasoning_tokens":%d}}'
        % (asked, said, asked + said, usage.cache_read, usage.reasoning)
    )


# streams


class _Chunks:
    """The chunks of one stream."""

    __slots__ = ("_created", "_finished", "_id", "_ignored", "_opened", "_prefix", "_texts", "_usage", "_writer")

    def __init__(self, writer: Writer, name: str, model: str, usage: bool, ignored: list[str]) -> None:
        self._writer = writer
        self._id = name
        self._created = int(time.time())
        self._usage = usage
        self._ignored = ignored
        self._opened = False
        self._texts: dict[int, bytes] = {}
        self._finished: set[int] = set()
        self._prefix = b""
        self._name(model)

    def tell(self, event: Event) -> Awaitable[None] | None:
        """Take an event of the call; the headers leave when it is accepted."""
        if type(event) is Delta:
            return self._writer.write(self._delta(event))
        if type(event) is Queued:
            self._open(event.call, 0.0, event.quota)
        elif type(event) is Started:
            self._name(event.model)
            left_out = self._ignored if event.driver != WIRE else []
            if left_out and self._opened:  # its headers left while it waited
                self._writer.write(b": %b: %b\n\n" % ignored_header(left_out))
            self._open(event.call, OPEN_S, event.quota, left_out)
        return None

    async def end(self, value: Completion) -> None:
        """Say what is left: answers of which nothing was told, why each ended, the usage."""
        self._open("", 0.0)  # if it was answered from the record, nothing was told
        left = b""
        for index, choice in enumerate(value.choices):
            if index not in self._texts:
                left += self._delta(_whole_delta(index, choice))
            if index not in self._finished:
                left += self._chunk(index, b"{}", _encode(choice.finish))
        if self._usage:
            left += self._prefix + b'[],"usage":' + _usage(value) + b"}\n\n"
        await self._writer.end(left + b"data: [DONE]\n\n")

    def _open(self, call: str, after_s: float, quota: tuple[LimitState, ...] = (), left_out: list[str] | None = None) -> None:
        if not self._opened:
            self._opened = True
            headers = [(b"x-aios-ticket", call.encode()), *quota_headers(quota)] if call else []
            if left_out:
                headers.append(ignored_header(left_out))
            self._writer.open(headers, beat=self._prefix + b"[]}\n\n", after_s=after_s)

    def _name(self, model: str) -> None:
        """What all chunks of this stream begin with."""
        self._prefix = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":' % (
            _encode(self._id), self._created, _encode(model)
        )  # fmt: skip

    def _chunk(self, index: int, delta: bytes, finish: bytes = b"null") -> bytes:
        return b'%b[{"index":%d,"delta":%b,"finish_reason":%b}]}\n\n' % (self._prefix, index, delta, finish)

    def _delta(self, delta: Delta) -> bytes:
        before = self._texts.get(delta.index)
        if before is None:
            said = self._begin(delta.index)
            before = self._texts[delta.index]
        else:
            said = b""
        if delta.tool_calls or delta.reasoning or delta.logprobs or delta.extra:
            said += self._rich(delta)
        elif delta.text:
            said += before + _encode(delta.text) + b'},"finish_reason":null}]}\n\n'
        if delta.finish is not None:
            self._finished.add(delta.index)
            said += self._chunk(delta.index, b"{}", _encode(delta.finish))
        return said

    def _begin(self, index: int) -> bytes:
        """The first chunk of an answer; what all its chunks of text begin with is made once."""
        self._texts[index] = b'%b[{"index":%d,"delta":{"content":' % (self._prefix, index)
        return self._chunk(index, b'{"role":"assistant","content":""}')

    def _rich(self, delta: Delta) -> bytes:
        """A piece with more than text."""
        said: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        if delta.tool_calls:
            said["tool_calls"] = [_tool_delta(call) for call in delta.tool_calls]
        extra = delta.extra or {}
        choice = {**extra.get("choice", {}), "index": delta.index, "delta": {**extra.get("message", {}), **said}}
        if delta.logprobs:
            choice["logprobs"] = {"content": [logprob_of(token) for token in delta.logprobs]}
        choice["finish_reason"] = None
        more = _fields(extra["answer"]) if "answer" in extra else b""
        return b"%b[%b]%b}\n\n" % (self._prefix, _encode(choice), more)


def _whole_delta(index: int, choice: Choice) -> Delta:
    calls = tuple(
        [ToolCallDelta(at, call.id, call.name, call.arguments, call.extra) for at, call in enumerate(choice.tool_calls)]
    )
    return Delta(
        index=index, text=choice.text, tool_calls=calls, reasoning=choice.reasoning, logprobs=choice.logprobs, extra=choice.extra
    )


def _tool_delta(call: ToolCallDelta) -> dict[str, Any]:
    said: dict[str, Any] = {**(call.extra or {}), "index": call.index}
    if call.id:
        said |= {"id": call.id, "type": said.get("type", "function")}
    if call.extra and not call.name and not call.arguments:
        return said
    function = {"name": call.name} if call.name else {}
    return {**said, "function": {**said.get("function", {}), **function, "arguments": call.arguments}}
