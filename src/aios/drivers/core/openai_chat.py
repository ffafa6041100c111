"""Cores behind the OpenAI chat wire: llama-server, vLLM, Ollama and the like on this machine, providers elsewhere with a key.

Always streams, because only a stream can be aborted early and relayed as it comes. Each event is parsed once, into typed
structs of what we use. What a call costs here every call of every agent costs: no timers per chunk, no generators, nothing is
awaited that need not be.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import os
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from aios.abi.bounds import within
from aios.abi.errors import AiosError, CoreFailed, Invalid, RateLimited, Unavailable
from aios.abi.llm import Completion, Count, Tokens
from aios.drivers.core.http1 import HTTPS_PORT, Answer, Connections, Unreachable, Untrusted
from aios.drivers.core.key import Key
from aios.drivers.core.openai_answer import MOST_EVENT_BYTES, AnswerReader
from aios.drivers.core.openai_refusals import error_of, most_tokens, wait_of
from aios.drivers.core.openai_wire import (
    DIALECTS,
    WIRE,
    Dialect,
    ErrorReply,
    body_of,
    decode_error,
    decode_listing,
    encode,
    estimated_tokens,
)
from aios.drivers.core.tls import trusting
from aios.ports.core import CoreCall, CoreEvent, CoreInfo, Emit, Feature, Health, NotAsked, Price, refuse_what_it_cannot

MOST_ERROR_BYTES = 1 << 16
NO_ENTRY = (401, 402, 403)
KEEP_ALIVE_S = 4.0
"""Below the 5 s after which common servers close an idle connection, so that we never send into one that is closing."""

PROBE_S, PROBE_TIMEOUT_S = 1.0, 5.0
LONGEST_PROBE_S = 60.0
"""Between two looks for a server elsewhere, which is not asked every second."""

MOST_MODELS, MOST_NAME_CHARACTERS = 5000, 200
"""Of those that a server lists."""

FAR_HEADERS = {"User-Agent": "aios"}
"""What stands before providers turns away who does not say what it is."""
HEADERS = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}


FEATURES: frozenset[Feature] = frozenset({"chat", "completion", "seed", "stop"})
WINDOW = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIChatConfig:
    """An endpoint, or one of the providers that are known, whose `provider` alone says where it is and what its key is called.

    `base_url`: up to and with `/v1`, `http` on this machine or `https` anywhere. `key_env`: the environment variable that holds
    its key; what takes a key, or is elsewhere, is off until keys have a limit. `ca_file`: certificates, one of which must vouch
    for the server, instead of those that this machine trusts. `models` empty: those that it lists when we start.

    `slots`: calls that it works on at once; it queues more by itself. `window`: tokens per call. `features`: what it can do,
    which its wire does not tell. `price`: nano-dollars per token (`input`, `cached`, `output`). Without it, `provider` says whose
    prices hold: a provider's name (see `aios prices`), or `local`. With neither, no account with a limit of money uses it.
    """

    name: str = ""
    base_url: str = ""
    models: tuple[str, ...] = ()
    slots: int = 8
    window: int = WINDOW
    features: frozenset[Feature] = FEATURES
    price: Price | None = None
    provider: str = ""
    key_env: str = ""
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        within("slots", self.slots, 1, 10_000)
        within("window", self.window, 1, 100_000_000)
        for field in ("name", "ca_file"):
            if not str(getattr(self, field) or "").isprintable():
                raise ValueError(f"`{field}` must be printable")
        if self.key_env and not _variable.fullmatch(self.key_env):
            raise ValueError("`key_env` must be the name of an environment variable in capital letters, and not a key")

    @property
    def needs_limit(self) -> bool:
        """Whether it may cost money: it takes a key, or is not on this machine."""
        return bool(self.key_env) or not is_here(address_of(self.base_url))

    @property
    def origin(self) -> str:
        """Where its key goes: `https://HOST:PORT`."""
        address = address_of(self.base_url)
        return f"{address.scheme}://{address.netloc.lower()}"


_variable = re.compile(r"[A-Z_][A-Z0-9_]{0,99}", re.ASCII)
"""As they are usually named; some keys look like one in small letters."""


class OpenAIChat:
    """The port `Core` on an endpoint of the OpenAI chat wire. Raises `Invalid` for an address that it may not ask.

    `key`: goes out with each request, to no other address, and comes out nowhere else. `cover`: is waited for before anything is
    asked that may cost money.
    """

    def __init__(
        self, config: OpenAIChatConfig, key: Key | None = None, cover: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.config = config
        self._address = base = address_of(config.base_url)
        self._tls = trusting(config.ca_file) if base.scheme == "https" else None
        self._key = key
        self._cover = cover
        self._chat, self._complete, self._list = (f"{base.path}/{name}" for name in ("chat/completions", "completions", "models"))
        self._models = config.models
        self._connections: Connections | None = None
        self._changed: Callable[[CoreEvent], None] | None = None
        self._down = "it is not started"
        self._probe: asyncio.Task[None] | None = None
        self._not_before: dict[str, float] = {}
        self._most: dict[str, int] = {}
        self._dialect = DIALECTS.get(config.provider, Dialect())
        self._seeds = "seed" in config.features
        self._info = self._describe()

    def info(self) -> CoreInfo:
        """What its configuration says, and the models that the server listed where that names none."""
        return self._info

    def health(self) -> Health:
        """Whether the server answered when it was last asked for anything."""
        return Health(up=not self._down, detail=self._down)

    async def start(self, changed: Callable[[CoreEvent], None]) -> None:
        """Look whether the server is there. Raises `Unavailable` if it is not, or lists no model and none is configured.

        One that may cost money is elsewhere, and may be out of reach just now: with models in its configuration it is down then.
        """
        self._changed = changed
        address, tls = self._address, self._tls
        headers = HEADERS if tls is None else {**HEADERS, **FAR_HEADERS}
        if self._key is not None:
            headers = {**headers, "Authorization": self._key.header}
        port = address.port or (80 if tls is None else HTTPS_PORT)
        self._connections = Connections(address.hostname or "", port, headers, KEEP_ALIVE_S, tls)
        try:
            listed = await self._ask_models()
        except (OSError, TimeoutError) as problem:
            if self.config.needs_limit and self.config.models:
                self._down = ""
                self._lose(_reason(problem))
                return
            self._connections.close()
            mend = "start it, or mend `base_url`"
            if isinstance(problem, Untrusted):
                mend = "mend `base_url`, or name in `ca_file` who vouches for it"
            elif self.config.needs_limit:
                mend = "name its `models`, and it is used once it answers"
            raise Unavailable(f"no server answers at {self.config.base_url} ({_reason(problem)}): {mend}") from None
        except AiosError:
            self._connections.close()
            raise
        self._models = self.config.models or listed
        if not self._models:
            self._connections.close()
            raise Unavailable(f"the server at {self.config.base_url} lists no models: name them in `models`")
        self._info = self._describe()
        self._set_down("")

    def generate(self, call: CoreCall, emit: Emit) -> Coroutine[Any, Any, Completion]:
        """Generate, as the port says; `RateLimited` where the server says so."""
        return self._ask(call, emit) if self._key is None and self._cover is None else self._ask_provider(call, emit)

    async def _ask_provider(self, call: CoreCall, emit: Emit) -> Completion:
        """The same of one that wants to be asked no sooner and for no more than it says."""
        self._hold_back(call.model)
        if self._cover is not None:
            await self._cover()
        most = self._most.get(call.model)
        try:
            return await self._ask(self._fitting(call), emit)
        except Invalid:
            if self._most.get(call.model) == most:
                raise
            return await self._ask(self._fitting(call), emit)

    async def _ask(self, call: CoreCall, emit: Emit) -> Completion:
        refuse_what_it_cannot(self._info, call)
        body = encode(body_of(call, self._dialect, self._seeds))
        connections = self._connections
        if connections is None or connections.closed:
            raise Unavailable(f"core `{self.config.name}` is down: {self._down}")
        try:
            response = await connections.request("POST", self._complete if call.request.prompt is not None else self._chat, body)
            try:
                if response.status != 200:
                    raise await self._refusal(response, call.model, call.request.max_tokens)
                answer = AnswerReader(call, emit, self._key, self._dialect)
                await answer.read(response)
                return answer.completion(self.config.name)
            finally:
                connections.done(response)
                if not response.reusable:
                    await asyncio.sleep(0)  # the loop closes the socket in its next pass: the server knows before we return
        except Unreachable as problem:
            self._lose(_reason(problem))
            said = f"core `{self.config.name}` does not answer: {_reason(problem)}"
            if self.config.needs_limit:
                raise Unavailable(said, retry_after_s=PROBE_S) from None  # what was not asked for is not paid for
            raise NotAsked(said) from None
        except OSError as problem:
            raise CoreFailed(f"core `{self.config.name}` broke off: {_reason(problem)}") from None

    def _fitting(self, call: CoreCall) -> CoreCall:
        """The call with no more tokens to its answer than its model can: a budget's room may be more than that."""
        most, asked = self._most.get(call.model), call.request.max_tokens
        if most is None or asked is None or asked <= most:
            return call
        return msgspec.structs.replace(call, request=msgspec.structs.replace(call.request, max_tokens=most))

    def _hold_back(self, model: str) -> None:
        """Raises `RateLimited` for a model that its server wants to hear nothing of for now."""
        left_s = self._not_before.get(model, 0.0) - time.monotonic()
        if left_s > 0:
            said = f"`{self.config.name}` asked for no more calls of `{model}` for now: another {math.ceil(left_s)} s"
            raise RateLimited(said, retry_after_s=left_s)
        self._not_before.pop(model, None)

    async def _refusal(self, response: Answer, model: str, asked: int | None = None) -> AiosError:
        """The error that a status other than 200 stands for."""
        body = await _some(response, MOST_ERROR_BYTES)
        try:
            said = decode_error(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = ErrorReply(detail=body[:1000].decode(errors="replace"))
        most = most_tokens(response.status, said.body())
        if most and asked is not None and most < self._most.get(model, asked):
            self._most[model] = most
        error = error_of(response.status, said.body(), wait_of(response.headers), self._key)
        if self._key is not None and isinstance(error, RateLimited) and error.retry_after_s:
            self._not_before[model] = time.monotonic() + error.retry_after_s
        return error

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
                if response.status in NO_ENTRY and self._key is not None:
                    raise await self._refusal(response, "")
                data = await _some(response, MOST_EVENT_BYTES)
            finally:
                self._connections.done(response)
        try:
            found = decode_listing(data if self._key is None else self._key.hide_in(data)) if response.status == 200 else []
        except msgspec.DecodeError:
            return ()
        ids = (model.id for model in (found if isinstance(found, list) else found.data))
        return tuple(dict.fromkeys(id for id in ids if 0 < len(id) <= MOST_NAME_CHARACTERS and id.isprintable()))[:MOST_MODELS]

    def _lose(self, detail: str) -> None:
        """The server is gone: say so, and look for it until it is back."""
        if not self._down and self._connections is not None and not self._connections.closed:
            self._set_down(f"no server answers at {self.config.base_url} ({detail})")
            self._probe = asyncio.create_task(self._find_again(), name=f"core {self.config.name}")

    async def _find_again(self) -> None:
        wait_s = PROBE_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, LONGEST_PROBE_S) if self.config.needs_limit else PROBE_S
            try:
                await self._ask_models()
            except (OSError, TimeoutError):
                continue
            except AiosError:
                pass  # it answers; what it says of the key, each call hears
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
            default="first" if not config.needs_limit else "last" if config.models else "never",
        )


