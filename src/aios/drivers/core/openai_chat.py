"""Cores behind the OpenAI chat wire on this machine: llama-server, vLLM, Ollama and the like, without keys.

Always streams, because only a stream can be aborted early and relayed as it comes. Each event is parsed once, into typed
structs of what we use. What a call costs here every call of every agent costs: no timers per chunk, no generators, nothing is
awaited that need not be.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import msgspec

from aios.abi.bounds import within
from aios.abi.errors import AiosError, CoreFailed, Invalid, Unavailable
from aios.abi.llm import Completion, Count, Tokens
from aios.drivers.core.http1 import Answer, Connections, Unreachable
from aios.drivers.core.openai_answer import MOST_EVENT_BYTES, AnswerReader
from aios.drivers.core.openai_wire import (
    WIRE,
    ErrorBody,
    ErrorReply,
    body_of,
    decode_error,
    decode_listing,
    encode,
    error_of,
    estimated_tokens,
)
from aios.ports.core import CoreCall, CoreEvent, CoreInfo, Emit, Feature, Health, Price, refuse_what_it_cannot

MOST_ERROR_BYTES = 1 << 16
KEEP_ALIVE_S = 4.0
"""Below the 5 s after which common servers close an idle connection, so that we never send into one that is closing."""

PROBE_S, PROBE_TIMEOUT_S = 1.0, 5.0
HEADERS = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIChatConfig:
    """An endpoint: `base_url` up to and with `/v1`, on this machine. `models` empty: those that it lists when we start.

    `slots`: calls that it works on at once; it queues more by itself. `window`: tokens per call. `features`: what it can do,
    which its wire does not tell. `price`: nano-dollars per token (`input`, `cached`, `output`). Without it, `provider` says whose
    prices hold: a provider's name (see `aios prices`), or `local`. With neither, no account with a limit of money uses it.
    """

    name: str
    base_url: str
    models: tuple[str, ...] = ()
    slots: int = 8
    window: int = 8192
    features: frozenset[Feature] = frozenset({"chat", "completion", "seed", "stop"})
    price: Price | None = None
    provider: str = ""

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
                answer = AnswerReader(call, emit)
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
        return Tokens(tokens=estimated_tokens(request.text, request.messages, request.tools), exact=False)

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
            driver=WIRE,
            queues=True,
            price=config.price,
            provider=config.provider,
        )


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
