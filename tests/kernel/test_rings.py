"""A call that has ended is gone at once: what is left for the collector stops everybody else while it looks for it."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from aios.abi.account import SetLimit, Unit
from aios.abi.errors import AiosError, CoreFailed
from aios.abi.llm import Completion, Generate
from aios.abi.process import SignalProcess, WaitFor
from aios.ports.core import CoreCall, Emit, Price
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import kernel_for_tests

MANY = 300
"""More than the heap of deadlines keeps of calls that have ended."""


@contextmanager
def found() -> Iterator[list[Any]]:
    """What only the collector could free of all that is made in the block."""
    left: list[Any] = []
    while gc.collect():
        pass  # what earlier tests left: a task that tells of its error as it goes is gone a pass later
    gc.disable()
    try:
        yield left
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def ours(left: list[Any]) -> set[type]:
    return {type(each) for each in left if type(each).__module__.startswith("aios")}


async def ask(gate: Gate) -> None:
    with suppress(AiosError):
        await gate.call(Generate(prompt="hello", max_tokens=4))


@pytest.mark.parametrize(
    ("price", "unit", "amount"),
    [
        (None, "tokens", None),  # free, and without a limit
        (Price(10, 1, 100), "tokens", None),
        (None, "tokens", 10**9),
        (Price(10, 1, 100), "money", 10**12),
        (None, "tokens", 1500),  # two of them at once, and then nothing is left
    ],
)
async def test_calls_that_have_ended_leave_no_rings(price: Price | None, unit: Unit, amount: int | None) -> None:
    core = ScriptedCore(Script(text="one two"), slots=4, price=price)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await k.operator.call(SetLimit(account="/", unit=unit, amount=amount, window="lifetime"))
        await ask(gate)
        core.calls.clear()
        with found() as left:
            await asyncio.gather(*(ask(gate) for _ in range(MANY)))
            core.calls.clear()
    assert not ours(left)


class Failing(ScriptedCore):
    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        await asyncio.sleep(0.1)
        raise CoreFailed("this once")


@pytest.mark.parametrize("amount", [None, 9000])  # some of them wait for a turn, and are refused when it comes
async def test_calls_that_failed_or_were_refused_after_they_had_waited_leave_no_rings(amount: int | None) -> None:
    async with kernel_for_tests([Failing(slots=4, price=Price(10, 1, 100))]) as k:
        gate = await k.session()
        await k.operator.call(SetLimit(account="/", unit="tokens", amount=amount, window="lifetime"))
        with found() as left:
            await asyncio.gather(*(ask(gate) for _ in range(MANY)))
    assert not ours(left)


async def test_calls_that_were_taken_out_of_their_queue_leave_no_rings() -> None:
    async def work(gate: Gate) -> None:
        await asyncio.gather(*(ask(gate) for _ in range(40)))

    core = ScriptedCore(Script(text="one two", first_s=0.1), slots=4, price=Price(10, 1, 100))
    async with kernel_for_tests([core], {"work": work}) as k:
        with found() as left:
            agent = await k.spawn("work")
            await asyncio.sleep(0.25)
            await k.operator.call(SignalProcess(pid=agent.pid, signal="suspend"))
            await k.operator.call(SignalProcess(pid=agent.pid, signal="resume"))
            await k.operator.call(WaitFor(pid=agent.pid))
            core.calls.clear()
    assert not ours(left)
