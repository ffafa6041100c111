"""Agents under test: the functions themselves, on a real kernel, with a model whose answers are written down beforehand.

    async def test_quote() -> None:
        async with scripted(calls(rate, base="EUR", to="USD"), {"amount": 3.3, "currency": "USD"}) as k:
            assert await k.run(quote, "3 EUR") == {"amount": 3.3, "currency": "USD"}
            assert "EUR" in str(k.asked[0].messages)

    run_virtual(test_quote())

Agents run as they do in a host child, in this very loop: each as a process of its own, with its rights, tools and children, over
a connection to the kernel. Nothing confines them, and what they print goes where the test prints. In virtual time
(`run_virtual`, `VirtualLoop`) waiting costs nothing, and plain tools run in the loop; plain agents need a real one.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from aios.abi.errors import AiosError, CoreFailed
from aios.abi.llm import Generate, ToolCall
from aios.abi.process import WaitFor
from aios.drivers.core.scripted import Script, ScriptedCore
from aios.ports.core import CoreCall, Feature
from aios.ports.sandbox import Isolation, Output, Rules
from aios.sdk.agent import Agent
from aios.sdk.host import Host
from aios.sdk.kernel import Kernel
from aios.sdk.process import Process, result_of, spawning
from aios.sdk.program import failure, load
from aios.server.socket import SocketHosts
from aios.testing.kernel import RunningKernel, kernel_for_tests
from aios.testing.virtual import VirtualLoop

FEATURES: frozenset[Feature] = frozenset({"chat", "completion", "seed", "stop", "n", "score", "tools", "json"})


class Scripted:
    """A kernel with a scripted model. `kernel`: for whoever wants to look inside."""

    def __init__(self, kernel: RunningKernel, core: ScriptedCore) -> None:
        self.kernel = kernel
        self._core = core

    @property
    def k(self) -> Kernel:
        """The handle of a person who may do everything."""
        return Kernel(self.kernel.operator)

    @property
    def asked(self) -> list[Generate]:
        """What the model was asked, in order."""
        return [call.request for call in self._core.calls]

    async def start(self, agent: Agent[..., Any], *args: Any) -> Process:
        """Start an agent as a process of its own, its manifest accepted."""
        request = spawning(agent, args)
        self.kernel.accept(request.manifest)
        return Process(self.kernel.operator, await self.kernel.operator.call(request))

    async def run(self, agent: Agent[..., Any], *args: Any) -> Any:
        """Run an agent to its end, as `aios.run` does: its result as JSON values. Raises the error that it ended in."""
        process = await self.start(agent, *args)
        return result_of(await self.kernel.operator.call(WaitFor(pid=process.pid)))


@asynccontextmanager
async def scripted(
    *answers: Any, answer: Callable[[Generate], Any] | None = None, slots: int = 4,
    features: frozenset[Feature] = FEATURES, limit_s: float = 4000.0,
) -> AsyncIterator[Scripted]:  # fmt: skip
    """A kernel as long as the block runs, at most `limit_s` seconds of the loop's time, whose model gives these answers in order.

    An answer is a text, a `Script`, what `calls` makes, or anything else, which is said as JSON. `answer`: makes each from its
    question instead. Who asks for more than there are is told so (`CoreFailed`). `features`: what the model can do.
    """
    left = iter(answers)
    core = ScriptedCore(
        lambda call: _script(answer(call.request) if answer is not None else _next(left, call)), slots=slots, features=features
    )
    with tempfile.TemporaryDirectory() as folder:
        hosts = SocketHosts(_Here(), folder, readable=())
        try:
            async with kernel_for_tests([core], hosts=hosts, limit_s=limit_s) as kernel:
                yield Scripted(kernel, core)
        finally:
            await hosts.close()
            await asyncio.sleep(0.01)  # in which both ends of each connection are closed


def calls(tool: Any, **arguments: Any) -> Script:
    """An answer in which the model asks for a tool. `tool`: the function, or its name."""
    name = tool if isinstance(tool, str) else tool.__name__
    return Script(text="", tool_calls=(ToolCall(f"call-{name}", name, msgspec.json.encode(arguments).decode()),))


def _next(answers: Iterator[Any], call: CoreCall) -> Any:
    try:
        return next(answers)
    except StopIteration:
        question = str(call.request.messages[-1:] or call.request.prompt)[:200]
        return Script(text="", fail_after=0, failure=CoreFailed(f"the script has no more answers, and was asked: {question}"))


def _script(answer: Any) -> Script:
    if isinstance(answer, Script):
        return answer
    return Script(text=answer if isinstance(answer, str) else msgspec.json.encode(answer).decode())


class _Here:
    """The port `Sandbox` whose children are no processes: real hosts, in this loop."""

    def __init__(self) -> None:
        self._os_pids = itertools.count(1001)

    def isolation(self) -> Isolation:
        return Isolation(mechanism="none", confined=(), missing=("everything: it is for tests of one's own agents",))

    async def start(
        self, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int], rules: Rules, folder: str, output: Output
    ) -> _HostHere:
        return _HostHere(_module(Path(argv[-1])), socket.socket(fileno=socket.dup(fds[0])), next(self._os_pids))


class _HostHere:
    """The port `Child`: a host that runs its agents in this loop."""

    def __init__(self, program: ModuleType | AiosError, end: socket.socket, os_pid: int) -> None:
        self.os_pid = os_pid
        self._how = "exit 0"
        self._life = asyncio.ensure_future(
            self._live(Host(program, threads=not isinstance(asyncio.get_running_loop(), VirtualLoop)), end)
        )

    async def _live(self, host: Host, end: socket.socket) -> None:
        try:
            await host.serve(end)
        finally:
            await host.close()

    def kill(self) -> None:
        """See the port: its agents are cancelled."""
        self._how = "killed by signal 9"
        self._life.cancel()

    async def wait_ended(self) -> str:
        """See the port."""
        await asyncio.wait((self._life,))
        return self._how


def _module(file: Path) -> ModuleType | AiosError:
    """The program's module: the one that the test has imported, or else loaded now."""
    for module in list(sys.modules.values()):
        if (place := getattr(module, "__file__", None)) and Path(place).resolve() == file:
            return module
    try:
        return load(file)
    except Exception as error:  # noqa: BLE001  # the edge: foreign code
        return failure(error)
