"""The policies on a real kernel: whose calls are whose share, and what they are charged."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from aios.abi.event import KernelChanged, ReadEvents
from aios.abi.lane import ListLanes, UseLane
from aios.abi.llm import Delta, Embed, Generate
from aios.abi.process import Spawn
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.lanes.policies import POLICIES
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, ScriptedEmbedder, time
from aios.testing.kernel import kernel_for_tests, manifest_of


def costs(call: object) -> Script:
    """A call says as many words as its prompt demands, ten each second."""
    words = int(call.request.prompt.split()[1])  # type: ignore[attr-defined]
    return Script(text=" ".join(["x"] * words), first_s=0.1, token_s=0.1)


async def ask(gate: Gate, who: str, words: int, calls: int) -> None:
    """Many calls at once."""
    await asyncio.gather(*(gate.call(Generate(prompt=f"{who} {words} {number}")) for number in range(calls)))


def served(core: ScriptedCore, first: int) -> list[str]:
    """Whose the first calls were."""
    return [(call.request.prompt or "").split()[0] for call in core.calls[:first]]


async def crowd(lane: LaneConfig, people: Sequence[tuple[str, int, int]]) -> list[str]:
    """Whose calls a core of one slot serves, in their order; all want more than it can do."""
    core = ScriptedCore(costs, slots=1)
    async with kernel_for_tests([core], lane=lane) as k:
        gates = [await k.session(agent=who) for who, _, _ in people]
        async with asyncio.TaskGroup() as group:
            for gate, (who, words, calls) in zip(gates, people, strict=True):
                group.create_task(ask(gate, who, words, calls))
    return served(core, len(core.calls))


async def test_under_fair_it_is_tokens_that_are_divided_and_not_calls() -> None:
    order = await crowd(LaneConfig(policy="fair"), [("long", 90, 30), ("short", 9, 300)])
    half = order[: len(order) // 2]
    words = {"long": 90 * half.count("long"), "short": 9 * half.count("short")}
    assert 0.75 < words["long"] / words["short"] < 1.33, words
    assert (await crowd(LaneConfig(policy="fifo"), [("long", 90, 30), ("short", 9, 300)]))[:30] == ["long"] * 30


async def test_under_fair_a_weight_is_a_larger_part() -> None:
    order = await crowd(LaneConfig(policy="fair", weights={"main": 3.0}), [("main", 10, 100), ("other", 10, 100)])
    assert 27 <= order[:40].count("main") <= 33


async def test_under_fair_children_are_of_their_parents_share() -> None:
    """Many agents of one client get no more than the one agent of another."""
    core = ScriptedCore(costs, slots=1)

    async def work(gate: Gate, who: str) -> None:
        await ask(gate, who, 10, 10)

    async with kernel_for_tests([core], {"work": work}, lane=LaneConfig(policy="fair")) as k:
        grants = ("use /llm/*", "spawn /agents/*")
        many, one = await k.session("many", grants), await k.session("one", grants)
        for gate, who, children in ((many, "many", 9), (one, "one", 1)):
            for _ in range(children):
                await gate.call(Spawn(manifest=k.accept(manifest_of("work")), arguments=(who,)))
        await asyncio.sleep(20 * 1.1)
    assert 8 <= served(core, 20).count("one") <= 10


async def test_under_fair_calls_that_are_broken_off_are_not_for_nothing() -> None:
    core = ScriptedCore(costs, slots=1)
    async with kernel_for_tests([core], lane=LaneConfig(policy="fair")) as k:
        cheat, honest = await k.session("cheat"), await k.session("honest")

        async def break_off() -> None:
            """Never let a call end: it is cut off before the last of its words."""
            async with aclosing(cheat.stream(Generate(prompt="cheat 100"))) as events:
                said = 0
                async for event in events:
                    said += isinstance(event, Delta)
                    if said == 99:
                        return

        async def cheating() -> None:
            while True:
                await break_off()

        cheats = [asyncio.ensure_future(cheating()) for _ in range(3)]
        await ask(honest, "honest", 100, 20)
        took_s = time()
        for each in cheats:
            each.cancel()
        await asyncio.wait(cheats)
    assert took_s < 2.4 * 20 * 10, "the honest client had about half of the core"


async def test_under_round_robin_each_process_has_its_turn() -> None:
    order = await crowd(LaneConfig(policy="round-robin"), [("a", 1, 9), ("b", 1, 3), ("c", 1, 3)])
    assert order == ["a", *["a", "b", "c"] * 3, *["a"] * 5]


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_policy_changes_under_way_and_nobody_is_lost(policy: str) -> None:
    core = ScriptedCore(costs, slots=2)
    async with kernel_for_tests([core], lane=LaneConfig(policy=policy)) as k:
        gates = [await k.session(f"client{number}") for number in range(3)]
        calls = [asyncio.ensure_future(ask(gate, "x", 3, 20)) for gate in gates]
        for other in (*POLICIES, policy):
            await asyncio.sleep(0.55)
            await k.operator.call(UseLane(lane="cores", policy=other))
            (cores, _) = (await k.operator.call(ListLanes())).lanes
            assert (cores.policy, cores.running) == (other, 2)
        await asyncio.gather(*calls)
        assert len(core.calls) == 60 and time() == pytest.approx(60 * 0.3 / 2)
        said = [e for e in (await k.operator.call(ReadEvents())).events if isinstance(e, KernelChanged) and e.change == "policy"]
        assert [e.detail.split(",")[0] for e in said][:2] == [f"cores: {name}" for name in POLICIES][:2]


async def test_the_lane_of_what_embeds_has_a_policy_of_its_own() -> None:
    async with kernel_for_tests(embedders=[ScriptedEmbedder()], index=LaneConfig(policy="fair")) as k:
        assert [lane.policy for lane in (await k.operator.call(ListLanes())).lanes] == ["elas", "fair"]
        assert (await (await k.session()).call(Embed(texts=("x",)))).vectors
