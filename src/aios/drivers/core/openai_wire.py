"""The OpenAI chat wire as data: what we send, what we read of it, and its errors as ours."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from aios.abi.errors import AiosError, ContextFull, CoreFailed, Invalid, RateLimited
from aios.abi.llm import Finish, Generate, Message, TokenLogprob, ToolSpec
from aios.ports.core import CoreCall


class Wire(msgspec.Struct, gc=False):
    """Base of what we read: unknown fields are skipped, and nothing refers back."""


class Function(Wire):
    name: str | None = None
    arguments: str | None = None


class ToolCallPiece(Wire):
    index: int = 0
    id: str | None = None
    function: Function | None = None


class WireDelta(Wire):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallPiece] | None = None


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


class WireChoice(Wire):
    index: int = 0
    delta: WireDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    stop_reason: str | int | None = None


class InputDetails(Wire):
    cached_tokens: int | None = None


class OutputDetails(Wire):
    reasoning_tokens: int | None = None


class WireUsage(Wire):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: InputDetails | None = None
    completion_tokens_details: OutputDetails | None = None


class Chunk(Wire):
    choices: list[WireChoice] = []
    usage: WireUsage | None = None
    error: msgspec.Raw = msgspec.Raw()


class ErrorBody(Wire):
    message: str = ""
    code: str | int | None = None
    type: str | None = None
    param: str | None = None


class ErrorReply(Wire):
    error: ErrorBody | str | None = None
    detail: str | None = None


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
    stream_options: StreamOptions
    messages: list[Any] | None = None
    prompt: str | None = None
    max_tokens: int | None = None
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
decode_listing = msgspec.json.Decoder(Listing).decode
_OPTIONS = StreamOptions()
FINISH: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_TOO_LONG = re.compile(r"context.?(length|size|window)|exceed_context|too many tokens|prompt is too long", re.IGNORECASE)


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


def body_of(call: CoreCall, seeds: bool) -> Body:
    request = call.request
    chat = request.prompt is None
    return Body(
        model=call.model,
        stream=True,
        stream_options=_OPTIONS,
        messages=[_message(message) for message in request.messages] if chat else None,
        prompt=request.prompt,
        max_tokens=request.max_tokens,
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
        tools=[_tool(tool) for tool in request.tools] or None,
        tool_choice=request.tool_choice,
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=request.response_format,
        reasoning_effort=request.reasoning_effort,
    )


def _message(message: Message) -> Message | dict[str, Any]:
    """The message as the wire has it, which is how ours is written where it is nothing but text."""
    content = message.content
    if content and isinstance(content, str) and not message.tool_calls:
        return message
    wire: dict[str, Any] = {"role": message.role, "content": content}
    if not isinstance(content, str):
        wire["content"] = [
            {"type": "text", "text": part.text}
            if part.type == "text"
            else {"type": "image_url", "image_url": {"url": part.image}}
            for part in content
        ]
    if message.name is not None:
        wire["name"] = message.name
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}
            for tool in message.tool_calls
        ]
    return wire


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def failure_in_stream(raw: msgspec.Raw) -> AiosError:
    try:
        found = decode_error_body(raw)
    except msgspec.DecodeError:
        found = "an error without words"
    body = ErrorBody(message=found) if isinstance(found, str) else found
    return error_of(body.code if isinstance(body.code, int) else 500, body, None)


def error_of(status: int, found: ErrorBody, retry_after: str | None) -> AiosError:
    message = found.message[:500] or f"the server answered {status}"
    wait_s = float(retry_after) if retry_after and retry_after.isdigit() else None
    if status in (400, 413, 422, 500) and _TOO_LONG.search(f"{found.code} {found.type} {message}"):
        return ContextFull(message)
    if status == 429:
        return RateLimited(message, retry_after_s=1.0 if wait_s is None else wait_s)
    if status == 404:
        return Invalid(f"the server does not know this: {message}", field="model")
    if status in (401, 403):
        return CoreFailed(f"the server wants a key, and only servers without one can be used: {message}")
    if 400 <= status < 500:
        return Invalid(message, field=found.param)
    return CoreFailed(message, retry_after_s=wait_s)


def size_of(request: Generate) -> int:
    return len((request.prompt or "").encode()) + sum(len(msgspec.json.encode(message.content)) for message in request.messages)
