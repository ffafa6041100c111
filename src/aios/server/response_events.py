"""An answer as OpenAI's Responses: one object, or events that tell how it comes to be.

An answer is items in a row: reasoning, a message, calls of functions. The ids of the items are made of the response's own. A
streamed piece is put together from bytes: what does not change from piece to piece is made once per item.
"""

from __future__ import annotations

import time
from typing import Any, Literal, TypeVar

import msgspec

from aios.abi.errors import AiosError
from aios.abi.llm import Choice, Completion, Delta, ToolCallDelta, Usage
from aios.server.openai_words import error_code, logprob_of
from aios.server.response_body import ResponseBody
from aios.server.response_items import Tool
from aios.server.response_output import OutputCall, OutputItem, OutputMessage, OutputReasoning

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

Kind = TypeVar("Kind", bound="OutputItem")

_encode = msgspec.json.Encoder().encode
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is not whole, by its finish; every other finish is an end."""


class _Failure(msgspec.Struct, tag_field="type", tag="error"):
    """A failure as an event. `sequence_number`: its place among the events."""

    code: str
    message: str
    param: str | None
    sequence_number: int


class _Echo(msgspec.Struct):
    """What a response says of its request."""

    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: tuple[Tool, ...]
    top_logprobs: int
    top_p: float | None
    user: str | None
    service_tier: str = "default"
    truncation: str = "disabled"


def _echo_of(body: ResponseBody) -> bytes:
    text, thought = body.text, body.reasoning
    form = (text and text.format) or {"type": "text"}
    echo = _Echo(
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=_text(body.prompt_cache_key),
        reasoning={"effort": thought.effort if thought else None, "summary": None},
        safety_identifier=_text(body.safety_identifier),
        store=body.store is not False,
        temperature=body.temperature,
        text={"format": form, "verbosity": text.verbosity} if text and text.verbosity else {"format": form},
        tool_choice=body.tool_choice or "auto",
        tools=tuple([tool for tool in body.tools or () if tool.type == "function"]),
        top_logprobs=body.top_logprobs or 0,
        top_p=body.top_p,
        user=_text(body.user),
    )
    return _encode(echo)[1:]


def _text(hint: object) -> str | None:
    """A hint that says nothing here, if it is what it should be."""
    return hint if isinstance(hint, str) else None


class Response:
    """One response on its way: the object that says all of it, and the events by which it is told.

    `id`: its own, unique for ever. `model`: the one that was asked for, then the one that answers. Each method gives the bytes of
    the events that are due; their numbers have no gaps, so whoever has heard some knows which come next.
    """

    __slots__ = (
        "_background", "_calls", "_created", "_echo", "_items", "_mark", "_message", "_model", "_reasoning", "_told", "id",
    )  # fmt: skip

    def __init__(self, id: str, body: ResponseBody) -> None:
        self.id = id
        self._mark = id.partition("_")[2].encode()
        self._created = int(time.time())
        self._background = b"true" if body.background else b"false"
        self._echo = _echo_of(body)
        self._model = body.model or "default"
        self._items: list[OutputItem] = []
        self._message: OutputMessage | None = None
        self._reasoning: OutputReasoning | None = None
        self._calls: dict[int, OutputCall] = {}
        self._told = 0

    # as one object

    def object(self, status: Status, usage: bytes = b"null", error: bytes = b"null", why: bytes = b"null") -> bytes:
        """The response as JSON, with the items that there are."""
        output = b"" if status in ("queued", "in_progress") else b",".join([item.json() for item in self._items])
        completed = b'"completed_at":%d,' % time.time() if status == "completed" else b""
        return (
            b'{"id":"%b","object":"response","created_at":%d,%b"status":"%b","background":%b,"error":%b,"incomplete_details":%b,'
            b'"model":%b,"output":[%b],"usage":%b,%b'
            % (
                self.id.encode(), self._created, completed, status.encode(), self._background, error, why, _encode(self._model),
                output, usage, self._echo,
            )
        )  # fmt: skip

    def whole(self, value: Completion) -> bytes:
        """The response to a call that is done, of which nothing was told."""
        choice = value.choices[0]
        self._model = value.model
        if choice.reasoning:
            self._add(OutputReasoning).texts.append(choice.reasoning)
        if choice.text or not choice.tool_calls:
            message = self._add(OutputMessage)
            message.texts.append(choice.text)
            message.logprobs = choice.logprobs
        for asked in choice.tool_calls:
            call = self._add(OutputCall)
            call.call_id, call.name = asked.id, asked.name
            call.texts.append(asked.arguments)
        for item in self._items:
            item.status = self._end_of(item, choice)
        return self._end_object(choice, value.usage)[1]

    # as events

    def created(self, status: Literal["queued", "in_progress"]) -> bytes:
        """It is there, and waits for a turn or has it."""
        response = self.object(status)
        return self._lifecycle(b"created", response) + self._lifecycle(status.encode(), response)

    def started(self, model: str) -> bytes:
        """It has its turn, after waiting."""
        self._model = model
        return self._lifecycle(b"in_progress", self.object("in_progress"))

    def named(self, model: str) -> None:
        """Which model answers."""
        self._model = model

    def piece(self, delta: Delta) -> bytes:
        """A piece of the answer."""
        if not (delta.tool_calls or delta.reasoning or delta.logprobs):
            if not delta.text:
                return b""
            message = self._message
            if message is None:
                return self._begin_message() + self.piece(delta)
            told = self._told
            self._told = told + 1
            message.texts.append(delta.text)
            return b'%b%b,"logprobs":[],"sequence_number":%d}\n\n' % (message.begins, _encode(delta.text), told)
        return self._rich(delta)

    def end(self, value: Completion) -> tuple[bytes, bytes]:
        """What is left to tell, and the response as JSON."""
        choice = value.choices[0]
        self._model = value.model
        said = b""
        if not self._items:  # it was answered from the record, or nothing was said at all
            said = self._rich(_whole_delta(choice)) or self._begin_message()
        for item in self._items:
            if not item.ended():
                said += self._close(item, self._end_of(item, choice))
        status, whole = self._end_object(choice, value.usage)
        return said + self._lifecycle(status.encode(), whole), whole

    def failed(self, error: AiosError, status: Literal["failed", "cancelled"] = "failed") -> tuple[bytes, bytes]:
        """It came to nothing: how that is told, and the response as JSON.

        A failure is told by an event of its own, too: there are frameworks that look for no error in a response that has failed.
        """
        for item in self._items:
            if not item.ended():
                item.status = b"incomplete"
        if status == "cancelled":
            whole = self.object(status, error=b"null")
            return self._lifecycle(b"cancelled", whole), whole
        said = self._failure(error)
        whole = self.object(status, error=_error(error))
        return said + self._lifecycle(b"failed", whole), whole

    def _end_of(self, item: OutputItem, choice: Choice) -> bytes:
        """How an item ends: what was cut off is the last."""
        return b"incomplete" if choice.finish in INCOMPLETE and item is self._items[-1] else b"completed"

    def _end_object(self, choice: Choice, usage: Usage) -> tuple[Status, bytes]:
        reason = INCOMPLETE.get(choice.finish)
        if reason is None:
            return "completed", self.object("completed", _usage(usage))
        return "incomplete", self.object("incomplete", _usage(usage), why=b'{"reason":"%b"}' % reason.encode())

    # events of items

    def _event(self, name: bytes, rest: bytes) -> bytes:
        told = self._told
        self._told = told + 1
        return b'event: response.%b\ndata: {"type":"response.%b",%b,"sequence_number":%d}\n\n' % (name, name, rest, told)

    def _failure(self, error: AiosError) -> bytes:
        told = self._told
        self._told = told + 1
        failure = _Failure(error_code(error), error.message, error.field, told)
        return b"event: error\ndata: %b\n\n" % _encode(failure)

    def _lifecycle(self, name: bytes, response: bytes) -> bytes:
        return self._event(name, b'"response":' + response)

    def _rich(self, delta: Delta) -> bytes:
        """A piece with more than text."""
        said = b""
        if delta.reasoning:
            said += self._think(delta.reasoning)
        if delta.text or delta.logprobs:
            said += self._say(delta)
        for call in delta.tool_calls:
            said += self._ask(call)
        return said

    def _think(self, text: str) -> bytes:
        said = b""
        if self._reasoning is None:
            said = self._close_message()
            self._reasoning = self._add(OutputReasoning)
            said += self._open(self._reasoning)
        item = self._reasoning
        item.texts.append(text)
        return said + self._event(b"reasoning_text.delta", b'%b,"delta":%b' % (item.place, _encode(text)))

    def _say(self, delta: Delta) -> bytes:
        said = self._begin_message() if self._message is None else b""
        item = self._message
        assert item is not None
        item.texts.append(delta.text)
        item.logprobs += delta.logprobs
        rest = b'%b,"delta":%b,"logprobs":%b' % (
            item.place,
            _encode(delta.text),
            _encode([logprob_of(t) for t in delta.logprobs]),
        )
        return said + self._event(b"output_text.delta", rest)

    def _ask(self, piece: ToolCallDelta) -> bytes:
        call, said = self._calls.get(piece.index), b""
        if call is None:
            said = self._close_message() + self._close_reasoning()
            call = self._calls[piece.index] = self._add(OutputCall)
            call.call_id, call.name = piece.id, piece.name
            said += self._open(call)
        if piece.arguments:
            call.texts.append(piece.arguments)
            rest = b'%b,"delta":%b' % (call.place, _encode(piece.arguments))
            said += self._event(b"function_call_arguments.delta", rest)
        return said

    def _begin_message(self) -> bytes:
        said = self._close_reasoning()
        self._message = self._add(OutputMessage)
        return said + self._open(self._message)

    def _close_message(self) -> bytes:
        item, self._message = self._message, None
        return self._close(item, b"completed") if item is not None else b""

    def _close_reasoning(self) -> bytes:
        item, self._reasoning = self._reasoning, None
        return self._close(item, b"completed") if item is not None else b""

    def _add(self, kind: type[Kind]) -> Kind:
        """A new item; its id is unique because the response's is."""
        item = kind(b"%b_%b_%d" % (kind.mark, self._mark, len(self._items)), len(self._items))
        self._items.append(item)
        return item

    def _open(self, item: OutputItem) -> bytes:
        said = self._event(b"output_item.added", b'"output_index":%d,"item":%b' % (item.index, item.json()))
        if item.part:
            said += self._event(b"content_part.added", b'%b,"part":%b' % (item.place, item.part_json()))
        return said

    def _close(self, item: OutputItem, status: bytes) -> bytes:
        text = _encode("".join(item.texts))
        item.status = status
        said = self._event(item.kind + b".done", b'%b,"%b":%b%b' % (item.place, item.what, text, item.beside()))
        if item.part:
            said += self._event(b"content_part.done", b'%b,"part":%b' % (item.place, item.part_json()))
        return said + self._event(b"output_item.done", b'"output_index":%d,"item":%b' % (item.index, item.json()))


def _whole_delta(choice: Choice) -> Delta:
    calls = tuple([ToolCallDelta(at, call.id, call.name, call.arguments) for at, call in enumerate(choice.tool_calls)])
    return Delta(text=choice.text, tool_calls=calls, reasoning=choice.reasoning, logprobs=choice.logprobs)


def _usage(usage: Usage) -> bytes:
    asked, said = usage.input_tokens, usage.output_tokens
    return (
        b'{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d,"cache_write_tokens":0},"output_tokens":%d,'
        b'"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}'
        % (asked, usage.cache_read, said, usage.reasoning, asked + said)
    )


def _error(error: AiosError) -> bytes:
    """An error as part of a response: OpenAI has few codes for it."""
    if error.http == 429:
        code = "rate_limit_exceeded"
    else:
        code = "server_error" if error.http >= 500 else "invalid_prompt"
    return _encode({"code": code, "message": error.message})
