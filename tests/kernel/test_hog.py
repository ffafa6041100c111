"""A hundred callers beside one, in virtual time: what `aios prove hog` proves over HTTP, without the noise of a machine."""

import asyncio
import random

import pytest

from aios.abi.llm import Generate
from aios.cli.measured import percentile
from aios.kernel.lanes.lane import LaneConfig
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import kernel_for_tests

SLOTS, TAKES_S = 8, 0.5
ALONE_S = TAKES_S


async def again_and_again(gate: Gate, first_s: float) -> None:
    await asyncio.sleep(first_s)
    while True:
        await gate.call(Generate(prompt="hog"))


async def beside_a_hundred(policy: str, coming_s: float) -> tuple[list[float], float]:
    """The seconds of 20 calls of the one, and what part the hundred have of what it leaves."""
    core = ScriptedCore(Script(text="done", first_s=TAKES_S), slots=SLOTS)
    async with kernel_for_tests([core], lane=LaneConfig(policy=policy)) as k:
        hog, other = await k.session("hog"), await k.session("other")
        moments = random.Random(1)
        crowd = [asyncio.ensure_future(again_and_again(hog, moments.uniform(0, coming_s))) for _ in range(100)]
        await asyncio.sleep(coming_s + 10 * TAKES_S)
        began, ended, latencies_s = time(), core.statistics().finished, []
        for _ in range(20):
            asked = time()
            await other.call(Generate(prompt="other"))
            latencies_s.append(time() - asked)
        seconds, calls = time() - began, core.statistics().finished - ended
        for caller in crowd:
            caller.cancel()
        await asyncio.wait(crowd)
    spare = SLOTS * seconds / TAKES_S - 20
    return latencies_s, (calls - 20) / spare


@pytest.mark.parametrize("policy", ["elas", "fair", "round-robin"])
@pytest.mark.parametrize("coming_s", [0.0, 6.0], ids=["all at the same moment", "one after another"])
async def test_one_caller_beside_a_hundred_waits_for_a_slot_at_most_and_they_have_all_that_it_leaves(
    policy: str, coming_s: float
) -> None:
    latencies_s, share = await beside_a_hundred(policy, coming_s)
    assert percentile(latencies_s, 95) <= 2 * ALONE_S + 1e-6
    assert share >= 0.95


@pytest.mark.parametrize("policy", ["elas", "fair", "round-robin"])
async def test_who_comes_soon_after_a_hundred_does_not_wait_for_what_they_were_thought_to_cost(policy: str) -> None:
    """Before the first calls have ended nobody knows what one costs, and a thousand tokens are charged for each."""
    core = ScriptedCore(Script(text="done", first_s=TAKES_S), slots=SLOTS)
    async with kernel_for_tests([core], lane=LaneConfig(policy=policy)) as k:
        hog, other = await k.session("hog"), await k.session("other")
        crowd = [asyncio.ensure_future(again_and_again(hog, 0.0)) for _ in range(100)]
        await asyncio.sleep(2.5 * TAKES_S)
        asked = time()
        await other.call(Generate(prompt="other"))
        assert time() - asked <= 2 * ALONE_S + 1e-6
        for caller in crowd:
            caller.cancel()
        await asyncio.wait(crowd)


@pytest.mark.parametrize("policy", ["fifo", "priority"])
async def test_where_the_first_to_come_is_served_first_it_waits_behind_them_all(policy: str) -> None:
    latencies_s, _ = await beside_a_hundred(policy, 6.0)
    assert min(latencies_s) > 10 * ALONE_S


@pytest.mark.parametrize("policy", ["elas", "fair"])
async def test_when_nobody_knows_yet_what_calls_cost_who_comes_second_is_served_in_turn(policy: str) -> None:
    """Forty calls wait at eight slots since the kernel came up."""
    core = ScriptedCore(Script(text="one two three four", first_s=0.125, token_s=0.125), slots=8)
    async with kernel_for_tests([core], lane=LaneConfig(policy=policy)) as k:
        hog, other = await k.session("hog"), await k.session("other")
        calls = [asyncio.create_task(hog.call(Generate(prompt="again"))) for _ in range(40)]
        await asyncio.sleep(0.1)
        for _ in range(4):
            asked = time()
            await other.call(Generate(prompt="hello"))
            assert time() - asked <= 2 * 0.5
        await asyncio.wait(calls)
