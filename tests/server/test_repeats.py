"""No call is paid twice: connections break at every place, clients try again, and the upstream counts what it had to do."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
from served import CHAT, Served, Visitor, running_kernel, served, server_of

from aios.abi.errors import DeadlineExceeded
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.main import Kernel
from aios.server import repeats
from aios.server.http import HttpServer, ServerConfig
from aios.testing import Script, ScriptedCore

CUT_CALLS = 1000


# A client's connection, cut where it hurts


@dataclass
class Cutter:
    """A relay that cuts the connection of every first try.

    `at`: `asked` when the request has passed; `begun` when the answer's first byte is here; `half` when some of the answer has
    passed; `answered` when its last byte is here and none has passed.
    """

    to: int
    at: str
    cuts: int = 0
    port: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kernel_reader, kernel_writer = await asyncio.open_connection("127.0.0.1", self.to)
        try:
            while request := await request_of(reader):
                kernel_writer.write(request)
                first = b"x-stainless-retry-count: 0" in request
                answer = b"" if first and self.at == "asked" else await answer_of(kernel_reader, first and self.at == "begun")
                if first:
                    self.cuts += 1
                    if self.at == "half":
                        writer.write(answer[: len(answer) // 2])
                        await writer.drain()
                    return
                writer.write(answer)
                await writer.drain()
        finally:
            writer.close()
            kernel_writer.close()


async def request_of(reader: asyncio.StreamReader) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    return head + await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))


async def answer_of(reader: asyncio.StreamReader, only_begun: bool) -> bytes:
    """An answer of the kernel's; all of it, unless its first bytes are enough."""
    head = await reader.readuntil(b"\r\n\r\n")
    if only_begun:
        return head
    if b"transfer-encoding: chunked" not in head.lower():
        return head + await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    body = b""
    while not body.endswith(b"0\r\n\r\n"):
        body += await reader.readuntil(b"\r\n")
    return head + body


@asynccontextmanager
async def cut(s: Served, at: str) -> AsyncIterator[Cutter]:
    cutter = Cutter(s.server.port, at)
    server = await asyncio.start_server(cutter.relay, "127.0.0.1", 0, limit=1 << 20)
    cutter.port = server.sockets[0].getsockname()[1]
    async with server:
        yield cutter


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("at", ["asked", "begun", "half", "answered"])
async def test_a_cut_connection_is_one_upstream_call(at: str) -> None:
    """The client is the unmodified SDK; each of its calls loses its first connection."""
    core = ScriptedCore(lambda call: Script(text=f"answer {call.request.messages[0].content}", first_s=0.02), slots=64)
    calls, together = CUT_CALLS // 4, asyncio.Semaphore(50)
    async with served(core) as s, cut(s, at) as cutter:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{cutter.port}/v1", api_key=s.token) as client:

            async def ask(number: int) -> str | None:
                async with together:
                    body: Any = {**CHAT, "messages": [{"role": "user", "content": str(number)}]}
                    return (await client.chat.completions.create(**body)).choices[0].message.content

            answers = await asyncio.gather(*map(ask, range(calls)))
        assert answers == [f"answer {number}" for number in range(calls)]
        assert (cutter.cuts, core.statistics().started) == (calls, calls)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("at", ["asked", "begun", "answered"])
async def test_a_stream_that_is_cut_before_its_first_word_is_one_upstream_call(at: str) -> None:
    core = ScriptedCore(Script(text="one two three", first_s=0.02), slots=64)
    async with served(core) as s, cut(s, at) as cutter:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{cutter.port}/v1", api_key=s.token) as client:
            chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
        if at != "begun":  # one that is cut in its midst is cancelled, and its client does another
            assert core.statistics().started == 1


@pytest.mark.real
async def test_two_equal_calls_that_have_nothing_to_do_with_each_other_are_two() -> None:
    async with served(ScriptedCore(Script(text="x", first_s=0.02), slots=8)) as s:
        async with openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token) as one:
            async with openai.AsyncOpenAI(base_url=s.url + "/v1", api_key=s.token) as two:
                await asyncio.gather(one.chat.completions.create(**CHAT), two.chat.completions.create(**CHAT))
                await one.chat.completions.create(**CHAT)
                await two.chat.completions.create(**CHAT)
        assert s.core.statistics().started == 4


# Every order of things, in virtual time


