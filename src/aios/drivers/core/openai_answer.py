"""One answer of the OpenAI chat wire, from its bytes to deltas and the whole.

Each event is parsed once. What only this wire has words for is told on with the piece it came with, and kept for the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec

from aios.abi.errors import AiosError, CoreFailed
from aios.abi.extra import MAX_EXTRA_BYTES, Fields, join_pieces
from aios.abi.llm import Choice, Completion, Delta, Finish, TokenLogprob, ToolCall, ToolCallDelta, Usage
from aios.drivers.core.http1 import Answer
from aios.drivers.core.key import Key
from aios.drivers.core.openai_refusals import failure_in_stream
from aios.drivers.core.openai_wire import (
    FINISH,
    Chunk,
    Dialect,
    Function,
    ToolCallPiece,
    WireChoice,
    WireUsage,
    decode_chunk,
    encode,
    estimated_tokens,
    logprobs_of,
    read_again,
)
from aios.ports.core import CoreCall, Emit

EVENTS_PER_TURN, BYTES_PER_TURN = 64, 8192
"""After so much of one stream the loop's other work gets its turn."""

MOST_EVENT_BYTES = 8 << 20
END_OF_BODY_S = 1.0


class _Tool:
    """A tool call while its pieces come."""

    __slots__ = ("arguments", "extra", "id", "name")

    def __init__(self) -> None:
        self.id = self.name = ""
        self.arguments: list[str] = []
        self.extra: Fields = {}


class _Part:
    """One choice while its pieces come."""

    __slots__ = ("extra", "finish", "logprobs", "reasoning", "stopped_by", "texts", "tools")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.tools: dict[int, _Tool] = {}
        self.finish: Finish | None = None
        self.stopped_by = ""
        self.extra: dict[str, Fields] = {}

    def choice(self) -> Choice:
        text, finish = "".join(self.texts), self.finish or "stop"
        if not (self.tools or self.reasoning or self.logprobs or self.stopped_by or self.extra):  # as most are
            return Choice(text, finish)
        tools = tuple([ToolCall(tool.id, tool.name, "".join(tool.arguments), tool.extra or None) for tool in self.tools.values()])
        extra = {of: said for of, said in self.extra.items() if said} or None
        return Choice(text, finish, tools, "".join(self.reasoning), tuple(self.logprobs), self.stopped_by, extra)


