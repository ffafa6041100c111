"""Starts host children: a socketpair, a confined interpreter, a folder of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Sequence

from aios.abi.errors import ChildFailed
from aios.ports.kernel import Kernel
from aios.ports.sandbox import Child, Sandbox
from aios.server.connection import SocketHost
from aios.server.rules import program_environment, program_rules, stands_alone

HOST_PREFIX = "host-"
START_LIMIT_S = 20.0
REMOVED_AT_ONCE = 64
"""Files of a dead host's folder that are removed before the loop gets its turn."""

log = logging.getLogger("aios.server")


class SocketHosts:
    """The port `Hosts`.

    `folder`: in which each host gets a folder of its own, inside the kernel's `home` (None: it is all there is of a home).
    `readable`: what a Python child must be able to read and run. A kernel is given its hosts, and they are given the kernel, by
    `serve`, before the first start.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        folder: str | os.PathLike[str],
        readable: Sequence[str],
        home: str | os.PathLike[str] | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._kernel: Kernel | None = None
        self._folder = os.path.realpath(folder)
        self._kept = os.path.realpath(home or folder)
        self._readable = tuple(readable)
        self._hosts: dict[SocketHost, asyncio.Task[None]] = {}
        self._sweeping: asyncio.Task[None] | None = None

    def serve(self, kernel: Kernel) -> None:
        """Take the agents' calls to this kernel, and remove what the hosts of a killed one have left: the home is ours alone."""
        self._kernel = kernel
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        left = [entry.path for entry in os.scandir(self._folder) if entry.name.startswith(HOST_PREFIX)]
        self._sweeping = asyncio.get_running_loop().create_task(_swept(left), name="sweep")

    async def start(self, program: str) -> SocketHost:
        """See the port."""
        assert self._kernel is not None
        if stands_alone(program, self._kept):
            log.warning("`%s` has no folder of its own: its agents read this file alone, and nothing beside it", program)
        own = tempfile.mkdtemp(prefix=HOST_PREFIX, dir=self._folder)
        ours, theirs = socket.socketpair()
        host = SocketHost(self._kernel, program)
        with theirs:
            await asyncio.get_running_loop().create_unix_connection(lambda: host, sock=ours)
            argv = (sys.executable, "-I", "-u", "-m", "aios.sdk.host", "--fd", str(theirs.fileno()), program)
            try:
                rules = program_rules(program, own, self._kept, self._readable)
                child = await self._sandbox.start(argv, program_environment(own), (theirs.fileno(),), rules, own, host.heard)
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
        """End all hosts, and return when nothing of them is left. What an earlier kernel left may stay for the next one."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait((self._sweeping,))
        for host in self._hosts:
            host.kill()
        if self._hosts:
            await asyncio.wait(self._hosts.values())

    async def _tend(self, host: SocketHost, child: Child, own: str) -> None:
        """See a host to its end, and clean up after it."""
        await host.ends(child)
        await remove_tree(own)
        del self._hosts[host]


async def _swept(folders: Sequence[str]) -> None:
    for folder in folders:
        await remove_tree(folder)


async def remove_tree(folder: str) -> None:
    """Remove a folder with all that is in it, a little at a time: what a child left there is of any size."""
    _open_up(folder)
    for place, folders, _ in os.walk(folder):
        for name in folders:
            _open_up(os.path.join(place, name))
        await asyncio.sleep(0)
    removed = 0
    for place, folders, files in os.walk(folder, topdown=False):
        for name in (*folders, *files):
            _remove(os.path.join(place, name))
            removed += 1
            if removed % REMOVED_AT_ONCE == 0:
                await asyncio.sleep(0)
    _remove(folder)


def _open_up(folder: str) -> None:
    """Let us into a folder that a child has closed; what a link leads to is none of ours."""
    if not os.path.islink(folder):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)


def _remove(path: str) -> None:
    """A file, a link, or an empty folder; what a child made unremovable stays."""
    with contextlib.suppress(OSError):
        try:
            os.unlink(path)
        except (IsADirectoryError, PermissionError):  # macOS says the latter
            os.rmdir(path)