@dataclass
class Place:
    """A kernel with its door, and clients that come and go there."""

    kernel: Kernel
    server: HttpServer
    core: ScriptedCore
    tokens: list[str]

    def come(self, tries: int | None = 0, token: int = 0, **fields: Any) -> tuple[Visitor, asyncio.Task[None]]:
        return self.come_to("/v1/chat/completions", {**CHAT, **fields}, tries, token)

    def come_to(self, path: str, body: Any, tries: int | None = 0, token: int = 0) -> tuple[Visitor, asyncio.Task[None]]:
        headers = {"x-api-key": self.tokens[token]} | ({} if tries is None else {"x-stainless-retry-count": str(tries)})
        visitor = Visitor(path, body, headers)
        return visitor, asyncio.create_task(visitor.visit(self.server))

    @property
    def started(self) -> int:
        return self.core.statistics().started

    @property
    def aborted(self) -> int:
        return self.core.statistics().aborted


@asynccontextmanager
async def place(script: Script, lane: LaneConfig | None = None, slots: int = 4) -> AsyncIterator[Place]:
    core = ScriptedCore(script, slots=slots)
    async with running_kernel(core, lane=lane) as kernel:
        server = server_of(kernel, ServerConfig())
        tokens = [kernel.tokens.add("tester", ("use /llm/*",), "standard").value for _ in range(2)]
        yield Place(kernel, server, core, tokens)
        await server.close(0)


def text_of(visitor: Visitor) -> str:
    return str(json.loads(visitor.answer())["choices"][0]["message"]["content"])


SLOW = Script(text="late", first_s=20)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_whose_client_retries_by_itself_goes_on_for_five_seconds(stream: bool) -> None:
    async with place(SLOW) as p:
        first, work = p.come(stream=stream)
        await asyncio.sleep(0.5)
        first.go()
        await asyncio.sleep(repeats.LINGER_S - 0.1)
        assert p.aborted == 0
        await asyncio.sleep(0.2)
        assert p.aborted == 1
        await work


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_does_not_say_that_it_retries_is_cancelled_at_once(stream: bool) -> None:
    async with place(SLOW) as p:
        first, work = p.come(tries=None, stream=stream)
        await asyncio.sleep(0.5)
        first.go()
        await work
        assert p.aborted == 1


async def test_a_stream_of_which_something_was_heard_is_cancelled_at_once() -> None:
    async with place(Script(text="a b c", token_s=10)) as p:
        first, work = p.come(stream=True)
        await asyncio.sleep(5)
        assert b'"a"' in first.answer()
        first.go()
        await work
        assert p.aborted == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("tries", [0, 1])
async def test_who_asks_again_after_his_connection_died_gets_the_call_that_runs(tries: int, stream: bool) -> None:
    async with place(SLOW) as p:
        first, work = p.come(stream=stream)
        await asyncio.sleep(0.5)
        first.go()
        await asyncio.sleep(1)
        second, again = p.come(tries=tries, stream=stream)
        await asyncio.gather(work, again)
        assert second.status == 200 and second.whole and b"late" in second.answer()
        assert p.started == 1 and not first.sent


async def test_a_stream_that_went_on_alone_is_told_from_its_beginning_and_goes_on() -> None:
    async with place(Script(text="a b c d e f", first_s=0.8, token_s=1)) as p:
        first, work = p.come(stream=True)
        await asyncio.sleep(0.5)
        first.go()
        await asyncio.sleep(2.5)
        second, again = p.come(tries=1, stream=True)
        await asyncio.gather(work, again)
        pieces = [json.loads(line[6:]) for line in second.answer().decode().split("\n\n") if line.startswith("data: {")]
        assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces) == "a b c d e f"
        assert {at_s for at_s, _ in second.said()} >= {3.0, 4.8, 5.8}, "it is told as it comes"
        assert p.started == 1


async def test_of_a_stream_with_too_long_a_beginning_the_whole_comes_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST_TOLD_CHARACTERS", 3)
    async with place(Script(text="a b c d e f", first_s=0.8, token_s=0.5)) as p:
        first, work = p.come(stream=True)
        await asyncio.sleep(0.5)
        first.go()
        await asyncio.sleep(2)
        second, again = p.come(tries=1, stream=True)
        await asyncio.gather(work, again)
        assert second.answer().count(b"a b c d e f") == 1 and p.started == 1


