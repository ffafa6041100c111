"""A kernel in the test's own process: documents in memory, the loop's own time, agents that are coroutines of the loop.

    async def work(gate: Gate, question: str) -> str:
        return (await gate.call(Generate(prompt=question))).text

    async with kernel_for_tests(cores=[ScriptedCore("42")], agents={"work": work}) as k:
        agent = await k.spawn("work", "6 * 7?")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "42"

Everything goes through the kernel's own doors: nothing is replaced but the world around it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from aios.abi.answers import read_result, result_text
from aios.abi.errors import AiosError, Cancelled, ChildFailed, ToolFailed
from aios.abi.manifest import Manifest
from aios.abi.process import ProcessInfo, Signal, Spawn
from aios.abi.request import Class
from aios.abi.system import AddToken, NewToken
from aios.drivers.store.memory import MemoryStore
from aios.kernel.guard import GuardConfig
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.main import Kernel, Parts
from aios.ports.core import Core
from aios.ports.embedder import Embedder
from aios.ports.gate import Gate
from aios.ports.host import HostGone, Hosts
from aios.ports.prices import OwnPrices, Prices
from aios.ports.program import Ending, Launch
from aios.ports.store import Store
from aios.server.local import LocalGate

EPOCH_NS = 1_700_000_000 * 10**9
"""What a virtual clock shows when its loop begins: the same in each run."""

AgentFunction = Callable[..., Awaitable[Any]]
"""Takes a `Gate` and the agent's arguments."""
ToolFunction = Callable[..., Awaitable[Any]]
"""Takes the arguments of a tool, by their names."""


PROGRAM = __file__
"""The program of scripted agents: a file that exists, and is never run."""


def manifest_of(entry: str, **fields: Any) -> Manifest:
    """The manifest of a scripted agent that asks for `use /llm/*`, unless the fields say otherwise."""
    return Manifest(**{"agent": entry, "program": PROGRAM, "entry": entry, "grants": ("use /llm/*",), **fields})


class VirtualClock:
    """The port `Clock`: both its times are the running loop's."""

    def now_ns(self) -> int:
        return EPOCH_NS + round(asyncio.get_running_loop().time() * 1e9)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class MemoryDocument:
    """The port `Document` in memory. `content`: what a file would hold."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content = content

    def load(self) -> bytes | None:
        return self.content

    def save(self, content: bytes) -> None:
        self.content = content


class ScriptedHost:
    """The port `Host` by script: a host whose agents are coroutines of this loop, and which may die at any time."""

    def __init__(
        self, kernel: Kernel, agents: Mapping[str, AgentFunction], tools: Mapping[str, ToolFunction], program: str, os_pid: int
    ) -> None:
        self._kernel = kernel
        self._agents = agents
        self._tools = tools
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.program = program
        self.os_pid = os_pid
        self.signals: list[tuple[str, Signal]] = []
        """What it was told to pass on."""

    @property
    def pids(self) -> tuple[str, ...]:
        """The processes that run in it."""
        return tuple(self._running)

    async def run(self, pid: str, entry: str, arguments: tuple[Any, ...], model: str) -> Any:
        """See the port. An agent that ends because it was told to ends with `Cancelled`."""
        if self._ended.done():
            raise HostGone(self._ended.result())
        if entry not in self._agents:
            raise ChildFailed(f"`{self.program}` has no agent function `{entry}`")
        gate: Gate = LocalGate(self._kernel, self._kernel.resident(pid))
        work = self._running[pid] = asyncio.ensure_future(self._agents[entry](gate, *arguments))
        try:
            await asyncio.wait((work, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                raise HostGone(self._ended.result())
            return work.result()
        except asyncio.CancelledError:
            if work.cancelled():
                raise Cancelled("it was told to end") from None
            raise
        except (AiosError, HostGone):
            raise
        except Exception as error:  # noqa: BLE001  # an agent's own code may raise anything
            raise ChildFailed(f"{type(error).__name__}: {error}") from None
        finally:
            del self._running[pid]
            work.cancel()

    async def run_tool(self, pid: str, tool: str, arguments: dict[str, Any]) -> Any:
        """See the port."""
        work = asyncio.ensure_future(self._tools[tool](**arguments))
        try:
            await asyncio.wait((work, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                raise HostGone(self._ended.result())
            return read_result(result_text(work.result()))
        except ChildFailed as error:
            raise ToolFailed(f"`{tool}`: {error.message}") from None
        except (AiosError, HostGone):
            raise
        except Exception as error:  # noqa: BLE001  # a tool's own code may raise anything
            raise ToolFailed(f"`{tool}` failed: {type(error).__name__}: {error}") from None
        finally:
            work.cancel()

    def signal(self, pid: str, signal: Signal) -> None:
        """See the port: both signals arrive as a cancellation."""
        self.signals.append((pid, signal))
        if pid in self._running:
            self._running[pid].cancel()

    def kill(self) -> None:
        """See the port: it is gone in the next turn of the loop, as a real one is gone a moment later."""
        asyncio.get_running_loop().call_soon(self.die, "killed by signal 9")

    def die(self, how: str = "killed by signal 11") -> None:
        """End as a child does that crashes."""
        if not self._ended.done():
            self._ended.set_result(how)

    async def wait_ended(self) -> str:
        """See the port."""
        return await asyncio.shield(self._ended)


class ScriptedHosts:
    """The port `Hosts`: every program has the same agents. `hosts`: all that were started; `start_s`: how long that takes."""

    def __init__(
        self, agents: Mapping[str, AgentFunction], start_s: float = 0.0, tools: Mapping[str, ToolFunction] | None = None
    ) -> None:
        self._agents = agents
        self._tools = tools or {}
        self._kernel: Kernel | None = None
        self._os_pids = itertools.count(1001)
        self.start_s = start_s
        self.hosts: list[ScriptedHost] = []

    def serve(self, kernel: Kernel) -> None:
        """Take the agents' calls to this kernel."""
        self._kernel = kernel

    async def start(self, program: str) -> ScriptedHost:
        """See the port."""
        assert self._kernel is not None
        if self.start_s:
            await asyncio.sleep(self.start_s)
        host = ScriptedHost(self._kernel, self._agents, self._tools, program, next(self._os_pids))
        self.hosts.append(host)
        return host


