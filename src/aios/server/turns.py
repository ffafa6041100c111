"""Turns of Anthropic's wire as messages of ours: blocks of content, uses of tools and their results.

A result of a tool stands in the user's turn there and is a message of its own here, ahead of what the user says beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import msgspec

from aios.abi.errors import AiosError, Invalid, NoCore
from aios.abi.llm import Message, Part, ToolCall


class Source(msgspec.Struct):
    """Where an image comes from."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class Tool(msgspec.Struct):
    """A tool of the client's own, or the name of one that its provider knows or runs: then `type` is not `custom`.

    `defer_loading`: the model is told of it when the conversation refers to it.
    """

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class ToolChange(msgspec.Struct):
    """Which tool is offered from here on, or no longer: one that is declared, or a new one."""

    type: str
    name: str = ""
    definition: Tool | None = None


class Block(msgspec.Struct):
    """A block of content of any type: all fields of those that are read. `input` and `content` are read where they are used."""

    type: str
    text: str | None = None
    citations: Any = None
    source: Source | str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()
    tool_use_id: str | None = None
    content: msgspec.Raw = msgspec.Raw()
    is_error: bool | None = None
    tool: ToolChange | None = None
    tool_name: str = ""


CUSTOM = (None, "custom")
"""Types of the client's own tools."""

Content = str | tuple[Block, ...]
Role = Literal["user", "assistant", "system"]


class Turn(msgspec.Struct):
    """What one side says. `clear_at`: of the system, `next_user_message` if it is said for one turn only."""

    role: Role
    content: Content | None = None
    clear_at: str | None = None


Placed = list[tuple[int, Content]]
"""What is said, each with the number of its turn."""

SYSTEM = -1
"""The number of what stands ahead of all turns."""

OPAQUE = frozenset(("thinking", "redacted_thinking"))
"""Blocks of an assistant's turn that only who made them can read: left out in silence. Others that are left out are named."""

_result = msgspec.json.Decoder(Content)


class Talk:
    """A conversation while it is read. Each use of a tool must have its one result in the user's turn that follows.

    `strict`: as the newer version of the wire has it. `tools`: those of the client's own that the model is offered at the end, by
    name. `left_out`: types of blocks and tools that were.
    """

    def __init__(self, strict: bool, tools: Sequence[Tool]) -> None:
        self._strict = strict
        self._declared = {tool.name: tool for tool in tools if tool.type in CUSTOM}
        self.tools = {name: tool for name, tool in self._declared.items() if not tool.defer_loading}
        self._messages: list[Message] = []
        self._used: set[str] = set()
        self._open: set[str] = set()
        self.left_out = [tool.type for tool in tools if tool.type and tool.type not in CUSTOM]

    def read(self, system: Content | None, turns: Sequence[Turn]) -> tuple[Message, ...]:
        """All messages. Turns of one role that follow each other are one. Raises `Invalid`, `NoCore`."""
        groups = _grouped(turns)
        if system:
            groups.insert(0, ("system", [(SYSTEM, system)]))
        for role, placed in groups:
            if len(placed) == 1 and isinstance(placed[0][1], str):
                self._messages.append(Message(role=role, content=placed[0][1]))
            elif role == "assistant":
                self._take_assistant(placed)
            else:
                self._take(role, placed)
            if role == "user" and self._open:
                raise self._unanswered(placed[0][0])
        if self._open:
            raise self._unanswered(len(turns) - 1)
        return tuple(self._messages)

    def _take(self, role: Literal["user", "system"], placed: Placed) -> None:
        before, said = len(self._messages), list[Part]()
        for at, content in placed:
            if isinstance(content, str):
                said.append(Part("text", text=content))
            else:
                said += self._take_blocks(_path(at), content, role)
        if said or (role == "user" and len(self._messages) == before):
            self._messages.append(Message(role=role, content=_content(said)))

    def _take_blocks(self, where: str, blocks: Sequence[Block], role: Literal["user", "system"]) -> list[Part]:
        """What there is to read of a turn that is not the model's; results of tools become messages at once."""
        said = []
        for at, block in enumerate(blocks):
            place = f"{where}[{at}]"
            if block.type == "text":
                if block.citations and self._strict and role == "user":
                    raise Invalid(f"`{place}.citations`: a user's text has none in this version", field=f"{place}.citations")
                said.append(_text(place, block))
            elif block.type == "tool_result" and role == "user":
                self._messages.append(self._result(place, block))
            elif block.type == "image" and role == "user":
                said.append(_image(place, block))
            elif block.type in ("tool_addition", "tool_removal"):
                self._change(place, block)
            else:
                raise _unread(place, block, role)
        return said

    def _change(self, place: str, block: Block) -> None:
        """Offer one more tool from here on, or one less."""
        change = block.tool
        if change is None:
            raise Invalid(f"`{place}.tool` is missing", field=f"{place}.tool")
        tool = change.definition or self._declared.get(change.name)
        if tool is None or not tool.name or tool.type not in CUSTOM:
            self.left_out.append(change.type)
        elif block.type == "tool_addition":
            self._declared[tool.name] = self.tools[tool.name] = tool
        else:
            self.tools.pop(tool.name, None)

    def _take_assistant(self, placed: Placed) -> None:
        said: list[Part] = []
        calls: list[ToolCall] = []
        for turn_at, content in placed:
            if isinstance(content, str):
                said.append(Part("text", text=content))
                continue
            for at, block in enumerate(content):
                place = f"{_path(turn_at)}[{at}]"
                if block.type == "text":
                    said.append(_text(place, block))
                elif block.type == "tool_use":
                    calls.append(self._use(place, block))
                elif block.type == "document" and self._strict:
                    raise Invalid(f"`{place}`: an assistant's turn has no documents in this version", field=f"{place}.type")
                elif block.type in ("image", "document", "compaction", "tool_result"):
                    raise _unread(place, block, "assistant")
                elif block.type not in OPAQUE:
                    self.left_out.append(block.type)
        self._messages.append(Message(role="assistant", content=_content(said), tool_calls=tuple(calls)))

    def _use(self, place: str, block: Block) -> ToolCall:
        if not block.id or not block.name:
            missing = f"{place}.{'name' if block.id else 'id'}"
            raise Invalid(f"`{missing}` is missing", field=missing)
        if block.id in self._used:
            raise Invalid(f"`{place}.id`: `{block.id[:100]}` was used before", field=f"{place}.id")
        arguments = bytes(block.input).strip() or b"{}"
        if not arguments.startswith(b"{"):
            raise Invalid(f"`{place}.input` must be an object", field=f"{place}.input")
        self._used.add(block.id)
        self._open.add(block.id)
        return ToolCall(block.id, block.name, arguments.decode())

    def _result(self, place: str, block: Block) -> Message:
        """A result as a message. That it is an error is told in words: our form has no other place for it, nor have models."""
        use = block.tool_use_id or ""
        if use not in self._open:
            field = f"{place}.tool_use_id"
            raise Invalid(f"`{field}`: no `tool_use` in the turn before waits for a result by the id `{use[:100]}`", field=field)
        self._open.remove(use)
        said = self._result_parts(f"{place}.content", bytes(block.content).strip())
        if block.is_error:
            text = said.pop(0).text if said and said[0].type == "text" else ""
            said.insert(0, Part("text", text=f"Error: {text}"))
        return Message(role="tool", content=_content(said), tool_call_id=use)

    def _result_parts(self, where: str, raw: bytes) -> list[Part]:
        """What a tool returned: nothing, a text, or blocks. One that searches for tools returns names of such as are declared."""
        if raw in (b"", b"null"):
            return []
        try:
            content = _result.decode(raw)
        except msgspec.ValidationError as error:
            _refuse_below(where, error)
        if isinstance(content, str):
            return [Part("text", text=content)]
        said = []
        for at, block in enumerate(content):
            place = f"{where}[{at}]"
            if block.type == "tool_reference":
                said.append(self._reference(block.tool_name))
            elif block.type in ("text", "image"):
                said.append(_text(place, block) if block.type == "text" else _image(place, block))
            else:
                raise _unread(place, block, "user")
        return said

    def _reference(self, name: str) -> Part:
        tool = self._declared.get(name)
        if tool is not None:
            self.tools[name] = tool
        return Part("text", text=f"The tool `{name}` can be called now.")

    def _unanswered(self, at: int) -> Invalid:
        names = ", ".join(sorted(self._open))[:200]
        return Invalid(f"`{_path(at)}`: no `tool_result` for the `tool_use` {names}", field=_path(at))


