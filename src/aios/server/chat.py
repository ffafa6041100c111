"""What OpenAI's chat clients send, as a `Generate`: every field that means something here, and nothing emulated.

Fields for which the contract has no word ride along as `extra`, where they stand: a core behind the same wire gets them back, all
others leave them out. Then those that would have meant something are named to the client. What must not be left out (a sound in a
message) makes a core of this wire essential.

A body is read strictly first, which costs nothing; only one with a name that nobody knows is read once more, to set it aside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from aios.abi.errors import Invalid, TooLarge
from aios.abi.extra import EXTRA, MOST_ODD, Fields, Shape, set_aside
from aios.abi.llm import Generate, Message, Part, ToolCall, ToolSpec
from aios.abi.wire import check_json, refuse
from aios.server.hints import Hints


class Kept(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An object of the body. `extra`: the fields in it that nobody knows."""

    extra: Fields | None = msgspec.field(name=EXTRA, default=None)


class ImageUrl(Kept):
    url: str


class ContentPart(Kept):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | None = None


class FunctionCall(Kept):
    name: str
    arguments: str = ""


class ChatToolCall(Kept):
    id: str
    function: FunctionCall | None = None
    type: str = "function"


class ChatMessage(Kept):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[ContentPart, ...] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: tuple[ChatToolCall, ...] | None = None
    tool_call_id: str | None = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None


class FunctionSpec(Kept):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(Kept):
    type: str
    function: FunctionSpec | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatBody(Kept):
    """The body of a chat completion."""

    messages: tuple[ChatMessage, ...]
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | tuple[str, ...] | None = None
    seed: int | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: tuple[ChatTool, ...] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: tuple[Any, ...] | None = None
    function_call: Any = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    service_tier: Any = None
    modalities: tuple[str, ...] | None = None
    web_search_options: dict[str, Any] | None = None
    aios: Hints | None = None
    # What follows changes nothing about an answer here, whatever it holds.
    audio: Any = None
    metadata: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    store: Any = None
    user: Any = None
    verbosity: Any = None


MEANINGLESS = frozenset(
    ("audio", "metadata", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
     "store", "user", "verbosity")
)  # fmt: skip
"""Fields of OpenAI's that change nothing about an answer here: left out in silence by a core of another wire."""
CARRIED = MEANINGLESS | {"modalities", "web_search_options"}
"""Known fields for which the contract has no word."""


_decoder = msgspec.json.Decoder(ChatBody)
_decode_any = msgspec.json.Decoder().decode
_shape = Shape(ChatBody)


def read_chat(raw: bytes) -> tuple[ChatBody, list[str]]:
    """The body, and the names in it that mean nothing here and would elsewhere. Raises `Invalid` with the path of the field."""
    names = check_json(raw)
    try:
        body = _decoder.decode(raw)
    except msgspec.ValidationError as error:
        if "unknown field" not in str(error):
            refuse(error)
        body = _read_again(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        refuse(error)
    unknown = sorted(body.extra) if body.extra else []
    if body.tools:
        unknown += [f"tools.{tool.type}" for tool in body.tools if tool.type != "function"]
    if not CARRIED.isdisjoint(names):
        found = {name: getattr(body, name) for name in sorted(names & CARRIED)}
        body.extra = {**(body.extra or {}), **{name: value for name, value in found.items() if value is not None}} or None
        if body.web_search_options is not None:
            unknown.append("web_search_options")
    return body, unknown


def _read_again(raw: bytes) -> ChatBody:
    """A body with names that nobody knows: they are set aside, each where it stands."""
    value = _decode_any(raw)
    if set_aside(value, _shape) > MOST_ODD:
        raise TooLarge(f"more than {MOST_ODD} objects of the body hold fields that nobody knows: leave them out")
    try:
        return msgspec.convert(value, ChatBody)
    except msgspec.ValidationError as error:
        refuse(error)


def generate_of(body: ChatBody) -> Generate:
    """The request that a body asks for. Raises `Invalid` with the path of the field, `NoCore` for what nothing here does."""
    if body.functions or body.function_call is not None:
        field = "functions" if body.functions else "function_call"
        raise Invalid(f"`{field}` is no longer understood: use `tools` and `tool_choice`", field=field)
    cap = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    stop = body.stop or ()
    tools, choice, extra = _tools(body)
    messages = tuple([_message(at, message) for at, message in enumerate(body.messages)])
    rich = messages if _is_rich(messages) else ()
    essential = _essential(body, rich)
    try:
        return Generate(
            model=body.model or "default",
            messages=messages,
            max_tokens=getattr(body, cap),
            temperature=body.temperature,
            top_p=body.top_p,
            stop=(stop,) if isinstance(stop, str) else stop,
            seed=body.seed,
            n=1 if body.n is None else body.n,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=body.logit_bias,
            logprobs=bool(body.logprobs),
            top_logprobs=body.top_logprobs,
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=body.parallel_tool_calls,
            response_format=body.response_format,
            reasoning_effort=body.reasoning_effort,
            wire="openai_chat" if extra or essential or _has_extra(rich, tools) else None,
            extra=extra,
            essential=essential,
        )
    except ValueError as error:
        if not body.messages:
            raise Invalid("`messages` must hold at least one message", field="messages") from None
        refuse(ValueError(str(error).replace("max_tokens", cap)))


def _is_rich(messages: tuple[Message, ...]) -> bool:
    """Whether any message is more than a role and a text, as few are."""
    for message in messages:
        if message.extra or message.tool_calls or type(message.content) is tuple:
            return True
    return False


def _essential(body: ChatBody, messages: tuple[Message, ...]) -> str:
    """The path of the first field that only a core of this wire can do justice to."""
    if body.modalities and set(body.modalities) != {"text"}:
        return "modalities"
    for at, message in enumerate(messages):
        if not isinstance(message.content, str):
            for place, part in enumerate(message.content):
                if part.type == "other":
                    return f"messages[{at}].content[{place}].type"
    return ""


def _has_extra(messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]) -> bool:
    for message in messages:
        if message.extra:
            return True
        for call in message.tool_calls:
            if call.extra:
                return True
        if type(message.content) is tuple and any(part.extra for part in message.content):
            return True
    return bool(tools) and any(tool.extra for tool in tools)


