"""What a decision of the policy `elas` costs, with so many calls waiting."""

from __future__ import annotations

import random
import time
from collections import deque

from aios.abi.request import Class
from aios.kernel.lanes.elas import Elas
from aios.kernel.lanes.policy import Ticket
from aios.kernel.programs import History, Program
from benchmarks.rig.simulator import ANY, CORE

RUNNING = 64
DECISIONS, ROUNDS = 500, 60
KINDS = 6
MEAN_S = 60.0
COSTS = (500.0, 1500.0, 2500.0)
CLASSES: tuple[Class, ...] = ("interactive", "standard", "batch")


def decision_us(waiting: int, tenants: int) -> float:
    """µs of CPU time until a call has come, another was picked, has started and was settled; the least of some rounds."""
    draw, history = random.Random(waiting + tenants), History()
    programs = [Program(f"kind {number % KINDS}", history, draw.expovariate(1 / MEAN_S)) for number in range(waiting)]
    policy = Elas()
    for number in range(waiting):
        policy.add(ticket(draw, number, tenants, programs))
    running: deque[Ticket] = deque()
    return min(round_us(policy, draw, waiting + DECISIONS * number, tenants, programs, running) for number in range(ROUNDS))


def round_us(
    policy: Elas, draw: random.Random, first: int, tenants: int, programs: list[Program], running: deque[Ticket]
) -> float:
    idle = {CORE: 0.0}
    coming = [ticket(draw, first + number, tenants, programs) for number in range(DECISIONS)]
    before_s = time.process_time()
    for one in coming:
        policy.add(one)
        found = policy.pick(idle, one.asked)
        assert found is not None
        policy.started(found.ticket)
        running.append(found.ticket)
        if len(running) > RUNNING:
            policy.settled(running.popleft(), COSTS[len(running) % len(COSTS)])
    return (time.process_time() - before_s) / DECISIONS * 1e6


def ticket(draw: random.Random, number: int, tenants: int, programs: list[Program]) -> Ticket:
    name = f"tenant {draw.randrange(tenants)}"
    cls = draw.choice(CLASSES)
    at_s = number / 1000
    return Ticket(
        name, cls, str(number), str(number), at_s, round(at_s * 1e9), ANY, name, "", ((name, 1.0),), draw.choice(programs)
    )
