"""Starts host children: a socketpair, a confined interpreter, a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence

from aios.abi.errors import ChildFailed
from aios.ports.kernel import Kernel
from aios.ports.sandbox import Child, Rules, Sandbox
from aios.server.connection import SocketHost

START_LIMIT_S = 20.0
REMOVED_AT_ONCE = 64
"""Files of a dead host's folder that are removed before the loop gets its turn."""
PASSED = ("PATH", "LANG", "LANGUAGE", "TZ")


class SocketHosts:
    """The port `Hosts`.

    `folder`: in which each host gets a folder of its own, inside the kernel's home. `readable`: what a Python child must be
    able to read and run. A kernel is given its hosts, and they are given the kernel, by `serve`, before the first start.
    """

    def __init__(self, sandbox: Sandbox, folder: str | os.PathLike[str], readable: Sequence[str]) -> None:
        self._sandbox = sandbox
        self._kernel: Kernel | None = None
        self._folder = os.path.realpath(folder)
        self._readable = tuple(readable)
        self._hosts: dict[SocketHost, asyncio.Task[None]] = {}

    def serve(self, kernel: Kernel) -> None:
        """Take the agents' calls to this kernel."""
        self._kernel = kernel
        os.makedirs(self._folder, mode=0o700, exist_ok=True)

    async def start(self, program: str) -> SocketHost:
        """See the port."""
        assert self._kernel is not None
        own = tempfile.mkdtemp(prefix="host-", dir=self._folder)
        ours, theirs = socket.socketpair()
        host = SocketHost(self._kernel, program)
        with theirs:
            await asyncio.get_running_loop().create_unix_connection(lambda: host, sock=ours)
            argv = (sys.executable, "-I", "-u", "-m", "aios.sdk.host", "--fd", str(theirs.fileno()), program)
            try:
                rules = self._rules(program, own)
                child = await self._sandbox.start(argv, _environment(own), (theirs.fileno(),), rules, own, host.heard)
            except BaseException:
                host.greeted.cancel()
                host.end("it was never started")
                await remove_tree(own)
                raise
        host.belong_to(child)
        self._hosts[host] = asyncio.create_task(self._tend(host, child, own), name=f"host {child.os_pid}")
        try:
            async with asyncio.timeout(START_LIMIT_S):
                await host.greeted
        except TimeoutError:
            host.kill()
            raise ChildFailed(f"`{program}` was not ready within {START_LIMIT_S:g} s") from None
        except BaseException:
            host.kill()
            raise
        return host

    async def close(self) -> None:
        """End all hosts, and return when nothing of them is left."""
        for host in self._hosts:
            host.kill()
        if self._hosts:
            await asyncio.wait(self._hosts.values())

    async def _tend(self, host: SocketHost, child: Child, own: str) -> None:
        """See a host to its end, and clean up after it."""
        await host.ends(child)
        await remove_tree(own)
        del self._hosts[host]

    def _rules(self, program: str, own: str) -> Rules:
        """An agent reads its program's folder; only its file where that folder holds the kernel's own."""
        program = os.path.realpath(program)
        beside = os.path.dirname(program)
        above_kernel = os.path.commonpath((beside, self._folder)) == beside
        return Rules(read=(*self._readable, program if above_kernel else beside), write=(own,))


def _environment(own: str) -> Mapping[str, str]:
    """What a host knows of the machine: no secret of the kernel's environment is in it."""
    passed = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith("LC_")}
    return {**passed, "HOME": own, "TMPDIR": own}


async def remove_tree(folder: str) -> None:
    """Remove a folder with all that is in it, a little at a time: what a child left there is of any size."""
    removed = 0
    for place, folders, files in os.walk(folder, topdown=False):
        for name in (*folders, *files):
            _remove(os.path.join(place, name))
            removed += 1
            if removed % REMOVED_AT_ONCE == 0:
                await asyncio.sleep(0)
    _remove(folder)


def _remove(path: str) -> None:
    """A file, a link, or an empty folder; what a child made unremovable stays."""
    with contextlib.suppress(OSError):
        try:
            os.unlink(path)
        except (IsADirectoryError, PermissionError):  # macOS says the latter
            os.rmdir(path)
