"""Answers on Anthropic's wire: a message as a whole, and the events in which it is streamed.

A streamed piece is put together from bytes: what does not change from piece to piece is made once per block.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

import msgspec

from aios.abi.account import LimitState
from aios.abi.errors import CoreFailed
from aios.abi.ids import UniqueIds
from aios.abi.llm import Choice, Completion, Delta, Finish, Queued, Started, ToolCall, ToolCallDelta, Usage
from aios.abi.request import Event
from aios.server.exchange import OPEN_S, Headers, Writer
from aios.server.quota import anthropic_quota_headers

STOPS: Mapping[Finish, bytes] = {
    "stop": b'"end_turn"',
    "length": b'"max_tokens"',
    "tool_calls": b'"tool_use"',
    "content_filter": b'"refusal"',
}
END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{%b,"stop_details":null},"usage":%b}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
UNSIGNED = "unsigned"
"""Where a client expects the signature of who made a piece of reasoning. What comes back with it is left out like any other."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_tool_ids = UniqueIds("toolu", "_")
"""For calls of tools that a core gave no ids."""


# whole answers


def whole_message(value: Completion, name: str, thinks: bool) -> bytes:
    """An answer in one piece. `thinks`: with the reasoning that led to it."""
    choice = value.choices[0]
    return (
        b'{"id":%b,"type":"message","role":"assistant","model":%b,"content":%b,%b,"stop_details":null,"usage":%b}'
        % (_encode(name), _encode(value.model), _content(choice, thinks), _stop(choice), _usage(value.usage))
    )  # fmt: skip


def _content(choice: Choice, thinks: bool) -> bytes:
    blocks = []
    if choice.reasoning and thinks:
        blocks.append(_encode({"type": "thinking", "thinking": choice.reasoning, "signature": UNSIGNED}))
    if choice.text:
        blocks.append(b'{"type":"text","text":%b}' % _encode(choice.text))
    blocks += [_tool_use(call) for call in choice.tool_calls]
    return b"[%b]" % b",".join(blocks)


def _tool_use(call: ToolCall) -> bytes:
    return b'{"type":"tool_use","id":%b,"name":%b,"input":%b}' % (
        _encode(call.id or _tool_ids()), _encode(call.name), _input(call.arguments)
    )  # fmt: skip


def _input(arguments: str) -> bytes:
    """The arguments as an object, as the model wrote them. What is no object stays readable in one."""
    if not arguments.strip():
        return b"{}"
    try:
        is_object = isinstance(_decode(arguments), dict)
    except (msgspec.DecodeError, RecursionError):
        is_object = False
    return arguments.encode() if is_object else _encode({"INVALID_JSON": arguments})


def _stop(choice: Choice) -> bytes:
    """Why an answer ended, as two fields."""
    if choice.tool_calls and choice.finish == "stop":
        reason = STOPS["tool_calls"]
    elif choice.stopped_by:
        return b'"stop_reason":"stop_sequence","stop_sequence":%b' % _encode(choice.stopped_by)
    else:
        reason = STOPS[choice.finish]
    return b'"stop_reason":%b,"stop_sequence":null' % reason


def _usage(usage: Usage) -> bytes:
    return (
        b'{"input_tokens":%d,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,"output_tokens":%d,'
        b'"output_tokens_details":{"thinking_tokens":%d}}'
        % (usage.input_uncached, usage.cache_write, usage.cache_read, usage.output_tokens, usage.reasoning)
    )  # fmt: skip


# streams


