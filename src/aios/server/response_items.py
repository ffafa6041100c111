"""Items of OpenAI's Responses, of an input or of an answer that is sent back, and the conversation that they are.

Parts that only their maker can read (encrypted reasoning, compacted history) and traces of tools that another server ran are
dropped: `DROPPED` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NoReturn

import msgspec

from aios.abi.errors import Invalid, NoCore
from aios.abi.llm import Message, Part, ToolCall
from aios.abi.wire import refuse

DROPPED = frozenset(
    ("apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "compaction", "compaction_trigger", "computer_call",
     "computer_call_output", "configuration_update", "custom_tool_call", "custom_tool_call_output", "file_search_call",
     "image_generation_call", "local_shell_call", "local_shell_call_output", "mcp_approval_request", "mcp_approval_response",
     "mcp_call", "mcp_list_tools", "program", "program_output", "reasoning", "shell_call", "shell_call_output",
     "tool_search_call", "tool_search_output", "web_search_call")
)  # fmt: skip
"""Items that are understood and left out."""


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


Input = str | tuple[Item, ...]
FindItem = Callable[[str], Item | None]

_inputs = msgspec.json.Decoder(Input | None)


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
