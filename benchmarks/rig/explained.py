"""Whether what a lane says of a waiting call comes true: asked at random moments of a run, before anything is decided."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import NamedTuple

from aios.kernel.lanes.ageing import AGED, overdue
from aios.kernel.lanes.lane import Outlook, Policy, Ticket, Turn
from aios.testing.virtual import time
from benchmarks.rig.simulator import LaneCore, Simulation

WITHIN = 2.0
"""An estimate is right that is wrong by this factor at most."""


class Told(NamedTuple):
    """What was said of a call, and of another one at the same moment: if that were as right, it would say nothing."""

    at_s: float
    said: Outlook
    of_another: Outlook


class Came(NamedTuple):
    """Whether the reason of the turn was the one that was said, or that was said of another, and whether the time was right."""

    right: bool
    control_right: bool
    eta_right: bool


class ExplainedCore(LaneCore):
    """A core of which somebody asks, about every `every_s`, why a waiting call waits. `came`: what came of the answers."""

    def __init__(self, policy: Policy, slots: int) -> None:
        super().__init__(policy, slots)
        self.came: list[Came] = []
        self._told: dict[Ticket, list[Told]] = defaultdict(list)

    async def ask(self, simulation: Simulation, every_s: float, seed: int) -> None:
        """Until cancelled."""
        draw = random.Random(seed)
        while True:
            await asyncio.sleep(draw.expovariate(1 / every_s))
            if simulation.waiting:
                one, other = (draw.choice(list(simulation.waiting)) for _ in range(2))
                self._told[one].append(Told(time(), self.lane.explain(one), self.lane.explain(other)))

    async def turn(self, ticket: Ticket) -> Turn:
        turn = await super().turn(ticket)
        for told in self._told.pop(ticket, ()):
            waited_s = time() - told.at_s
            eta_s = told.said.wait.eta_s
            eta_right = eta_s is not None and eta_s <= waited_s * WITHIN and waited_s <= eta_s * WITHIN
            self.came.append(Came(is_right(told.said, turn), is_right(told.of_another, turn), eta_right))
        return turn


def is_right(said: Outlook, turn: Turn) -> bool:
    """Whether a call got its turn from where it was said to wait for, by the rule that was said, or by age when that had come."""
    decided = turn.dispatch
    by_age = AGED in (said.rule, decided.reason) and overdue(decided.ticket, decided.ticket.cls, time())
    return said.wait.code == "S" and decided.server in said.wait.on and (said.rule == decided.reason or by_age)
