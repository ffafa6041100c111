"""The three ways to the kernel behind one Gate, for scenarios: in process, over a host's socketpair, over HTTP.

Both ends of each are the real ones, in one loop and in virtual time.
"""

import asyncio
import contextlib
import itertools
import json
import socket
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from aios.abi.answers import result_text
from aios.abi.errors import AiosError, Cancelled, ChildFailed, Fault, ToolFailed, error_of
from aios.abi.frames import Answer, Ask, RunTool, Tell
from aios.abi.llm import Delta, Queued, Started
from aios.abi.request import NO_OPTIONS, CallOptions, Class, Request
from aios.abi.table import ROW_OF
from aios.ports.core import Core
from aios.ports.gate import Gate
from aios.ports.sandbox import Isolation, Output, Rules
from aios.sdk.gate import SocketGate
from aios.server.doors import doors_to
from aios.server.http import HttpServer, ServerConfig
from aios.server.socket import SocketHosts
from aios.testing.kernel import AgentFunction, RunningKernel, ToolFunction, kernel_for_tests, manifest_of

TRANSPORTS = ("in process", "socket", "http")
ALL = ("use /*", "read /*", "write /*", "spawn /*", "own /*")
"""Everything that can be granted."""


@dataclass
class World:
    """A kernel, and processes that reach it over one transport. `hosts`: the host children that were started, oldest first."""

    k: RunningKernel
    transport: str
    make: Callable[[str, Sequence[str], Class], Any]
    hosts: Sequence[Any]
    names: itertools.count = field(default_factory=lambda: itertools.count(1))  # type: ignore[type-arg]

    async def process(self, grants: Sequence[str] = ("use /llm/*",), cls: Class = "standard") -> Gate:
        """The Gate of a new process with these rights."""
        gate: Gate = await self.make(f"caller{next(self.names)}", grants, cls)
        return gate


@asynccontextmanager
async def world(
    transport: str, cores: Sequence[Core] = (), agents: Mapping[str, AgentFunction] | None = None, **kernel: Any
) -> AsyncIterator[World]:
    """A kernel for one scenario. The operator has accepted the agents, with the grants of `manifest_of` and without any."""
    opened = {"in process": _in_process, "socket": _over_sockets, "http": _over_http}[transport]
    async with opened(cores, agents or {}, kernel) as (k, make, hosts):
        for entry in agents or {}:
            k.accept(manifest_of(entry))
            k.accept(manifest_of(entry, grants=()))
        yield World(k, transport, make, hosts)


@asynccontextmanager
async def _in_process(cores: Any, agents: Any, kernel: Any) -> AsyncIterator[Any]:
    async with kernel_for_tests(cores, agents, **kernel) as k:
        yield k, k.session, k.hosts.hosts


# --- over HTTP --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _over_http(cores: Any, agents: Any, kernel: Any) -> AsyncIterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        async with kernel_for_tests(cores, agents, **kernel) as k:
            path = f"{folder}/aios.sock"
            server = HttpServer(k.kernel, doors_to(k.kernel), ServerConfig(port=0, socket=path))
            await server.start()
            connector = aiohttp.UnixConnector(path, limit=0, force_close=True)
            async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:

                async def make(agent: str, grants: Sequence[str], cls: Class) -> Gate:
                    return HttpGate(http, (await k.token(agent, grants, cls)).value)

                yield k, make, k.hosts.hosts
            await server.close(grace_s=1.0)


_events = msgspec.json.Decoder(Queued | Started | Delta)


