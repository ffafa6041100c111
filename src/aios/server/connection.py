"""The kernel's end of a host child's socketpair: its agents' calls, and the kernel's questions to them.

Reading is never held back because many calls are open: what ends them (an answer, a cancel, the end of a child that a parent
waits for) comes over the same socket. Their number is bounded per process and per host instead. It is held back while the
child does not read what it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aios.abi import request as abi
from aios.abi.answers import MAX_SAID_CHARACTERS, failure_of, failure_of_tool, read_result
from aios.abi.errors import AiosError, Cancelled, ChildFailed, Denied, Internal, Invalid, RateLimited, TooLarge, ToolFailed
from aios.abi.frames import (
    Answer,
    Ask,
    Call,
    Cancel,
    Event,
    Hello,
    Print,
    Reply,
    RunTool,
    Tell,
    Welcome,
    encode_frame,
    pack,
    reader_of_child,
)
from aios.abi.process import Signal
from aios.abi.record import ABI_VERSION
from aios.abi.wire import decode_request, row_named
from aios.ports.host import HostGone, Stream
from aios.ports.kernel import Caller, Kernel
from aios.ports.sandbox import Child
from aios.server.printing import MAX_LINE_CHARACTERS, Printing

MAX_OPEN_CALLS = 256
"""Of one process."""
MAX_HOST_CALLS = 4096
"""Of all processes in a host; of functions that they run, as many again."""
MAX_RUNNING_TOOLS = 64
"""Of one process."""
MAX_UNREAD_BYTES = 1_000_000
FOREIGN_FRAMES = 3
"""Frames for processes that never ran here, until the host is not trusted any more."""
MAX_PRINT_CHARACTERS = 65536
"""Of one frame."""
LAST_LINES = 20
LAST_WORDS_S = 1.0
"""From the end of the connection to that of the child, which may have something to say: a traceback, an exit code."""


class SocketHost(asyncio.Protocol):
    """The port `Host`, and the connection to it. `greeted` is done when the child is ready; it raises `ChildFailed`."""

    def __init__(self, kernel: Kernel, program: str) -> None:
        self._kernel = kernel
        self._program = program
        self._loop = asyncio.get_running_loop()
        self._reader = reader_of_child()
        self._transport: asyncio.Transport | None = None
        self._child: Child | None = None
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._calls_of: Counter[str] = Counter()
        self._asks: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._asked = 0
        self._tools: dict[int, tuple[str, str, asyncio.Future[Any]]] = {}
        self._tools_of: Counter[str] = Counter()
        self._residents: dict[str, Caller] = {}
        self._former: set[str] = set()
        self._foreign = 0
        self._out: list[bytes] = []
        self._unread = False
        self._readable: list[asyncio.Future[None]] = []
        self._printing = Printing(kernel)
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._distrusted = ""
        self._last_words: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()
        self._how = ""
        self._ended = asyncio.Event()
        self.greeted: asyncio.Future[None] = self._loop.create_future()

    # the port

    @property
    def os_pid(self) -> int:
        assert self._child is not None
        return self._child.os_pid

    async def run(self, pid: str, entry: str, arguments: tuple[Any, ...], model: str) -> Any:
        """Run an agent function to its end. What is cancelled here is killed there."""
        if self._ended.is_set():
            raise HostGone(self._how)
        self._asked += 1
        frame = encode_frame(Ask(self._asked, pid, entry, arguments, model))
        self._residents[pid] = self._kernel.resident(pid)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._asks[self._asked] = (pid, answer)
        self._write(frame)
        try:
            return await answer
        except asyncio.CancelledError:
            self.signal(pid, "kill")
            raise

    async def run_tool(self, pid: str, tool: str, arguments: dict[str, Any]) -> Any:
        """Run a function of a process. What is given up here is cancelled there, and counts as running until it has answered."""
        if self._ended.is_set():
            raise HostGone(self._how)
        if self._tools_of[pid] >= MAX_RUNNING_TOOLS or len(self._tools) >= MAX_HOST_CALLS:
            text = (
                f"{MAX_RUNNING_TOOLS} functions of a process, or {MAX_HOST_CALLS} of its host, run or were told to end and do not"
            )
            raise RateLimited(text, retry_after_s=1.0)
        self._asked += 1
        id = self._asked
        answer: asyncio.Future[Any] = self._loop.create_future()
        frame = encode_frame(RunTool(id, pid, tool, arguments))
        self._tools[id] = (pid, tool, answer)
        self._tools_of[pid] += 1
        self._write(frame)
        try:
            return await answer
        except asyncio.CancelledError:
            self._write(encode_frame(Cancel(id)))
            raise

    def signal(self, pid: str, signal: Signal) -> None:
        """Pass a signal on; it is lost if the process is no longer here."""
        if pid in self._residents:
            self._write(encode_frame(Tell(pid, signal)))

    def kill(self) -> None:
        """End the host at once."""
        if self._child is not None:
            self._child.kill()

    async def wait_ended(self) -> str:
        """Return when it has ended: how, in words."""
        await self._ended.wait()
        return self._how

    # its life

    def belong_to(self, child: Child) -> None:
        """Say which child is at the other end."""
        self._child = child

    def heard(self, stream: Stream, line: str) -> None:
        """The child itself wrote a line: its interpreter, or a library below Python."""
        line = line[:MAX_LINE_CHARACTERS]
        self._last_lines.append(line)
        for pid in self._residents:
            self._printing.line(pid, stream, line)
            break

    async def ends(self, child: Child) -> None:
        """Return when the child has ended and all that it said has been heard."""
        how = await child.wait_ended()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._lost.wait()
        self.end(how)
        if self._calls:
            await asyncio.wait(self._calls.values())

    def end(self, how: str) -> None:
        """The child has ended, or was never there."""
        if self._last_words is not None:
            self._last_words.cancel()
        self._how = how = f"{self._distrusted}; {how}" if self._distrusted else how
        self._ended.set()  # first of all: who waits for its end hears of it before those whose run it takes down
        if self._transport is not None:
            self._transport.abort()
        if not self.greeted.done():
            said = "\n".join(self._last_lines)[-MAX_SAID_CHARACTERS:]
            self.greeted.set_exception(ChildFailed(f"`{self._program}` could not be started: {how}\n{said}".rstrip()))
        for answer in (*(ask[-1] for ask in self._asks.values()), *(tool[-1] for tool in self._tools.values())):
            if not answer.done():
                answer.set_exception(HostGone(how))
        self._asks.clear()
        self._tools.clear()
        self._residents.clear()

    # the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=MAX_UNREAD_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there to hear a reply: the calls end at once, and soon the child too, if it lives on."""
        for task in self._calls.values():
            task.cancel()
        self._resume()
        self._lost.set()
        if not self._ended.is_set():
            self._last_words = self._loop.call_later(LAST_WORDS_S, self.kill)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
            for frame in frames:
                if not self.greeted.done() and type(frame) is not Hello:
                    raise Invalid("it spoke before its greeting")
                self._take[type(frame)](self, frame)
        except (Invalid, TooLarge) as error:
            self._distrust(error.message)

    def pause_writing(self) -> None:
        self._unread = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and self._unread and not self._transport.is_closing():
            self._transport.resume_reading()
        self._resume()

    def _resume(self) -> None:
        self._unread = False
        for readable in self._readable:
            if not readable.done():
                readable.set_result(None)
        self._readable.clear()

    def _distrust(self, why: str) -> None:
        """It does not keep to the contract: nothing more is taken from it."""
        self._distrusted = self._distrusted or f"it broke the contract: {why}"
        self.kill()
        if self._transport is not None:
            self._transport.abort()

    def _write(self, frame: bytes) -> None:
        """Send a frame, together with the others of this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        data = b"".join(self._out)
        self._out.clear()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # what the child says

    def _hello(self, frame: Hello) -> None:
        if self.greeted.done():
            raise Invalid("it greeted twice")
        if frame.abi != ABI_VERSION:
            text = f"its `aios` speaks version {frame.abi} of the contract, this kernel {ABI_VERSION}: install the same version"
            self.greeted.set_exception(ChildFailed(text))
            return self._distrust(text)
        self._write(encode_frame(Welcome(ABI_VERSION)))
        self.greeted.set_result(None)

    def _call(self, frame: Call) -> None:
        caller = self._residents.get(frame.pid)
        if caller is None:
            self._foreign_frame(frame.pid)
            return self._refuse(frame.id, Denied(f"process {frame.pid[:40]} does not run in this host", field="pid"))
        if frame.id in self._calls:
            raise Invalid(f"call {frame.id} is open already")
        if self._calls_of[frame.pid] >= MAX_OPEN_CALLS or len(self._calls) >= MAX_HOST_CALLS:
            text = f"{MAX_OPEN_CALLS} calls of a process, or {MAX_HOST_CALLS} of its host, are open: wait for some of them to end"
            return self._refuse(frame.id, RateLimited(text, retry_after_s=1.0))
        self._calls_of[frame.pid] += 1
        self._calls[frame.id] = self._loop.create_task(self._serve(caller, frame))

    async def _serve(self, caller: Caller, frame: Call) -> None:
        """One call, in a task of its own, to its reply."""
        try:
            request = decode_request(row_named(frame.name), frame.body, "msgpack")
            answer = await self._kernel.call(caller, request, frame.options, self._teller(frame.id) if frame.stream else None)
            reply = encode_frame(Reply(frame.id, pack(answer.value), label=answer.label))
        except AiosError as error:
            reply = _fault(frame.id, error)
        except asyncio.CancelledError:
            reply = _fault(frame.id, Cancelled("the caller gave up"))
        except Exception as bug:  # noqa: BLE001  # the edge: a bug of ours ends this call and nothing else
            reply = _fault(frame.id, Internal(f"a bug of ours ended this call; its incident id is {self._kernel.fault(bug)}"))
        del self._calls[frame.id]
        self._calls_of[frame.pid] -= 1
        self._write(reply)

    def _teller(self, id: int) -> Callable[[abi.Event], Awaitable[None] | None]:
        def tell(event: abi.Event) -> Awaitable[None] | None:
            self._write(encode_frame(Event(id, pack(event))))
            return self._wait_read() if self._unread else None

        return tell

    def _wait_read(self) -> Awaitable[None]:
        readable = self._loop.create_future()
        self._readable.append(readable)
        return readable

    def _refuse(self, id: int, error: AiosError) -> None:
        self._write(_fault(id, error))

    def _cancel(self, frame: Cancel) -> None:
        """Later in this turn: a task that is cancelled before its first step would never answer."""
        task = self._calls.get(frame.id)
        if task is not None:
            self._loop.call_soon(task.cancel)

    def _answer(self, frame: Answer) -> None:
        if frame.id in self._tools:
            return self._tool_answer(frame)
        pid, answer = self._asks.pop(frame.id, ("", None))
        if answer is None:
            raise Invalid(f"it answered question {frame.id}, which was not asked")
        name = self._residents.pop(pid).name
        self._former.add(pid)
        if answer.done():
            return
        try:
            if frame.fault is not None:
                raise failure_of(name, frame.fault)
            answer.set_result(read_result(frame.result))
        except AiosError as error:
            answer.set_exception(error)

    def _tool_answer(self, frame: Answer) -> None:
        pid, tool, answer = self._tools.pop(frame.id)
        self._tools_of[pid] -= 1
        if not self._tools_of[pid]:
            del self._tools_of[pid]
        if answer.done():
            return
        try:
            if frame.fault is not None:
                raise failure_of_tool(tool, frame.fault)
            answer.set_result(read_result(frame.result))
        except ChildFailed as error:
            answer.set_exception(ToolFailed(f"`{tool}`: {error.message}"))
        except AiosError as error:
            answer.set_exception(error)

    def _printed(self, frame: Print) -> None:
        if frame.pid not in self._residents:
            return self._foreign_frame(frame.pid)
        for line in frame.text[:MAX_PRINT_CHARACTERS].splitlines():
            self._printing.line(frame.pid, frame.stream, line)

    def _foreign_frame(self, pid: str) -> None:
        """A process that ran here may speak a moment too late; one that never did is made up."""
        if pid not in self._former:
            self._foreign += 1
            if self._foreign >= FOREIGN_FRAMES:
                raise Invalid(f"it spoke for process {pid[:40]}, which does not run in it")

    _take: dict[type[Any], Callable[[SocketHost, Any], None]] = {
        Hello: _hello, Call: _call, Cancel: _cancel, Answer: _answer, Print: _printed
    }  # fmt: skip


def _fault(id: int, error: AiosError) -> bytes:
    return encode_frame(Reply(id, fault=error.fault()))
