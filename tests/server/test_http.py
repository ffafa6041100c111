"""The edge: who may ask, how much may be sent, what a client that goes away leaves behind, and what the door says meanwhile."""

import asyncio
import json
import os
import resource
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from served import CHAT, Served, Visitor, running_kernel, served, server_of, until, visit

from aios.abi.errors import Unavailable
from aios.outbox import Outbox
from aios.server import http as edge
from aios.server import listener
from aios.server.http import ServerConfig
from aios.server.listener import Wire
from aios.testing import Script, ScriptedCore


@pytest.mark.real
async def test_health_needs_no_token_and_tells_nothing() -> None:
    async with served() as s, s.http.get(s.url + "/health") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        assert not {"server", "date"} & {name.lower() for name in answer.headers}


@pytest.mark.real
@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic eDp5"}, {"x-api-key": "x"}]
)
async def test_without_a_valid_token_nothing_is_answered(headers: dict[str, str]) -> None:
    async with served() as s, s.http.post(s.url + "/v1/chat/completions", json=CHAT, headers=headers) as answer:
        assert answer.status == 401
        assert answer.headers["x-should-retry"] == "false"
        assert (await answer.json())["error"]["code"] == "invalid_api_key"
        assert s.core.statistics().started == 0


@pytest.mark.real
async def test_a_token_is_taken_from_either_header() -> None:
    async with served() as s:
        async with s.http.get(s.url + "/v1/models", headers={"x-api-key": s.token}) as answer:
            assert answer.status == 200
        async with s.http.get(s.url + "/v1/models", headers={"authorization": f"bearer {s.token}"}) as answer:
            assert answer.status == 200


@pytest.mark.real
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1"}, 200),
        ({"host": "localhost:1"}, 200),
        ({"host": "[::1]:8642"}, 200),
        ({"host": "box.lan:8642"}, 200),
        ({"host": "rebound.example:8642"}, 403),
        ({"host": "127.0.0.1.example"}, 403),
        ({"host": "localhost:8642", "origin": "http://localhost:8642"}, 200),
        ({"host": "localhost:8642", "origin": "http://localhost:9999"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost", "origin": "http://[::1"}, 403),
    ],
)
async def test_a_page_in_a_browser_does_not_get_in(headers: dict[str, str], status: int) -> None:
    async with served(hosts=("box.lan",)) as s, s.http.get(s.url + "/v1/models", headers={**s.headers, **headers}) as answer:
        assert answer.status == status


@pytest.mark.real
async def test_every_answer_has_an_id_of_its_own() -> None:
    async with served() as s:
        seen = []
        for path in ("/health", "/v1/models", "/nowhere", "/v1/models/none"):
            async with s.get(path) as answer:
                seen.append(answer.headers["x-request-id"])
        assert len(set(seen)) == 4


@pytest.mark.real
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("DELETE", "/v1/nothing"), ("POST", "/v1/call/"), ("POST", "/v1/call/nothing")]
)
async def test_what_is_not_there_is_not_found(method: str, path: str) -> None:
    async with served() as s, s.http.request(method, s.url + path, headers=s.headers) as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] in ("NotFound", "UnknownCall")


@pytest.mark.real
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/call/clock.now", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("POST", "/v1/models/default", "GET"),
        ("POST", "/health", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allow: str) -> None:
    async with served() as s, s.http.request(method, s.url + path, headers=s.headers) as answer:
        assert (answer.status, answer.headers["allow"]) == (405, allow)
        assert (await answer.json())["error"]["code"] == "Invalid"


@pytest.mark.real
@pytest.mark.parametrize("headers", [{"host": "rebound.example"}, {"origin": "https://evil.example"}])
async def test_a_page_in_a_browser_is_not_told_that_a_kernel_runs(headers: dict[str, str]) -> None:
    async with served() as s, s.http.get(s.url + "/health", headers=headers) as answer:
        assert answer.status == 403


