"""What clients of OpenAI's Responses send, as a `Generate`: the body's fields, and its input, items in a row, as a conversation.

As at the chat door, what means something elsewhere only is taken and ignored, names that nobody knows are told back, and what no
core can do is refused with its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from aios.abi.errors import Invalid, NoCore
from aios.abi.llm import Generate, ToolSpec
from aios.abi.wire import check_json, refuse
from aios.server.hints import Hints
from aios.server.response_items import Conversation, FindItem, Input, Tool

LOGPROBS = "message.output_text.logprobs"
"""What `include` names to be told how likely each token was."""

MEANINGLESS = frozenset(
    (
        "access_programs",
        "image",
        "max_tool_calls",
        "moderation",
        "prompt_cache_options",
        "prompt_cache_retention",
        "stream_options",
    )
)
"""Fields of OpenAI's that change nothing about an answer here: taken in silence, whatever they hold."""


class TextConfig(msgspec.Struct):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None


class ResponseBody(msgspec.Struct):
    """The body of a response to be made. Unknown fields are left to `ignored`."""

    model: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"null")
    instructions: str | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    include: tuple[str, ...] | None = None
    metadata: dict[str, str] | None = None
    service_tier: Any = None
    truncation: str | None = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    user: Any = None
    prompt: dict[str, Any] | None = None
    conversation: str | dict[str, Any] | None = None
    context_management: Any = None
    aios: Hints | None = None


_decoder = msgspec.json.Decoder(ResponseBody)
_known = frozenset(ResponseBody.__struct_fields__) | MEANINGLESS


def read_body(raw: bytes) -> tuple[ResponseBody, list[str]]:
    """The body, and what is in it that nobody here does anything with. Raises `Invalid` with the path of the field."""
    names = check_json(raw)
    try:
        body = _decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        refuse(error)
    ignored = [] if names <= _known else sorted(names - _known)
    if body.truncation not in (None, "disabled"):
        ignored.append("truncation")
    if body.context_management is not None:
        ignored.append("context_management")
    return body, ignored


def generate_of(body: ResponseBody, before: Iterable[Input], own: Input, find: FindItem) -> tuple[Generate, list[str]]:
    """The request that a body asks for, and what of its tools and items was left out.

    `before`: inputs and answers that its own input goes on from. Raises `Invalid` with the path of the field, `NoCore` for what
    nothing here does.
    """
    _refuse_foreign(body)
    talk = Conversation(body.instructions, find)
    for items in before:
        talk.add(items)
    talk.add(own, own=True)
    tools, choice = _tools(body, talk)
    wants_logprobs = bool(body.top_logprobs) or LOGPROBS in (body.include or ())
    try:
        wanted = Generate(
            model=body.model or "default",
            messages=talk.messages(),
            max_tokens=body.max_output_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            logprobs=wants_logprobs,
            top_logprobs=body.top_logprobs if wants_logprobs else None,
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=body.parallel_tool_calls if tools else None,
            response_format=_format(body.text),
            reasoning_effort=body.reasoning.effort if body.reasoning and body.reasoning.effort != "none" else None,
        )
    except ValueError as error:
        refuse(ValueError(str(error).replace("max_tokens", "max_output_tokens")))
    return wanted, talk.left_out


def _refuse_foreign(body: ResponseBody) -> None:
    if body.prompt is not None:
        raise NoCore("no templates of prompts are kept here: send `instructions` and `input`", field="prompt")
    if body.conversation is not None:
        raise NoCore("no conversations are kept here: chain answers with `previous_response_id`", field="conversation")


def _format(text: TextConfig | None) -> dict[str, Any] | None:
    """The form of the answer as it is named inside: OpenAI's two wires nest it differently."""
    form = text.format if text is not None else None
    if form is None or form.get("type") == "text":
        return None
    if form.get("type") != "json_schema":
        return form
    if not isinstance(form.get("schema"), dict):
        raise Invalid("`text.format.schema` must be a JSON schema", field="text.format.schema")
    return {"type": "json_schema", "json_schema": {name: value for name, value in form.items() if name != "type"}}


# tools


def _tools(body: ResponseBody, talk: Conversation) -> tuple[tuple[ToolSpec, ...], str | dict[str, Any] | None]:
    """The functions among the tools, and which of them may be chosen. Tools that another server would run are left out."""
    found: list[ToolSpec] = []
    for at, tool in enumerate((*(body.tools or ()), *talk.tools)):
        if tool.type != "function":
            talk.left_out.append(f"tools.{tool.type[:40]}")
        elif not tool.name:
            raise Invalid(f"`tools[{at}].name` is missing", field=f"tools[{at}].name")
        else:
            found.append(ToolSpec(tool.name, tool.description or "", tool.parameters or {}, tool.strict))
    choice = body.tool_choice
    if isinstance(choice, dict):
        return _chosen(choice, found, talk.left_out)
    if choice == "required" and not found and not body.tools:
        raise Invalid("`tool_choice` is `required`, but there are no `tools`", field="tool_choice")
    return tuple(found), choice if found else None


def _chosen(
    choice: dict[str, Any], tools: list[ToolSpec], left_out: list[str]
) -> tuple[tuple[ToolSpec, ...], str | dict[str, Any] | None]:
    """What an object says about the choice: one function, or some of the functions and a mode."""
    kind = choice.get("type")
    if kind == "function":
        name = choice.get("name")
        if name not in [tool.name for tool in tools]:
            raise Invalid("`tool_choice.name` must be the name of one of the `tools`", field="tool_choice.name")
        return tuple(tools), {"type": "function", "function": {"name": name}}
    if kind == "allowed_tools":
        allowed, mode = choice.get("tools"), choice.get("mode", "auto")
        if not isinstance(allowed, list) or not all(isinstance(tool, dict) for tool in allowed):
            raise Invalid("`tool_choice.tools` must be a list of tools", field="tool_choice.tools")
        if mode not in ("auto", "required"):
            raise Invalid("`tool_choice.mode` must be `auto` or `required`", field="tool_choice.mode")
        names = {tool.get("name") for tool in allowed if isinstance(tool.get("name"), str)}
        kept = tuple([tool for tool in tools if tool.name in names])
        return kept, mode if kept else None
    if not isinstance(kind, str):
        raise Invalid("`tool_choice.type` is missing", field="tool_choice.type")
    left_out.append(f"tool_choice.{kind[:40]}")
    return tuple(tools), "auto" if tools else None
