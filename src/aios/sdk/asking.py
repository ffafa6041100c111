"""Asking a model until it has answered: its tools are run on the way, and an answer that must have a form gets it.

A model is told of the form in words. One that has tools is not kept to it while it may ask for them: not every core can do
both. If what it says in the end is not of the form, it is asked once more, for the form alone. Each answer that still does not
fit is shown to the model with what is wrong, `repairs` times.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from aios.abi.errors import (
    BadRequest,
    DeadlineExceeded,
    Invalid,
    NoCore,
    OutputInvalid,
    ToolFailed,
)
from aios.abi.llm import Choice, Generate, Message, ToolCall
from aios.abi.request import CallOptions, Class
from aios.abi.tool import ExecuteTool
from aios.ports.gate import Gate
from aios.sdk.tool import Tool, Toolbox

T = TypeVar("T")
MOST_STEPS = 100
MOST_REPAIRS = 10
MOST_TOLD = 64 * 1024
"""Characters of a tool's result that the model is told."""
SHOWN = 300
"""Characters of an answer in an error."""
TOLD_TO_THE_MODEL = (BadRequest, ToolFailed, DeadlineExceeded)
"""What a model can mend, or work around; everything else ends the question."""
_fence = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)


class Form(Generic[T]):
    """A type that an answer must have. Raises `Invalid` for one that JSON has no words for."""

    def __init__(self, kind: type[T]) -> None:
        self.name = re.sub(r"\W+", "_", getattr(kind, "__name__", "answer"))[:64] or "answer"
        try:
            schema, definitions = _schema(kind)
            self._wrapped = schema.get("type") != "object"
            if self._wrapped:  # providers want an object
                kind = msgspec.defstruct("Answer", [("value", kind)])  # type: ignore[assignment]
                schema, definitions = _schema(kind)
            self._decoder = msgspec.json.Decoder(kind)
        except (TypeError, ValueError) as error:
            raise Invalid(f"`out`: JSON has no words for `{self.name}`: {error}", field="out") from None
        self.schema = _closed({**schema, "$defs": definitions} if definitions else schema)

    def read(self, text: str) -> T:
        """The value of an answer. Raises `msgspec.DecodeError` or `RecursionError` with what is wrong."""
        fenced = _fence.fullmatch(text)
        value: Any = self._decoder.decode(fenced.group(1) if fenced else text)
        return value.value if self._wrapped else value  # type: ignore[no-any-return]  # the decoder's type

    @property
    def wanted(self) -> str:
        """What a model is told."""
        return f"Answer with JSON alone, which fits this schema: {msgspec.json.encode(self.schema).decode()}"

    @property
    def response_format(self) -> dict[str, Any]:
        return {"type": "json_schema", "json_schema": {"name": self.name, "schema": self.schema}}


