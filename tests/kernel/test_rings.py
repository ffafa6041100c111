"""A call that has ended is gone at once: what is left for the collector stops everybody else while it looks for it."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from aios.abi.account import SetLimit, Unit
from aios.abi.errors import AiosError
from aios.abi.llm import Generate
from aios.ports.core import Price
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import kernel_for_tests

MANY = 300
"""More than the heap of deadlines keeps of calls that have ended."""


@contextmanager
def found() -> Iterator[list[Any]]:
    """What only the collector could free of all that is made in the block."""
    left: list[Any] = []
    gc.collect()
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
    assert not {type(each) for each in left if type(each).__module__.startswith("aios")}
