"""Children confined by Landlock, seccomp, `no_new_privs` and limits: what an unprivileged process can lay on itself.

No namespaces, so no helper binary and no privilege is needed; what they do not reach is said by `isolation`. The child
starts as a launcher of ours (`enter.py`), which confines itself before the program's first instruction. A `preexec_fn` would
run Python between fork and exec of the kernel itself, with all its threads' locks held by nobody.
"""

from __future__ import annotations

import asyncio
import ctypes
import marshal
import os
import signal
import socket
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from aios.abi.errors import Unavailable
from aios.abi.lines import LineCutter
from aios.drivers.sandbox import enter, seccomp
from aios.drivers.sandbox.reaper import Reaper
from aios.ports.sandbox import Isolation, Output, ProgramChild, Rules

MAX_OUTPUT_BYTES_PER_S = 1 << 20
PIPES_CLOSE_S = 1.0
STREAMS: dict[int, Literal["out", "err"]] = {1: "out", 2: "err"}
PR_SET_DUMPABLE = 4

_everywhere = (
    "processor time and number of processes are not limited",
    "names, sizes and times of files can be seen everywhere",
)
_by_filter = (
    "UDP, raw and unix sockets",
    "limits, priorities and memory of other processes",
    "modes, owners, times and attributes of files",
    "leaving the process group",
    "keys, namespaces and mounts",
)


class LandlockSandbox:
    """The port `Sandbox`. `abi`: the version of Landlock to use, at most the machine's (None); 0 uses none.

    `filtered`: whether the children's system calls are filtered too, where the machine can.
    """

    def __init__(self, abi: int | None = None, filtered: bool = True) -> None:
        machine = enter.landlock_abi()
        self._abi = machine if abi is None else min(abi, machine)
        self._filtered = seccomp.filtering() if filtered else ""
        self._networks: bool | None = None
        self._reaper = Reaper()

    def isolation(self) -> Isolation:
        """See the port; of networks it speaks when they were tried (`networks`)."""
        abi, filtered = self._abi, bool(self._filtered)
        confined, missing = ["limits on memory and files", "an environment of its own"], [*_everywhere]
        files = {"files": 1 <= abi, "truncating of files": 3 <= abi}
        within = {"abstract sockets": enter.SCOPE_FROM <= abi or filtered, "signals": enter.SCOPE_FROM <= abi or filtered}
        others = dict.fromkeys(_by_filter, filtered)
        have = files | {"TCP": enter.NET_FROM <= abi or filtered} | within | others
        confined += [what for what, held in have.items() if held]
        if sys.platform == "linux":
            confined += ["no new privileges", "dies with the kernel"]
            what_has = f"Landlock version {abi}" + ("" if filtered else " without a filter of system calls (seccomp)")
            missing += [f"{what}: not confined by {what_has} on this Linux" for what, held in have.items() if not held]
        else:
            missing.append(f"there is no Landlock on {sys.platform}: whatever the user may do, agents may do")
        if self._networks:
            confined.append("networks and views of files of programs")
        elif self._networks is not None:
            reach = "one port number, of any address" if enter.NET_FROM <= abi else "every address, over TCP"
            missing.append(f"networks of programs: there are no namespaces here, so they reach {reach}")
        used = [f"landlock {abi}"] * bool(abi) + ["seccomp"] * filtered
        return Isolation(mechanism=" + ".join(used) or "limits only", confined=tuple(confined), missing=tuple(missing))

    async def networks(self) -> bool:
        """Whether a child can have a network of its own: tried once, in a process that ends at once."""
        if self._networks is None:
            self._networks = sys.platform == "linux" and not await _probed()
        return self._networks

    def close(self) -> None:
        """End what is left of its children, and the reaper."""
        self._reaper.close()

    async def start(
        self, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int], rules: Rules, folder: str, output: Output
    ) -> ProgramChild:
        """See the port. Returns when the child is confined and runs; `argv[0]` is an absolute path."""
        order: dict[str, object] = {
            "parent": os.getpid(),
            "abi": self._abi,
            "argv": list(argv),
            "env": dict(env),
            "fds": list(fds),
            "read": list(rules.read),
            "write": list(rules.write),
            "network": rules.network,
            "port": rules.port,
            "folder": folder,
        }
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                child = await _launch(theirs, fds, output)
            try:
                self._reaper.add(child.os_pid)
                child.ended.add_done_callback(lambda _: self._reaper.remove(child.os_pid))
                signals_confined = self._abi >= enter.SCOPE_FROM
                order["calls"] = seccomp.filter_of(self._filtered, child.os_pid, signals_confined, rules.network)
                refusal, child.door = await _tell(ours, marshal.dumps(order))
            except BaseException:
                child.kill()
                await child.wait_ended()
                raise
        if refusal:
            child.kill()
            await child.wait_ended()
            raise Unavailable(f"`{argv[0]}` cannot be started: {refusal}")
        return child


