"""Mixes of work for the simulator: programs of model calls with tools' time between them, made from recorded requests.

When people and agents come, and how much chats read and say, is as recorded. How agents loop is in no public trace: their
steps, tools' times and sizes are drawn from log-normals that were fitted to the quantiles published with TraceLab
(arXiv 2606.30560). The same seed makes the same mix.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from aios.abi.request import Class
from aios.kernel.lanes.fair import cost_of
from benchmarks.rig import traces

FIRST_TOKEN_S, READ_PER_S, SAID_PER_S = 1.2, 6000.0, 50.0
"""Of one call at a remote model: seconds until it begins, tokens read and said per second."""
SAID_COST = cost_of(0, 0, 1)


@dataclasses.dataclass(slots=True, eq=False)
class Call:
    """One model call. `gap_s`: tools' time before it, from when all that it needs has ended. `then`: what needs it."""

    program: Program
    input_tokens: int
    output_tokens: int
    gap_s: float
    needs: int = 0
    then: list[Call] = dataclasses.field(default_factory=list)

    @property
    def takes_s(self) -> float:
        return FIRST_TOKEN_S + self.input_tokens / READ_PER_S + self.output_tokens / SAID_PER_S

    @property
    def cost(self) -> float:
        return cost_of(self.input_tokens, 0, self.output_tokens)

    def said_by(self, running_s: float) -> float:
        """Tokens said after so many seconds, as if what it reads took no time."""
        saying_s = running_s - FIRST_TOKEN_S
        return min(float(self.output_tokens), max(0.0, saying_s * SAID_PER_S))

    def before(self, other: Call) -> Call:
        """The other one waits for this one."""
        self.then.append(other)
        other.needs += 1
        return other


@dataclasses.dataclass(slots=True, eq=False)
class Program:
    """What somebody asks for: calls that follow each other. `waiters`: who waits for it. `deadline_s`: when it should be done."""

    number: int
    tenant: str
    kind: str
    cls: Class
    arrives_s: float
    calls: list[Call] = dataclasses.field(default_factory=list)
    waiters: tuple[Program, ...] = ()
    deadline_s: float | None = None

    def call(self, input_tokens: int, output_tokens: int, gap_s: float = 0.0) -> Call:
        self.calls.append(Call(self, input_tokens, output_tokens, gap_s))
        return self.calls[-1]

    @property
    def work_s(self) -> float:
        """Seconds of service of all its calls."""
        return sum(call.takes_s for call in self.calls)

    def alone_s(self) -> float:
        """How long it would take if it never waited for a turn."""
        ends: dict[Call, float] = {}
        for call in self.calls:  # those that a call needs stand before it
            ends[call] = max(ends.get(call, 0.0), 0.0) + call.gap_s + call.takes_s
            for other in call.then:
                ends[other] = max(ends.get(other, 0.0), ends[call])
        return max(ends[call] for call in self.calls)


@dataclasses.dataclass(frozen=True, slots=True)
class Mix:
    """How much work comes, of what, and for how many slots.

    `load`: of what the slots can do. `chat`: the part of it that people's chats are. `hog`: the part of the rest that one tenant
    submits in three bursts. `from_s`: where in the trace it begins.
    """

    load: float = 1.05
    slots: int = 64
    duration_s: float = 3000.0
    from_s: float = 0.0
    tenants: int = 20
    chat: float = 0.25
    hog: float = 0.30


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """A kind of agent. `steps`: the median; `part`: of all agents; `parallel`: it divides its work."""

    kind: str
    steps: float
    steps_p90: float
    part: float
    parallel: bool = False


SHAPES = (
    Shape("qa", 1, 2, 0.20),
    Shape("search", 3, 6, 0.20),
    Shape("fix", 5, 12, 0.20),
    Shape("code", 9, 30, 0.18),
    Shape("research", 6, 14, 0.12, parallel=True),
    Shape("refactor", 20, 60, 0.10),
)
HOG, HOG_BURSTS, HOG_BURST_S = "tenant 0", (0.1, 0.35, 0.6), 20.0
LONGEST = SHAPES[-1]
Z90 = 1.2816
"""Standard deviations from the median to the 90th percentile."""