async def test_an_answer_that_came_after_its_client_had_gone_is_kept_for_a_minute() -> None:
    async with place(Script(text="late", first_s=2)) as p:
        for wait_s, upstream in ((repeats.KEEP_S - 1, 1), (repeats.KEEP_S + 1, 3)):
            first, work = p.come()
            await asyncio.sleep(0.5)
            first.go()
            await work
            await asyncio.sleep(wait_s)
            second, again = p.come(tries=0)
            await again
            assert text_of(second) == "late" and p.started == upstream
            second.peer.settle()


async def test_an_answer_that_was_written_is_kept_for_a_retry_until_the_connection_is_used_again() -> None:
    async with place(Script(text="x")) as p:
        first, work = p.come()
        await work
        equal, work = p.come(tries=0)
        await work
        assert p.started == 2, "an equal call is another"
        retry, work = p.come(tries=1)
        await work
        assert text_of(retry) == "x" and p.started == 2, "the retry of a call is not"
        for visitor in (first, equal, retry):
            visitor.peer.settle()
        _, work = p.come(tries=1)
        await work
        assert p.started == 3, "what was read is not given again"


async def test_a_retry_whose_connection_breaks_too_has_a_retry() -> None:
    async with place(SLOW) as p:
        tasks = []
        for tries in range(4):
            visitor, work = p.come(tries=tries)
            tasks.append(work)
            await asyncio.sleep(3)
            visitor.go()
        last, work = p.come(tries=4)
        await asyncio.wait((work, *tasks))
        assert text_of(last) == "late" and p.started == 1


async def test_a_retry_while_the_first_connection_seems_to_live_shares_its_call() -> None:
    async with place(SLOW) as p:
        first, work = p.come()
        await asyncio.sleep(1)
        second, again = p.come(tries=1)
        await asyncio.gather(work, again)
        assert text_of(first) == text_of(second) == "late" and p.started == 1


async def test_a_call_that_is_shared_ends_with_the_last_of_its_clients() -> None:
    async with place(SLOW) as p:
        first, work = p.come()
        await asyncio.sleep(1)
        second, again = p.come(tries=1)
        await asyncio.sleep(1)
        first.go()
        await asyncio.sleep(repeats.LINGER_S + 1)
        assert p.aborted == 0
        second.go()
        await again
        await asyncio.sleep(repeats.LINGER_S + 1)
        assert p.aborted == 1
        await work


async def test_the_retry_of_a_refused_call_is_a_call_of_its_own() -> None:
    """Three equal calls; one runs, one waits, one is refused. Its retry takes neither of the others'."""
    async with place(Script(text="x", first_s=20), lane=LaneConfig(queue=1), slots=1) as p:
        visitors, tasks = zip(*(p.come() for _ in range(3)), strict=True)
        await asyncio.sleep(1)
        assert [visitor.status for visitor in visitors if visitor.sent] == [429]
        await asyncio.sleep(20)
        retry, again = p.come(tries=1)
        await asyncio.gather(*tasks, again)
        assert retry.status == 200 and p.started == 3


async def test_what_was_kept_goes_also_where_sums_of_times_are_not_exact() -> None:
    """A timer that finds its answer kept for a hair less than a minute would come at once, again and again."""
    odd_s = next(n / 100 for n in range(1, 100_000) if n / 100 + repeats.KEEP_S - repeats.KEEP_S < n / 100)
    async with place(Script(text="x")) as p:
        loop = asyncio.get_running_loop()
        while loop.time() < odd_s:
            await asyncio.sleep(odd_s - loop.time())
        _, work = p.come()
        await work
        expired = asyncio.get_running_loop().create_future()
        loop.call_at(odd_s + 2 * repeats.KEEP_S, expired.set_result, None)
        await expired


BACKGROUND = ("/v1/responses", {"model": "default", "input": "hello", "background": True})


def id_of(visitor: Visitor) -> str:
    return str(json.loads(visitor.answer())["id"])


@pytest.mark.parametrize("steps", range(8))
async def test_a_background_response_whose_client_went_at_any_moment_is_begun_once(steps: int) -> None:
    """Its connection dies after so many turns of the loop, or after its answer; the same request comes again at once."""
    async with place(SLOW) as p:
        first, work = p.come_to(*BACKGROUND)
        for _ in range(steps):
            await asyncio.sleep(0)
        begun = p.started
        first.go()
        again, task = p.come_to(*BACKGROUND, tries=1)
        await asyncio.gather(work, task)
        assert again.status == 200 and p.started == 1
        assert not begun or not first.sent or id_of(first) == id_of(again)


