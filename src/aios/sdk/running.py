"""One agent function, running in a host: its arguments, its task, what it leaves behind, and its result."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import ContextVar, copy_context
from functools import partial
from types import GenericAlias
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from aios.abi.answers import result_text
from aios.abi.errors import AiosError, Cancelled, ChildFailed, Invalid, Killed, NotFound, ToolFailed
from aios.abi.process import Signal
from aios.sdk.blocking import BlockingKernel, Calls
from aios.sdk.kernel import Kernel
from aios.sdk.printed import Printed, printing
from aios.sdk.program import failure, own_traceback
from aios.sdk.tool import Toolbox

T = TypeVar("T")

LEFT_BEHIND_S = 2.0
"""How long the tasks that an agent left behind may take to end when they are cancelled."""

_running: ContextVar[Running | None] = ContextVar("running", default=None)


class Threads(NamedTuple):
    """Where plain functions run. Tools have threads of their own: plain agents wait for them, and may hold all of theirs."""

    agents: Executor
    tools: Executor

    def shutdown(self) -> None:
        """Begin nothing more in them."""
        for executor in self:
            executor.shutdown(wait=False)


class Running:
    """An agent function from question to answer. Its tasks are children of its own: none outlives it."""

    def __init__(self, printed: Printed, threads: Threads | None) -> None:
        self.told: Signal | None = None
        self.printed = printed
        self._threads = threads
        self._tasks: set[asyncio.Task[Any]] = set()
        self._main: asyncio.Task[Any] | None = None
        self._context = copy_context()
        self._toolbox: Toolbox | None = None

    def tell(self, signal: Signal) -> None:
        """A signal: its code sees a cancellation."""
        self.told = signal
        if self._main is not None:
            self._main.cancel()

    async def run(self, function: Callable[..., Any], k: Kernel, arguments: tuple[Any, ...]) -> bytes:
        """Run the function to its end and return its result as JSON. Raises the `AiosError` that its caller is told."""
        call = bound(function, arguments)
        running, speaker = _running.set(self), printing.set(self.printed)
        self._context, self._toolbox = copy_context(), k.tools
        try:
            run = self._in_task if inspect.iscoroutinefunction(function) else self._in_thread
            self._main = asyncio.get_running_loop().create_task(run(function, k, call), name=function.__qualname__)
            if self.told is not None:
                self._main.cancel()
            await asyncio.wait((self._main,))
            await self._clear()
            return result_text(self._result(self._main))
        finally:
            self.printed.end()
            _running.reset(running)
            printing.reset(speaker)

    async def _in_task(self, function: Callable[..., Any], k: Kernel, call: inspect.BoundArguments) -> Any:
        try:
            return await function(k, *call.args, **call.kwargs)
        except (SystemExit, KeyboardInterrupt) as error:  # they would end the loop, and every other agent with it
            raise failure(error) from error

    async def _in_thread(self, function: Callable[..., Any], k: Kernel, call: inspect.BoundArguments) -> Any:
        """A plain function cannot be cancelled: the calls that it waits for are, and then it is waited for."""
        if self._threads is None:
            raise Invalid(f"`{function.__qualname__}` is a plain function, which blocks while it waits: it needs a real loop")
        loop = asyncio.get_running_loop()
        calls = Calls()
        handle = BlockingKernel(k, calls)
        work = loop.run_in_executor(
            self._threads.agents, copy_context().run, in_a_thread, partial(function, handle, *call.args, **call.kwargs)
        )
        while not work.done():
            try:
                await asyncio.wait((work,))
            except asyncio.CancelledError:
                calls.stop()
        return work.result()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start something of the agent's that the kernel asked for: it prints as the agent does, and ends with it."""
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self.adopt(task)
        return task

    async def run_tool(self, name: str, arguments: dict[str, Any]) -> bytes:
        """Run a function that the agent has registered and return its result as JSON. Raises the `AiosError` that is told."""
        if self._toolbox is None:
            raise NotFound("the agent has not begun")
        function = self._toolbox.find(name)
        call = partial(function.function, **function.bound(arguments))
        try:
            return result_text(await self._made(call, inspect.iscoroutinefunction(function.function)))
        except ChildFailed as error:
            raise ToolFailed(error.message) from error
        except (AiosError, asyncio.CancelledError):
            raise
        except BaseException as error:  # the edge: foreign code, which may also raise SystemExit
            self.printed.write("err", own_traceback(error))
            raise ToolFailed(failure(error).message) from error

    async def _made(self, call: Callable[[], Any], waits: bool) -> Any:
        """What a tool's function returns; a plain one runs in a thread, which goes on when nobody waits for it any more."""
        if waits:
            return await call()
        if self._threads is None:
            return call()
        return await asyncio.get_running_loop().run_in_executor(self._threads.tools, copy_context().run, in_a_thread, call)

    def _result(self, main: asyncio.Task[Any]) -> Any:
        if main.cancelled():
            raise Killed("the process was killed") if self.told == "kill" else Cancelled("the process was stopped")
        error = main.exception()
        if error is None:
            return main.result()
        if not isinstance(error, AiosError):
            self.printed.write("err", own_traceback(error))
        raise failure(error) from error

    async def _clear(self) -> None:
        """Cancel what the function left behind, and say so."""
        left = self._tasks - {cast("asyncio.Task[Any]", self._main)}
        if not left:
            return
        names = ", ".join(sorted(task.get_name() for task in left)[:5])
        self.printed.write("err", f"cancelled {len(left)} tasks that were left behind: {names}\n")
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=LEFT_BEHIND_S)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def in_a_thread(call: Callable[[], T]) -> T:
    """Make a call whose errors go to a loop: there, some would end the loop, and one would never arrive."""
    try:
        return call()
    except (StopIteration, SystemExit, KeyboardInterrupt) as error:
        raise failure(error) from error


def new_task(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """The loop's task factory: each task belongs to the agent whose code started it."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    running = _running.get()
    if running is not None:
        running.adopt(task)
    return task


def bound(function: Callable[..., Any], arguments: tuple[Any, ...]) -> inspect.BoundArguments:
    """The arguments as the function's annotations want them. Raises `Invalid` with the parameter's name."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]
    try:
        call = signature.replace(parameters=parameters).bind(*arguments)
    except TypeError as error:
        raise Invalid(f"`{function.__qualname__}` {error}: it takes {len(parameters)} after `k`", field="arguments") from None
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):  # a name that only a type checker knows
        hints = {}
    for name, value in call.arguments.items():
        if name in hints:
            each = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            call.arguments[name] = _converted(name, value, GenericAlias(tuple, (hints[name], ...)) if each else hints[name])
    return call


def _converted(name: str, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Invalid(f"argument `{name}`: {error}", field=f"arguments.{name}") from None
    except TypeError:  # a type that msgspec does not know: the function gets what was sent
        return value
