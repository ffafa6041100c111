"""The agent's end of the socketpair: system calls of many processes over one connection, one space of ids.

Frames of one turn of the loop leave in one write. When the kernel reads slowly, callers wait before they send more. Events of
a stream are kept until they are read and nobody else is held up by that: together they are no larger than the answer, and to
stop reading would keep a reader from the reply to a call that it makes in between.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any, Protocol, TypeVar, cast

import msgspec

from aios.abi import frames
from aios.abi.errors import AiosError, Unavailable, error_of
from aios.abi.llm import Delta, Queued, Started
from aios.abi.record import ABI_VERSION
from aios.abi.request import NO_OPTIONS, CallOptions, Event, Request
from aios.abi.table import ROW_OF, Row

R = TypeVar("R")

WRITE_HIGH_BYTES = 1 << 20

_events = msgspec.msgpack.Decoder(Queued | Started | Delta)


class Resident(Protocol):
    """What the kernel's questions and signals go to."""

    def asked(self, ask: frames.Ask) -> None: ...

    def asked_tool(self, ask: frames.RunTool) -> None: ...

    def given_up(self, id: int) -> None:
        """The kernel waits no more for the answer to its question, which it still takes."""
        ...

    def told(self, tell: frames.Tell) -> None: ...

    def cut_off(self) -> None:
        """The kernel is gone."""
        ...


class SocketGate(asyncio.Protocol):
    """The connection. `of(pid)` is one process's gate over it. Make it with `connect`."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        self._reader = frames.reader_of_kernel()
        self._ids = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._out: list[bytes] = []
        self._early: list[frames.FromKernel] | None = []
        self._loop = asyncio.get_running_loop()
        self._writable = asyncio.Event()
        self._writable.set()
        self._welcomed: asyncio.Future[None] = self._loop.create_future()
        self._gone: str | None = None

    @classmethod
    async def connect(cls, end: socket.socket, resident: Resident) -> SocketGate:
        """Greet the kernel over `end`; its questions reach `resident` after this has returned.

        Raises `Unavailable` if it is gone or speaks another version of the contract.
        """
        _, gate = await asyncio.get_running_loop().create_connection(lambda: cls(resident), sock=end)
        gate.send(frames.Hello(abi=ABI_VERSION))
        try:
            await gate._welcomed
        except BaseException:
            gate.close()
            raise
        gate._loop.call_soon(gate._hand_over)
        return gate

    def of(self, pid: str) -> ProcessGate:
        """The gate of one process."""
        return ProcessGate(self, pid)

    def send(self, frame: frames.FromChild) -> None:
        """Send a frame with the others of this turn of the loop. Raises `TooLarge`."""
        data = frames.encode_frame(frame)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    async def wait_writable(self) -> None:
        """Return when the kernel has read most of what was sent."""
        await self._writable.wait()

    def begin(self, pid: str, request: Request[Any], options: CallOptions, stream: bool) -> _Open:
        """Send a call. Raises `Unavailable` when the kernel is gone."""
        if self._gone is not None:
            raise Unavailable(self._gone)
        row = ROW_OF[type(request)]
        number = next(self._ids)
        self.send(frames.Call(number, pid, row.name, frames.pack(request), options, stream))
        call = self._open[number] = _Open(number, row, self._loop.create_future())
        return call

    def give_up(self, call: _Open) -> None:
        """Nobody waits for it any more; the kernel is told unless it has replied."""
        if self._open.pop(call.number, None) is not None and self._gone is None:
            self.send(frames.Cancel(call.number))

    def close(self) -> None:
        """Hang up, after what was sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._out and self._gone is None:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH_BYTES)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except AiosError as error:
            self._end(f"the kernel cannot be understood: {error}")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the kernel is gone")
        self._resident.cut_off()

    def _take(self, frame: frames.FromKernel) -> None:
        match frame:
            case frames.Event():
                if (call := self._open.get(frame.id)) is not None:
                    call.tell(frame.body)
            case frames.Reply():
                if (call := self._open.pop(frame.id, None)) is not None:
                    call.end(frame)
            case frames.Welcome():
                self._welcome(frame)
            case _ if self._early is not None:
                self._early.append(frame)
            case frames.Ask():
                self._resident.asked(frame)
            case frames.RunTool():
                self._resident.asked_tool(frame)
            case frames.Cancel():
                self._resident.given_up(frame.id)
            case frames.Tell():
                self._resident.told(frame)

    def _hand_over(self) -> None:
        """What came in one read with the welcome, and from now on everything at once."""
        early, self._early = self._early or [], None
        for frame in early:
            self._take(frame)

    def _welcome(self, frame: frames.Welcome) -> None:
        if self._welcomed.done():
            return
        if frame.abi == ABI_VERSION:
            self._welcomed.set_result(None)
        else:
            self._end(f"the kernel speaks version {frame.abi} of the contract, this program {ABI_VERSION}: start it again")

    def _end(self, why: str) -> None:
        """Every call that waits ends in `Unavailable`."""
        if self._gone is not None:
            return
        self._gone = why
        self._writable.set()
        if not self._welcomed.done():
            self._welcomed.set_exception(Unavailable(why))
        fault = Unavailable(why).fault()
        calls, self._open = self._open, {}
        for call in calls.values():
            call.end(frames.Reply(call.number, fault=fault))


