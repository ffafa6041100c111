"""A kernel with a scripted core behind the HTTP doors, for the tests of this folder."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import aiohttp

from aios.drivers.store.memory import MemoryStore
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.main import Kernel, Parts
from aios.outbox import Outbox
from aios.ports.embedder import Embedder
from aios.server.doors import doors_to
from aios.server.http import HttpServer, ServerConfig
from aios.server.listener import Peer
from aios.testing import Script, ScriptedCore


class LoopClock:
    """Time as the running loop has it, virtual or real."""

    def now_ns(self) -> int:
        return 1_700_000_000_000_000_000 + int(asyncio.get_running_loop().time() * 1e9)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class MemoryDocument:
    def __init__(self) -> None:
        self.content: bytes | None = None

    def load(self) -> bytes | None:
        return self.content

    def save(self, content: bytes) -> None:
        self.content = content


class NoHosts:
    """For tests that start no agents."""

    async def start(self, program: str) -> NoReturn:
        raise AssertionError(program)


@asynccontextmanager
async def running_kernel(
    core: ScriptedCore, hosts: Any = None, lane: LaneConfig | None = None, embedders: tuple[Embedder, ...] = (),
    aliases: dict[str, tuple[str, ...]] | None = None,
) -> AsyncIterator[Kernel]:  # fmt: skip
    """A kernel with one core."""
    parts = Parts(
        clock=LoopClock(), store=MemoryStore(), tokens=MemoryDocument(), consents=MemoryDocument(), hosts=hosts or NoHosts(),
        lane=lane or LaneConfig(), embedders=embedders, aliases=aliases or {},
    )  # fmt: skip
    async with Kernel(parts) as kernel:
        await kernel.add_core(core)
        yield kernel


@dataclass
class Served:
    """A kernel that listens."""

    kernel: Kernel
    server: HttpServer
    core: ScriptedCore
    token: str
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(self.url + path, json={} if body is None else body, headers={**self.headers, **names})

    def get(self, path: str) -> Any:
        return self.http.get(self.url + path, headers=self.headers)


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition of which nobody is told."""
    async with asyncio.timeout(5):
        while not true():  # as it says
            await asyncio.sleep(0.005)


def server_of(kernel: Kernel, config: ServerConfig) -> HttpServer:
    return HttpServer(kernel, doors_to(kernel), config)


@asynccontextmanager
async def served(
    core: ScriptedCore | None = None, lane: LaneConfig | None = None, embedders: tuple[Embedder, ...] = (),
    aliases: dict[str, tuple[str, ...]] | None = None, **config: Any,
) -> AsyncIterator[Served]:  # fmt: skip
    """A kernel that listens on a free port, and a client for it."""
    core = core or ScriptedCore()
    async with running_kernel(core, lane=lane, embedders=embedders, aliases=aliases) as kernel:
        server = server_of(kernel, ServerConfig(port=0, **config))
        await server.start()
        token = kernel.tokens.add("tester", ("use /llm/*", "read /kernel"), "standard").value
        try:
            async with aiohttp.ClientSession() as http:
                yield Served(kernel, server, core, token, http)
        finally:
            await server.close(grace_s=1.0)


class Visitor:
    """A client without a socket, at the ASGI application itself: `sent` is what it was sent, with the second."""

    def __init__(self, path: str, body: Any, headers: Mapping[str, str]) -> None:
        names = {"host": "localhost", "content-type": "application/json", **headers}
        self.peer = Peer(Outbox(asyncio.get_running_loop()))
        self.scope = {
            "type": "http", "method": "POST", "path": path, "query_string": b"", "server": ("127.0.0.1", 1),
            "state": {"peer": self.peer},
            "headers": [(name.encode(), value.encode()) for name, value in names.items()],
        }  # fmt: skip
        self._body: Any = {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        self.sent: list[tuple[float, Any]] = []
        self.gone = asyncio.Event()

    async def visit(self, server: HttpServer) -> None:
        """Make its request, in the task that calls this."""
        self.peer.task = asyncio.current_task()
        await server.app(self.scope, self.receive, self.send)

    async def receive(self) -> Any:
        body, self._body = self._body, None
        if body is None:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        return body

    async def send(self, message: Any) -> None:
        if not self.gone.is_set():  # as the server library does
            self.sent.append((round(asyncio.get_running_loop().time(), 1), message))

    def go(self) -> None:
        """Its connection breaks."""
        self.gone.set()
        self.peer.gone()

    def said(self) -> list[tuple[float, bytes]]:
        return [(at_s, message["body"]) for at_s, message in self.sent if message["type"] == "http.response.body"]

    def answer(self) -> bytes:
        return b"".join(body for _, body in self.said())

    @property
    def status(self) -> int:
        return int(self.sent[0][1]["status"])

    @property
    def whole(self) -> bool:
        """Whether its answer has come to its end."""
        return bool(self.sent) and "body" in self.sent[-1][1] and not self.sent[-1][1].get("more_body", False)


async def visit(script: Script, body: Any, **headers: str) -> Visitor:
    async with running_kernel(ScriptedCore(script)) as kernel:
        server = server_of(kernel, ServerConfig())
        token = kernel.tokens.add("tester", ("use /llm/*",), "standard").value
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        visitor = Visitor("/v1/chat/completions", body, {"x-api-key": token, **names})
        await visitor.visit(server)
        await server.close(0)
        return visitor


CHAT = {"model": "default", "messages": [{"role": "user", "content": "hello"}]}