ProgramFunction = Callable[..., Awaitable[int]]
"""Takes a `Gate` and the words of the command after the first; returns its exit code."""


class ScriptedProgram:
    """The port `Program` by script: a coroutine of this loop. What a real one gets as SIGTERM arrives as a cancellation."""

    def __init__(self, work: Awaitable[int], launch: Launch, os_pid: int) -> None:
        self._work = asyncio.ensure_future(work)
        self._work.add_done_callback(self._returned)
        self._ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.launch = launch
        self.os_pid = os_pid
        self.signals: list[Signal] = []
        """What it was sent."""

    def signal(self, signal: Signal) -> None:
        """See the port."""
        if self._ended.done():
            return
        self.signals.append(signal)
        if signal == "stop":
            self._work.cancel()
        if signal == "kill":
            self.end(137, "killed by signal 9")

    def end(self, code: int, how: str) -> None:
        """End as a program does that crashes: nothing that it does about it counts."""
        if not self._ended.done():
            self._ended.set_result(Ending(code, how))
        if not self._work.done():
            self._work.cancel()
            asyncio.get_running_loop().call_soon(self.end, code, how)

    def _returned(self, work: asyncio.Future[int]) -> None:
        if work.cancelled():
            self.end(143, "killed by signal 15")
        else:
            code = 1 if work.exception() is not None else work.result()
            self.end(code, f"exit {code}")

    async def wait_ended(self) -> Ending:
        """See the port."""
        return await asyncio.shield(self._ended)


class ScriptedPrograms:
    """The port `Programs`: the last part of a command's path says which function it is. `started`: all that were."""

    def __init__(self, programs: Mapping[str, ProgramFunction], start_s: float = 0.0) -> None:
        self._programs = programs
        self._kernel: Kernel | None = None
        self._os_pids = itertools.count(5001)
        self.start_s = start_s
        self.started: list[ScriptedProgram] = []

    def serve(self, kernel: Kernel) -> None:
        """Take the programs' calls to this kernel."""
        self._kernel = kernel

    async def start(self, launch: Launch) -> ScriptedProgram:
        """See the port."""
        assert self._kernel is not None
        path, *words = launch.command
        function = self._programs.get(path.rpartition("/")[2])
        if self.start_s:
            await asyncio.sleep(self.start_s)
        if function is None:
            raise ChildFailed(f"`{path}` cannot be started: No such file or directory")
        gate = LocalGate(self._kernel, self._kernel.attach(launch.token))
        program = ScriptedProgram(function(gate, *words), launch, next(self._os_pids))
        self.started.append(program)
        return program


