"""The door for clients of OpenAI's Responses: made at once, streamed or in the background, kept per process, and gone on from.

Whoever asks for a response must be the process that made it: another's is not there for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

import msgspec

from aios.abi.account import LimitState
from aios.abi.errors import AiosError, Conflict, Invalid, NotFound, OverBudget
from aios.abi.ids import UniqueIds
from aios.abi.llm import Completion, Count, Delta, Queued, Started
from aios.abi.request import Event
from aios.ports.kernel import Answer, Caller, Kernel
from aios.server.background import Background, BackgroundTask
from aios.server.exchange import JSON, OPEN_S, Handler, Headers, HttpRequest, Refusal, Writer
from aios.server.hints import answer_headers, ignored_header, options_of, patience_of, session_of
from aios.server.kept import Before, Kept, Turn, Turns
from aios.server.openai_words import error_body, status_of
from aios.server.quota import quota_headers
from aios.server.repeats import KEEP_S, Repeats, key_of, tries_of
from aios.server.response_body import generate_of, read_body
from aios.server.response_events import Response
from aios.server.response_items import read_input
from aios.server.response_list import input_items, number_of, query_of
from aios.server.response_log import Run

BACKGROUND = (b"warning", b'299 aios "a background response lives with this kernel: it is lost when the kernel goes down"')
SPENT_STATUS = 400
"""Of a spent budget. Not 402 as elsewhere: the `codex` command tries that again, five times."""

_encode = msgspec.json.Encoder().encode


class ResponsesDoor:
    """`POST /v1/responses` makes one, `GET` and `DELETE` of `/v1/responses/ID`, `.../ID/cancel`, `.../ID/input_items`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._ids = UniqueIds("resp", "_")
        self._kept = Kept()
        self._background = Background(kernel)
        self._repeats = Repeats(kernel)
        self.routes: Mapping[tuple[str, str], Handler] = {
            ("POST", "/v1/responses"): self._create,
            ("POST", "/v1/responses/input_tokens"): self._count,
            ("POST", "/v1/responses/"): self._cancel,
            ("GET", "/v1/responses/"): self._get,
            ("DELETE", "/v1/responses/"): self._delete,
        }

    def refusal(self, error: AiosError, request_id: str) -> Refusal:
        code, status = "", status_of(error)
        if isinstance(error, NotFound) and error.field != "model":
            code = "not_found"
            if error.field == "previous_response_id":
                code, status = "previous_response_not_found", 400
        elif isinstance(error, OverBudget):
            status = SPENT_STATUS
        return Refusal(status, error_body(error, status, error.field, code))

    def broken(self, error: AiosError, request_id: str) -> bytes:
        """Only of what is no part of a response: its own failures are told in its events."""
        return b"event: error\ndata: " + error_body(error, status_of(error), error.field) + b"\n\n"

    def _attach(self, request: HttpRequest, response: str | None, cache_key: object = None) -> tuple[Caller, Turns]:
        """The process that asks, and what is kept of it.

        A session's header names it first. Then a response that the request names leads to the session in which it was made, if
        that is of the same token: who asks for a response sends nothing else that was in the body that made it.
        """
        made_in = self._kept.session(request.token_id, response) if response else None
        session = session_of(request, made_in or (cache_key if made_in is None else None))
        caller = self._kernel.attach(request.token, session)
        return caller, self._kept.of(caller, request.token_id, session)

    # making one

    async def _create(self, request: HttpRequest, writer: Writer) -> None:
        body, ignored = read_body(request.body)
        caller, turns = self._attach(request, body.previous_response_id, body.prompt_cache_key)
        previous = turns.previous(body.previous_response_id) if body.previous_response_id else None
        before = Before(turns, previous)
        wanted, left_out = generate_of(body, before, read_input(body.input), before.item)
        options = options_of(request, body.aios, body.service_tier)
        headers: Headers = [ignored_header([*ignored, *dict.fromkeys(left_out)])] if ignored or left_out else []
        response = Response(self._ids(), body)
        turn = Turn(response.id, bytes(body.input), b"", previous) if body.store is not False else None
        if body.background:
            if turn is None:
                raise Invalid("a background response must be stored: leave out `store`", field="store")
            task = BackgroundTask(caller, wanted, options, response, turn, turns, bool(body.stream))
            await self._in_background(request, task, writer, [BACKGROUND, *headers])
        elif body.stream:
            stream = _Stream(writer, response, headers)
            call = self._repeats.call(request, writer, caller, wanted, options, stream.tell)
            await self._streamed(call, stream, turn, turns)
        else:
            writer.be_patient(patience_of(request))
            answer = await self._repeats.call(request, writer, caller, wanted, options)
            whole = response.whole(answer.value)
            _keep(turns, turn, whole)
            await writer.whole(200, whole, [*answer_headers(answer), *headers])

    async def _streamed(self, call: Awaitable[Answer], stream: _Stream, turn: Turn | None, turns: Turns) -> None:
        """One whose client hears how it comes to be. Once it has heard of it, a failure is told as the response's own."""
        try:
            answer = await call
        except AiosError as error:
            if stream.writer.state != "stream":
                raise
            return await stream.writer.end(stream.response.failed(error)[0])
        said, whole = stream.end(answer.value)
        _keep(turns, turn, whole)
        await stream.writer.end(said)

    async def _in_background(self, request: HttpRequest, task: BackgroundTask, writer: Writer, headers: Headers) -> None:
        """One that is begun now; or was before, if this is another try of a client that did not hear of it."""
        key, now_s = key_of(request), asyncio.get_running_loop().time()
        turn = task.turns.unheard(key, now_s - KEEP_S) if tries_of(request) else None
        if turn is not None:
            answer = turn.answer
        else:
            turn = task.turn
            turn.key, turn.begun_s = key, now_s  # before it begins, in which its client may go and come again
            answer = await self._background.begin(task)
        writer.settle = turn.heard
        headers += _ticket(turn)
        if task.streams and turn.run is not None:
            await _follow(turn.run, -1, writer, headers)
        else:
            await writer.whole(200, answer, [JSON, *headers])

    # those that are there

    async def _get(self, request: HttpRequest, writer: Writer) -> None:
        id, _, below = request.rest.partition("/")
        _, turns = self._attach(request, id)
        turn = turns.find(id)
        query = query_of(request)
        if below == "input_items":
            return await writer.whole(200, input_items(turn, query), [JSON])
        if below:
            raise NotFound(f"there is no /v1/responses/ID/{below[:100]}")
        if query.get("stream", ["false"])[-1] != "true":
            return await writer.whole(200, turn.answer, [JSON, *_ticket(turn)])
        if turn.run is None:
            raise Invalid("only what was made in the background can be streamed again: leave out `stream`", field="stream")
        after = number_of(query, "starting_after", -1, -1, turn.run.log.events - 1)
        await _follow(turn.run, after, writer, [BACKGROUND, *_ticket(turn)])

    async def _cancel(self, request: HttpRequest, writer: Writer) -> None:
        id, _, below = request.rest.partition("/")
        if below != "cancel":
            raise NotFound(f"there is no POST /v1/responses/{request.rest[:200]}")
        _, turns = self._attach(request, id)
        turn = turns.find(id)
        if turn.run is None:
            raise Invalid("only a background response can be cancelled: this one was made while its client waited", field="id")
        await turn.run.cancel()
        await writer.whole(200, turn.answer, [JSON])

    async def _delete(self, request: HttpRequest, writer: Writer) -> None:
        _, turns = self._attach(request, request.rest)
        turn = turns.find(request.rest)
        if turn.run is not None:
            await turn.run.cancel()
        if turn.listed:
            turns.forget(turn)
        await writer.whole(200, _encode({"id": turn.id, "object": "response", "deleted": True}), [JSON])

    async def _count(self, request: HttpRequest, writer: Writer) -> None:
        body, ignored = read_body(request.body)
        caller, turns = self._attach(request, body.previous_response_id, body.prompt_cache_key)
        before = Before(turns, turns.previous(body.previous_response_id) if body.previous_response_id else None)
        wanted, left_out = generate_of(body, before, read_input(body.input), before.item)
        headers = [ignored_header([*ignored, *dict.fromkeys(left_out)])] if ignored or left_out else []
        asked = Count(model=wanted.model, messages=wanted.messages, tools=wanted.tools)
        counted = (await self._kernel.call(caller, asked)).value
        found = {"object": "response.input_tokens", "input_tokens": counted.tokens}
        await writer.whole(200, _encode(found), [JSON, *headers])