async def said_to(port: int, data: bytes) -> bytes:
    """All that the server says to these bytes, up to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.real
async def test_the_address_of_another_loopback_can_be_used_as_it_is_told() -> None:
    async with served(host="::1") as s, s.http.get(s.server.url + "/health") as answer:
        assert answer.status == 200


@pytest.mark.real
async def test_two_hosts_in_one_request_are_none() -> None:
    async with served() as s:
        said = await said_to(s.server.port, b"GET /health HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 400 ") and b"`Host`" in said


@pytest.mark.real
async def test_a_connection_that_sends_no_whole_head_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_S", 0.2)
    monkeypatch.setattr(listener, "TICK_S", 0.05)
    async with served() as s:
        assert await said_to(s.server.port, b"") == b""
        assert (await said_to(s.server.port, b"GET /health HTTP/1.1\r\n")).startswith(b"HTTP/1.1 400 ")
        answered = await said_to(s.server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health")
        assert answered.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 400 " in answered


@pytest.mark.real
async def test_a_connection_is_kept_for_the_next_request_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_S", 0.05)
    monkeypatch.setattr(listener, "IDLE_S", 0.5)
    monkeypatch.setattr(listener, "TICK_S", 0.05)
    async with served() as s:
        begun_s = asyncio.get_running_loop().time()
        said = await said_to(s.server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 200 ") and asyncio.get_running_loop().time() - begun_s > 0.45


@pytest.mark.real
async def test_a_call_that_lasts_is_not_taken_for_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_S", 0.05)
    monkeypatch.setattr(listener, "IDLE_S", 0.05)
    monkeypatch.setattr(listener, "TICK_S", 0.02)
    async with served(ScriptedCore(Script(text="a b c", token_s=0.1))) as s:
        assert (await read_all(s, CHAT))[0] == 200


@pytest.mark.real
async def test_when_all_places_are_taken_the_longest_silent_stranger_goes() -> None:
    """Those who showed a token stay, however long they have been silent."""
    async with served(connections=4) as s:
        async with s.get("/v1/models") as answer:
            assert answer.status == 200
        strangers = [await asyncio.open_connection("127.0.0.1", s.server.port) for _ in range(6)]
        async with asyncio.timeout(5):
            gone = await asyncio.gather(*(reader.read() for reader, _ in strangers[:3]))
        assert gone == [b""] * 3 and not any(reader.at_eof() for reader, _ in strangers[3:])
        async with s.get("/v1/models") as answer:
            assert answer.status == 200 and len(s.http.connector._conns) == 1
        for _, writer in strangers:
            writer.close()


@pytest.mark.real
async def test_who_comes_when_all_are_at_work_waits_for_one_of_them() -> None:
    async with served(ScriptedCore(Script(text="a b", token_s=0.1)), connections=2) as s:
        answers = await asyncio.gather(*(read_all(s, CHAT) for _ in range(6)))
        assert [status for status, _ in answers] == [200] * 6


@pytest.mark.real
async def test_no_descriptor_left_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes meanwhile is served afterwards, and the loop does not spin."""
    monkeypatch.setattr(listener, "TICK_S", 0.2)
    async with served() as s:
        most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.create_connection(("127.0.0.1", s.server.port)) as early:
            resource.setrlimit(resource.RLIMIT_NOFILE, (early.fileno(), hard))
            try:
                before_s = time.process_time()
                await asyncio.sleep(0.5)
                assert time.process_time() - before_s < 0.2
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            early.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            early.setblocking(False)
            async with asyncio.timeout(5):
                assert (await asyncio.get_running_loop().sock_recv(early, 99)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-aios-deadline-s", "-1"),
        ("x-aios-deadline-s", "soon"),
        ("x-aios-key", "k" * 300),
        ("x-aios-class", "x"),
        ("x-aios-tag", "t" * 200),
    ],
)
async def test_an_error_in_a_header_names_the_header(name: str, value: str) -> None:
    async with served() as s, s.post("/v1/call/llm.generate", {"prompt": "go"}, **{name: value}) as answer:
        error = (await answer.json())["error"]
        assert answer.status == 400 and error["field"] == name and f"`{name}`" in error["message"]