class HttpGate:
    """The port `Gate` as any HTTP client can be one."""

    def __init__(self, http: aiohttp.ClientSession, token: str) -> None:
        self._http = http
        self.token = token

    async def call(self, request: Request[Any], options: CallOptions = NO_OPTIONS) -> Any:
        async with self._post(request, options, "application/json") as response:
            body = await response.read()
            if response.status != 200:
                raise _error(body, response.status)
            return msgspec.json.decode(body, type=ROW_OF[type(request)].reply)

    async def stream(self, request: Request[Any], options: CallOptions = NO_OPTIONS) -> AsyncGenerator[Any, None]:
        async with self._post(request, options, "text/event-stream") as response:
            if response.status != 200:
                raise _error(await response.read(), response.status)
            if response.content_type == "application/json":
                yield msgspec.json.decode(await response.read(), type=ROW_OF[type(request)].reply)
                return
            name = ""
            async for line in _lines(response):
                kind, _, value = line.decode().partition(": ")
                if kind == "event":
                    name = value
                elif kind == "data" and name == "reply":
                    yield msgspec.json.decode(value, type=ROW_OF[type(request)].reply)
                elif kind == "data" and name == "error":
                    raise _error(value.encode(), 0)
                elif kind == "data":
                    yield _events.decode(value)

    def _post(self, request: Request[Any], options: CallOptions, accept: str) -> Any:
        headers = {"authorization": f"Bearer {self.token}", "accept": accept, "content-type": "application/json"}
        if options.cls is not None:
            headers["x-aios-class"] = options.cls
        if options.deadline_s is not None:
            headers["x-aios-deadline-s"] = str(options.deadline_s)
        if options.key is not None:
            headers["x-aios-key"] = options.key
        if options.trace is not None and options.trace.tag:
            headers["x-aios-tag"] = options.trace.tag
        name = ROW_OF[type(request)].name
        return self._http.post(f"http://aios/v1/call/{name}", data=msgspec.json.encode(request), headers=headers)


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Lines of any length."""
    pieces: list[bytes] = []
    async for data in response.content.iter_any():
        *whole, rest = data.split(b"\n")
        for line in whole:
            yield b"".join((*pieces, line))
            pieces.clear()
        pieces.append(rest)


def _error(body: bytes, status: int) -> AiosError:
    error = error_of(msgspec.convert(json.loads(body)["error"], Fault))
    assert status in (0, error.http), f"{error.code} came with status {status}"
    return error


# --- over a socketpair ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _over_sockets(cores: Any, agents: Any, kernel: Any) -> AsyncIterator[Any]:
    gates: dict[str, asyncio.Future[Gate]] = {}

    async def puppet(gate: Gate, name: str) -> None:
        gates[name].set_result(gate)
        await asyncio.Event().wait()

    with tempfile.TemporaryDirectory() as folder:
        sandbox = LoopSandbox({**agents, "puppet": puppet}, kernel.pop("tools", None) or {})
        hosts = SocketHosts(sandbox, folder, readable=())
        async with kernel_for_tests(cores, hosts=hosts, **kernel) as k:

            async def make(agent: str, grants: Sequence[str], cls: Class) -> Gate:
                gates[agent] = asyncio.get_running_loop().create_future()
                await k.spawn("puppet", agent, agent=agent, grants=tuple(grants), cls=cls)
                return await gates[agent]

            yield k, make, sandbox.children
        await hosts.close()
        await asyncio.sleep(0.01)  # so that both ends of each connection are told


class LoopSandbox:
    """The port `Sandbox` whose children are no processes: the agents' end of the socket is served in this loop."""

    def __init__(self, agents: Mapping[str, AgentFunction], tools: Mapping[str, ToolFunction]) -> None:
        self._agents = agents
        self._tools = tools
        self._os_pids = itertools.count(1001)
        self.children: list[LoopChild] = []

    def isolation(self) -> Isolation:
        return Isolation(mechanism="none", confined=(), missing=("everything: it is a stand-in",))

    async def start(
        self, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int], rules: Rules, folder: str, output: Output
    ) -> "LoopChild":
        child = LoopChild(self._agents, self._tools, socket.socket(fileno=socket.dup(fds[0])), next(self._os_pids))
        self.children.append(child)
        return child


class LoopChild:
    """A host child whose agents are coroutines of this loop, behind a real connection."""

    def __init__(
        self, agents: Mapping[str, AgentFunction], tools: Mapping[str, ToolFunction], end: socket.socket, os_pid: int
    ) -> None:
        self._agents = agents
        self._tools = tools
        self._tools_running: dict[int, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._end = end
        self._connecting = asyncio.ensure_future(SocketGate.connect(end, self))
        self.os_pid = os_pid

    async def gate(self) -> SocketGate:
        """The agents' end of the connection."""
        return await asyncio.shield(self._connecting)

    @property
    def ended(self) -> bool:
        return self._ended.done()

    def asked(self, ask: Ask) -> None:
        self._running[ask.pid] = asyncio.ensure_future(self._run(ask))

    async def _run(self, ask: Ask) -> None:
        gate = await self.gate()
        try:
            answer = Answer(ask.id, result_text(await self._agents[ask.entry](gate.of(ask.pid), *ask.arguments)))
        except asyncio.CancelledError:
            answer = Answer(ask.id, fault=Cancelled("it was told to end").fault())
        except AiosError as error:
            answer = Answer(ask.id, fault=error.fault())
        except Exception as error:  # noqa: BLE001  # an agent's own code may raise anything
            answer = Answer(ask.id, fault=ChildFailed(f"{type(error).__name__}: {error}").fault())
        del self._running[ask.pid]
        if not self._ended.done():
            gate.send(answer)

    def asked_tool(self, ask: RunTool) -> None:
        self._tools_running[ask.id] = asyncio.ensure_future(self._run_tool(ask))

    def given_up(self, id: int) -> None:
        if id in self._tools_running:
            self._tools_running[id].cancel()

    async def _run_tool(self, ask: RunTool) -> None:
        gate = await self.gate()
        try:
            answer = Answer(ask.id, result_text(await self._tools[ask.tool](**ask.arguments)))
        except asyncio.CancelledError:
            answer = Answer(ask.id, fault=Cancelled("it was told to end").fault())
        except AiosError as error:
            answer = Answer(ask.id, fault=error.fault())
        except Exception as error:  # noqa: BLE001  # a tool's own code may raise anything
            answer = Answer(ask.id, fault=ToolFailed(f"{type(error).__name__}: {error}").fault())
        del self._tools_running[ask.id]
        if not self._ended.done():
            gate.send(answer)

    def told(self, tell: Tell) -> None:
        if tell.pid in self._running:
            self._running[tell.pid].cancel()

    def cut_off(self) -> None:
        self.kill()

    def kill(self) -> None:
        """As SIGKILL would: nothing more is said."""
        if not self._ended.done():
            self._ended.set_result("killed by signal 9")
            with contextlib.suppress(OSError):  # it is closed already
                self._end.shutdown(socket.SHUT_RDWR)
            for task in (self._connecting, *self._running.values(), *self._tools_running.values()):
                task.cancel()

    async def wait_ended(self) -> str:
        return await asyncio.shield(self._ended)