class MessageStream:
    """The events of one stream: blocks of content, one after the other.

    `_kind`: of the block that is open: `text`, `thinking`, or the index of a tool call; None while there is none.
    """

    __slots__ = ("_before", "_headers", "_id", "_index", "_kind", "_model", "_opened", "_thinks", "_tools", "_writer")

    def __init__(self, writer: Writer, name: str, model: str, thinks: bool, headers: Headers) -> None:
        self._writer = writer
        self._id = name
        self._model = model
        self._thinks = thinks
        self._headers = headers
        self._opened = False
        self._kind: str | int | None = None
        self._index = -1
        self._tools = -1
        self._before = b""

    def tell(self, event: Event) -> Awaitable[None] | None:
        """Take an event of the call; the headers leave when it is accepted, and a `ping` with them if it has to wait."""
        if type(event) is Delta:
            if self._kind == "text" and event.text and not (event.tool_calls or event.reasoning):
                return self._writer.write(self._before + _encode(event.text) + b"}}\n\n")
            said = self._said(event)
            return self._writer.write(said) if said else None
        if type(event) is Queued:
            self._open(event.call, 0.0, event.quota)
            return self._writer.write(PING)
        if type(event) is Started:
            self._model = event.model
            self._open(event.call, OPEN_S, event.quota)
        return None

    async def end(self, value: Completion) -> None:
        """Say what is left: all of an answer of which nothing was told, why it ended, the usage."""
        self._open("", 0.0)  # if it was answered from the record, nothing was told
        choice, left = value.choices[0], b""
        if self._index < 0:
            self._model = value.model
            left = self._said(_whole_delta(choice)) or self._begin_message()
        await self._writer.end(left + self._end_block() + END % (_stop(choice), _usage(value.usage)))

    def _open(self, call: str, after_s: float, quota: tuple[LimitState, ...] = ()) -> None:
        if not self._opened:
            self._opened = True
            ticket = [(b"x-aios-ticket", call.encode())] if call else []
            self._writer.open([*self._headers, *ticket, *anthropic_quota_headers(quota)], after_s=after_s, comment=PING)

    def _said(self, delta: Delta) -> bytes:
        """A piece of any kind, with the ends and beginnings of blocks that it brings."""
        said = b""
        if delta.reasoning and self._thinks:
            if self._kind != "thinking":
                said += self._begin(
                    "thinking", b'{"type":"thinking","thinking":"","signature":""}', b'"thinking_delta","thinking":'
                )
            said += self._before + _encode(delta.reasoning) + b"}}\n\n"
        if delta.text:
            if self._kind != "text":
                said += self._begin("text", b'{"type":"text","text":""}', b'"text_delta","text":')
            said += self._before + _encode(delta.text) + b"}}\n\n"
        for call in delta.tool_calls:
            if self._kind != call.index:
                said += self._begin_tool(call)
            if call.arguments:
                said += self._before + _encode(call.arguments) + b"}}\n\n"
        return said

    def _begin_tool(self, call: ToolCallDelta) -> bytes:
        if call.index <= self._tools:
            raise CoreFailed("the model went back to a tool call after it had gone on to something else")
        self._tools = call.index
        block = b'{"type":"tool_use","id":%b,"name":%b,"input":{}}' % (
            _encode(call.id or _tool_ids()), _encode(call.name)
        )  # fmt: skip
        return self._begin(call.index, block, b'"input_json_delta","partial_json":')

    def _begin(self, kind: str | int, block: bytes, delta: bytes) -> bytes:
        """End the block before, if any, and begin one; what all its pieces begin with is made once."""
        said = self._begin_message() if self._index < 0 else self._end_block()
        self._kind = kind
        self._index += 1
        self._before = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b' % (
            self._index, delta
        )  # fmt: skip
        return said + (
            b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
            % (self._index, block)
        )

    def _begin_message(self) -> bytes:
        """How many tokens were read is known at the end only; what is said there replaces this."""
        return (
            b'event: message_start\ndata: {"type":"message_start","message":{"id":%b,"type":"message","role":"assistant",'
            b'"model":%b,"content":[],"stop_reason":null,"stop_sequence":null,"stop_details":null,"usage":%b}}\n\n'
            % (_encode(self._id), _encode(self._model), _usage(Usage()))
        )

    def _end_block(self) -> bytes:
        if self._index < 0:
            return b""
        said = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index
        if self._kind == "thinking":
            signed = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n'
            return signed % (self._index, _encode({"type": "signature_delta", "signature": UNSIGNED})) + said
        return said


def _whole_delta(choice: Choice) -> Delta:
    calls = tuple(ToolCallDelta(index=at, id=c.id, name=c.name, arguments=c.arguments) for at, c in enumerate(choice.tool_calls))
    return Delta(text=choice.text, tool_calls=calls, reasoning=choice.reasoning)