async def zeros(sent: list[int], size: int) -> AsyncIterator[bytes]:
    """A body that counts how much of it was taken."""
    piece = b" " * 65536
    while sent[0] < size:
        sent[0] += len(piece)
        yield piece


@pytest.mark.real
async def test_a_body_without_end_is_refused_before_it_is_read() -> None:
    async with served(max_body_bytes=1_000_000) as s:
        sent = [0]
        try:
            headers = {**s.headers, "content-type": "application/json"}
            async with s.http.post(s.url + "/v1/chat/completions", data=zeros(sent, 1 << 30), headers=headers) as answer:
                assert answer.status == 413
        except aiohttp.ClientOSError:
            pass  # the connection was cut while it was still sending
        assert sent[0] < 1 << 27
        async with s.get("/health") as answer:
            assert answer.status == 200


async def raw(s: Any, request: bytes) -> bytes:
    """The answer to bytes that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
    try:
        writer.write(request.replace(b"TOKEN", s.token.encode()))
        return await asyncio.wait_for(reader.read(65536), 5)
    finally:
        writer.close()


HEAD = b"POST /v1/call/clock.now HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer TOKEN\r\ncontent-type: application/json\r\n"


@pytest.mark.real
async def test_a_length_that_is_too_much_is_refused_unread() -> None:
    async with served() as s:
        said = await raw(s, HEAD + b"content-length: 1000000000\r\n\r\n{")
        assert said.startswith(b"HTTP/1.1 413 ")
        assert b"above the limit" in said


@pytest.mark.real
@pytest.mark.parametrize(
    "rest",
    [
        b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"content-length: -1\r\n\r\n{}",
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"content-length: 1\r\n\r\n{}",
    ],
)
async def test_a_lie_about_the_length_is_no_500(rest: bytes) -> None:
    async with served() as s:
        said = await raw(s, HEAD + rest)
        assert said.startswith(b"HTTP/1.1 4"), said


@pytest.mark.real
@pytest.mark.parametrize("piece", [b"x-a: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
async def test_headers_without_end_are_cut_off(piece: bytes) -> None:
    async with served() as s:
        reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
        writer.write(HEAD + b"x-b: ")
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                while True:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()


@pytest.mark.real
async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with served(body_timeout_s=0.2) as s:
        said = await raw(s, HEAD + b"content-length: 100\r\n\r\n{")
        assert said.startswith(b"HTTP/1.1 400 ")
        assert b"did not arrive" in said


@pytest.mark.real
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_body_that_a_browser_may_send_unasked_is_refused(kind: str) -> None:
    """What is no JSON by its type could come from any page without the browser asking first."""
    async with (
        served() as s,
        s.http.post(s.url + "/v1/call/clock.now", data=b"{}", headers={**s.headers, "content-type": kind}) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["error"]["field"] == "content-type"


@pytest.mark.real
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("waiting", [True, False])
async def test_a_client_that_goes_away_frees_the_core_at_once(stream: bool, waiting: bool) -> None:
    async with served(ScriptedCore(Script(text="a b c", hang=True), slots=1)) as s:
        calls = [asyncio.create_task(hang_up_when_told(s, stream))]
        await until(lambda: s.core.statistics().running == 1)
        if waiting:
            calls.append(asyncio.create_task(hang_up_when_told(s, stream)))
            await until(lambda: s.kernel.statistics().calls_waiting == 1)
        for call in reversed(calls):
            call.cancel()
            await asyncio.wait((call,))
            await until(lambda: s.kernel.statistics().calls_waiting == 0)
        await until(lambda: s.core.statistics().running == 0)
        assert s.core.statistics().aborted == s.core.statistics().started == 1


async def hang_up_when_told(s: Any, stream: bool) -> None:
    async with s.post("/v1/chat/completions", {**CHAT, "stream": stream}) as answer:
        await answer.read()


@pytest.mark.real
async def test_a_client_that_goes_away_after_a_large_body_is_noticed_too(tmp_path: Path) -> None:
    """The server library stops reading when much has come at once; what is not read does not tell that it ended."""
    path = str(tmp_path / "s")
    async with served(ScriptedCore(Script(text="a b c", hang=True), window=2_000_000), socket=path) as s:
        body = json.dumps({**CHAT, "messages": [{"role": "user", "content": "word " * 20_000}]}).encode()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(chat_head(s, len(body)).replace(b"content-length", b"expect: 100-continue\r\ncontent-length"))
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n"), "it waits for the body"
        writer.write(body)
        await until(lambda: s.core.statistics().running == 1)
        writer.close()
        await until(lambda: s.core.statistics().running == 0)


# Head and body leave in one write: nothing of it may stay behind.


def chat_head(s: Any, size_bytes: int) -> bytes:
    head = HEAD.replace(b"/v1/call/clock.now", b"/v1/chat/completions").replace(b"TOKEN", s.token.encode())
    return head + b"content-length: %d\r\n\r\n" % size_bytes


class Writes(asyncio.Transport):
    """A transport that keeps what it is to write."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.all.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 1000


