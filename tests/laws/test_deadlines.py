"""The law of deadlines: each call ends at the end of its work or at its deadline, whichever is first, and at no other time."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.errors import DeadlineExceeded
from aios.abi.request import CallOptions
from aios.abi.system import Sleep
from aios.testing import time
from aios.testing.kernel import kernel_for_tests

tenths = st.integers(1, 80).map(lambda number: number / 8)
naps = st.tuples(tenths, tenths, st.none() | tenths, st.none() | tenths)
"""Begins, works so long, has a deadline, is given up."""


@given(st.lists(naps, max_size=60))
@settings(max_examples=60, deadline=None)
async def test_each_call_ends_in_its_own_time(calls: list[tuple[float, float, float | None, float | None]]) -> None:
    async with kernel_for_tests() as k:
        gate = k.operator

        async def one(begins: float, works: float, deadline: float | None, patience: float | None) -> None:
            await asyncio.sleep(begins)
            outcome = "done"
            try:
                async with asyncio.timeout(patience):
                    await gate.call(Sleep(seconds=works), CallOptions(deadline_s=deadline))
            except DeadlineExceeded:
                outcome = "deadline"
            except TimeoutError:
                outcome = "gave up"
            ends = {"done": works, "deadline": deadline or 1e9, "gave up": patience or 1e9}
            assert time() == begins + ends[outcome] == begins + min(ends.values())

        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(one(*call))
        assert gate.process.calls == {}  # type: ignore[attr-defined]


async def test_ten_thousand_deadlines_that_never_come_leave_nothing() -> None:
    async with kernel_for_tests() as k:
        for _ in range(10_000):
            await k.operator.call(Sleep(seconds=0), CallOptions(deadline_s=3000))
        assert len(k.kernel._path._deadlines._heap) <= 65
        assert not k.kernel._path._deadlines._due
