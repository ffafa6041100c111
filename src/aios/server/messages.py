"""What Anthropic's clients send, as a `Generate` or a `Count`: every field that means something here, and nothing emulated.

Both versions of the wire are read, in which a body differs only in what the newer one refuses. What another provider made and
sealed (its reasoning, the results of its own tools) means nothing to a core of ours and is left out; what a core would have to
read and cannot is refused with its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from aios.abi.errors import Invalid, NoCore, NotFound
from aios.abi.llm import Count, Generate, ToolSpec
from aios.abi.wire import check_json, refuse
from aios.server.hints import Hints
from aios.server.turns import CUSTOM, Content, Talk, Tool, Turn

OLDEST, STRICT = "2023-06-01", "2026-10-21"
"""The version of a client that names none, and the one from which on some fields are refused."""

_VERSION = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
B = TypeVar("B")


class ThreadNotFound(NotFound):
    """A conversation that the client takes to be kept here. Its library then sends the whole of it again, by itself."""


class ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct):
    type: str
    display: str | None = None


class Form(msgspec.Struct):
    """What the answer must be."""

    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct):
    format: Form | None = None


class Thread(msgspec.Struct):
    type: str


class Question(msgspec.Struct):
    """What a body holds whether it is to be answered or counted. Unknown fields are left to `ignored`."""

    messages: tuple[Turn, ...]
    model: str
    system: Content | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Form | None = None
    compaction: dict[str, Any] | None = None
    thread: Thread | None = None
    aios: Hints | None = None


class MessagesBody(Question, kw_only=True):
    """The body of a message."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: tuple[str, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    service_tier: Any = None


MEANINGLESS = frozenset(
    ("billing_policy", "cache_control", "context_management", "diagnostics", "fallback_credit_token", "inference_geo", "metadata",
     "speed", "user_profile_id")
)  # fmt: skip
"""Fields of Anthropic's that change nothing about an answer here: taken in silence, whatever they hold."""

SAMPLING = ("temperature", "top_p", "top_k")
_message = msgspec.json.Decoder(MessagesBody)
_question = msgspec.json.Decoder(Question)
_known = frozenset(MessagesBody.__struct_fields__) | MEANINGLESS


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A body that was understood. `ignored`: names in it that mean nothing here. `thinks`: the client wants to see reasoning."""

    request: Generate
    stream: bool
    thinks: bool
    hints: Hints | None
    tier: object
    ignored: list[str]


def version_of(header: str) -> str:
    """The version that a client speaks; the real service wants it to be said, here it need not be. Raises `Invalid`."""
    if header and not _VERSION.fullmatch(header):
        raise Invalid(f"`anthropic-version` is a date such as {STRICT}, not `{header[:50]}`", field="anthropic-version")
    return header or OLDEST


def read_message(raw: bytes, version: str) -> Asked:
    """What a body asks for. Raises `Invalid` with the path of the field, `NoCore` for what nothing here does."""
    body, ignored = _read(raw, _message)
    _check(body, version)
    talk = Talk(version >= STRICT, body.tools or ())
    messages = talk.read(body.system, body.messages)
    tools = _specs(talk.tools.values())
    choice, parallel = _tool_choice(body.tool_choice, tools)
    try:
        request = Generate(
            model=body.model or "default",
            messages=messages,
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            stop=body.stop_sequences or (),
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=parallel,
            response_format=_response_format(body),
        )
    except ValueError as error:
        refuse(ValueError(str(error).replace("`stop`", "`stop_sequences`")))
    if body.top_k is not None:
        ignored.append("top_k")
    thinks = body.thinking is not None and body.thinking.type != "disabled" and body.thinking.display != "omitted"
    ignored += dict.fromkeys(talk.left_out)
    return Asked(request, bool(body.stream), thinks, body.aios, body.service_tier, ignored)


def read_question(raw: bytes, version: str) -> Count:
    """What a body wants counted. Raises as `read_message` does."""
    body, _ = _read(raw, _question)
    _check(body, version)
    talk = Talk(version >= STRICT, body.tools or ())
    messages = talk.read(body.system, body.messages)
    try:
        return Count(model=body.model or "default", messages=messages, tools=_specs(talk.tools.values()))
    except ValueError as error:
        refuse(error)


def _read(raw: bytes, decoder: msgspec.json.Decoder[B]) -> tuple[B, list[str]]:
    names = check_json(raw)
    try:
        body = decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        refuse(error)
    return body, ([] if names <= _known else sorted(names - _known))


def _check(body: Question, version: str) -> None:
    """Refuse what the client's version does not have, and what nothing here does."""
    if isinstance(body, MessagesBody) and version >= STRICT:
        for name in SAMPLING:
            if getattr(body, name) is not None:
                raise Invalid(f"`{name}`: version {version} has no such field: leave it out", field=name)
    _check_names(body.tools or ())
    if body.compaction is not None:
        raise NoCore("no core here makes compaction blocks: leave out `compaction`", field="compaction")
    if body.thread is not None and body.thread.type == "continue":
        raise ThreadNotFound("no conversation is kept here: send the whole of it", field="thread.previous_message_id")
    if not body.messages:
        raise Invalid("`messages` must hold at least one message", field="messages")
    if body.messages[-1].role == "assistant":
        field = f"messages[{len(body.messages) - 1}].role"
        raise NoCore("no core here goes on with an assistant's turn: the last one must be the user's", field=field)


def _check_names(tools: Sequence[Tool]) -> None:
    seen = set()
    for at, tool in enumerate(tools):
        if tool.type in CUSTOM and (not tool.name or tool.name in seen):
            problem = f"two tools are named `{tool.name[:100]}`" if tool.name else f"`tools[{at}].name` is missing"
            raise Invalid(problem, field=f"tools[{at}].name")
        seen.add(tool.name)


def _response_format(body: Question) -> dict[str, Any] | None:
    config = body.output_config
    form, field = (config.format, "output_config.format") if config and config.format else (body.output_format, "output_format")
    if form is None:
        return None
    if form.type != "json_schema":
        raise NoCore(f"no core here answers in the form `{form.type[:50]}`", field=f"{field}.type")
    if form.schema is None:
        raise Invalid(f"`{field}.schema` is missing", field=f"{field}.schema")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.schema}}


def _specs(tools: Iterable[Tool]) -> tuple[ToolSpec, ...]:
    return tuple([ToolSpec(tool.name, tool.description or "", tool.input_schema or {}, tool.strict) for tool in tools])


def _tool_choice(choice: ToolChoice | None, tools: Sequence[ToolSpec]) -> tuple[str | dict[str, Any] | None, bool | None]:
    """Which tools the model may or must use, and whether several at once (None: as the core has it)."""
    if choice is None or (not tools and choice.type in ("auto", "none")):
        return None, None
    parallel = False if choice.disable_parallel_tool_use else None
    if choice.type == "tool":
        if all(tool.name != choice.name for tool in tools):
            raise Invalid(
                f"`tool_choice.name`: no tool of yours is named `{(choice.name or '')[:100]}`", field="tool_choice.name"
            )
        return {"type": "function", "function": {"name": choice.name}}, parallel
    if not tools:
        raise Invalid("`tool_choice` wants a tool, and `tools` has none of your own", field="tool_choice")
    return ("required" if choice.type == "any" else choice.type), parallel