async def test_what_is_written_in_one_turn_leaves_at_its_end_in_one_write() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    writes, others = Writes(), Writes()
    wire, other = Wire(writes, outbox), Wire(others, outbox)
    wire.write(b"head,")
    other.write(b"other")
    wire.write(b"body")
    assert writes.all == others.all == [] and wire.unsent_bytes() == 1009
    await asyncio.sleep(0)
    assert writes.all == [b"head,body"] and others.all == [b"other"] and wire.unsent_bytes() == 1000
    wire.write(b"the last")
    wire.close()
    assert writes.all == [b"head,body", b"the last"]
    other.write(b"to nobody")
    others.close()
    await asyncio.sleep(0)
    assert writes.all == [b"head,body", b"the last"] and others.all == [b"other"]


async def test_what_cannot_be_sent_keeps_nothing_else_from_being_sent(caplog: pytest.LogCaptureFixture) -> None:
    outbox, sent = Outbox(asyncio.get_running_loop()), list[str]()
    outbox.add(lambda: sent.append("first"))
    outbox.add(lambda: 1 // 0)  # type: ignore[arg-type, return-value]  # what it returns is of no concern
    outbox.add(lambda: outbox.add(lambda: sent.append("last")))
    await asyncio.sleep(0)
    assert sent == ["first", "last"] and "ZeroDivisionError" in caplog.text
    outbox.add(lambda: sent.append("of the next turn"))
    await asyncio.sleep(0)
    assert sent[2:] == ["of the next turn"]


@pytest.mark.real
async def test_a_head_without_a_body_leaves_and_the_connection_goes_on() -> None:
    async with served() as s:
        reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
        for _ in range(2):
            writer.write(b"HEAD /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 200 ") and b"content-length: 15" in head
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert await asyncio.wait_for(reader.readexactly(15), 5) == b'{"status":"ok"}'
        writer.close()


UPGRADE = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


@pytest.mark.real
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("cut", [10**9, 1, 70])
async def test_a_client_that_offers_another_protocol_is_answered_in_this_one(chunked: bool, cut: int) -> None:
    """Java's offers HTTP/2 with each request. Other requests follow at once, and all come in pieces."""
    async with served(ScriptedCore(lambda call: f"about {call.request.messages[0].content}")) as s:
        asked = b""
        for number in range(3):
            body = json.dumps({**CHAT, "messages": [{"role": "user", "content": str(number)}]}).encode()
            head = chat_head(s, len(body))[:-2]
            if chunked:
                head = head.partition(b"content-length")[0] + b"transfer-encoding: chunked\r\n"
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            asked += head + UPGRADE + b"\r\n" + body
        asked += b"GET /health HTTP/1.1\r\nHost: localhost\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
        for at in range(0, len(asked), cut):
            writer.write(asked[at : at + cut])
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            said = await reader.read()
        assert said.count(b"HTTP/1.1 200 ") == 4 and said.count(b"HTTP/1.1 ") == 4
        assert all(b"about %d" % number in said for number in range(3))
        writer.close()


@pytest.mark.real
async def test_the_head_of_a_stream_leaves_while_its_call_waits_for_a_turn() -> None:
    async with served(ScriptedCore(Script(text="a", hang=True), slots=1)) as s:
        first = asyncio.create_task(hang_up_when_told(s, stream=True))
        await until(lambda: s.core.statistics().running == 1)
        body = json.dumps({**CHAT, "stream": True}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
        writer.write(chat_head(s, len(body)) + body)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 200 ") and b"x-aios-ticket" in head
        writer.close()
        first.cancel()
        await asyncio.wait((first,))


@pytest.mark.real
async def test_a_refusal_is_read_while_the_refused_body_is_still_being_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "LINGER_S", 60.0)
    async with served() as s:
        reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
        writer.write(HEAD.replace(b"TOKEN", b"nonsense") + b"content-length: 1000\r\n\r\n{")
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert b"token is not valid" in await reader.readexactly(length)
        writer.close()


@pytest.mark.real
async def test_a_reader_who_asks_much_before_it_reads_gets_every_answer() -> None:
    """The answers fill what may wait to be sent, so that a head is held while its body must wait for the reader."""
    text, calls = "x" * 200_000, 60
    async with served(ScriptedCore(Script(text=text), window=2_000_000)) as s:
        body = json.dumps(CHAT).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port, limit=1024)
        writer.write((chat_head(s, len(body)) + body) * calls)
        await until(lambda: s.core.statistics().started > calls // 3 or s.core.statistics().started == calls)
        async with asyncio.timeout(20):
            for _ in range(calls):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                assert text.encode() in await reader.readexactly(length)
        writer.close()


@pytest.mark.real
async def test_a_reader_that_stalls_costs_the_others_nothing_and_no_memory_without_end() -> None:
    text = "word " * 100_000
    answers = {999_999: text, None: "short"}
    async with served(ScriptedCore(lambda call: answers[call.request.max_tokens], slots=8, window=2_000_000)) as s:
        stalled, before = [], s.kernel.statistics().rss_bytes
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port, limit=1024)
            body = json.dumps({**CHAT, "stream": True, "max_tokens": 999_999}).encode()
            head = HEAD.replace(b"/v1/call/clock.now", b"/v1/chat/completions").replace(b"TOKEN", s.token.encode())
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            stalled.append((reader, writer))
        await until(lambda: s.core.statistics().running >= 1)
        async with asyncio.timeout(5):
            for _ in range(20):
                async with s.post("/v1/chat/completions", CHAT) as answer:
                    assert (await answer.json())["choices"][0]["message"]["content"] == "short"
        assert s.kernel.statistics().rss_bytes - before < 1 << 28
        assert s.core.statistics().running == 4, "they wait for their readers"
        for _, writer in stalled:
            writer.close()
        await until(lambda: s.core.statistics().running == 0)


