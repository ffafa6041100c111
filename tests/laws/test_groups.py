"""Laws of groups: whatever the children do, so many run at once, in the order of `after`, and none outlives the block."""

import asyncio
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

import aios
from aios.abi.process import List
from aios.testing import scripted, time

LOG: list[tuple[str, int, float]] = []
"""What happened, to which child, when."""


@aios.agent
async def work(k: aios.Kernel, number: int, seconds: float, fails: bool) -> int:
    LOG.append(("begin", number, time()))
    try:
        await k.sleep(seconds)
    finally:
        LOG.append(("end", number, time()))
    if fails:
        raise ValueError(number)
    return number


@aios.agent(grants=("spawn /agents/*", "use /llm/*"))
async def plan(k: aios.Kernel, steps: list[list[Any]], width: int, on_error: Literal["cancel", "collect"]) -> list[Any]:
    async with k.group(width=width, on_error=on_error) as g:
        for number, (seconds, fails, after) in enumerate(steps):
            g.start(work, number, seconds, fails, after=[g.children[other] for other in after], key=str(number))
    return [int(child.key) for child in g.failed]


@st.composite
def plans(draw: st.DrawFn) -> list[list[Any]]:
    """Children: seconds, whether it fails, and which of the earlier ones it begins after."""
    count = draw(st.integers(1, 8))
    return [
        [
            draw(st.integers(1, 5)),
            draw(st.integers(0, 4)) == 0,
            sorted(draw(st.sets(st.integers(0, at - 1), max_size=3))) if at else [],
        ]
        for at in range(count)
    ]


def failing(steps: list[list[Any]]) -> list[int]:
    """The model: a child fails by itself, or when all that it begins after fail."""
    failed: list[int] = []
    for number, (_, fails, after) in enumerate(steps):
        if fails or after and all(other in failed for other in after):
            failed.append(number)
    return failed


def moments(kind: str) -> dict[int, float]:
    return {number: at for what, number, at in LOG if what == kind}


def check_order(steps: list[list[Any]], width: int) -> None:
    begun, ended = moments("begin"), moments("end")
    assert len([what for what, _, _ in LOG if what == "begin"]) == len(begun), "a child began twice"
    running = most = 0
    for what, _, _ in LOG:
        running += 1 if what == "begin" else -1
        most = max(most, running)
    assert most <= width and running == 0
    for number, at in begun.items():
        assert all(ended.get(other, -1.0) <= at for other in steps[number][2])


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(1, 4))
async def test_with_collect_all_run_that_can_and_the_failed_are_listed(steps: list[list[Any]], width: int) -> None:
    LOG.clear()
    async with scripted() as s:
        assert await s.run(plan, steps, width, "collect") == failing(steps)
        assert set(moments("begin")) == set(range(len(steps))) - unstarted(steps)
        assert (await s.k.call(List(ended=False))).processes == ()
    check_order(steps, width)


def unstarted(steps: list[list[Any]]) -> set[int]:
    """Children that never begin, because all that they would begin after fail."""
    failed = failing(steps)
    return {n for n, (_, _, after) in enumerate(steps) if after and all(other in failed for other in after)}


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(1, 4), st.floats(0.1, 12))
async def test_nothing_outlives_the_block_however_it_is_left(steps: list[list[Any]], width: int, killed_at: float) -> None:
    LOG.clear()
    async with scripted() as s:
        process = await s.start(plan, steps, width, "cancel")
        ended = asyncio.ensure_future(process.wait())
        await asyncio.wait((ended,), timeout=killed_at)
        if not ended.done():
            await process.kill()
        try:
            assert await ended == failing(steps) == []
        except aios.Killed:
            assert time() < killed_at + 1
        except aios.ChildFailed:
            assert failing(steps)
        if process_failed(ended):
            await asyncio.sleep(0.1)  # a killed parent's children are killed with it, and end in the next turns
        assert (await s.k.call(List(ended=False))).processes == ()
    check_order(steps, width)


def process_failed(ended: "asyncio.Future[Any]") -> bool:
    return ended.exception() is not None