async def _some(response: Answer, most_bytes: int) -> bytes:
    """The body, as far as it is worth reading."""
    body = b""
    while len(body) < most_bytes and (data := await response.read()):
        body += data
    return body[:most_bytes]


def address_of(base_url: str) -> SplitResult:
    """The parts of an address that may be asked: `http` on this machine, `https` anywhere. Raises `Invalid`."""
    try:
        url = urlsplit(base_url.rstrip("/"))
        good = url.port != 0 and bool(url.hostname) and (url.hostname or "").isascii()
    except ValueError:
        good, url = False, SplitResult("", "", "", "", "")
    good = good and base_url.isascii() and base_url.isprintable() and " " not in base_url
    if good and (url.username is not None or url.password is not None or url.query or url.fragment):
        raise Invalid("`base_url` is more than host, port and path: a key's place is the variable `key_env`", field="base_url")
    if not good or url.scheme not in ("http", "https") or (url.scheme == "http" and not is_here(url)):
        shown = base_url[:200] if base_url.isprintable() and "@" not in base_url else "what `base_url` says"
        raise Invalid(f"`{shown}` is neither `https:`, nor `http:` on this machine", field="base_url")
    return url


def is_here(address: SplitResult) -> bool:
    """Whether it is on this machine."""
    host = address.hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(problem: BaseException) -> str:
    if isinstance(problem, OSError) and problem.errno:
        return os.strerror(problem.errno)
    return str(problem) or type(problem).__name__