async def test_two_background_responses_and_a_strangers_try_are_three() -> None:
    async with place(SLOW) as p:
        visitors = [p.come_to(*BACKGROUND), p.come_to(*BACKGROUND), p.come_to(*BACKGROUND, tries=1, token=1)]
        await asyncio.gather(*(task for _, task in visitors))
        assert len({id_of(visitor) for visitor, _ in visitors}) == p.started == 3


async def test_the_tries_of_one_background_response_that_overlap_are_one() -> None:
    async with place(SLOW) as p:
        visitors = [p.come_to(*BACKGROUND), p.come_to(*BACKGROUND, tries=1)]
        await asyncio.gather(*(task for _, task in visitors))
        assert len({id_of(visitor) for visitor, _ in visitors}) == p.started == 1


async def test_another_token_another_path_and_another_body_get_nothing_of_it() -> None:
    async with place(SLOW) as p:
        first, work = p.come()
        await asyncio.sleep(0.5)
        first.go()
        others = [p.come(tries=1, token=1), p.come(tries=1, temperature=0.5)]
        await asyncio.gather(work, *(task for _, task in others))
        assert p.started == 3


async def test_a_failure_that_comes_too_late_for_its_status_is_told_to_the_retry() -> None:
    """After spaces the connection is cut: the status was said already. What is final is final, and not done again."""
    final = DeadlineExceeded("the script has no time")
    for tries in (0, None):
        async with place(Script(text="x", first_s=60, fail_after=0, failure=final)) as p:
            first, work = p.come(tries=tries)
            await work
            assert first.status == 200 and first.answer().strip() == b"" and not first.whole
            second, work = p.come(tries=None if tries is None else 1)
            await work
            assert second.status == 504 and p.started == 1
            assert (b"x-should-retry", b"false") in second.sent[0][1]["headers"]


async def test_a_failure_that_may_pass_is_tried_again_for_real() -> None:
    async with place(Script(text="x", first_s=60, fail_after=0)) as p:
        _, work = p.come()
        await work
        tried = p.started
        second, work = p.come(tries=1)
        await work
        assert second.status == 200 and p.started > tried


async def test_what_is_kept_is_bounded_for_each_token_and_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST_KEPT", 3)
    async with place(Script(text="x")) as p:
        for seed in range(5):
            _, work = p.come(seed=seed)
            await work
        for seed in range(5):
            _, work = p.come(tries=1, seed=seed)
            await work
        assert p.started == 5 + 5, "each new one pushes out the oldest"
    monkeypatch.setattr(repeats, "MOST_KEPT_BYTES", 1000)
    async with place(Script(text="x" * 2000)) as p:
        for tries in (0, 1):
            _, work = p.come(tries=tries)
            await work
        assert p.started == 2, "one that is too large is not kept"


async def test_a_kernel_that_closes_ends_those_that_wait_for_another_try() -> None:
    async with place(SLOW) as p:
        first, work = p.come()
        await asyncio.sleep(0.5)
        first.go()
        second, again = p.come(tries=1)
        await asyncio.sleep(0.5)
        work.cancel()
        await asyncio.gather(work, again)
        assert second.status == 503 and p.aborted == 1


async def test_the_calls_that_wait_for_their_clients_are_bounded_for_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST_LINGERING", 2)
    async with place(SLOW, slots=9) as p:
        for _ in range(2):  # and those that are over do not count
            visits = [p.come(seed=seed) for seed in range(5)]
            aborted = p.aborted
            await asyncio.sleep(0.5)
            for visitor, _ in visits:
                visitor.go()
            await asyncio.sleep(0.5)
            assert p.aborted - aborted == 3
            await asyncio.gather(*(work for _, work in visits))
            assert p.aborted - aborted == 5


async def test_answers_to_equal_bodies_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MOST_EQUAL", 2)
    async with place(Script(text="x")) as p:
        for _ in range(5):
            _, work = p.come()
            await work
        for _ in range(5):
            _, work = p.come(tries=1)
            await work
        assert p.started == 5 + 3
