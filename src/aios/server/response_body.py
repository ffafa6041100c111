"""What clients of OpenAI's Responses send, as a `Generate`: the body's fields, and its input, items in a row, as a conversation.

As at the chat door, what means something elsewhere only is taken and ignored, names that nobody knows are told back, and what no
core can do is refused with its name. Parts that only their maker can read (encrypted reasoning, compacted history) and traces of
tools that another server ran are dropped: `DROPPED` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NoReturn

import msgspec

from aios.abi.errors import Invalid, NoCore
from aios.abi.llm import Generate, Message, Part, ToolCall, ToolSpec
from aios.abi.wire import check_json, refuse
from aios.server.hints import Hints

LOGPROBS = "message.output_text.logprobs"
"""What `include` names to be told how likely each token was."""

DROPPED = frozenset(
    ("apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "compaction", "compaction_trigger", "computer_call",
     "computer_call_output", "configuration_update", "custom_tool_call", "custom_tool_call_output", "file_search_call",
     "image_generation_call", "local_shell_call", "local_shell_call_output", "mcp_approval_request", "mcp_approval_response",
     "mcp_call", "mcp_list_tools", "program", "program_output", "reasoning", "shell_call", "shell_call_output",
     "tool_search_call", "tool_search_output", "web_search_call")
)  # fmt: skip
"""Items that are understood and left out."""

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


class ContentPart(msgspec.Struct):
    type: str = ""
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None


class Item(msgspec.Struct):
    """One item of the input, or of an answer that is sent back. Which fields there are depends on its type."""

    type: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | tuple[ContentPart, ...] | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Any = None
    output: str | tuple[ContentPart, ...] | dict[str, Any] | None = None
    tools: tuple[Tool, ...] | None = None


class Tool(msgspec.Struct):
    type: str = ""
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


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


Input = str | tuple[Item, ...]
FindItem = Callable[[str], Item | None]

_decoder = msgspec.json.Decoder(ResponseBody)
_inputs = msgspec.json.Decoder(Input | None)
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


def read_input(raw: bytes | msgspec.Raw) -> Input:
    """The items of an input; () without one. Raises `Invalid` with the path of the field."""
    try:
        return _inputs.decode(raw) or ()
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        _refuse_below("input", error)


def _refuse_below(field: str, error: Exception) -> NoReturn:
    """Refuse what was read by itself, but stands in a field of the body."""
    text = str(error)
    refuse(ValueError(text.replace("`$", f"`$.{field}") if " - at `$" in text else f"{text} - at `$.{field}`"))


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


# the conversation


class Conversation:
    """Items, put together as messages: calls that follow an answer's text are part of its message.

    `tools`: what items added to the tools; `left_out`: types of items that nothing here reads.
    """

    def __init__(self, instructions: str | None, find: FindItem) -> None:
        self._messages: list[Message] = [Message("system", instructions)] if instructions else []
        self._find = find
        self._answer: str | tuple[Part, ...] | None = None
        self._calls: list[ToolCall] = []
        self._asked: set[str] = set()
        self._where = ""
        self.tools: list[Tool] = []
        self.left_out: list[str] = []

    def add(self, items: Input, own: bool = False) -> None:
        """Go on with these. Errors are told with their place if they are the caller's `own`."""
        if isinstance(items, str):
            items = (Item(role="user", content=items),) if items else ()
        for at, item in enumerate(items):
            self._where = f"input[{at}]" if own else "previous_response_id"
            self._add(item)

    def messages(self) -> tuple[Message, ...]:
        """All that was said. Raises `Invalid` if that is nothing."""
        self._end_answer()
        if not self._messages:
            raise Invalid("`input` must hold a text or at least one item", field="input")
        return tuple(self._messages)

    def _add(self, item: Item) -> None:
        kind = item.type or ("message" if item.role else "item_reference")
        if kind == "message":
            self._message(item)
        elif kind == "function_call":
            self._call(item)
        elif kind == "function_call_output":
            self._result(item)
        elif kind == "item_reference":
            self._reference(item)
        elif kind == "additional_tools":
            self.tools += item.tools or ()
        elif kind not in DROPPED:
            raise self._invalid("type", f"names no type of items that there is: `{kind[:50]}`")
        elif kind != "reasoning":
            self.left_out.append(f"input.{kind}")

    def _message(self, item: Item) -> None:
        if item.role is None:
            raise self._invalid("role", "is missing")
        if item.content is None:
            raise self._invalid("content", "is missing")
        content = self._content(item.content, "content")
        self._end_answer()
        if item.role == "assistant":
            self._answer = content
        else:
            self._messages.append(Message("user" if item.role == "user" else "system", content))

    def _call(self, item: Item) -> None:
        if not item.call_id or not item.name:
            raise self._invalid("name" if item.call_id else "call_id", "is missing")
        if not isinstance(item.arguments, str):
            raise self._invalid("arguments", "must be JSON as a text")
        self._calls.append(ToolCall(item.call_id, item.name, item.arguments))
        self._asked.add(item.call_id)

    def _result(self, item: Item) -> None:
        if not item.call_id:
            raise self._invalid("call_id", "is missing")
        if item.call_id not in self._asked:
            raise self._invalid("call_id", f"names no function call that comes before it: `{item.call_id[:100]}`")
        if item.output is None or isinstance(item.output, dict):
            raise self._invalid("output", "must be a text or a list of parts")
        self._end_answer()
        self._messages.append(Message("tool", self._content(item.output, "output"), tool_call_id=item.call_id))

    def _reference(self, item: Item) -> None:
        found = self._find(item.id) if item.id else None
        if found is None or found.type == "item_reference":
            raise self._invalid("id", f"names no item that is kept here: `{(item.id or '')[:100]}`; send it whole")
        self._add(found)

    def _end_answer(self) -> None:
        """What the model said last is whole: its text and the calls that followed it."""
        if self._answer is not None or self._calls:
            self._messages.append(Message("assistant", self._answer or "", tool_calls=tuple(self._calls)))
            self._answer, self._calls = None, []

    def _content(self, content: str | Iterable[ContentPart], field: str) -> str | tuple[Part, ...]:
        if isinstance(content, str):
            return content
        found = [self._part(part, f"{field}[{place}]") for place, part in enumerate(content)]
        if len(found) == 1 and found[0].type == "text":
            return found[0].text
        return tuple(found)

    def _part(self, part: ContentPart, field: str) -> Part:
        if part.type in ("input_text", "output_text", "text", "refusal"):
            text = part.refusal if part.type == "refusal" else part.text
            if text is None:
                name = "refusal" if part.type == "refusal" else "text"
                raise self._invalid(f"{field}.{name}", "is missing")
            return Part("text", text=text)
        if part.type == "input_image" and part.image_url:
            return Part("image", image=part.image_url)
        where = f"{self._where}.{field}.type"
        what = "images by the id of a file" if part.type == "input_image" else f"content of type `{part.type[:50]}`"
        raise NoCore(f"no core here reads {what}", field=where)

    def _invalid(self, field: str, what: str) -> Invalid:
        where = f"{self._where}.{field}"
        return Invalid(f"`{where}` {what}", field=where)
