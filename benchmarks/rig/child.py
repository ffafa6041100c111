"""Child processes of a benchmark: they tell their port, answer the parent's lines, and end with it.

A child says one line of JSON when it is ready, and one for each line that it is told; it ends when its input does, which it
does however the parent ends.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import uvloop

T = TypeVar("T")

BACKLOG = 4096
LONGEST_LINE_BYTES = 64 << 20


class Failed(Exception):
    """The benchmark cannot be trusted, or cannot run: what went wrong."""


class Child:
    """The parent's end of `python -m MODULE ARGUMENTS`."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=True
        )
        self.port = self.hear(int)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, value: Any = None) -> None:
        """Say one thing; `hear` what comes back, sooner or later."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(value) + b"\n")
        self._process.stdin.flush()

    def hear(self, kind: type[T]) -> T:
        """What it answers. Raises `Failed` if it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"`{self._name}` ended with exit {self._process.wait()}: what it said stands above")
        return msgspec.json.decode(line, type=kind)

    def ask(self, value: Any, kind: type[T]) -> T:
        """Say one thing and wait for the answer."""
        self.tell(value)
        return self.hear(kind)

    def kill(self) -> None:
        """End it now, and everything that it had under way."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A child's life, with as many open files as it may have."""
    raise_open_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def raise_open_files() -> None:
    """Allow this process and its children as many open files as the system lets them have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def listen(factory: Callable[[], asyncio.BaseProtocol]) -> int:
    """Listen on a free port of loopback."""
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, backlog=BACKLOG)
    await server.start_serving()
    port: int = server.sockets[0].getsockname()[1]
    return port


async def obey(answer: Callable[[bytes], Awaitable[Any]], port: int = 0) -> None:
    """Tell the parent that we are ready, then answer its lines until there are no more."""
    lines = asyncio.StreamReader(limit=LONGEST_LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    say(port)
    while line := await lines.readline():
        say(await answer(line))


def say(value: Any) -> None:
    """One line to the parent."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()