async def ask_and_never_read(s: Served, **fields: Any) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", s.server.port, limit=1024)
    body = json.dumps({**CHAT, **fields}).encode()
    writer.write(chat_head(s, len(body)) + body)
    return writer


@pytest.mark.real
@pytest.mark.parametrize("stream", [False, True])
async def test_who_reads_nothing_of_its_answer_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """Neither while it is idle, nor afterwards, nor when its call has ended and the rest of its stream cannot leave."""
    monkeypatch.setattr(listener, "IDLE_S", 0.1)
    monkeypatch.setattr(listener, "TICK_S", 0.02)
    monkeypatch.setattr(listener, "STALLED_S", 0.3)
    async with served(ScriptedCore(Script(text="x" * 8_000_000), window=20_000_000), connections=3) as s:
        writers = [await ask_and_never_read(s, stream=stream) for _ in range(3)]
        await until(lambda: s.core.statistics().started == 3 and s.core.statistics().running == 0)
        try:
            async with asyncio.timeout(5), s.get("/v1/models") as answer:
                assert answer.status == 200
        finally:
            for writer in writers:
                writer.transport.abort()


@pytest.mark.real
@pytest.mark.parametrize(
    ("stream", "text", "most"), [(False, "x" * 8_000_000, 10_000_000), (True, "word " * 1_000_000, 3_000_000)]
)
async def test_what_nobody_reads_is_bounded_together(monkeypatch: pytest.MonkeyPatch, stream: bool, text: str, most: int) -> None:
    monkeypatch.setattr(listener, "MOST_UNREAD_BYTES", most)
    async with served(ScriptedCore(Script(text=text), window=20_000_000)) as s:
        writers = [await ask_and_never_read(s, stream=stream) for _ in range(4)]
        await until(lambda: s.core.statistics().started == 4)
        try:
            await until(lambda: len(s.server._state.connections) < 3)
        finally:
            for writer in writers:
                writer.transport.abort()