def _schema(kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a type, not a reference, and what it refers to."""
    (schema,), definitions = msgspec.json.schema_components((kind,), ref_template="#/$defs/{name}")
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        schema = definitions[name]
        if f'"#/$defs/{name}"' not in msgspec.json.encode(definitions).decode():
            del definitions[name]
    return schema, definitions


def _closed(schema: Any) -> Any:
    """The schema with no fields in its objects but those that it names: models would go on inventing some."""
    if isinstance(schema, list | tuple):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        name: _closed(each) if name not in ("enum", "const", "default", "examples") else each for name, each in schema.items()
    }
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


class Bounds(NamedTuple):
    """How far a question may go. `steps`: answers that ask for tools; `repairs`: answers that do not fit; `until`: loop time."""

    steps: int
    repairs: int
    cls: Class | None
    until: float | None

    @classmethod
    def of(cls_, steps: int, repairs: int, cls: Class | None, deadline_s: float | None) -> Bounds:
        """Raises `Invalid`."""
        for name, value, most in (("max_steps", steps, MOST_STEPS), ("repairs", repairs, MOST_REPAIRS)):
            if not (name == "max_steps") <= value <= most:
                raise Invalid(f"`{name}` must be {int(name == 'max_steps')} to {most}", field=name)
        CallOptions(cls=cls, deadline_s=deadline_s)  # which says what is wrong with them
        until = None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s
        return cls_(steps, repairs, cls, until)

    def options(self) -> CallOptions:
        """Of the next call. Raises `DeadlineExceeded` when there is no time for one."""
        if self.until is None:
            return CallOptions(cls=self.cls)
        left_s = self.until - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline passed between two calls of the question")
        return CallOptions(cls=self.cls, deadline_s=left_s)


class Conversation:
    """One question on its way to its answer."""

    def __init__(self, gate: Gate, toolbox: Toolbox, request: Generate, bounds: Bounds) -> None:
        self._gate = gate
        self._toolbox = toolbox
        self._request = request
        self._messages = list(request.messages)
        self._bounds = bounds

    async def text(self, tools: Sequence[Tool[..., Any]], choice: str | dict[str, Any] | None) -> str:
        """The answer's text, after all the tools that it took. `choice`: `tool_choice` of the first step."""
        if not tools:
            return (await self._ask()).text
        specs = await self._toolbox.ready(tools)
        for left in reversed(range(self._bounds.steps)):
            said = await self._ask(tools=specs, tool_choice=choice if left else "none")
            if not said.tool_calls:
                return said.text
            choice = None
            self._messages.append(Message("assistant", said.text, tool_calls=said.tool_calls))
            self._messages += await self._run_all(said.tool_calls)
        raise OutputInvalid(f"no answer in {self._bounds.steps} steps: the model asks for tools though it may not (`max_steps`)")

    async def typed(self, form: Form[T], tools: Sequence[Tool[..., Any]], choice: str | dict[str, Any] | None) -> T:
        """The answer as a value of the form. Raises `OutputInvalid`."""
        self._messages = _instructed(self._messages, form.wanted)
        text = await self.text(tools, choice) if tools else await self._formed(form)
        left = self._bounds.repairs + bool(tools)  # what was said freely need not have the form yet
        while True:
            try:
                return form.read(text)
            except (msgspec.DecodeError, RecursionError) as error:  # a model can nest deeper than anybody reads
                wrong = str(error)
            if not left:
                raise OutputInvalid(f"no answer fits `{form.name}`: {wrong}; the last one begins: {text[:SHOWN]!r}")
            left -= 1
            self._messages += (Message("assistant", text), Message("user", f"That does not fit: {wrong}. {form.wanted}"))
            text = await self._formed(form)

    async def _formed(self, form: Form[Any]) -> str:
        """An answer in a form; where no core keeps to one, the model has been told what it is."""
        try:
            return (await self._ask(response_format=form.response_format)).text
        except NoCore as error:
            if error.field != "response_format":
                raise
            return (await self._ask()).text

    async def _ask(self, **fields: Any) -> Choice:
        request = replace(self._request, messages=tuple(self._messages), **fields)
        return (await self._gate.call(request, self._bounds.options())).choices[0]

    async def _run_all(self, calls: Sequence[ToolCall]) -> list[Message]:
        """Run them side by side; the first error that the model cannot mend ends the others."""
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(self._run(call), name=f"tool {call.name}"[:80]) for call in calls]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in running]

    async def _run(self, call: ToolCall) -> Message:
        """Have the kernel run what the model asks for; what it can mend, it is told."""
        try:
            arguments = _arguments(call)
            result = await self._gate.call(ExecuteTool(tool=call.name, arguments=arguments), self._bounds.options())
            said = result.value if isinstance(result.value, str) else msgspec.json.encode(result.value).decode()
        except TOLD_TO_THE_MODEL as error:
            said = f"error: {error.code}: {error.message}"
        return Message("tool", said[:MOST_TOLD], tool_call_id=call.id)


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Invalid(f"the arguments of `{call.name}` are no JSON object: {error}", field="arguments") from None


def _instructed(messages: Sequence[Message], wanted: str) -> list[Message]:
    """The messages, with an instruction in the system's."""
    first, *others = messages
    if first.role == "system" and isinstance(first.content, str):
        return [Message("system", f"{first.content}\n\n{wanted}"), *others]
    return [Message("system", wanted), *messages]