class AnswerReader:
    """One stream, from its bytes to deltas and the whole. `key`: is not passed on if the server says it."""

    __slots__ = (
        "_call", "_dialect", "_emit", "_extra", "_extra_bytes", "_full", "_key", "_later", "_parts", "_pieces", "_problem",
        "_rest", "_untold", "_usage",
    )  # fmt: skip

    def __init__(self, call: CoreCall, emit: Emit, key: Key | None = None, dialect: Dialect | None = None) -> None:
        self._call = call
        self._dialect = dialect
        self._emit = emit
        self._key = key
        self._parts = [_Part() for _ in range(call.request.n)]
        self._usage: WireUsage | None = None
        self._extra: Fields = {}
        self._extra_bytes = 0
        self._untold: Fields = {}
        self._pieces = 0
        self._rest = b""
        self._later = b""
        self._full: Any = None
        self._problem: AiosError | None = None

    async def read(self, content: Answer) -> None:
        """Take the stream to its end. Raises `CoreFailed` if it ends too early or is no event stream."""
        while True:
            data = await content.read(self._hear)
            full, later, self._full, self._later = self._full, self._later, None, b""
            if self._problem is not None:
                raise self._problem
            if full is not None:
                await full
            if later or data:
                if await self._take_all(later + data):
                    await _finish_body(content)
                    return self._check_end()
            elif full is None:
                return self._check_end()

    def _hear(self, data: bytes) -> bool:
        """Take the events of a small piece at once; leave what may take long, or ends the stream, to `read`."""
        if len(data) > BYTES_PER_TURN or b"[DONE]" in data:
            self._later = data
            return False
        try:
            lines = self._lines(data)
            for line in lines:
                self._full = self._take(line[5:])
                if self._full is not None:
                    self._later, self._rest = b"".join(line + b"\n" for line in lines) + self._rest, b""
                    return False
        except AiosError as problem:
            self._problem = problem
        return self._problem is None

    async def _take_all(self, data: bytes) -> bool:
        """Take the events of a piece of any size, with a pause after every few; whether the last of all was among them."""
        taken = size = 0
        for line in self._lines(data):
            if line.startswith(b"data: [DONE]"):
                return True
            waiting = self._take(line[5:])
            if waiting is not None:
                await waiting
            taken += 1
            size += len(line)
            if taken == EVENTS_PER_TURN or size > BYTES_PER_TURN:
                taken = size = 0
                await asyncio.sleep(0)
        return False

    def _lines(self, data: bytes) -> Iterator[bytes]:
        """The lines of whole events that a piece completes."""
        if self._rest:
            data = self._rest + data
        if self._key is not None:
            data = self._key.hide_in(data)
        lines = data.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MOST_EVENT_BYTES:
            raise CoreFailed(f"the server sent an event of more than {MOST_EVENT_BYTES >> 20} MB")
        return iter([line for line in lines if line.startswith(b"data:")])

    def completion(self, core: str) -> Completion:
        """The whole answer. Where the server does not tell the usage: an estimate, one token per piece."""
        call, usage = self._call, self._usage
        if usage is None:
            asked = estimated_tokens(call.request.prompt or "", call.request.messages)
            counted = Usage(input_uncached=asked, output_visible=self._pieces, estimated=True)
        else:
            counted = usage.counted(self._dialect)
        choices = tuple([part.choice() for part in self._parts])
        return Completion(id=call.id, model=call.model, core=core, choices=choices, usage=counted, extra=self._extra or None)

    def _take(self, data: bytes) -> Any:
        """One event: note it, and pass it on; what `emit` wants awaited."""
        try:
            chunk = decode_chunk(data)
        except (msgspec.DecodeError, RecursionError) as problem:
            chunk = read_again(data, problem)
        if chunk.usage is not None and (self._usage is None or chunk.usage.told >= self._usage.told):
            self._usage = chunk.usage  # some tell it more than once, growing; one that takes back what it told is not believed
        if chunk.error:
            raise failure_in_stream(chunk.error, self._key)
        choices = chunk.choices
        if chunk.extra or chunk.system_fingerprint or chunk.service_tier:
            self._note_extra(chunk)
        if len(choices) == 1:
            return self._take_choice(choices[0])
        return self._take_many(choices) if choices else None

    async def _take_many(self, choices: list[WireChoice]) -> None:
        for choice in choices:
            waiting = self._take_choice(choice)
            if waiting is not None:
                await waiting

    def _take_choice(self, choice: WireChoice) -> Any:
        index, delta, text, reasoning = choice.index, choice.delta, choice.text, None
        if not 0 <= index < len(self._parts):
            raise CoreFailed(f"the server sent choice {index} of {len(self._parts)}")
        part = self._parts[index]
        tools: tuple[ToolCallDelta, ...] = ()
        odd = choice.extra is not None or choice.stop_reason is not None  # says what only this wire has a word for
        if delta is not None:
            odd = odd or delta.extra is not None or delta.refusal is not None or delta.function_call is not None
            text = delta.content
            reasoning = delta.reasoning_content or delta.reasoning
            if delta.tool_calls:
                tools = tuple(_take_tool(part.tools, tool) for tool in delta.tool_calls)
        finish = choice.finish_reason and FINISH.get(choice.finish_reason, "stop")
        extra = self._extra_of(choice, part) if odd else None
        if not (text or finish or reasoning or tools or extra):
            return None
        if self._untold:
            extra, self._untold = {**(extra or {}), "answer": self._untold}, {}
        self._pieces += 1
        if text:
            part.texts.append(text)
        if reasoning:
            part.reasoning.append(reasoning)
        logprobs = logprobs_of(choice.logprobs) if choice.logprobs is not None else ()
        part.logprobs += logprobs
        if finish:
            part.finish = finish
            part.stopped_by = choice.stop_reason if isinstance(choice.stop_reason, str) else ""
        return self._emit(
            Delta(
                index=index,
                text=text or "",
                tool_calls=tools,
                reasoning=reasoning or "",
                logprobs=logprobs,
                finish=finish or None,
                extra=extra,
            )
        )

    def _note_extra(self, chunk: Chunk) -> None:
        """What an event says of the whole answer: told with the next piece, and once more only if it has changed."""
        said = dict(chunk.extra or {})
        for name, value in (("system_fingerprint", chunk.system_fingerprint), ("service_tier", chunk.service_tier)):
            if value is not None:
                said[name] = value
        for name, value in said.items():
            if value is not None and self._extra.get(name) != value and self._has_room(value):
                self._extra[name] = self._untold[name] = value

    def _extra_of(self, choice: WireChoice, part: _Part) -> dict[str, Fields] | None:
        """What a choice says in words that only this wire has."""
        delta = choice.delta
        message = dict((delta and delta.extra) or {})
        if delta is not None and delta.refusal is not None:
            message["refusal"] = delta.refusal
        if delta is not None and delta.function_call is not None:
            message["function_call"] = delta.function_call
        found = {"message": message, "choice": {**(choice.extra or {}), "stop_reason": choice.stop_reason}}
        said = {of: {k: v for k, v in fields.items() if v is not None} for of, fields in found.items()}
        said = {of: fields for of, fields in said.items() if fields}
        if not said:
            return None
        if self._has_room(said):
            join_pieces(part.extra.setdefault("message", {}), said.get("message", {}))
            part.extra.setdefault("choice", {}).update(said.get("choice", {}))
        return said

    def _has_room(self, said: object) -> bool:
        """Whether so much more may be kept for the whole answer."""
        self._extra_bytes += len(encode(said))
        return self._extra_bytes <= MAX_EXTRA_BYTES

    def _check_end(self) -> None:
        for part in self._parts:
            if not part.finish:
                raise CoreFailed("the server ended its answer in the middle")


def _take_tool(tools: dict[int, _Tool], piece: ToolCallPiece) -> ToolCallDelta:
    tool = tools.setdefault(piece.index, _Tool())
    function = piece.function or Function()
    tool.id = tool.id or piece.id or ""
    tool.name = tool.name or function.name or ""
    arguments = function.arguments or ""
    tool.arguments.append(arguments)
    extra = None
    if piece.extra or function.extra:
        extra = {**(piece.extra or {}), **({"type": piece.type} if piece.type not in (None, "function") else {})}
        if function.extra:
            extra["function"] = function.extra
        join_pieces(tool.extra, extra)
    return ToolCallDelta(piece.index, piece.id or "", function.name or "", arguments, extra)


async def _finish_body(content: Answer) -> None:
    """Read the little that follows `[DONE]`, so that the connection can be used again."""
    if content.at_end:
        return
    try:
        async with asyncio.timeout(END_OF_BODY_S):
            while await content.read():
                pass
    except TimeoutError:
        return
