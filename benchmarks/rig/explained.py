"""Whether what a lane says of a waiting call comes true: asked at random moments of a run, before anything is decided.

An estimate says how long it takes if nothing else comes. So it is held against the state as it is, played on with what runs and
waits as long as that really takes; and, beside that, against what came in the run, where newcomers overtake.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import defaultdict
from typing import NamedTuple

from aios.kernel.lanes.ageing import AGED, overdue
from aios.kernel.lanes.elas import Elas
from aios.kernel.lanes.lane import Outlook, Turn
from aios.kernel.lanes.policy import Ticket
from aios.testing.virtual import time
from benchmarks.rig.simulator import CORE, LaneCore, Simulation

WITHIN = 2.0
"""An estimate is right that is wrong by this factor at most."""


class Told(NamedTuple):
    """What was said of a call, and of another one at the same moment: if that were as right, it would say nothing.

    `waits_s`: how long the call had to wait from then on if nothing else came.
    """

    at_s: float
    waits_s: float
    said: Outlook
    of_another: Outlook


class Came(NamedTuple):
    """Whether the reason of the turn was the one that was said, or that was said of another, and whether the time was right.

    Of the time twice: as the state was, and as it came.
    """

    right: bool
    control_right: bool
    eta_right: bool
    live_eta_right: bool


class ExplainedCore(LaneCore):
    """A core of which somebody asks, about every `every_s`, why a waiting call waits. `came`: what came of the answers."""

    def __init__(self, policy: Elas, slots: int, simulation: Simulation) -> None:
        super().__init__(policy, slots)
        self._policy = policy
        self._simulation = simulation
        self.came: list[Came] = []
        self._told: dict[Ticket, list[Told]] = defaultdict(list)
        self._ends_s: dict[Ticket, float] = {}

    async def ask(self, every_s: float, seed: int) -> None:
        """Until cancelled."""
        draw = random.Random(seed)
        while True:
            await asyncio.sleep(draw.expovariate(1 / every_s))
            waiting = list(self._simulation.waiting)
            if waiting:
                one, other = (draw.choice(waiting) for _ in range(2))
                said, of_another = self.lane.explain(one), self.lane.explain(other)
                self._told[one].append(Told(time(), self._frozen_wait_s(one), said, of_another))

    def _frozen_wait_s(self, ticket: Ticket) -> float:
        """How long a call waits if nothing else comes."""
        policy = self._policy.copy()
        ends = sorted((end_s, number) for number, end_s in enumerate(self._ends_s.values()))
        for number in itertools.count(len(ends)):
            now, _ = heapq.heappop(ends)
            picked = policy.pick({CORE: 0.0}, now)
            assert picked is not None, "it waits"
            if picked.ticket is ticket:
                return now - time()
            heapq.heappush(ends, (now + self._simulation.calls[picked.ticket].takes_s, number))
        raise AssertionError("counting has no end")

    async def turn(self, ticket: Ticket) -> Turn:
        turn = await super().turn(ticket)
        self._ends_s[ticket] = time() + self._simulation.calls[ticket].takes_s
        for told in self._told.pop(ticket, ()):
            eta_s, waited_s = told.said.wait.eta_s, time() - told.at_s
            self.came.append(
                Came(is_right(told.said, turn), is_right(told.of_another, turn), near(eta_s, told.waits_s), near(eta_s, waited_s))
            )
        return turn

    async def end(self, turn: Turn, cost: float) -> None:
        del self._ends_s[turn.dispatch.ticket]
        await super().end(turn, cost)


def near(eta_s: float | None, waited_s: float) -> bool:
    return eta_s is not None and eta_s <= waited_s * WITHIN and waited_s <= eta_s * WITHIN


def is_right(said: Outlook, turn: Turn) -> bool:
    """Whether a call got its turn from where it was said to wait for, by the rule that was said, or by age when that had come."""
    decided = turn.dispatch
    by_age = AGED in (said.rule, decided.reason) and overdue(decided.ticket, decided.ticket.cls, time())
    return said.wait.code == "S" and decided.server in said.wait.on and (said.rule == decided.reason or by_age)
