"""A host: the process in which up to 200 agents of one program run, connected to the kernel by an inherited socket.

`python -m aios.sdk.host --fd N PROGRAM`. It ends when the connection ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType

import uvloop

from aios.abi.answers import told
from aios.abi.errors import AiosError, Cancelled, NotFound, QueueFull, Unavailable
from aios.abi.frames import Answer, Ask, Print, RunTool, Tell
from aios.sdk.gate import SocketGate
from aios.sdk.kernel import Kernel
from aios.sdk.printed import Printed, StreamName, route_printing
from aios.sdk.program import agent_of, failure, load
from aios.sdk.running import Running, Threads, new_task

MAX_AGENTS = 200


class Host:
    """Runs the agents of a program. `program`: its module, or the error that loading it ended in.

    `threads`: whether plain functions run in threads of their own, as they should; else plain tools run in the loop, and plain
    agents not at all.
    """

    def __init__(self, program: ModuleType | AiosError, threads: bool = True) -> None:
        self._program = program
        self._agents: dict[str, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tools: dict[int, asyncio.Task[Answer]] = {}
        self._threads = _new_threads() if threads else None
        self._gate: SocketGate | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(self, end: socket.socket) -> None:
        """Answer the kernel's questions until the connection ends. Raises `Unavailable`, and what a bug of ours raised."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(new_task)  # type: ignore[arg-type]  # typeshed wants more of a coroutine than the loop gives
        self._gate = await SocketGate.connect(end, self)
        await self._ended

    def asked(self, ask: Ask) -> None:
        """A question: its answer comes when the function has ended."""
        loop = asyncio.get_running_loop()
        printed = Printed(lambda: loop.call_soon_threadsafe(self._tell_printed, ask.pid, printed))
        running = Running(printed, self._threads)
        if len(self._agents) >= MAX_AGENTS:
            self._answer(Answer(ask.id, fault=QueueFull(f"a host runs at most {MAX_AGENTS} agents").fault()))
            return
        self._agents[ask.pid] = running
        task = loop.create_task(self._run(ask, running), name=f"agent {ask.pid}")
        self._tasks.add(task)
        task.add_done_callback(self._left)

    def asked_tool(self, ask: RunTool) -> None:
        """A question to one of the agents' functions."""
        running = self._agents.get(ask.pid)
        if running is None:
            self._answer(Answer(ask.id, fault=NotFound(f"process {ask.pid} does not run here").fault()))
            return
        task = self._tools[ask.id] = running.begin(self._run_tool(ask, running))
        task.add_done_callback(partial(self._tool_left, ask))

    def given_up(self, id: int) -> None:
        """Nobody waits any more for what a function returns: it is cancelled, and answers so."""
        if (task := self._tools.get(id)) is not None:
            task.cancel()

    async def _run_tool(self, ask: RunTool, running: Running) -> Answer:
        try:
            return Answer(ask.id, await running.run_tool(ask.tool, ask.arguments))
        except AiosError as error:
            return Answer(ask.id, fault=told(error))

    def _tool_left(self, ask: RunTool, task: asyncio.Task[Answer]) -> None:
        """Also a function that was cancelled before its first step has its answer."""
        del self._tools[ask.id]
        self._answer(Answer(ask.id, fault=Cancelled("it was told to end").fault()) if task.cancelled() else task.result())

    def told(self, tell: Tell) -> None:
        """A signal; one for an agent that has just ended is late."""
        if (running := self._agents.get(tell.pid)) is not None:
            running.tell(tell.signal)

    def cut_off(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def _run(self, ask: Ask, running: Running) -> None:
        assert self._gate is not None
        try:
            if isinstance(self._program, AiosError):
                raise self._program
            function, tools = agent_of(self._program, ask.entry)
            k = Kernel(self._gate.of(ask.pid), ask.model, tools)
            answer = Answer(ask.id, await running.run(function, k, ask.arguments))
        except AiosError as error:
            answer = Answer(ask.id, fault=told(error))
        finally:
            del self._agents[ask.pid]
        self._tell_printed(ask.pid, running.printed)
        self._answer(answer)

    def _left(self, task: asyncio.Task[None]) -> None:
        """A question that will never be answered ends the host: its supervisor knows what to do."""
        self._tasks.discard(task)
        error = task.exception()
        if error is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _answer(self, answer: Answer) -> None:
        assert self._gate is not None
        self._gate.send(answer)

    async def close(self) -> None:
        """End its agents and hang up, where it is no process of its own that could just end."""
        for running in self._agents.values():
            running.tell("kill")
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._threads is not None:
            self._threads.shutdown()
        if self._gate is not None:
            self._gate.close()

    def _tell_printed(self, pid: str, printed: Printed) -> None:
        assert self._gate is not None
        printed.take(partial(self._print, pid))

    def _print(self, pid: str, stream: StreamName, text: str) -> None:
        assert self._gate is not None
        self._gate.send(Print(pid, stream, text))


def _new_threads() -> Threads:
    return Threads(ThreadPoolExecutor(MAX_AGENTS, "agent"), ThreadPoolExecutor(MAX_AGENTS, "tool"))


def loaded(file: Path) -> ModuleType | AiosError:
    """The program's module, or what its agents' callers are told instead."""
    try:
        return load(file)
    except BaseException as error:  # noqa: BLE001  # the edge: foreign code, which may also raise SystemExit
        return failure(error)


def main(arguments: list[str]) -> None:
    """Run a host to its end; it does not return."""
    option, fd, program = arguments
    assert option == "--fd"
    end = socket.socket(fileno=int(fd))
    end.set_inheritable(False)
    route_printing()
    module = loaded(Path(program))
    uvloop.run(_serve(module, end))


async def _serve(module: ModuleType | AiosError, end: socket.socket) -> None:
    """To leave the loop would wait for its threads and cancel its tasks, and agents need not oblige."""
    code = 0
    try:
        await Host(module).serve(end)
    except Unavailable as error:
        print(error.message, file=sys.stderr)
        code = 1
    except BaseException:  # noqa: BLE001  # the edge: whatever it was, the host ends here
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