class ServedHosts(Hosts, Protocol):
    """Hosts that have to know the kernel whose agents they run."""

    def serve(self, kernel: Kernel) -> None: ...


@dataclass
class RunningKernel:
    """A kernel under test and what stands around it. `operator`: the Gate of a person who may do everything."""

    kernel: Kernel
    operator: LocalGate
    hosts: ScriptedHosts
    store: Store
    tokens: MemoryDocument
    programs: ScriptedPrograms

    async def token(self, agent: str = "client", grants: Sequence[str] = ("use /llm/*",), cls: Class = "standard") -> NewToken:
        """A new token for a client."""
        return await self.operator.call(AddToken(agent=agent, grants=tuple(grants), cls=cls))

    async def session(self, agent: str = "client", grants: Sequence[str] = ("use /llm/*",), cls: Class = "standard") -> LocalGate:
        """The Gate of a client's session, under a token of its own."""
        return self.attach((await self.token(agent, grants, cls)).value)

    def attach(self, token: str, session: str = "") -> LocalGate:
        """The Gate of the process that a token speaks for."""
        return LocalGate(self.kernel, self.kernel.attach(token, session))

    def accept(self, manifest: Manifest) -> Manifest:
        """The manifest, which the operator has accepted."""
        self.kernel.consents.check(manifest, manifest.hash())
        return manifest

    async def spawn(self, entry: str, *arguments: Any, by: Gate | None = None, **manifest: Any) -> ProcessInfo:
        """Start an agent function, which the operator has accepted; `by`: who starts it, if not the operator."""
        wanted = self.accept(manifest_of(entry, **manifest))
        return await (by or self.operator).call(Spawn(manifest=wanted, arguments=arguments))

    async def launch(self, *command: str, **manifest: Any) -> ProcessInfo:
        """Start a command, which the operator has accepted. The first word is the name of a scripted program."""
        words = {"command": (f"/bin/{command[0]}", *command[1:]), "folder": "/", "grants": ("use /llm/*",)}
        wanted = self.accept(Manifest(**{"agent": command[0], **words, **manifest}))
        return await self.operator.call(Spawn(manifest=wanted))


@asynccontextmanager
async def kernel_for_tests(
    cores: Sequence[Core] = (), agents: Mapping[str, AgentFunction] | None = None, *, lane: LaneConfig | None = None,
    aliases: Mapping[str, tuple[str, ...]] | None = None, tokens: bytes | None = None, hosts: ServedHosts | None = None,
    index: LaneConfig | None = None, embedders: Sequence[Embedder] = (),
    programs: Mapping[str, ProgramFunction] | None = None, tools: Mapping[str, ToolFunction] | None = None,
    limit_s: float = 4000.0, prices: Prices | None = None, guard: GuardConfig | None = None,
) -> AsyncIterator[RunningKernel]:  # fmt: skip
    """A kernel as long as the block runs, at most `limit_s` seconds of the loop's time.

    `agents`: functions by their entry, which run in this loop; or else `hosts` in which they run; `tools`: the functions that
    they may register. `programs`: what commands do, by their name. `tokens`: content of the token file. `prices`: not
    given, what is made on this machine costs nothing, and nobody knows other prices. `guard`: what makes a runaway.
    """
    scripted, store, document = ScriptedHosts(agents or {}, tools=tools), MemoryStore(), MemoryDocument(tokens)
    served, commands = hosts or scripted, ScriptedPrograms(programs or {})
    parts = Parts(
        clock=VirtualClock(), store=store, tokens=document, consents=MemoryDocument(), hosts=served, lane=lane or LaneConfig(),
        index=index or LaneConfig(), embedders=tuple(embedders), aliases=dict(aliases or {}), programs=commands,
        prices=prices or OwnPrices(), guard=guard or GuardConfig(),
    )  # fmt: skip
    async with asyncio.timeout(limit_s), Kernel(parts) as kernel:
        served.serve(kernel)
        commands.serve(kernel)
        for core in cores:
            await kernel.add_core(core)
        operator = LocalGate(kernel, kernel.attach(kernel.tokens.new_operator()))
        yield RunningKernel(kernel, operator, scripted, store, document, commands)