class _Stream:
    """The events of one response for a client that waits for them."""

    __slots__ = ("_headers", "_opened", "response", "writer")

    def __init__(self, writer: Writer, response: Response, headers: Headers) -> None:
        self.writer = writer
        self.response = response
        self._headers = headers
        self._opened = False

    def tell(self, event: Event) -> Awaitable[None] | None:
        """Take an event of the call; the headers leave when it is accepted."""
        if type(event) is Delta:
            said = self.response.piece(event)
            return self.writer.write(said) if said else None
        if type(event) is Queued:
            self._open(event.call, 0.0, self.response.created("queued"), event.quota)
        elif type(event) is Started and self._opened:
            self.writer.write(self.response.started(event.model))
        elif type(event) is Started:
            self.response.named(event.model)
            self._open(event.call, OPEN_S, self.response.created("in_progress"), event.quota)
        return None

    def end(self, value: Completion) -> tuple[bytes, bytes]:
        """What is left to tell, and the response as JSON."""
        if not self._opened:  # answered from the record: nothing was told
            self.response.named(value.model)
            self._open("", 0.0, self.response.created("in_progress"))
        return self.response.end(value)

    def _open(self, call: str, after_s: float, first: bytes, quota: tuple[LimitState, ...] = ()) -> None:
        self._opened = True
        ticket = [(b"x-aios-ticket", call.encode())] if call else []
        self.writer.open([*self._headers, *ticket, *quota_headers(quota)], after_s=after_s, first=first)


async def _follow(run: Run, after: int, writer: Writer, headers: Headers) -> None:
    """The events of a background response after one of them, until its last. Raises `Conflict` if they are no longer kept."""
    if not run.log.lost:
        writer.open(headers)
        if await run.log.read(after, writer):
            return await writer.end()
    raise Conflict("its events are no longer kept: they are too many; ask for the response as a whole")


def _ticket(turn: Turn) -> Headers:
    """The call that makes a background response, by the name that `aios why` knows."""
    return [(b"x-aios-ticket", turn.run.ticket.encode())] if turn.run is not None and turn.run.ticket else []


def _keep(turns: Turns, turn: Turn | None, whole: bytes) -> None:
    if turn is not None:
        turn.answer = whole
        turns.add(turn)
