"""Cores behind the OpenAI chat wire on this machine: llama-server, vLLM, Ollama and the like, without keys.

Always streams, because only a stream can be aborted early and relayed as it comes. Each event is parsed once, into typed
structs of what we use. What a call costs here every call of every agent costs: no timers per chunk, no generators, nothing is
awaited that need not be.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from aios.abi.bounds import within
from aios.abi.errors import AiosError, CoreFailed, Invalid, Unavailable
from aios.abi.llm import Choice, Completion, Count, Delta, Finish, TokenLogprob, Tokens, ToolCall, ToolCallDelta, Usage
from aios.drivers.core.http1 import Answer, Connections, Unreachable
from aios.drivers.core.openai_wire import (
    FINISH,
    ErrorBody,
    ErrorReply,
    Function,
    ToolCallPiece,
    WireChoice,
    WireUsage,
    body_of,
    decode_chunk,
    decode_error,
    decode_listing,
    encode,
    error_of,
    failure_in_stream,
    logprobs_of,
    size_of,
)
from aios.ports.core import CoreCall, CoreEvent, CoreInfo, Emit, Feature, Health, refuse_what_it_cannot

EVENTS_PER_TURN, BYTES_PER_TURN = 64, 8192
"""After so much of one stream the loop's other work gets its turn."""

MOST_EVENT_BYTES = 8 << 20
MOST_ERROR_BYTES = 1 << 16
KEEP_ALIVE_S = 4.0
"""Below the 5 s after which common servers close an idle connection, so that we never send into one that is closing."""

PROBE_S, PROBE_TIMEOUT_S = 1.0, 5.0
END_OF_BODY_S = 1.0
BYTES_PER_TOKEN = 4
HEADERS = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIChatConfig:
    """An endpoint: `base_url` up to and with `/v1`, on this machine. `models` empty: those that it lists when we start.

    `slots`: calls that it works on at once; it queues more by itself. `window`: tokens per call. `features`: what it can do,
    which its wire does not tell.
    """

    name: str
    base_url: str
    models: tuple[str, ...] = ()
    slots: int = 8
    window: int = 8192
    features: frozenset[Feature] = frozenset({"chat", "completion", "seed", "stop"})

    def __post_init__(self) -> None:
        within("slots", self.slots, 1, 10_000)
        within("window", self.window, 1, 100_000_000)


