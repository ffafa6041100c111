"""Starts foreign programs: confined, with a home of their own, and the kernel's doors at the only address that they reach."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile

from aios.abi.errors import AiosError, ChildFailed, QueueFull
from aios.abi.process import Signal
from aios.ports.kernel import Kernel
from aios.ports.program import Ending, Launch
from aios.ports.sandbox import ProgramChild, ProgramSandbox
from aios.server.http import HttpServer
from aios.server.listener import Listener, Own, descriptors
from aios.server.printing import Printing
from aios.server.rules import command_rules
from aios.server.socket import HOST_PREFIX, remove_tree
from aios.server.surroundings import environment_of, furnish

PREFIX = f"{HOST_PREFIX}program-"
"""So that what a killed kernel has left of it is removed with what is left of its hosts."""
LOOPBACK = "127.0.0.1"
DOOR_PORT = 8642
"""In a network of one's own every port is free."""
BACKLOG = 1024
MOST_PROGRAMS = 100
"""And fewer where the kernel may have few files open."""
CONNECTIONS = (16, 256)
"""Of one program, at least and at most; whoever comes beyond waits."""
DESCRIPTORS = 8
"""That a program costs beside its connections."""
SIGNALS: dict[Signal, signal.Signals] = {
    "stop": signal.SIGTERM, "kill": signal.SIGKILL, "suspend": signal.SIGSTOP, "resume": signal.SIGCONT
}  # fmt: skip


class ConfinedProgram:
    """The port `Program`. `end`: done when it has ended and is cleaned up after."""

    def __init__(self, child: ProgramChild, door: Listener, pid: str, printing: Printing) -> None:
        self._child = child
        self._pid = pid
        self._printing = printing
        self.door = door
        self.end: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    @property
    def os_pid(self) -> int:
        return self._child.os_pid

    def signal(self, signal: Signal) -> None:
        """See the port."""
        self._child.signal(SIGNALS[signal])

    async def exits(self) -> Ending:
        """Return when its processes are gone and what they printed is told."""
        how = await self._child.wait_ended()
        self._printing.end(self._pid)
        return Ending(self._child.code, how)

    async def wait_ended(self) -> Ending:
        """See the port."""
        return await asyncio.shield(self.end)


class ConfinedPrograms:
    """The port `Programs`. `folder`: in which each program gets a folder of its own, inside the kernel's `home`.

    A kernel is given its programs, and they are given the kernel and its doors, by `serve`, before the first start.
    """

    def __init__(self, sandbox: ProgramSandbox, folder: str | os.PathLike[str], home: str | os.PathLike[str]) -> None:
        self._sandbox = sandbox
        self._folder = os.path.realpath(folder)
        self._home = os.path.realpath(home)
        self._kernel: Kernel | None = None
        self._server: HttpServer | None = None
        self._running: dict[ConfinedProgram, asyncio.Task[None]] = {}

    def serve(self, kernel: Kernel, server: HttpServer) -> None:
        """Take the programs' calls to this kernel, by these doors."""
        self._kernel, self._server = kernel, server
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    async def start(self, launch: Launch) -> ConfinedProgram:
        """See the port."""
        most = max(1, min(MOST_PROGRAMS, descriptors() // 4 // (connections() + DESCRIPTORS)))
        if len(self._running) >= most:
            raise QueueFull(f"{most} programs run already: wait for some of them", retry_after_s=5.0)
        own = ""
        try:
            own = tempfile.mkdtemp(prefix=PREFIX, dir=self._folder)
            program = await self._started(launch, own)
        except (AiosError, OSError) as error:
            await remove_tree(own)
            said = error.message if isinstance(error, AiosError) else f"`{launch.name}` cannot be started: {error.strerror}"
            raise ChildFailed(said) from None
        except BaseException:
            await remove_tree(own)
            raise
        self._running[program] = asyncio.create_task(self._tend(program, own), name=f"program {program.os_pid}")
        return program

    async def _started(self, launch: Launch, own: str) -> ConfinedProgram:
        """Start it, and serve the address that it finds in its environment."""
        assert self._kernel is not None and self._server is not None
        kernel, printing = self._kernel, Printing(self._kernel)
        alone = await self._sandbox.networks()
        door = None if alone else _listening()
        port = DOOR_PORT if door is None else door.getsockname()[1]
        address = f"http://{LOOPBACK}:{port}"
        furnish(own, address)
        if not alone:
            kernel.printed(launch.pid, "err", f"aios: {launch.name} has no network of its own here: see `aios doctor`")
        rules = command_rules(launch.command, launch.folder, own, self._home, "own" if alone else "port", port)
        try:
            child = await self._sandbox.start(
                launch.command, environment_of(launch, own, address), (), rules, launch.folder,
                lambda stream, line: printing.line(launch.pid, stream, line),
            )  # fmt: skip
        except BaseException:
            if door is not None:
                door.close()
            raise
        if door is None:
            door = socket.socket(fileno=child.door)
            door.setblocking(False)
        served = Own(launch.pid, port, lambda target: kernel.strayed(launch.pid, target))
        return ConfinedProgram(child, self._server.open(door, served, connections()), launch.pid, printing)

    async def close(self) -> None:
        """End all programs, and return when nothing of them is left."""
        for program in self._running:
            program.signal("kill")
        if self._running:
            await asyncio.wait(self._running.values())

    async def _tend(self, program: ConfinedProgram, own: str) -> None:
        """See a program to its end, and clean up after it."""
        assert self._server is not None
        ending = await program.exits()
        self._server.shut(program.door)
        await remove_tree(own)
        del self._running[program]
        program.end.set_result(ending)


def connections() -> int:
    """How many connections a program may have: the servers for all have three quarters of what the kernel may have open."""
    least, most = CONNECTIONS
    return max(least, min(most, descriptors() // 4 // MOST_PROGRAMS - DESCRIPTORS))


def _listening() -> socket.socket:
    """A door in the machine's network, for a program that can have none of its own."""
    door = socket.socket()
    door.bind((LOOPBACK, 0))
    door.listen(BACKLOG)
    door.setblocking(False)
    return door
