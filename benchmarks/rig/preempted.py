"""Workload W through a kernel: what an interactive call beside eight batch ones waits, by what the kernel does for it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aios.abi.llm import Completion, Delta, Generate
from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig
from aios.kernel.lanes.lane import LaneConfig
from aios.ports.gate import Gate
from aios.testing.kernel import kernel_for_tests
from benchmarks.rig import workload
from benchmarks.rig.child import Failed
from benchmarks.rig.usage import cpu_s
from benchmarks.rig.workload import Ask, Asked, Heard, Ran

AGENTS = len(workload.PROMPTS)


@dataclass(frozen=True, slots=True)
class Way:
    """What a kernel does for an interactive call: its policy, and the slots for all and for urgent calls."""

    policy: str
    slots: int
    reserve: int = 0


PREEMPTION, FIFO_FULL, PLAIN = "preemption", "FIFO, all slots taken", "plain batching, a slot more"
WAYS: Mapping[str, Way] = {
    PREEMPTION: Way("elas", AGENTS, reserve=1),
    FIFO_FULL: Way("fifo", AGENTS),
    PLAIN: Way("fifo", AGENTS + 1),
    "preemption, no slot reserved": Way("elas", AGENTS),
}


@dataclass(slots=True)
class Beside:
    """What came of each way: the runs; `alone`: the interactive call on a core that does nothing else.

    `texts`: what every call of the workload was answered, the same whatever is done.
    """

    ran: dict[str, list[Ran]] = field(default_factory=lambda: {way: [] for way in WAYS})
    alone: list[tuple[float, float]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


async def round_of(home: Path, beside: Beside, ways: Sequence[str], moment: float) -> None:
    """Each of these ways once, in a random order, each on a new core. `moment`: see `workload.run`."""
    for way in random.Random(moment).sample(ways, len(ways)):
        beside.ran[way].append(await through(home, WAYS[way], beside, moment))
    beside.alone.append(await alone(home, beside))


async def through(home: Path, way: Way, beside: Beside, moment: float) -> Ran:
    """The workload through a kernel of this kind."""
    core = LocalCore(_config(home, way))
    async with kernel_for_tests([core], lane=LaneConfig(policy=way.policy)) as k:
        ask = _asking(await k.session("agents", cls="batch"), await k.session("person", cls="interactive"), beside.texts)
        ran = await workload.run(ask, _pid(core), moment)
        if core.statistics().restarts:
            raise Failed("the model's host was replaced in the midst of a run")
    return ran


async def alone(home: Path, beside: Beside) -> tuple[float, float]:
    """CPU seconds to the first token and to the last of the interactive call on a core that does nothing else."""
    core = LocalCore(_config(home, WAYS["preemption"]))
    async with kernel_for_tests([core]) as k:
        person = await k.session("person", cls="interactive")
        ask, pid = _asking(person, person, beside.texts), _pid(core)
        first: list[float] = []
        begun = cpu_s(pid)
        await ask(workload.QUESTION, workload.REPLY_TOKENS, AGENTS, lambda: first.append(cpu_s(pid)))
        return first[0] - begun, cpu_s(pid) - begun


def _config(home: Path, way: Way) -> LocalCoreConfig:
    return LocalCoreConfig(
        home=home, slots=way.slots, reserve=way.reserve, window=workload.WINDOW, threads=1, probe_s=0, store_bytes=256 << 20
    )


def _pid(core: LocalCore) -> int:
    pid = core.health().pid
    assert pid is not None
    return pid


def _asking(agents: Gate, person: Gate, texts: dict[str, str]) -> Ask:
    """Asks as one of the agents, or as the person, whose question is the last. Raises `Failed` for another answer than before."""

    async def ask(prompt: str, tokens: int, seed: int, heard: Heard) -> Asked:
        gate = person if seed == AGENTS else agents
        heat, top_p = workload.TEMPERATURE, workload.TOP_P
        request = Generate(prompt=prompt, max_tokens=tokens, temperature=heat, top_p=top_p, seed=seed)
        done: Completion | None = None
        async for event in gate.stream(request):
            if isinstance(event, Delta):
                heard()
            elif isinstance(event, Completion):
                done = event
        assert done is not None
        if texts.setdefault(prompt, done.text) != done.text:
            raise Failed(f"an answer was {done.text!r}, and before that {texts[prompt]!r}")
        return Asked(done.usage.input_tokens, done.usage.cache_read, done.usage.output_tokens)

    return ask
