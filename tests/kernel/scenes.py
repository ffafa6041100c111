"""Scenes that tests of the kernel share: a slow core, a call under way, a look at what is held."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aios.abi.errors import AiosError
from aios.abi.event import AnyEvent, ReadEvents
from aios.abi.llm import Completion, Generate
from aios.abi.process import CallInfo, Explain, Self
from aios.abi.request import NO_OPTIONS, CallOptions
from aios.abi.system import ListCores, ReadStatistics
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import RunningKernel

SECOND = Script(text="one two three four", first_s=0.25, token_s=0.25)
"""A generation of one second."""
ENDLESS = Script(text="well", hang=True)


def slow(slots: int = 1, **core: Any) -> ScriptedCore:
    """A core whose generations take a second each."""
    return ScriptedCore(SECOND, slots=slots, **core)


def ask(text: str = "hello", **fields: Any) -> Generate:
    return Generate(prompt=text, **fields)


def begin(gate: Gate, request: Any = None, options: CallOptions = NO_OPTIONS) -> "asyncio.Task[Any]":
    """A call under way, in a task of its own."""
    return asyncio.create_task(gate.call(request or ask(), options))


async def turns(count: int = 20) -> None:
    """Let everybody go on who can go on now."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(true: Callable[[], Any]) -> None:
    """Wait, in virtual time, for what nobody tells."""
    async with asyncio.timeout(1000):
        while not true():
            await asyncio.sleep(0.01)


async def error_of(task: "asyncio.Task[Any]") -> AiosError:
    """The error that a call ended in."""
    try:
        value = await task
    except AiosError as error:
        return error
    raise AssertionError(f"it succeeded: {value}")


async def open_calls(k: RunningKernel, gate: Gate) -> tuple[CallInfo, ...]:
    """A process's calls as an operator sees them."""
    pid = gate.process.pid  # type: ignore[attr-defined]
    return (await k.operator.call(Explain(pid=pid))).calls


async def held(k: RunningKernel) -> tuple[int, int]:
    """Slots that are held, and calls that wait."""
    cores = await k.operator.call(ListCores())
    return sum(core.running for core in cores.cores), sum(cores.waiting.values())


async def nothing_is_held(k: RunningKernel) -> None:
    """No slot, no queue, no call; and the next one is served."""
    assert await held(k) == (0, 0)
    figures = await k.operator.call(ReadStatistics())
    assert (figures.calls_running, figures.calls_waiting) == (1, 0)  # the one that asks
    assert type(await k.operator.call(ask("still there?"))) is Completion


async def events(k: RunningKernel, kind: str) -> list[AnyEvent]:
    page = await k.operator.call(ReadEvents(kinds=(kind,), limit=10_000))
    return list(page.events)


async def pid_of(gate: Gate) -> str:
    return (await gate.call(Self())).pid


@asynccontextmanager
async def calling(gate: Gate, count: int = 1, **fields: Any) -> AsyncIterator[list["asyncio.Task[Any]"]]:
    """So many calls under way, given up at the end of the block."""
    tasks = [begin(gate, ask(**fields)) for _ in range(count)]
    await turns()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
