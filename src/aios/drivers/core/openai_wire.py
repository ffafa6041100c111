"""The OpenAI chat wire as data: what we send and what we read of it.

A request that came in by the same wire brings what only this wire has words for: it is put back where it stood. An event is read
strictly; only one with a name that nobody knows is read once more, and what is odd in it is told on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import msgspec

from aios.abi.errors import CoreFailed
from aios.abi.extra import EXTRA, Fields, Shape, objects, set_aside
from aios.abi.llm import Finish, Message, Part, TokenLogprob, ToolCall, ToolSpec, Usage
from aios.ports.core import CoreCall

WIRE = "openai_chat"
BYTES_PER_TOKEN, TOKENS_PER_PICTURE = 4, 1000
"""About, where nobody counts."""
MOST_BILLED = 10**15
"""Nano-dollars: what is above a million dollars is not told apart from it."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where servers differ. `length`: what the most tokens of an answer are called; `asks_usage`: usage is asked for.

    `bills`: nano-dollars of one unit of what a usage says that the call is billed with.
    """

    length: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    asks_usage: bool = True
    bills: Decimal | None = None


DIALECTS: Mapping[str, Dialect] = {
    "openai": Dialect(length="max_completion_tokens"),  # whose newer models refuse the other
    "openrouter": Dialect(length="max_completion_tokens", bills=Decimal(10**9)),  # in dollars
    # `max_tokens` does not count what is reasoning there; it bills in ticks, of which a dollar has 10^10.
    "x-ai": Dialect(length="max_completion_tokens", bills=Decimal("0.1")),
    "mistral": Dialect(asks_usage=False),  # always tells it, and refuses the question
}
"""By provider."""


class Wire(msgspec.Struct, gc=False):
    """Base of what we read: unknown fields are skipped, and nothing refers back."""


class Piece(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Base of what an event is made of. `extra`: the fields in it that nobody knows."""

    extra: Fields | None = msgspec.field(name=EXTRA, default=None)


class Function(Piece):
    name: str | None = None
    arguments: str | None = None


class ToolCallPiece(Piece):
    index: int = 0
    id: str | None = None
    type: Any = None
    function: Function | None = None


class WireDelta(Piece):
    role: Any = None
    content: str | None = None
    refusal: Any = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallPiece] | None = None
    function_call: Any = None


class Alternative(Wire):
    token: str
    logprob: float = 0.0
    bytes: list[int] | None = None


class WireLogprob(Alternative):
    top_logprobs: list[Alternative] | None = None