@pytest.mark.real
async def test_who_reads_its_answer_late_reads_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been suspended for longer than a connection is kept for its next request."""
    monkeypatch.setattr(listener, "IDLE_S", 0.05)
    monkeypatch.setattr(listener, "TICK_S", 0.02)
    ticks: list[object] = []
    tick = listener.Listener._tick
    monkeypatch.setattr(listener.Listener, "_tick", lambda self: (ticks.append(self), tick(self)))
    async with served(ScriptedCore(Script(text="x" * 8_000_000), window=20_000_000)) as s:
        reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port, limit=1024)
        body = json.dumps(CHAT).encode()
        writer.write(chat_head(s, len(body)) + body)
        await until(lambda: s.core.statistics().started == 1 and s.core.statistics().running == 0)
        begun = len(ticks)
        await until(lambda: len(ticks) > begun + 10)
        async with asyncio.timeout(10):
            assert (await reader.read()).count(b"x") >= 8_000_000
        writer.close()


@pytest.mark.real
async def test_requests_ahead_of_their_answers_are_answered_in_order_and_not_hoarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many come at once, in pieces larger than a head may be, that end wherever they end."""
    ahead: list[int] = []
    received = listener.Connection.data_received

    def count(self: listener.Connection, data: bytes) -> None:
        received(self, data)
        ahead.append(len(self.pipeline))

    monkeypatch.setattr(listener.Connection, "data_received", count)
    async with served() as s:
        reader, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
        calls = 20_000
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * calls)
        heard = 0
        async with asyncio.timeout(30):
            while heard < calls:
                said = await reader.readuntil(b'{"status":"ok"}')
                assert said.startswith(b"HTTP/1.1 200 ")
                heard += 1
        assert max(ahead) < calls / 2
        writer.close()


@pytest.mark.real
async def test_a_client_that_goes_with_more_requests_ahead_is_noticed_too() -> None:
    async with served(ScriptedCore(Script(text="a b", token_s=60.0))) as s:
        _, writer = await asyncio.open_connection("127.0.0.1", s.server.port)
        body = json.dumps(CHAT).encode()
        writer.write((chat_head(s, len(body)) + body) * 3)
        await until(lambda: s.core.statistics().running == 1)
        writer.close()
        await until(lambda: s.core.statistics().running == 0)
        assert s.core.statistics().started == 1


@pytest.mark.real
async def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with running_kernel(ScriptedCore()) as kernel:
            with pytest.raises(Unavailable, match=r"port \d+ is taken by another program; choose another with"):
                await server_of(kernel, ServerConfig(port=taken.getsockname()[1])).start()


@pytest.mark.real
async def test_the_unix_socket_is_its_owners_and_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "aios.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # a kernel that was killed left it behind
    async with served(socket=str(path)) as s:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http:
            async with http.get("http://aios/v1/models", headers=s.headers) as answer:
                assert answer.status == 200
    assert not path.exists()


@pytest.mark.real
async def test_a_path_too_long_for_a_socket_is_one_sentence(tmp_path: Path) -> None:
    async with running_kernel(ScriptedCore()) as kernel:
        with pytest.raises(Unavailable, match="AIOS_HOME"):
            await server_of(kernel, ServerConfig(port=0, socket=str(tmp_path / ("x" * 120)))).start()