class _Open:
    """A call that has not ended: its events that nobody has read yet, and its reply."""

    __slots__ = ("events", "number", "reply", "row", "said")

    def __init__(self, number: int, row: Row, reply: asyncio.Future[frames.Reply]) -> None:
        self.number, self.row, self.reply = number, row, reply
        self.events: list[msgspec.Raw] = []
        self.said: asyncio.Future[None] | None = None

    def tell(self, body: msgspec.Raw) -> None:
        self.events.append(body)
        self._wake()

    def end(self, reply: frames.Reply) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)
        self._wake()

    def _wake(self) -> None:
        if self.said is not None and not self.said.done():
            self.said.set_result(None)

    async def wait_said(self) -> None:
        """Return when there is an event or the reply."""
        if not self.events and not self.reply.done():
            self.said = asyncio.get_running_loop().create_future()
            await self.said


class ProcessGate:
    """The port `Gate` of one process, over the connection of its host."""

    __slots__ = ("_gate", "_pid")

    def __init__(self, gate: SocketGate, pid: str) -> None:
        self._gate, self._pid = gate, pid

    async def call(self, request: Request[R], options: CallOptions = NO_OPTIONS) -> R:
        """See the port."""
        await self._gate.wait_writable()
        call = self._gate.begin(self._pid, request, options, stream=False)
        try:
            return cast(R, _value(call.row, await call.reply))
        finally:
            self._gate.give_up(call)

    async def stream(self, request: Request[Any], options: CallOptions = NO_OPTIONS) -> AsyncIterator[Event | Any]:
        """See the port."""
        await self._gate.wait_writable()
        call = self._gate.begin(self._pid, request, options, stream=True)
        try:
            while not call.reply.done() or call.events:
                await call.wait_said()
                events, call.events = call.events, []
                for body in events:
                    if (event := decode_event(_events.decode, body)) is not None:
                        yield event
            yield _value(call.row, call.reply.result())
        finally:
            self._gate.give_up(call)


def decode_event(decode: Callable[[Any], Event], body: Any) -> Event | None:
    """An event; None for one of a newer kernel."""
    try:
        return decode(body)
    except msgspec.ValidationError:
        return None


@cache
def _reply_decoder(row: Row) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(row.reply)


def _value(row: Row, reply: frames.Reply) -> Any:
    """The reply's value. Raises the error that it says."""
    if reply.fault is not None:
        raise error_of(reply.fault)
    return _reply_decoder(row).decode(reply.body or b"")
