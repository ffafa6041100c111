"""The upstream: a server of the OpenAI chat wire with slots and a queue, that does nothing but count and wait.

A process of its own, on bare sockets, so that it costs as little as anything can. Each piece of a stream is one write and
carries the time at which it was written (`@NANOSECONDS`, monotonic), from which a client reads how late it is.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import httptools
import msgspec

from benchmarks.rig.child import listen, obey, run
from benchmarks.rig.work import Work

SLOTS: Mapping[str, int] = {"eight": 8, "wide": 100_000}
"""Pools of slots, by the first word of a model's name. Work is served first come, first served, within its pool."""
SHARES: Mapping[str, str] = {"exact": "eight", "narrow": "eight"}
"""Further names of the same slots, so that a kernel can have differently set lanes before them."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n"
WHOLE, EVENTS = b"application/json", b"text/event-stream"
PIECE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
)
FINISH = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
)
USAGE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[],'
    b'"usage":{"prompt_tokens":60,"completion_tokens":%d,"total_tokens":%d}}\n\ndata: [DONE]\n\n'
)
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"%b"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":60,"completion_tokens":%d,"total_tokens":%d}}'
)


class Counts(msgspec.Struct):
    """Generations. `queued` and `running` are now, `paused` those of the running whose reader is slow; the rest is so far.

    `pieces`: written into streams.
    """

    started: int = 0
    finished: int = 0
    aborted: int = 0
    queued: int = 0
    running: int = 0
    paused: int = 0
    pieces: int = 0


class Asked(msgspec.Struct):
    """What the upstream reads of a request."""

    model: str
    stream: bool = False


_asked = msgspec.json.Decoder(Asked)


class Slots:
    """Slots and the queue before them."""

    def __init__(self, number: int, counts: Counts) -> None:
        self.free = number
        self.waiting: deque[Connection] = deque()
        self.counts = counts

    def enter(self, connection: Connection) -> None:
        """Start, or queue."""
        if self.free:
            self._start(connection)
        else:
            self.counts.queued += 1
            self.waiting.append(connection)

    def leave(self, connection: Connection) -> None:
        """Give up waiting."""
        self.waiting.remove(connection)
        self.counts.queued -= 1

    def end(self, finished: bool) -> None:
        """A generation is over; the next one starts."""
        self.counts.running -= 1
        self.counts.finished += finished
        self.counts.aborted += not finished
        self.free += 1
        if self.waiting:
            self.counts.queued -= 1
            self._start(self.waiting.popleft())

    def _start(self, connection: Connection) -> None:
        self.free -= 1
        self.counts.started += 1
        self.counts.running += 1
        connection.start()


class Connection(asyncio.Protocol):
    """One client; it asks one thing at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pools: Mapping[str, Slots], counts: Counts) -> None:
        self._loop = loop
        self._pools = pools
        self._counts = counts
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._slots: Slots | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._generating = self._paused = False
        self._left = 0
        self._due = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, b""
        if not body:
            self._send_whole(b'{"object":"list","data":[]}')
        else:
            asked = _asked.decode(body)
            self._work, self._stream = Work.of(asked.model), asked.stream
            self._slots = self._pools[SHARES.get(self._work.slots, self._work.slots)]
            self._slots.enter(self)

    def start(self) -> None:
        """A slot is ours."""
        self._generating = True
        self._left = self._work.pieces
        wait_ms = self._work.delay_ms
        if not self._stream:
            wait_ms += (self._work.pieces - 1) * self._work.gap_ms
        self._due = self._loop.time() + wait_ms / 1000
        if wait_ms:
            self._timer = self._loop.call_at(self._due, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        if self._stream:
            self._write = HEAD % (EVENTS, b"Transfer-Encoding: chunked")
            self._go_on()
        else:
            text = stamped(self._work.size_bytes) * self._work.pieces
            self._send_whole(ANSWER % (text, self._work.pieces, self._work.pieces + 60))
            self._end(finished=True)

    def _go_on(self) -> None:
        """Write what is due: one piece, or, without a gap, all for which there is room."""
        while not self._paused:
            self._left -= 1
            self._counts.pieces += 1
            data = PIECE % stamped(self._work.size_bytes)
            if not self._left:
                data += FINISH + USAGE % (self._work.pieces, self._work.pieces + 60)
            self._transport.write(b"%b%x\r\n%b\r\n" % (self._write, len(data), data) + (b"" if self._left else b"0\r\n\r\n"))
            self._write = b""
            if not self._left:
                return self._end(finished=True)
            if self._work.gap_ms:
                self._due += self._work.gap_ms / 1000
                self._timer = self._loop.call_at(self._due, self._go_on)
                return

    def _end(self, finished: bool) -> None:
        slots, self._slots, self._generating = self._slots, None, False
        assert slots is not None
        slots.end(finished)

    def _send_whole(self, body: bytes) -> None:
        self._transport.write(HEAD % (WHOLE, b"Content-Length: %d" % len(body)) + body)

    def pause_writing(self) -> None:
        self._paused = True
        self._counts.paused += 1

    def resume_writing(self) -> None:
        self._paused = False
        self._counts.paused -= 1
        if self._generating and self._left and (self._timer is None or self._timer.when() <= self._loop.time()):
            self._go_on()

    def connection_lost(self, problem: Exception | None) -> None:
        if self._paused:
            self._counts.paused -= 1
        if self._timer is not None:
            self._timer.cancel()
        if self._generating:
            self._end(finished=False)
        elif self._slots is not None:
            self._slots.leave(self)


def stamped(size_bytes: int) -> bytes:
    """A piece of text that begins with the time, as wide as asked for."""
    return (b"@%d " % time.monotonic_ns()).ljust(size_bytes, b"x")


async def main() -> None:
    """Serve; whatever the parent asks, the answer is the counts."""
    loop = asyncio.get_running_loop()
    counts = Counts()
    pools = {name: Slots(number, counts) for name, number in SLOTS.items()}

    async def tell(asked: bytes) -> Counts:
        return counts

    await obey(tell, await listen(lambda: Connection(loop, pools, counts)))


if __name__ == "__main__":
    run(main)
