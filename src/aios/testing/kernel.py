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

from aios.abi.errors import AiosError, Cancelled, ChildFailed
from aios.abi.manifest import Manifest
from aios.abi.process import ProcessInfo, Signal, Spawn
from aios.abi.request import Class
from aios.abi.system import AddToken, NewToken
from aios.drivers.store.memory import MemoryStore
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.main import Kernel, Parts
from aios.ports.core import Core
from aios.ports.embedder import Embedder
from aios.ports.gate import Gate
from aios.ports.host import HostGone, Hosts
from aios.ports.store import Store
from aios.server.local import LocalGate

EPOCH_NS = 1_700_000_000 * 10**9
"""What a virtual clock shows when its loop begins: the same in each run."""

AgentFunction = Callable[..., Awaitable[Any]]
"""Takes a `Gate` and the agent's arguments."""


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

    def __init__(self, kernel: Kernel, agents: Mapping[str, AgentFunction], program: str, os_pid: int) -> None:
        self._kernel = kernel
        self._agents = agents
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

    def __init__(self, agents: Mapping[str, AgentFunction], start_s: float = 0.0) -> None:
        self._agents = agents
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
        host = ScriptedHost(self._kernel, self._agents, program, next(self._os_pids))
        self.hosts.append(host)
        return host


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


@asynccontextmanager
async def kernel_for_tests(
    cores: Sequence[Core] = (), agents: Mapping[str, AgentFunction] | None = None, *, lane: LaneConfig | None = None,
    aliases: Mapping[str, tuple[str, ...]] | None = None, tokens: bytes | None = None, hosts: ServedHosts | None = None,
    index: LaneConfig | None = None, embedders: Sequence[Embedder] = (), limit_s: float = 4000.0,
) -> AsyncIterator[RunningKernel]:  # fmt: skip
    """A kernel as long as the block runs, at most `limit_s` seconds of the loop's time.

    `agents`: functions by their entry, which run in this loop; or else `hosts` in which they run. `tokens`: content of the
    token file.
    """
    scripted, store, document = ScriptedHosts(agents or {}), MemoryStore(), MemoryDocument(tokens)
    served = hosts or scripted
    parts = Parts(
        clock=VirtualClock(), store=store, tokens=document, consents=MemoryDocument(), hosts=served, lane=lane or LaneConfig(),
        index=index or LaneConfig(), embedders=tuple(embedders), aliases=dict(aliases or {}),
    )  # fmt: skip
    async with asyncio.timeout(limit_s), Kernel(parts) as kernel:
        served.serve(kernel)
        for core in cores:
            await kernel.add_core(core)
        operator = LocalGate(kernel, kernel.attach(kernel.tokens.new_operator()))
        yield RunningKernel(kernel, operator, scripted, store, document)