class OpenAIChat:
    """The port `Core` on an OpenAI chat endpoint of this machine. Raises `Invalid` for an address that is elsewhere."""

    def __init__(self, config: OpenAIChatConfig) -> None:
        self.config = config
        self._address = base = _loopback(config.base_url)
        self._chat, self._complete, self._list = (f"{base.path}/{name}" for name in ("chat/completions", "completions", "models"))
        self._models = config.models
        self._connections: Connections | None = None
        self._changed: Callable[[CoreEvent], None] | None = None
        self._down = "it is not started"
        self._probe: asyncio.Task[None] | None = None
        self._seeds = "seed" in config.features
        self._info = self._describe()

    def info(self) -> CoreInfo:
        """What its configuration says, and the models that the server listed where that names none."""
        return self._info

    def health(self) -> Health:
        """Whether the server answered when it was last asked for anything."""
        return Health(up=not self._down, detail=self._down)

    async def start(self, changed: Callable[[CoreEvent], None]) -> None:
        """Look whether the server is there. Raises `Unavailable` if it is not, or lists no model and none is configured."""
        self._changed = changed
        address = self._address
        self._connections = Connections(address.hostname or "", address.port or 80, HEADERS, KEEP_ALIVE_S)
        try:
            listed = await self._ask_models()
        except (OSError, TimeoutError) as problem:
            self._connections.close()
            message = f"no server answers at {self.config.base_url} ({_reason(problem)}): start it, or mend `base_url`"
            raise Unavailable(message) from None
        self._models = self.config.models or listed
        if not self._models:
            self._connections.close()
            raise Unavailable(f"the server at {self.config.base_url} lists no models: name them in `models`")
        self._info = self._describe()
        self._set_down("")

    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        """Generate, as the port says; `RateLimited` where the server says so."""
        refuse_what_it_cannot(self._info, call)
        body = encode(body_of(call, self._seeds))
        connections = self._connections
        if connections is None or connections.closed:
            raise Unavailable(f"core `{self.config.name}` is down: {self._down}")
        try:
            response = await connections.request("POST", self._complete if call.request.prompt is not None else self._chat, body)
            try:
                if response.status != 200:
                    raise await _refusal(response)
                answer = _Answer(call, emit)
                await answer.read(response)
                return answer.completion(self.config.name)
            finally:
                connections.done(response)
                if not response.reusable:
                    await asyncio.sleep(0)  # the loop closes the socket in its next pass: the server knows before we return
        except Unreachable as problem:
            self._lose(_reason(problem))
            raise CoreFailed(f"core `{self.config.name}` does not answer: {_reason(problem)}") from None
        except OSError as problem:
            raise CoreFailed(f"core `{self.config.name}` broke off: {_reason(problem)}") from None

    async def count(self, request: Count, model: str) -> Tokens:
        """An estimate from the bytes: this wire does not count."""
        told = [*(message.content for message in request.messages), *request.tools]
        size = len(request.text.encode(errors="replace")) + sum(len(msgspec.json.encode(part)) for part in told)
        return Tokens(tokens=math.ceil(size / BYTES_PER_TOKEN), exact=False)

    async def close(self) -> None:
        """Close all connections, which ends what runs on them."""
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()
            await asyncio.wait({probe})
        self._set_down("it is closed")
        if self._connections is not None:
            self._connections.close()
            await asyncio.sleep(0)  # in which the loop closes the sockets

    async def _ask_models(self) -> tuple[str, ...]:
        assert self._connections is not None
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            response = await self._connections.request("GET", self._list)
            try:
                data = await _some(response, MOST_EVENT_BYTES)
            finally:
                self._connections.done(response)
        try:
            return tuple(model.id for model in decode_listing(data).data) if response.status == 200 else ()
        except msgspec.DecodeError:
            return ()

    def _lose(self, detail: str) -> None:
        """The server is gone: say so, and look for it until it is back."""
        if not self._down and self._connections is not None and not self._connections.closed:
            self._set_down(f"no server answers at {self.config.base_url} ({detail})")
            self._probe = asyncio.create_task(self._find_again(), name=f"core {self.config.name}")

    async def _find_again(self) -> None:
        while True:
            await asyncio.sleep(PROBE_S)
            try:
                await self._ask_models()
            except (OSError, TimeoutError):
                continue
            self._set_down("")
            return

    def _set_down(self, detail: str) -> None:
        changed, self._down = bool(detail) != bool(self._down), detail
        if changed and self._changed is not None:
            self._changed(CoreEvent(core=self.config.name, change="down" if detail else "up", detail=detail))

    def _describe(self) -> CoreInfo:
        config = self.config
        return CoreInfo(
            name=config.name,
            models=self._models,
            features=config.features,
            slots=config.slots,
            window=config.window,
            driver="openai_chat",
            queues=True,
        )