async def _launch(theirs: socket.socket, fds: Sequence[int], output: Output) -> _Child:
    """The launcher, waiting for its order at the other end of `theirs`."""
    loop = asyncio.get_running_loop()
    launcher = (sys.executable, "-I", "-S", enter.__file__)
    try:
        _, child = await loop.subprocess_exec(
            lambda: _Child(output),
            *launcher,
            stdin=theirs.fileno(),
            env={},
            close_fds=True,
            pass_fds=tuple(fds),
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"no child can be started: {error.strerror}") from error
    return child


async def _tell(ours: socket.socket, order: bytes) -> tuple[str, int]:
    """Give the launcher its order; returns why it could not carry it out, or nothing, and the descriptor that it sent, or -1."""
    loop = asyncio.get_running_loop()
    ours.setblocking(False)
    door, said = -1, b""
    try:
        await loop.sock_sendall(ours, order)
        ours.shutdown(socket.SHUT_WR)
        while True:
            await _readable(ours)
            data, fds, _, _ = socket.recv_fds(ours, 4096, 1)
            if fds:
                door = fds[0]
            elif data:
                said += data
            else:
                break
    except OSError as error:
        said = f"its launcher ended ({error.strerror})".encode()
    except BaseException:
        if door >= 0:
            os.close(door)
        raise
    if said and door >= 0:
        os.close(door)
        door = -1
    return said.decode(errors="replace"), door


async def _readable(end: socket.socket) -> None:
    """Return when there is something to read: the loop itself does not take descriptors along."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def be_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(end, be_ready)
    try:
        await ready
    finally:
        loop.remove_reader(end)


async def _probed() -> int:
    """The exit code of a launcher that tries to have a network of its own."""
    loop = asyncio.get_running_loop()
    launcher = (sys.executable, "-I", "-S", enter.__file__, enter.PROBE)
    _, child = await loop.subprocess_exec(lambda: _Child(lambda stream, line: None), *launcher, env={}, start_new_session=True)
    await child.wait_ended()
    return child.code


class _Child(asyncio.SubprocessProtocol):
    """The port `ProgramChild`. Ended means: the process is gone, its group is killed, and its output is read."""

    def __init__(self, output: Output) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._output = output
        self._cutters = {fd: LineCutter() for fd in STREAMS}
        self._read_bytes, self._window_ends_s = 0, 0.0
        self.door = -1
        self.code = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)  # uvloop's does not derive from it
        self.os_pid = self._transport.get_pid()

    def kill(self) -> None:
        if not self.ended.done():
            _kill_group(self.os_pid)

    def signal(self, number: int) -> None:
        if not self.ended.done() and self._transport.get_returncode() is None:
            _kill_group(self.os_pid, number)

    async def wait_ended(self) -> str:
        return await asyncio.shield(self.ended)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        for line in self._cutters[fd].feed(data):
            self._output(STREAMS[fd], line)
        self._throttle(len(data))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd in self._cutters:
            for line in self._cutters[fd].end():
                self._output(STREAMS[fd], line)

    def process_exited(self) -> None:
        """The leader is gone: what it left in its group goes too. One that left the group may still hold the pipes."""
        _kill_group(self.os_pid)
        self._closing = asyncio.get_running_loop().call_later(PIPES_CLOSE_S, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing.cancel()
        self._transport.close()
        if not self.ended.done():
            code = self._transport.get_returncode() or 0
            self.code = code if code >= 0 else 128 - code
            self.ended.set_result(f"killed by signal {-code}" if code < 0 else f"exit {code}")

    def _throttle(self, size: int) -> None:
        """A child that floods its output waits: at most 1 MiB per second is read."""
        loop = asyncio.get_running_loop()
        if loop.time() > self._window_ends_s:
            self._read_bytes, self._window_ends_s = 0, loop.time() + 1
        self._read_bytes += size
        if self._read_bytes > MAX_OUTPUT_BYTES_PER_S:
            for pipe in self._pipes():
                pipe.pause_reading()
                loop.call_at(self._window_ends_s, pipe.resume_reading)

    def _pipes(self) -> list[asyncio.ReadTransport]:
        pipes = (cast(asyncio.ReadTransport, self._transport.get_pipe_transport(fd)) for fd in STREAMS)
        return [pipe for pipe in pipes if pipe.is_reading()]


def _kill_group(leader: int, number: int = signal.SIGKILL) -> None:
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):  # macOS: EPERM where only zombies are left
        pass


def harden_kernel() -> None:
    """Keep others of the same user out of the kernel's memory, environment and core files (`PR_SET_DUMPABLE` 0)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, *(ctypes.c_ulong(0) for _ in range(4)))


def interpreter_paths() -> tuple[str, ...]:
    """What a Python child must be able to read and run: the interpreter, its libraries, the packages, AIOS itself."""
    own = [sys.prefix, sys.base_prefix, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))]
    package = Path(enter.__file__).parents[3]  # the folder that `aios` is found in
    system = ["/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/usr/share/ca-certificates", "/lib", "/lib64", "/etc/ssl/certs"]
    names = ["/etc/ld.so.cache", "/etc/localtime", "/etc/ld.so.preload"]
    return tuple(dict.fromkeys(os.path.realpath(path) for path in [*own, str(package), *system, *names]))