class Logprobs(Wire):
    """`content` on the chat wire, the lists side by side on the older completion wire."""

    content: list[WireLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class WireChoice(Piece):
    index: int = 0
    delta: WireDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    stop_reason: str | int | None = None


class InputDetails(Wire):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(Wire):
    reasoning_tokens: int | None = None


class WireUsage(Wire):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int | None = None
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    cost: Any = None
    cost_in_usd_ticks: Any = None

    @property
    def told(self) -> int:
        """All tokens of it, to tell which of several is the last word."""
        return self.prompt_tokens + self.completion_tokens

    def counted(self, dialect: Dialect | None = None) -> Usage:
        """As the contract counts. Of some (xAI) the tokens of reasoning are beside those of the completion, not among them, which
        the total tells, or that they are more; what is paid for is all of them."""
        details, out = self.prompt_tokens_details, self.completion_tokens_details
        given, made = self.prompt_tokens, self.completion_tokens
        cached, written, reasoning = self.prompt_cache_hit_tokens or 0, 0, 0
        if details is not None:
            cached, written = details.cached_tokens or cached, details.cache_write_tokens or 0
        if cached or written:
            cached = min(cached, given)
            written = min(written, given - cached)
        if out is not None:
            reasoning = out.reasoning_tokens or 0
        if made >= 0:  # what cannot be stays so
            if reasoning > made:
                made += reasoning
            if self.total_tokens is not None and self.total_tokens - given > made:
                made = self.total_tokens - given
        told = self.cost if self.cost_in_usd_ticks is None else self.cost_in_usd_ticks
        billed = 0 if dialect is None or dialect.bills is None else _nano(told, dialect.bills)
        return Usage(given - cached - written, cached, made - reasoning, reasoning, written, billed=billed)


def _nano(told: Any, unit: Decimal) -> int:
    """Nano-dollars of a bill, rounded up; 0 for what is none."""
    if type(told) not in (int, float) or not 0 <= told < math.inf:
        return 0
    return min(math.ceil(Decimal(str(told)) * unit), MOST_BILLED)


class Chunk(Piece):
    id: Any = None
    object: Any = None
    created: Any = None
    model: Any = None
    system_fingerprint: Any = None
    service_tier: Any = None
    obfuscation: Any = None
    choices: list[WireChoice] = []
    usage: WireUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


class ErrorBody(Wire):
    message: str = ""
    code: str | int | None = None
    type: str | None = None
    param: str | None = None


class ErrorReply(Wire):
    """What servers say instead of an answer: an object, a sentence, or with some its fields without the object."""

    error: ErrorBody | str | None = None
    detail: Any = None
    message: Any = None
    code: str | int | None = None
    type: str | None = None

    def body(self) -> ErrorBody:
        if isinstance(self.error, ErrorBody):
            return self.error
        said = self.error or self.detail or self.message or ""
        return ErrorBody(said if isinstance(said, str) else encode(said).decode(), self.code, self.type)


class Listed(Wire):
    id: str


class Listing(Wire):
    data: list[Listed] = []


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = True


class Body(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The request as the wire has it."""

    model: str
    stream: bool
    stream_options: StreamOptions | None = None
    messages: list[Any] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | int = False
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None


encode = msgspec.json.Encoder().encode
decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_error = msgspec.json.Decoder(ErrorReply).decode
decode_error_body = msgspec.json.Decoder(ErrorBody | str).decode
decode_listing = msgspec.json.Decoder(Listing | list[Listed]).decode
_decode_any = msgspec.json.Decoder().decode
_shape = Shape(Chunk)
_OPTIONS = StreamOptions()
KEPT_BACK = frozenset(Body.__struct_fields__) | {
    "aios", "best_of", "echo", "id_slot", "max_completion_tokens", "max_new_tokens", "n_predict", "priority", "service_tier",
}  # fmt: skip
"""Names that no extra may have: what the contract says itself, and what would have a server do more for a call, or do it sooner,
than the call was granted."""


def read_again(data: bytes, problem: Exception) -> Chunk:
    """An event that `decode_chunk` refused, if that was for a name that nobody knows. Raises `CoreFailed`."""
    try:
        if not isinstance(problem, msgspec.ValidationError) or "unknown field" not in str(problem):
            raise problem
        value = _decode_any(data)
        set_aside(value, _shape)
        return msgspec.convert(value, Chunk)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CoreFailed(f"the server sent an event that is none: {error}") from None


FINISH: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def logprobs_of(found: Logprobs) -> tuple[TokenLogprob, ...]:
    if found.content is not None:
        return tuple(
            TokenLogprob(one.token, one.logprob, tuple(map(_logprob, one.top_logprobs or ())), _logprob(one).bytes)
            for one in found.content
        )
    tops = found.top_logprobs or [None] * len(found.tokens or ())
    return tuple(
        TokenLogprob(token, logprob or 0.0, tuple(TokenLogprob(*pair) for pair in (top or {}).items()))
        for token, logprob, top in zip(found.tokens or (), found.token_logprobs or (), tops, strict=False)
    )


def _logprob(found: Alternative) -> TokenLogprob:
    """A token's likelihood, with its bytes where its text does not tell them."""
    told = found.bytes is None or found.token.encode(errors="replace") == bytes(byte & 255 for byte in found.bytes)
    return TokenLogprob(found.token, found.logprob, (), () if told else tuple(found.bytes or ()))


def body_of(call: CoreCall, dialect: Dialect, seeds: bool) -> Body | Fields:
    """The body of a call, with what it brought along in the words of this wire."""
    body = _body_of(call, dialect, seeds)
    if call.request.wire != WIRE:
        return body
    known: Fields = msgspec.to_builtins(body)
    extra = call.request.extra or {}
    if tools := objects(extra.get("tools")):
        known["tools"] = [*known.get("tools", ()), *tools]
        if "tool_choice" in extra:
            known.setdefault("tool_choice", extra["tool_choice"])
    return {name: value for name, value in extra.items() if name not in KEPT_BACK} | known


def _body_of(call: CoreCall, dialect: Dialect, seeds: bool) -> Body:
    request = call.request
    kin = request.wire == WIRE
    chat = request.prompt is None
    usual = dialect.length == "max_tokens"
    return Body(
        model=call.model,
        stream=True,
        stream_options=_OPTIONS if dialect.asks_usage else None,
        messages=[_message(message, kin) for message in request.messages] if chat else None,
        prompt=request.prompt,
        max_tokens=request.max_tokens if usual else None,
        max_completion_tokens=None if usual else request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        stop=request.stop,
        seed=call.seed % 2**31 if seeds else None,
        n=request.n,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=request.logit_bias,
        logprobs=request.logprobs and (chat or request.top_logprobs or 1),
        top_logprobs=request.top_logprobs if chat else None,
        tools=[_tool(tool, kin) for tool in request.tools] or None,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=request.response_format,
        reasoning_effort=request.reasoning_effort,
    )


def _message(message: Message, kin: bool) -> Message | Fields:
    """The message as the wire has it, which is how ours is written where it is nothing but text. `kin`: it came by this wire."""
    content = message.content
    if content and isinstance(content, str) and not message.tool_calls and not message.extra:
        return message
    wire: Fields = {**message.extra} if kin and message.extra else {}
    wire |= {"role": message.role, "content": content}
    if not isinstance(content, str):
        wire["content"] = [_part(part, kin) for part in content if kin or part.type != "other"]
    elif not content and message.tool_calls:
        wire["content"] = None
    if message.name is not None:
        wire["name"] = message.name
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        wire["tool_calls"] = [_tool_call(call, kin) for call in message.tool_calls]
    return wire


def _part(part: Part, kin: bool) -> Fields:
    extra = (part.extra or {}) if kin else {}
    if part.type == "text":
        return {**extra, "type": "text", "text": part.text}
    if part.type == "image":
        return {**extra, "type": "image_url", "image_url": {**_within(extra, "image_url"), "url": part.image}}
    return extra


def _tool_call(call: ToolCall, kin: bool) -> Fields:
    extra = (call.extra or {}) if kin else {}
    if extra and not call.name:
        return {**extra, "id": call.id}
    function = {**_within(extra, "function"), "name": call.name, "arguments": call.arguments}
    return {**extra, "id": call.id, "type": "function", "function": function}


def _tool(tool: ToolSpec, kin: bool) -> Fields:
    extra = (tool.extra or {}) if kin else {}
    function: Fields = {**_within(extra, "function"), "name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters or not kin:
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {**extra, "type": "function", "function": function}


def _within(extra: Fields, name: str) -> Fields:
    """What an extra holds of an object that is written here."""
    inside = extra.get(name)
    return inside if isinstance(inside, dict) else {}


def estimated_tokens(text: str, messages: Iterable[Message], tools: Iterable[ToolSpec] = ()) -> int:
    """About how many tokens a question is, from its bytes. A picture's bytes say nothing of what models read of it."""
    size = len(text.encode(errors="replace")) + sum(len(encode(tool)) for tool in tools)
    pictures = 0
    for message in messages:
        content = message.content
        for part in (content,) if isinstance(content, str) else content:
            if isinstance(part, str) or part.type == "text":
                size += len((part if isinstance(part, str) else part.text).encode(errors="replace"))
            else:
                pictures += 1
    return math.ceil(size / BYTES_PER_TOKEN) + pictures * TOKENS_PER_PICTURE