class _Tool:
    """A tool call while its pieces come."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = self.name = ""
        self.arguments: list[str] = []


class _Part:
    """One choice while its pieces come."""

    __slots__ = ("finish", "logprobs", "reasoning", "stopped_by", "texts", "tools")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.tools: dict[int, _Tool] = {}
        self.finish: Finish | None = None
        self.stopped_by = ""

    def choice(self) -> Choice:
        tools = tuple(ToolCall(tool.id, tool.name, "".join(tool.arguments)) for tool in self.tools.values())
        finish = self.finish or "stop"
        return Choice("".join(self.texts), finish, tools, "".join(self.reasoning), tuple(self.logprobs), self.stopped_by)


class _Answer:
    """One stream, from its bytes to deltas and the whole."""

    __slots__ = ("_call", "_emit", "_full", "_later", "_parts", "_pieces", "_problem", "_rest", "_usage")

    def __init__(self, call: CoreCall, emit: Emit) -> None:
        self._call = call
        self._emit = emit
        self._parts = [_Part() for _ in range(call.request.n)]
        self._usage: WireUsage | None = None
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
        lines = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MOST_EVENT_BYTES:
            raise CoreFailed(f"the server sent an event of more than {MOST_EVENT_BYTES >> 20} MB")
        return iter([line for line in lines if line.startswith(b"data:")])

    def completion(self, core: str) -> Completion:
        """The whole answer. Where the server does not tell the usage: an estimate, one token per piece."""
        call, usage = self._call, self._usage
        if usage is None:
            counted = Usage(input_uncached=math.ceil(size_of(call.request) / BYTES_PER_TOKEN), output_visible=self._pieces)
        else:
            details, out = usage.prompt_tokens_details, usage.completion_tokens_details
            cached = min((details and details.cached_tokens) or 0, usage.prompt_tokens)
            reasoning = min((out and out.reasoning_tokens) or 0, usage.completion_tokens)
            counted = Usage(usage.prompt_tokens - cached, cached, usage.completion_tokens - reasoning, reasoning)
        choices = tuple(part.choice() for part in self._parts)
        return Completion(id=call.id, model=call.model, core=core, choices=choices, usage=counted)

    def _take(self, data: bytes) -> Any:
        """One event: note it, and pass it on; what `emit` wants awaited."""
        try:
            chunk = decode_chunk(data)
        except msgspec.DecodeError as problem:
            raise CoreFailed(f"the server sent an event that is none: {problem}") from None
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.error:
            raise failure_in_stream(chunk.error)
        choices = chunk.choices
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
        if delta is not None:
            text = delta.content
            reasoning = delta.reasoning_content or delta.reasoning
            if delta.tool_calls:
                tools = tuple(_take_tool(part.tools, tool) for tool in delta.tool_calls)
        finish = choice.finish_reason and FINISH.get(choice.finish_reason, "stop")
        if not (text or finish or reasoning or tools):
            return None
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
            )
        )

    def _check_end(self) -> None:
        if not all(part.finish for part in self._parts):
            raise CoreFailed("the server ended its answer in the middle")


def _take_tool(tools: dict[int, _Tool], piece: ToolCallPiece) -> ToolCallDelta:
    tool = tools.setdefault(piece.index, _Tool())
    function = piece.function or Function()
    tool.id = tool.id or piece.id or ""
    tool.name = tool.name or function.name or ""
    arguments = function.arguments or ""
    tool.arguments.append(arguments)
    return ToolCallDelta(piece.index, piece.id or "", function.name or "", arguments)


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


async def _refusal(response: Answer) -> AiosError:
    """The error that a status other than 200 stands for."""
    body = await _some(response, MOST_ERROR_BYTES)
    try:
        said = decode_error(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = ErrorReply(detail=body[:300].decode(errors="replace"))
    found = said.error if isinstance(said.error, ErrorBody) else ErrorBody(message=said.error or said.detail or "")
    return error_of(response.status, found, response.headers.get(b"retry-after", b"").decode("latin-1"))


async def _some(response: Answer, most_bytes: int) -> bytes:
    """The body, as far as it is worth reading."""
    body = b""
    while len(body) < most_bytes and (data := await response.read()):
        body += data
    return body[:most_bytes]


def _loopback(base_url: str) -> SplitResult:
    url, here = SplitResult("", "", "", "", ""), False
    with contextlib.suppress(ValueError):
        url = urlsplit(base_url.rstrip("/"))
        here = url.port != 0 and (url.hostname == "localhost" or ipaddress.ip_address(url.hostname or "").is_loopback)
    if not here or url.scheme != "http":
        raise Invalid(f"`{base_url}` is not `http:` on this machine: only servers on loopback can be used", field="base_url")
    return url


def _reason(problem: BaseException) -> str:
    if isinstance(problem, OSError) and problem.errno:
        return os.strerror(problem.errno)
    return str(problem) or type(problem).__name__