@pytest.mark.real
@pytest.mark.parametrize("stream", [True, False])
async def test_closing_waits_for_the_grace_and_then_says_why_it_ends(stream: bool) -> None:
    async with served(ScriptedCore(Script(text="a b", hang=True), slots=1)) as s:
        call = asyncio.create_task(read_all(s, {**CHAT, "stream": stream}))
        await until(lambda: s.core.statistics().running == 1)
        await s.server.close(grace_s=0.1)
        status, said = await call
        assert b"going down" in said
        assert status == (200 if stream else 503)
        assert s.core.statistics().running == 0


async def read_all(s: Any, body: Any) -> tuple[int, bytes]:
    async with s.post("/v1/chat/completions", body) as answer:
        return answer.status, await answer.read()


# What a client hears while it waits: in virtual time, at the ASGI application itself.


async def test_a_stream_without_a_word_hears_comments_and_once_a_minute_an_empty_chunk() -> None:
    visitor = await visit(Script(text="late", first_s=130), {**CHAT, "stream": True})
    quiet = [(at_s, body) for at_s, body in visitor.said() if at_s < 129]
    comments = [at_s for at_s, body in quiet if body.startswith(b":")]
    chunks = [at_s for at_s, body in quiet if b'"choices":[]' in body]
    assert len(comments) >= 9 and len(chunks) == 2
    heard = sorted([0.0, *comments, *chunks])
    assert max(after - before for before, after in zip(heard, heard[1:], strict=False)) <= 12
    assert 60 <= chunks[0] <= 72 and 120 <= chunks[1] <= 129
    assert b"late" in visitor.said()[-1][1]


async def test_who_reads_nothing_for_minutes_does_not_find_all_that_could_have_been_said_meanwhile() -> None:
    class Stalled(Visitor):
        """Its connection takes nothing more after the first piece until it `reads`."""

        reads = asyncio.Event()

        async def send(self, message: Any) -> None:
            if len(self.sent) > 1:
                await self.reads.wait()
            await super().send(message)

    async with running_kernel(ScriptedCore(Script(text="one two", token_s=250.0))) as kernel:
        server = server_of(kernel, ServerConfig())
        token = kernel.tokens.add("tester", ("use /llm/*",), "standard").value
        visitor = Stalled("/v1/chat/completions", {**CHAT, "stream": True}, {"x-api-key": token})
        asking = asyncio.create_task(visitor.visit(server))
        await asyncio.sleep(450)
        visitor.reads.set()
        await asking
        await server.close(0)
    said = visitor.answer()
    assert b"two" in said and b"[DONE]" in said and said.count(b"still here") + said.count(b'"choices":[]') < 20


@pytest.mark.parametrize(("stated", "first_space_s"), [("", 45.0), ("600", 45.0), ("20", 10.0), ("junk", 45.0)])
async def test_a_whole_answer_is_kept_alive_by_spaces_before_it(stated: str, first_space_s: float) -> None:
    headers = {"x_stainless_read_timeout": stated} if stated else {}
    visitor = await visit(Script(text="late", first_s=100), CHAT, **headers)
    said = visitor.said()
    assert said[0][1] == b" " and first_space_s <= said[0][0] <= first_space_s + 0.5
    assert all(body == b" " for _, body in said[:-1])
    assert json.loads(b"".join(body for _, body in said))["choices"][0]["message"]["content"] == "late"


async def test_a_quick_failure_keeps_its_status_and_a_late_one_cuts_the_connection() -> None:
    visitor = await visit(Script(text="a b", fail_after=1, first_s=5), CHAT)
    assert visitor.sent[0][1]["status"] == 502
    visitor = await visit(Script(text="a b", fail_after=1, first_s=60), CHAT)
    assert visitor.sent[0][1]["status"] == 200
    assert all(message.get("more_body", True) for _, message in visitor.sent), "it must not look like a whole answer"


async def test_a_stream_that_fails_before_its_first_word_keeps_its_status() -> None:
    visitor = await visit(Script(text="", fail_after=0), {**CHAT, "stream": True})
    assert visitor.sent[0][1]["status"] == 502
