"""What OpenAI's chat clients send, as a `Generate`: every field that means something here, and nothing emulated.

Fields that mean something elsewhere only (accounts, storage, caches of their operator) are taken and ignored; names that
nobody knows are ignored and told back. What no core can do is refused with its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from aios.abi.errors import Invalid, NoCore
from aios.abi.llm import Generate, Message, Part, ToolCall, ToolSpec
from aios.abi.wire import check_json, refuse
from aios.server.hints import Hints


class ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class ContentPart(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | None = None


class FunctionCall(msgspec.Struct):
    name: str
    arguments: str = ""


class ChatToolCall(msgspec.Struct):
    id: str
    function: FunctionCall | None = None
    type: str = "function"


class ChatMessage(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[ContentPart, ...] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: tuple[ChatToolCall, ...] | None = None
    tool_call_id: str | None = None


class FunctionSpec(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(msgspec.Struct):
    type: str
    function: FunctionSpec | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatBody(msgspec.Struct):
    """The body of a chat completion. Unknown fields are left to `ignored`."""

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
    prompt_cache_key: Any = None
    modalities: tuple[str, ...] | None = None
    web_search_options: dict[str, Any] | None = None
    aios: Hints | None = None


MEANINGLESS = frozenset(
    ("audio", "metadata", "prediction", "prompt_cache_options", "prompt_cache_retention", "safety_identifier",
     "store", "user", "verbosity")
)  # fmt: skip
"""Fields of OpenAI's that change nothing about an answer here: taken in silence, whatever they hold."""

_decoder = msgspec.json.Decoder(ChatBody)
_known = frozenset(ChatBody.__struct_fields__) | MEANINGLESS


def read_chat(raw: bytes) -> tuple[ChatBody, list[str]]:
    """The body, and the names in it that nobody knows. Raises `Invalid` with the path of the field."""
    names = check_json(raw)
    try:
        body = _decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        refuse(error)
    return body, ([] if names <= _known else sorted(names - _known))


def generate_of(body: ChatBody) -> Generate:
    """The request that a body asks for. Raises `Invalid` with the path of the field, `NoCore` for what nothing here does."""
    _refuse_foreign(body)
    cap = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    stop = body.stop or ()
    try:
        return Generate(
            model=body.model or "default",
            messages=tuple([_message(at, message) for at, message in enumerate(body.messages)]),
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
            tools=tuple([_tool(at, tool) for at, tool in enumerate(body.tools or ())]),
            tool_choice=body.tool_choice,
            parallel_tool_calls=body.parallel_tool_calls,
            response_format=body.response_format,
            reasoning_effort=body.reasoning_effort,
        )
    except ValueError as error:
        if not body.messages:
            raise Invalid("`messages` must hold at least one message", field="messages") from None
        refuse(ValueError(str(error).replace("max_tokens", cap)))


def _refuse_foreign(body: ChatBody) -> None:
    if body.functions or body.function_call is not None:
        field = "functions" if body.functions else "function_call"
        raise Invalid(f"`{field}` is no longer understood: use `tools` and `tool_choice`", field=field)
    if body.modalities and set(body.modalities) != {"text"}:
        raise NoCore('no core here answers in other modalities than text: leave `modalities` at ["text"]', field="modalities")
    if body.web_search_options is not None:
        raise NoCore("no core here searches the web: leave out `web_search_options`", field="web_search_options")


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
    )


def _parts(at: int, parts: Iterable[ContentPart]) -> str | tuple[Part, ...]:
    found: list[Part] = []
    for place, part in enumerate(parts):
        where = f"messages[{at}].content[{place}]"
        if part.type == "text" or part.type == "refusal":
            text = part.text if part.type == "text" else part.refusal
            if text is None:
                raise Invalid(f"`{where}.{part.type}` is missing", field=f"{where}.{part.type}")
            found.append(Part("text", text=text))
        elif part.type == "image_url":
            if part.image_url is None:
                raise Invalid(f"`{where}.image_url` is missing", field=f"{where}.image_url")
            found.append(Part("image", image=part.image_url.url))
        else:
            raise NoCore(f"no core here reads content of type `{part.type[:50]}`", field=f"{where}.type")
    if len(found) == 1 and found[0].type == "text":
        return found[0].text
    return tuple(found)


def _call(at: int, place: int, call: ChatToolCall) -> ToolCall:
    if call.function is None:
        field = f"messages[{at}].tool_calls[{place}].function"
        raise Invalid(f"`{field}` is missing", field=field)
    return ToolCall(call.id, call.function.name, call.function.arguments)


def _tool(at: int, tool: ChatTool) -> ToolSpec:
    if tool.type != "function":
        raise NoCore(f"no core here has tools of type `{tool.type[:50]}`: only `function`", field=f"tools[{at}].type")
    if tool.function is None:
        raise Invalid(f"`tools[{at}].function` is missing", field=f"tools[{at}].function")
    spec = tool.function
    return ToolSpec(name=spec.name, description=spec.description or "", parameters=spec.parameters or {}, strict=spec.strict)
