"""A process that was started: its handle, how it is started, and what it comes to."""

from __future__ import annotations

from typing import Any

import msgspec

from aios.abi.errors import Cancelled, Fault, Invalid, Killed, error_of
from aios.abi.manifest import Manifest
from aios.abi.process import Exit, ProcessInfo, Signal, SignalProcess, Spawn, WaitFor
from aios.abi.request import Class
from aios.ports.gate import Gate
from aios.sdk.agent import Agent


class Process:
    """A process that was started. `name`: what people type."""

    def __init__(self, gate: Gate, info: ProcessInfo) -> None:
        self._gate = gate
        self.pid = info.pid
        self.name = info.name

    def __repr__(self) -> str:
        return f"<process {self.name}>"

    async def wait(self) -> Any:
        """What its function returns. Raises the error that it ended in: `ChildFailed`, `Killed`, or another `AiosError`."""
        return result_of(await self._gate.call(WaitFor(pid=self.pid)))

    async def stop(self) -> None:
        """Ask it to end: its code sees a cancellation and may clean up."""
        await self._signal("stop")

    async def kill(self) -> None:
        """End it."""
        await self._signal("kill")

    async def _signal(self, signal: Signal) -> None:
        await self._gate.call(SignalProcess(pid=self.pid, signal=signal))


def spawning(agent: Agent[..., Any] | Manifest, args: tuple[Any, ...], *, cls: Class | None = None) -> Spawn:
    """The request that starts an agent. `cls`: instead of its own. Raises `Invalid` for arguments that cannot be sent."""
    manifest = agent if isinstance(agent, Manifest) else agent.manifest()
    try:
        arguments = tuple(msgspec.to_builtins(args))
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"the arguments of `{manifest.agent}` cannot be sent: {error}", field="arguments") from error
    if cls is not None:
        manifest = msgspec.structs.replace(manifest, cls=cls)
    return Spawn(manifest=manifest, arguments=arguments)


def result_of(end: Exit) -> Any:
    """What a process returned. Raises the error that it ended in."""
    if end.outcome == "result":
        return end.result
    if end.outcome == "killed":
        raise Killed(end.message or "the process was killed")
    raise error_of(Fault(end.error or Cancelled.__name__, end.message))
