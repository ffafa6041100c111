"""The port `Host`: a child in which agents of one program run, as the kernel's supervisor sees it."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from aios.abi.process import Signal


class HostGone(Exception):
    """The host died before the agent's function had ended; the message says how."""


class Host(Protocol):
    """One host child. The kernel takes calls from it only for pids that it runs there."""

    @property
    def os_pid(self) -> int: ...

    async def run(self, pid: str, entry: str, arguments: tuple[Any, ...], model: str) -> Any:
        """Run an agent function as process `pid` to its end and return its result.

        Raises the error that the function raised (`ChildFailed` for what is not an `AiosError`), or `HostGone`.
        Cancelling it cancels the function.
        """
        ...

    async def run_tool(self, pid: str, tool: str, arguments: dict[str, Any]) -> Any:
        """Run a function that process `pid`, which runs here, has registered, and return its result.

        Raises the error that the function raised (`ToolFailed` for what is not an `AiosError`), `RateLimited` if too many run, or
        `HostGone`. Cancelling it cancels the function.
        """
        ...

    def signal(self, pid: str, signal: Signal) -> None:
        """Pass a signal on."""
        ...

    def kill(self) -> None:
        """End the host at once, and all that runs in it."""
        ...

    async def wait_ended(self) -> str:
        """Return when it has ended: how, in words."""
        ...


class Hosts(Protocol):
    """Starts hosts."""

    async def start(self, program: str) -> Host:
        """A host for a program (absolute path of a Python file), ready to run its agents. Raises `ChildFailed`."""
        ...


Stream = Literal["out", "err"]