def _message(at: int, message: ChatMessage) -> Message:
    content = message.content
    if content is None:
        content = message.refusal or ""
    return Message(
        role="system" if message.role == "developer" else message.role,
        content=content if isinstance(content, str) else _parts(at, content),
        name=message.name,
        tool_calls=tuple([_call(at, i, call) for i, call in enumerate(message.tool_calls)]) if message.tool_calls else (),
        tool_call_id=message.tool_call_id,
        extra=_extra_of(message) if message.role == "assistant" else message.extra,
    )


def _extra_of(message: ChatMessage) -> Fields | None:
    """What an assistant's turn holds in the words of its wire."""
    known = {"annotations": message.annotations, "audio": message.audio, "function_call": message.function_call}
    return {**(message.extra or {}), **{name: value for name, value in known.items() if value is not None}} or None


def _parts(at: int, parts: Iterable[ContentPart]) -> str | tuple[Part, ...]:
    found: list[Part] = []
    for place, part in enumerate(parts):
        where = f"messages[{at}].content[{place}]"
        if part.type == "text" or part.type == "refusal":
            text = part.text if part.type == "text" else part.refusal
            if text is None:
                raise Invalid(f"`{where}.{part.type}` is missing", field=f"{where}.{part.type}")
            found.append(Part("text", text=text, extra=part.extra))
        elif part.type == "image_url":
            if part.image_url is None:
                raise Invalid(f"`{where}.image_url` is missing", field=f"{where}.image_url")
            detail = {"image_url": part.image_url.extra} if part.image_url.extra else {}
            found.append(Part("image", image=part.image_url.url, extra={**(part.extra or {}), **detail} or None))
        else:
            found.append(Part("other", extra={**(part.extra or {}), "type": part.type}))
    if len(found) == 1 and found[0].type == "text" and not found[0].extra:
        return found[0].text
    return tuple(found)


def _call(at: int, place: int, call: ChatToolCall) -> ToolCall:
    if call.function is None and call.type != "function" and call.extra:
        return ToolCall(call.id, "", "", {**call.extra, "type": call.type})
    if call.function is None:
        field = f"messages[{at}].tool_calls[{place}].function"
        raise Invalid(f"`{field}` is missing", field=field)
    within = {"function": call.function.extra} if call.function.extra else {}
    return ToolCall(call.id, call.function.name, call.function.arguments, {**(call.extra or {}), **within} or None)


def _tools(body: ChatBody) -> tuple[tuple[ToolSpec, ...], str | dict[str, Any] | None, Fields | None]:
    """The functions, which of them to call, and the body's extra, in which are the tools that are no functions."""
    if not body.tools:
        return (), body.tool_choice, body.extra
    others = [{**(tool.extra or {}), "type": tool.type} for tool in body.tools if tool.type != "function"]
    functions = tuple([_tool(at, tool) for at, tool in enumerate(body.tools) if tool.type == "function"])
    choice, extra = body.tool_choice, body.extra
    if others:
        extra = {**(extra or {}), "tools": others}
        if choice is not None and (not functions or (isinstance(choice, dict) and choice.get("type") != "function")):
            choice, extra = None, {**extra, "tool_choice": choice}
    return functions, choice, extra


def _tool(at: int, tool: ChatTool) -> ToolSpec:
    spec = tool.function
    if spec is None:
        raise Invalid(f"`tools[{at}].function` is missing", field=f"tools[{at}].function")
    within = {"function": spec.extra} if spec.extra else {}
    extra = {**(tool.extra or {}), **within} or None
    return ToolSpec(spec.name, spec.description or "", spec.parameters or {}, spec.strict, extra)
