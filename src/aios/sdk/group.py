"""Structured concurrency: children that are processes, in a block that none of them outlives.

    async with k.group(width=16, on_error="collect") as g:
        notes = g.map(note, documents, key=lambda document: document["id"])
        report = g.start(merge, after=notes)
    return report.result

A group behaves as an `asyncio.TaskGroup` of processes: leaving the block waits for all of them; if the block is left by an error,
by a cancellation or by the end of its own process, they are killed and waited for.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import msgspec

from aios.abi.errors import AiosError, ChildFailed, Conflict, Invalid, Killed, NotFound, QueueFull, RateLimited
from aios.abi.process import Signal, SignalProcess, Spawn, WaitFor
from aios.abi.request import CallOptions, Class, Request
from aios.ports.gate import Gate
from aios.sdk.agent import Agent
from aios.sdk.process import result_of, spawning

R = TypeVar("R")
T = TypeVar("T")

MOST_WIDTH = 200
"""As many agents as a host runs, and fewer than the calls that a process may have open."""
OnError = Literal["cancel", "collect"]
Takes = Literal["none", "one", "all"]


class Child:
    """An agent in a group. `key`: its name there; `pid`, `name`: its process's, once it has one; `error`: what it ended in."""

    def __init__(self, gate: Gate, key: str, scope: str) -> None:
        self._gate = gate
        self._options = CallOptions(scope=scope)
        self.key = key
        self.pid: str | None = None
        self.name: str | None = None
        self.error: AiosError | None = None
        self._result: Any = None
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<child {self.key}>"

    @property
    def result(self) -> Any:
        """What it returned. Raises the error that it ended in, `Conflict` before its end."""
        if not self.ended.is_set():
            raise Conflict(f"`{self.key}` has not ended: its result is there after the block, or after `await child.wait()`")
        if self.error is not None:
            raise self.error
        return self._result

    async def wait(self) -> Any:
        """Its result, when it has ended. Raises the error that it ended in."""
        await self.ended.wait()
        return self.result

    async def stop(self) -> None:
        """Ask it to end: its code sees a cancellation and may clean up."""
        await self._signal("stop")

    async def kill(self) -> None:
        """End it."""
        await self._signal("kill")

    async def _signal(self, signal: Signal) -> None:
        await self.started.wait()
        if self.pid is not None:
            await self._call(SignalProcess(pid=self.pid, signal=signal))

    async def run(self, request: Spawn) -> None:
        """Be a process from its start to its end. Being cancelled kills it, and waits until it has ended."""
        spawning = asyncio.create_task(self._start(request), name=f"start of {self.key}")
        try:
            end = await self._call(WaitFor(pid=await asyncio.shield(spawning)))
        except BaseException:
            await self._end(spawning)
            raise
        self._result = result_of(end)

    async def _start(self, request: Spawn) -> str:
        info = await self._call(request)
        self.pid, self.name = info.pid, info.name
        self.started.set()
        return info.pid

    async def _end(self, spawning: asyncio.Task[str]) -> None:
        """Kill it and wait for its end; where that is refused, the kernel ends it already."""
        self.error = Killed(f"`{self.key}` was ended with its group")
        with suppress(AiosError):
            pid = await spawning
            await self._call(SignalProcess(pid=pid, signal="kill"))
            await self._call(WaitFor(pid=pid))

    async def _call(self, request: Request[R]) -> R:
        """A call of this child's scope; where its process has too much open, when there is room."""
        while True:
            try:
                return await self._gate.call(request, self._options)
            except (RateLimited, QueueFull) as full:
                await asyncio.sleep(full.retry_after_s or 1.0)

    def close(self) -> None:
        """Nothing more happens to it."""
        if self.error is None and self.pid is None:
            self.error = Killed(f"`{self.key}` was not started: its group ended before")
        self.started.set()
        self.ended.set()


class Places:
    """So many children at once. Those that still wait for others get a place when nobody wants it who could run."""

    def __init__(self, width: int) -> None:
        self._free = width
        self._wanting: deque[tuple[asyncio.Future[None], Sequence[Child]]] = deque()

    async def take(self, after: Sequence[Child]) -> None:
        """Return when there is a place."""
        place = asyncio.get_running_loop().create_future()
        self._wanting.append((place, after))
        self._give()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        self._free += 1
        self._give()

    def _give(self) -> None:
        while self._free and self._wanting:
            ready = (wanting for wanting in self._wanting if all(child.ended.is_set() for child in wanting[1]))
            chosen = next(ready, self._wanting[0])
            self._wanting.remove(chosen)
            if not chosen[0].done():
                self._free -= 1
                chosen[0].set_result(None)