class Draw:
    """What is drawn of a seed."""

    def __init__(self, seed: int, tenants: int) -> None:
        self.random = random.Random(seed)
        self._tenants = [f"tenant {number}" for number in range(1, tenants)]
        self._skew = [1 / number**0.8 for number in range(1, tenants)]

    def tenant(self) -> str:
        """Few tenants have most of the work, as at real providers. Never the hog."""
        return self.random.choices(self._tenants, self._skew)[0]

    def lognormal(self, median: float, p90: float, least: float, most: float) -> float:
        drawn = median * math.exp(math.log(p90 / median) / Z90 * self.random.gauss(0, 1))
        return min(most, max(least, drawn))

    def tool_s(self) -> float:
        return self.lognormal(0.3, 13.6, 0.0, 300.0)

    def agent(self, program: Program, shape: Shape | None = None) -> Program:
        """Fill a program with an agent's loop, of some kind or of a given one."""
        shape = shape or self.random.choices(SHAPES, [shape.part for shape in SHAPES])[0]
        program.kind = shape.kind
        steps = round(self.lognormal(shape.steps, shape.steps_p90, 1, 200))
        first = self._call(program, 0.0)
        if shape.parallel:
            tails = [self._chain(program, first, self.random.randint(1, 4)) for _ in range(max(2, steps // 2))]
            joined = self._call(program, 0.5)
            for tail in tails:
                tail.before(joined)
        else:
            self._chain(program, first, steps - 1)
        return program

    def _chain(self, program: Program, first: Call, length: int) -> Call:
        for _ in range(length):
            first = first.before(self._call(program, self.tool_s()))
        return first

    def _call(self, program: Program, gap_s: float) -> Call:
        read = int(self.lognormal(870, 6000, 50, 60_000))
        return program.call(read, int(self.lognormal(220, 1000, 5, 8000)), gap_s)


def azure(data: Path, mix: Mix, seed: int) -> list[Program]:
    """People's chats as recorded, agents that come when developers asked for code, and a hog's bursts."""
    draw = Draw(seed, mix.tenants)
    chats, codes = (part(traces.azure(data, name), mix) for name in (traces.CHAT, traces.CODE))
    target_s = mix.load * mix.slots * mix.duration_s
    programs: list[Program] = []

    def fill(until_s: float, more: Iterable[Program]) -> float:
        """Take programs until they come to so many seconds of service, or there are no more; how much they came to."""
        used_s = 0.0
        others = iter(more)
        while used_s < until_s and (program := next(others, None)) is not None:
            programs.append(program)
            used_s += program.work_s
        return used_s

    def number() -> int:
        return len(programs)

    rest_s = target_s - fill(target_s * mix.chat, people(draw, chats, number))
    fill(rest_s * (1 - mix.hog), agents(draw, codes, number))
    fill(rest_s * mix.hog, hogs(draw, mix.duration_s, number))
    return sorted(programs, key=lambda program: program.arrives_s)


def part(asked: list[traces.Asked], mix: Mix) -> list[traces.Asked]:
    """The part of a trace that a mix is made of, from second 0."""
    until_s = mix.from_s + mix.duration_s
    return [one._replace(at_s=one.at_s - mix.from_s) for one in asked if mix.from_s <= one.at_s < until_s]


def people(draw: Draw, chats: list[traces.Asked], number: Callable[[], int]) -> Iterable[Program]:
    draw.random.shuffle(chats)
    for chat in chats:
        program = Program(number(), draw.tenant(), "chat", "interactive", chat.at_s)
        program.call(chat.input_tokens, chat.output_tokens)
        yield program


def agents(draw: Draw, codes: list[traces.Asked], number: Callable[[], int]) -> Iterable[Program]:
    draw.random.shuffle(codes)
    for code in codes:
        yield draw.agent(Program(number(), draw.tenant(), "", "standard", code.at_s))


def hogs(draw: Draw, duration_s: float, number: Callable[[], int]) -> Iterable[Program]:
    while True:
        at_s = draw.random.choice(HOG_BURSTS) * duration_s + draw.random.uniform(0, HOG_BURST_S)
        shape = LONGEST if draw.random.random() < 0.5 else None
        yield draw.agent(Program(number(), HOG, "", "batch", at_s), shape)
