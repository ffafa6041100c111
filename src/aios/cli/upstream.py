"""A model server that only waits: what proofs and measurements have behind the kernel instead of a model.

Run as `python -m aios.cli.upstream SLOTS MILLISECONDS`: each call takes so long and needs one of so many slots, first come, first
served. Speaks enough of OpenAI's chat wire for a core of the kernel, and remembers who had a slot when: `GET /served`. Tells its
port in a line, and ends when its input does, which it does however its parent ends.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import uvloop

from aios.abi.errors import Failed

MODEL = "waits"
WHOLE, EVENTS = "application/json", "text/event-stream"
PROMPT_TOKENS = 60
PIECES = (
    '{"id":"c","object":"chat.completion.chunk","created":0,"model":"waits","choices":'
    '[{"index":0,"delta":{"role":"assistant","content":"done"},"finish_reason":null}]}',
    '{"id":"c","object":"chat.completion.chunk","created":0,"model":"waits","choices":'
    '[{"index":0,"delta":{},"finish_reason":"stop"}]}',
    '{"id":"c","object":"chat.completion.chunk","created":0,"model":"waits","choices":[],'
    f'"usage":{{"prompt_tokens":{PROMPT_TOKENS},"completion_tokens":1,"total_tokens":{PROMPT_TOKENS + 1}}}}}',
    "[DONE]",
)
ANSWER = "".join(f"data: {piece}\n\n" for piece in PIECES).encode()
MODELS = msgspec.json.encode({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "aios"}]})


class Served(msgspec.Struct, frozen=True, array_like=True):
    """Who had a slot from when to when, seconds of the system's monotonic clock; `end` is None while it still has it."""

    who: str
    begin: float
    end: float | None


class Said(msgspec.Struct, frozen=True):
    """A message: its text is the name of who asks."""

    content: Any = ""


class Asked(msgspec.Struct, frozen=True):
    """What is read of a request."""

    messages: tuple[Said, ...]


_asked = msgspec.json.Decoder(Asked)


class Upstream:
    """The server. A connection asks one thing at a time."""

    def __init__(self, slots: int, takes_s: float) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._takes_s = takes_s
        self._begun: dict[asyncio.Task[Any] | None, tuple[str, float]] = {}
        self._served: list[Served] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                body = await reader.readexactly(length_of(head))
                kind, answer = await self._answer(head.split(" ", 2)[1], body)
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, path: str, body: bytes) -> tuple[str, bytes]:
        if path == "/served":
            running = [Served(who, begin, None) for who, begin in self._begun.values()]
            return WHOLE, msgspec.json.encode([*self._served, *running])
        if not body:
            return WHOLE, MODELS
        async with self._slots:
            await self._work(str(_asked.decode(body).messages[-1].content))
        return EVENTS, ANSWER

    async def _work(self, who: str) -> None:
        """Have a slot for as long as a call takes."""
        task, begin = asyncio.current_task(), time.monotonic()
        self._begun[task] = who, begin
        try:
            await asyncio.sleep(self._takes_s)
        finally:
            del self._begun[task]
            self._served.append(Served(who, begin, time.monotonic()))


def length_of(head: str) -> int:
    """The length of the body that follows a request's head."""
    lengths = (line.partition(":")[2] for line in head.split("\r\n") if line.lower().startswith("content-length:"))
    return int(next(lengths, "0"))


@contextmanager
def upstream(slots: int, takes_ms: int) -> Iterator[int]:
    """The server in a child; its port on loopback. Raises `Failed` if it does not start."""
    argv = [sys.executable, "-m", "aios.cli.upstream", str(slots), str(takes_ms)]
    # In a session of its own: who presses Ctrl-C means its parent.
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        try:
            line = child.stdout.readline()
            if not line:
                raise Failed(f"the upstream did not start: it ended with exit {child.wait()}")
            yield int(line)
        finally:
            child.kill()


async def main(slots: int, takes_s: float) -> None:
    """Serve until the parent is gone."""
    upstream = Upstream(slots, takes_s)
    async with await asyncio.start_server(upstream.serve, "127.0.0.1", 0, backlog=1024) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        await lines.read()
        os._exit(0)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2]) / 1000))
