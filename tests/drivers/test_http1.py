"""The connections to a core's server: what they take, what they refuse, and when they are used again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from aios.drivers.core import http1
from aios.drivers.core.http1 import MOST_HEAD_BYTES, Answer, Broken, Connections, Unreachable

pytestmark = pytest.mark.real

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nRetry-After: 7\r\n\r\nhello"


class Server:
    """Answers each request with the next of `answers`; an empty one closes the connection. `connections`: so far."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests: list[bytes] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while self.answers:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self.requests.append(head + await reader.readexactly(size))
            answer = self.answers.pop(0)
            writer.write(answer)
            if not answer or answer.endswith(b"<close>") or b"Connection: close" in answer:
                break
        writer.close()


@asynccontextmanager
async def served(
    take: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], keep_s: float = 60.0
) -> AsyncIterator[Connections]:
    """Connections to a server that treats each of them so."""
    server = await asyncio.start_server(take, "127.0.0.1", 0)
    connections = Connections("127.0.0.1", server.sockets[0].getsockname()[1], {"Accept": "*/*"}, keep_s)
    try:
        yield connections
    finally:
        connections.close()
        server.close()
        await asyncio.sleep(0.01)  # in which the server's side sees that we are gone


async def whole(connections: Connections, body: bytes = b"{}") -> bytes:
    """Ask, and read the answer to its end."""
    answer = await connections.request("POST", "/x", body)
    try:
        return await rest(answer)
    finally:
        connections.done(answer)


async def rest(answer: Answer) -> bytes:
    found = b""
    while data := await answer.read():
        found += data
    return found


async def test_a_connection_whose_answer_is_whole_is_used_again() -> None:
    server = Server(WHOLE, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", WHOLE)
    async with served(server.take) as connections:
        assert [await whole(connections) for _ in range(3)] == [b"hello", b"abcde", b"hello"]
    assert server.connections == 1
    assert server.requests[0].startswith(b"POST /x HTTP/1.1\r\nHost: 127.0.0.1:") and server.requests[0].endswith(b"\r\n\r\n{}")


async def test_a_kept_connection_keeps_no_question() -> None:
    async with served(Server(WHOLE).take) as connections:
        assert await whole(connections, b"q" * 100_000) == b"hello"
        (kept,) = connections._idle
        assert not any(isinstance(value, bytes) and b"qqq" in value for value in vars(kept).values())


async def test_status_and_headers_come_before_the_body() -> None:
    async with served(Server(b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno").take) as connections:
        answer = await connections.request("GET", "/x")
        assert (answer.status, answer.headers[b"retry-after"]) == (429, b"7")
        assert await rest(answer) == b"no"
        connections.done(answer)


async def test_an_interim_answer_is_passed_over() -> None:
    async with served(Server(b"HTTP/1.1 100 Continue\r\nX-Old: 1\r\n\r\n" + WHOLE).take) as connections:
        answer = await connections.request("POST", "/x", b"{}")
        assert (answer.status, b"x-old" in answer.headers, await rest(answer)) == (200, False, b"hello")
        connections.done(answer)


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\n\r\nhello<close>", WHOLE)
    async with served(server.take) as connections:
        assert await whole(connections) == b"hello<close>"
        assert await whole(connections) == b"hello"
    assert server.connections == 2


async def test_a_server_that_says_so_is_not_asked_again_on_the_same_connection() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", WHOLE)
    async with served(server.take) as connections:
        assert await whole(connections) == b"ok"
        assert await whole(connections) == b"hello"
    assert server.connections == 2


async def test_a_kept_connection_that_was_closed_unread_is_replaced() -> None:
    server = Server(WHOLE, b"", WHOLE)
    async with served(server.take) as connections:
        assert await whole(connections) == b"hello"
        assert await whole(connections) == b"hello"
    assert (server.connections, len(server.requests)) == (2, 3)


async def test_what_may_have_been_worked_on_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "AGAIN_S", -1.0)  # however soon it was closed
    server = Server(WHOLE, b"", WHOLE)
    async with served(server.take) as connections:
        assert await whole(connections) == b"hello"
        with pytest.raises(Broken, match="closed the connection"):
            await whole(connections)
    assert len(server.requests) == 2


async def test_a_new_connection_that_is_closed_unread_is_not_tried_again() -> None:
    server = Server(b"", WHOLE)
    async with served(server.take) as connections:
        with pytest.raises(Broken, match="closed the connection"):
            await whole(connections)
    assert server.connections == 1


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello<close>", "closed the connection"),
        (b"SSH-2.0-OpenSSH<close>", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MOST_HEAD_BYTES // 6 + 1), "bytes of headers"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP"),
    ],
)
async def test_an_answer_that_is_none_is_said_to_be_none(sent: bytes, said: str) -> None:
    async with served(Server(sent, WHOLE).take) as connections:
        with pytest.raises(Broken, match=said):
            await whole(connections)


async def test_a_connection_on_which_the_server_speaks_unasked_is_not_used_again() -> None:
    server = Server(WHOLE + WHOLE, WHOLE)
    async with served(server.take) as connections:
        assert await whole(connections) == b"hello"
        assert await whole(connections) == b"hello"
    assert server.connections == 2


async def test_a_connection_that_was_idle_for_too_long_is_not_used_again() -> None:
    server = Server(WHOLE, WHOLE)
    async with served(server.take, keep_s=0.0) as connections:
        await whole(connections)
        await whole(connections)
    assert server.connections == 2


async def test_a_server_waits_for_a_slow_reader() -> None:
    most = 64 << 20
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % most)
        try:
            for _ in range(most // 65536):
                writer.write(bytes(65536))
                await writer.drain()
                written += 65536
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with served(flood) as connections:
        answer = await connections.request("GET", "/x")
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.05)
        assert written < most
        read = 0
        while data := await answer.read():
            read += len(data)
        assert read == most
        connections.done(answer)


async def test_an_answer_that_is_given_back_early_is_aborted() -> None:
    gone = asyncio.Event()

    async def go_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await reader.readuntil(b"\r\n\r\n")
        try:
            await reader.read()
        except ConnectionError:
            pass
        gone.set()
        writer.close()

    async with served(go_on) as connections:
        answer = await connections.request("GET", "/x")
        assert await answer.read() == b"a"
        connections.done(answer)
        await gone.wait()


async def test_closing_ends_what_runs_and_refuses_what_comes() -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with served(never) as connections:
        asked = asyncio.ensure_future(connections.request("GET", "/x"))
        await asyncio.sleep(0.05)
        connections.close()
        with pytest.raises(Broken, match="was closed"):
            await asked
        with pytest.raises(Broken, match="was closed"):
            await connections.request("GET", "/x")


async def test_where_nobody_listens_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="refused"):
        await Connections("127.0.0.1", 1, {}, 1.0).request("GET", "/x")
