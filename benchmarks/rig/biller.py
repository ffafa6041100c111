"""A provider that bills: speaks OpenAI's chat wire, does what each prompt says, and keeps the sum of what it made.

A process of its own; `python -m benchmarks.rig.biller PORT DIES_AFTER`. PORT 0 is any. After so many calls (0: never) it dies in
the midst of one and of all others that it has: it bills them as far as they have come, says so, and is gone. A call whose caller
goes away is billed in the same way.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

import msgspec

from aios.cli.upstream import length_of
from benchmarks.rig.bills import CACHED, FIRST_S, MAX_TOKENS, TOKENS_PER_S, Work, bill
from benchmarks.rig.child import BACKLOG, obey, run, say

PIECE_S = 0.005
"""Between two pieces of an answer, each of as many tokens as were made meanwhile."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"c","object":"chat.completion.chunk","created":0,"model":"large",%b}\n\n'
PIECE = b'"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]'
FINISH = EVENT % b'"choices":[{"index":0,"delta":{},"finish_reason":"%b"}]'
USAGE = (
    b'"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
    b'"prompt_tokens_details":{"cached_tokens":%d}}'
)
DONE = b"data: [DONE]\n\n"
WORD = b"tok "
LONGEST_BODY_BYTES = 1 << 20
MODELS = b'{"object":"list","data":[{"id":"large","object":"model","created":0,"owned_by":"biller"}]}'
BUSY = b'{"error":{"message":"too many requests","type":"rate_limit_error","code":"rate_limit_exceeded"}}'


class Tally(msgspec.Struct):
    """Nano-dollars, and calls. `most_running`: at once; `early`: whose caller was to hang up before the first token.

    `busy`: refused, and not billed; `broken`, `silent`: broken off, or ended without a usage; `died`: that ended with the server.
    """

    billed: int = 0
    calls: int = 0
    most_running: int = 0
    early: int = 0
    busy: int = 0
    broken: int = 0
    silent: int = 0
    died: int = 0


class Said(msgspec.Struct, frozen=True):
    """A message."""

    content: str


class Asked(msgspec.Struct, frozen=True):
    """What is read of a request."""

    messages: tuple[Said, ...]
    max_tokens: int = MAX_TOKENS


_asked = msgspec.json.Decoder(Asked)


class Gone(Exception):
    """There is nobody to write to any more, or the answer is to break off."""


class Answer:
    """An answer while it is made. `made`: tokens so far; `whole`: it has come to its end."""

    def __init__(self, work: Work, tokens: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.work = work
        self.made = 0
        self.whole = False
        self._tokens = tokens
        self._reader = reader
        self._writer = writer

    @property
    def cost(self) -> int:
        """Nano-dollars, as far as it has come."""
        return bill(self.work.given, self.made)

    async def write(self, begun: Callable[[], None]) -> None:
        """Make it, and tell what it came to; `begun` is called with its first token. Raises `Gone`."""
        loop = asyncio.get_running_loop()
        first_s = loop.time() + FIRST_S
        await asyncio.sleep(FIRST_S)
        self._piece(1, HEAD)
        begun()
        while self.made < self._tokens:
            await asyncio.sleep(min(PIECE_S, (self._tokens - self.made) / TOKENS_PER_S))
            if self._reader.at_eof() or (self.work.fails == "breaks" and self.made * 2 > self._tokens):
                raise Gone
            self._piece(min(self._tokens, int((loop.time() - first_s) * TOKENS_PER_S) + 1) - self.made)
            await self._writer.drain()
        self.whole = True
        usage = USAGE % (self.work.given, self.made, self.work.given + self.made, int(self.work.given * CACHED))
        said = FINISH + (b"" if self.work.fails == "silent" else EVENT % usage) + DONE
        self._writer.write(chunk(said) + chunk(b""))

    def _piece(self, tokens: int, head: bytes = b"") -> None:
        self.made += tokens
        self._writer.write(head + chunk(EVENT % PIECE % (WORD * tokens)))


class Biller:
    """The server. `dies_after`: calls after which it dies in the next one that begins to answer; 0: never."""

    def __init__(self, dies_after: int) -> None:
        self.tally = Tally()
        self._dies_after = dies_after
        self._running: set[Answer] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                body = await reader.readexactly(length_of(head))
                if body:
                    await self._answer(_asked.decode(body), reader, writer)
                else:
                    writer.write(whole(b"200 OK", MODELS))
        except (asyncio.IncompleteReadError, ConnectionError, Gone):
            writer.transport.abort()

    async def _answer(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        work = Work.of(asked.messages[-1].content)
        if work.fails == "busy":
            self.tally.busy += 1
            return writer.write(whole(b"429 Too Many Requests", BUSY))
        answer = Answer(work, min(work.answer, asked.max_tokens), reader, writer)
        self._running.add(answer)
        self._idle.clear()
        self.tally.calls += 1
        self.tally.early += work.early
        self.tally.most_running = max(self.tally.most_running, len(self._running))
        try:
            await answer.write(self._may_die)
        finally:
            self._running.discard(answer)
            if not self._running:
                self._idle.set()
            self.tally.billed += answer.cost
            self.tally.silent += answer.whole and work.fails == "silent"
            self.tally.broken += not answer.whole and work.fails == "breaks"

    async def told(self) -> Tally:
        """The tally, once nothing is under way; then it begins anew."""
        await self._idle.wait()
        tally, self.tally = self.tally, Tally()
        return tally

    def _may_die(self) -> None:
        """Die, if it is time."""
        if self._dies_after and self.tally.calls >= self._dies_after:
            self.tally.died = len(self._running)
            self.tally.billed += sum(answer.cost for answer in self._running)
            say(self.tally)
            os._exit(1)


def chunk(data: bytes) -> bytes:
    """A piece of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(status: bytes, body: bytes) -> bytes:
    """An answer that is no stream."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def main() -> None:
    """Serve; whatever the parent asks, the answer is the tally since it last asked."""
    port, dies_after = map(int, sys.argv[1:])
    biller = Biller(dies_after)
    server = await asyncio.start_server(biller.serve, "127.0.0.1", port, backlog=BACKLOG, limit=LONGEST_BODY_BYTES)

    async def tell(asked: bytes) -> Tally:
        return await biller.told()

    await obey(tell, server.sockets[0].getsockname()[1])


if __name__ == "__main__":
    run(main)