def _grouped(turns: Sequence[Turn]) -> list[tuple[Role, Placed]]:
    """The turns that the model is shown, those of one role that follow each other as one."""
    groups: list[tuple[Role, Placed]] = []
    last_user = next((at for at in range(len(turns) - 1, -1, -1) if turns[at].role == "user"), -1)
    for at, turn in enumerate(turns):
        if turn.content is None and turn.role != "system":
            raise Invalid(f"`{_path(at)}` is missing", field=_path(at))
        if turn.clear_at == "next_user_message" and at < last_user:
            continue
        said = (at, turn.content or ())
        if groups and groups[-1][0] == turn.role:
            groups[-1][1].append(said)
        else:
            groups.append((turn.role, [said]))
    return groups


def _path(at: int) -> str:
    return f"messages[{at}].content" if at != SYSTEM else "system"


def _content(said: Sequence[Part]) -> str | tuple[Part, ...]:
    if not said:
        return ""
    return said[0].text if len(said) == 1 and said[0].type == "text" else tuple(said)


def _text(place: str, block: Block) -> Part:
    if block.text is None:
        raise Invalid(f"`{place}.text` is missing", field=f"{place}.text")
    return Part("text", text=block.text)


def _image(place: str, block: Block) -> Part:
    source = block.source
    if not isinstance(source, Source):
        raise Invalid(f"`{place}.source` must be an object", field=f"{place}.source")
    if source.type == "url":
        if not source.url:
            raise Invalid(f"`{place}.source.url` is missing", field=f"{place}.source.url")
        return Part("image", image=source.url)
    if source.type != "base64":
        raise NoCore(f"no core here reads an image from `{source.type[:50]}`", field=f"{place}.source.type")
    if not source.data or not source.media_type:
        missing = f"{place}.source.{'media_type' if source.data else 'data'}"
        raise Invalid(f"`{missing}` is missing", field=missing)
    return Part("image", image=f"data:{source.media_type};base64,{source.data}")


def _unread(place: str, block: Block, role: str) -> AiosError:
    if block.type in ("tool_use", "tool_result"):
        return Invalid(f"`{place}`: there is no `{block.type}` in a turn of the {role}'s", field=f"{place}.type")
    return NoCore(f"no core here reads content of type `{block.type[:50]}`", field=f"{place}.type")


def _refuse_below(where: str, error: msgspec.ValidationError) -> NoReturn:
    """Raise the `Invalid` of a value that was read by itself, with the path that it has in the body."""
    text, _, path = str(error).partition(" - at `$")
    field = f"{where}{path.rstrip('`')}"
    raise Invalid(f"`{field}`: {text}", field=field) from None