class Group:
    """See the module. Made by `k.group`."""

    def __init__(self, gate: Gate, name: str, width: int, on_error: OnError) -> None:
        if not isinstance(width, int) or not 1 <= width <= MOST_WIDTH:
            raise Invalid(f"`width` must be a whole number from 1 to {MOST_WIDTH}", field="width")
        if on_error not in ("cancel", "collect"):
            raise Invalid("`on_error` must be `cancel` or `collect`", field="on_error")
        if not 0 < len(name) <= 80 or not name.isprintable():
            raise Invalid("`key` must have 1 to 80 printable characters", field="key")
        self._gate = gate
        self._name = name
        self._on_error = on_error
        self._places = Places(width)
        self._tasks = asyncio.TaskGroup()
        self._numbers: Counter[str] = Counter()
        self._open = False
        self._of: dict[str, Child] = {}

    @property
    def children(self) -> tuple[Child, ...]:
        """All that were started, in order."""
        return tuple(self._of.values())

    @property
    def failed(self) -> tuple[Child, ...]:
        """The children that ended in an error so far."""
        return tuple(child for child in self._of.values() if child.error is not None)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._open = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            await self._tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1 and group.exceptions[0] is error:
                return  # the block's own error alone
            raise BaseExceptionGroup(_sentence(len(group.exceptions)), group.exceptions) from None
        finally:
            self._open = False

    def start(
        self, agent: Agent[..., Any], *args: Any, after: Child | Iterable[Child] | None = None, cls: Class | None = None,
        key: str | None = None,
    ) -> Child:  # fmt: skip
        """Start an agent as soon as there is a place. `key`: its name in the group (the agent's and a number).

        With `after` it begins when those have ended, of which at least one must have ended well. If no `args` are given and the
        agent takes any, it is called with their results: with the result itself after one child, with the list of results of
        those that ended well after several, and with an empty one after none (`after=[]`). `cls`: the highest class of its calls.
        Raises `Invalid`.
        """
        if not self._open:
            raise Invalid("the group is not open: start children within its `async with` block")
        if not isinstance(agent, Agent):
            raise Invalid(
                f"`{getattr(agent, '__name__', agent)}` is no agent: a group runs functions with `@aios.agent`", field="agent"
            )
        others = (after,) if isinstance(after, Child) else tuple(after or ())
        if any(self._of.get(child.key) is not child for child in others):
            raise Invalid("`after` names children of this group", field="after")
        takes = _takes(agent, args, after)
        request = spawning(agent, args if others or takes == "none" else ([],), cls=cls)
        key = self._key_of(agent, key)
        child = self._of[key] = Child(self._gate, key, f"{self._name}.{key}")
        task = self._tasks.create_task(self._run(child, request, others, takes), name=f"child {key}")
        task.add_done_callback(lambda _: child.close())  # also if it was cancelled before its first step
        return child

    async def spawn(self, agent: Agent[..., Any], *args: Any, cls: Class | None = None, key: str | None = None) -> Child:
        """The same, and return when it is a process. Raises what kept it from being one."""
        child = self.start(agent, *args, cls=cls, key=key)
        await child.started.wait()
        if child.pid is None:
            await child.wait()
        return child

    def map(
        self, agent: Agent[..., Any], items: Iterable[Any], *, after: Child | Iterable[Child] | None = None,
        cls: Class | None = None, key: Callable[[Any], object] | None = None,
    ) -> list[Child]:  # fmt: skip
        """Start an agent for each item, with the item as its argument. `key`: makes the child's name out of the item."""
        others = after if isinstance(after, Child) else tuple(after or ())
        return [self.start(agent, item, after=others, cls=cls, key=None if key is None else str(key(item))) for item in items]

    def _key_of(self, agent: Agent[..., Any], key: str | None) -> str:
        """The key of a new child. Raises `Invalid` for one that is taken."""
        if key is None:
            self._numbers[agent.name] += 1
            key = f"{agent.name}-{self._numbers[agent.name]}"
        if not 0 < len(key) <= 100 or not key.isprintable():
            raise Invalid("`key` must have 1 to 100 printable characters", field="key")
        if key in self._of:
            raise Invalid(f"two children of a group have the key `{key}`", field="key")
        return key

    async def _run(self, child: Child, request: Spawn, after: tuple[Child, ...], takes: Takes) -> None:
        try:
            for other in after:
                await other.started.wait()
            await self._places.take(after)
            try:
                await self._run_after(child, request, after, takes)
            finally:
                child.close()
                self._places.leave()
        except AiosError as error:
            child.error = error
            error.add_note(f"child `{child.key}` of the group")
            if self._on_error == "cancel":
                raise

    async def _run_after(self, child: Child, request: Spawn, after: tuple[Child, ...], takes: Takes) -> None:
        try:
            await child.run(_after(request, after, takes))
        except NotFound:
            if not after or child.pid is not None:
                raise
            for other in after:  # the kernel has forgotten one that ended long ago: here its result is still known
                await other.ended.wait()
            child.error = None
            await child.run(_with_results(request, after, takes))


def _sentence(errors: int) -> str:
    return f"{errors} errors ended the group" if errors > 1 else "an error ended the group"


def _after(request: Spawn, after: tuple[Child, ...], takes: Takes) -> Spawn:
    """The request, with the processes that it is to begin after."""
    if not after:
        return request
    pids = tuple(child.pid for child in after if child.pid is not None)
    if not pids:
        raise ChildFailed(f"it did not begin: `{after[0].key}`, which it was to begin after, was not started: {after[0].error}")
    return msgspec.structs.replace(request, after=pids, results=takes)


def _with_results(request: Spawn, after: tuple[Child, ...], takes: Takes) -> Spawn:
    """The request, with the results of those that have ended."""
    results = [child.result for child in after if child.error is None]
    if not results:
        raise ChildFailed(f"it did not begin: `{after[0].key}`, which it was to begin after, failed: {after[0].error}")
    given = {"none": (), "one": results[:1], "all": (results,)}[takes]
    return msgspec.structs.replace(request, arguments=(*request.arguments, *given))


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """A sequence in pieces of so many items, the last one perhaps shorter: `g.start(merge, after=piece)` for each."""
    if size < 1:
        raise Invalid("`size` must be at least 1", field="size")
    return [items[at : at + size] for at in range(0, len(items), size)]


def _takes(agent: Agent[..., Any], args: tuple[Any, ...], after: object) -> Takes:
    """Which results it is called with."""
    if after is None or args or len(inspect.signature(agent.function).parameters) < 2:
        return "none"
    return "one" if isinstance(after, Child) else "all"
