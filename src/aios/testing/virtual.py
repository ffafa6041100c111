"""Virtual time: an asyncio loop whose clock jumps to the next timer as soon as nothing is ready to run.

A test that waits an hour takes no time, and takes the same turns each time it runs. If everything waits and no timer is set,
nothing could ever go on: the loop says so (`Deadlock`) where another would hang.

    async def nap() -> float:
        await asyncio.sleep(3600)
        return time()

    assert run_virtual(nap()) == 3600

Only the loop's own time is virtual: `asyncio.sleep`, `timeout`, `wait_for`, `loop.time`; not `time.monotonic`. What answers in
real time cannot be waited for here, because the clock would jump past it: threads and child processes are refused, and a socket
works when both its ends are in this loop. Such tests run on a real loop.
"""

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, NoReturn, TypeVar, TypeVarTuple

__all__ = ["Deadlock", "VirtualLoop", "run_virtual", "time"]


T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Deadlock(RuntimeError):
    """Every task waits, no timer is set, no socket has anything to say."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at second 0."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Jumping(self._jump))

    def time(self) -> float:
        return self._now_s

    def _jump(self, timeout_s: float | None) -> None:
        if timeout_s is None:
            waiting = "".join(f"\n  {task.get_name()} in {_place(task)}" for task in asyncio.all_tasks(self))
            raise Deadlock(f"everything waits and no timer is set:{waiting or ' there is not even a task'}")
        self._now_s += timeout_s
        if self._now_s + 1e-9 == self._now_s:  # asyncio runs what is due before now + 1 ns, which after 97 days is now itself
            self._now_s = math.nextafter(self._now_s, math.inf)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], Any], *args: *Ts) -> NoReturn:
        raise RuntimeError("a thread works in real time: run this on a real loop")

    async def subprocess_exec(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("a child process works in real time: run this on a real loop")

    subprocess_shell = subprocess_exec


class _Jumping(selectors.DefaultSelector):
    """Where the loop would sleep, moves its clock instead."""

    def __init__(self, jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self._jump(timeout)
        return ready


def _place(task: asyncio.Task[Any]) -> str:
    """The line at which the innermost coroutine of a task waits."""
    inner: Any = task.get_coro()
    while getattr(getattr(inner, "cr_await", None), "cr_frame", None):
        inner = inner.cr_await
    frame = getattr(inner, "cr_frame", None)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else repr(inner)


def run_virtual(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs to the end in virtual time, on a loop of its own. Raises what the coroutine raises, and `Deadlock`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


def time() -> float:
    """Seconds since the running loop began."""
    return asyncio.get_running_loop().time()
