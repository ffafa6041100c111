"""One run's processes together: the upstream, the client, and a kernel between them; every call is counted at both ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from benchmarks.rig.child import Child, Failed
from benchmarks.rig.client import Client, Outcome, Plan
from benchmarks.rig.kernel import Core, Kernel, kernel
from benchmarks.rig.upstream import Counts
from benchmarks.rig.usage import cpu_s
from benchmarks.rig.work import Work

SETTLE_S = 10.0
LOOK_S = 0.02
MOST_AT_ONCE = 9
"""Generations that may be under way when a crowd hangs up: the upstream's slots, and the kernel's one more."""


class Stage:
    """The processes. `cpu_us` is the kernel's per call, of the last mediated run."""

    def __init__(self, upstream: Child, client: Client, kernel: Kernel) -> None:
        self.upstream = upstream
        self.client = client
        self.kernel = kernel
        self.cpu_us = 0.0

    def direct(self, plan: Plan) -> Outcome:
        """Run a plan against the upstream itself."""
        return self._run(msgspec.structs.replace(plan, port=self.upstream.port))

    def mediated(self, plan: Plan) -> Outcome:
        """Run it through the kernel."""
        begun = cpu_s(self.kernel.pid)
        outcome = self._run(self.through_kernel(plan))
        self.cpu_us = (cpu_s(self.kernel.pid) - begun) / outcome.calls * 1e6
        return outcome

    def through_kernel(self, plan: Plan) -> Plan:
        return msgspec.structs.replace(plan, port=self.kernel.port, token=self.kernel.token)

    def at(self, port: int, plan: Plan) -> Outcome:
        """Run it against something else."""
        return self.client.run(msgspec.structs.replace(plan, port=port))

    def counts(self) -> Counts:
        return self.upstream.ask(None, Counts)

    def check_all_answered(self, before: Counts, calls: int) -> None:
        """Raises `Failed` unless the upstream finished exactly so many generations since `before`."""
        after = self.settled()
        if after.finished - before.finished != calls or after.aborted != before.aborted:
            raise Failed(f"{calls} calls were answered, but the upstream counts {before} and then {after}")

    def _run(self, plan: Plan) -> Outcome:
        before = self.counts()
        outcome = self.client.run(plan)
        check(before, self.settled(), outcome, plan)
        return outcome

    def settled(self) -> Counts:
        """The counts once nothing is under way. Raises `Failed` if something stays so though everybody has hung up."""
        give_up = time.monotonic() + SETTLE_S
        while (counts := self.counts()).running or counts.queued:
            if time.monotonic() > give_up:
                raise Failed(f"{counts.running} generations run and {counts.queued} wait at the upstream, for nobody")
            time.sleep(LOOK_S)
        return counts


def check(before: Counts, after: Counts, outcome: Outcome, plan: Plan) -> None:
    """Raises `Failed` unless the upstream did exactly what the client had answered, or began and aborted the rest."""
    started, finished, aborted = (getattr(after, n) - getattr(before, n) for n in ("started", "finished", "aborted"))
    said = f"the client has {outcome.calls} answers, the upstream started {started}, finished {finished}, aborted {aborted}"
    hung_up = max(0, plan.agents - plan.warm - plan.calls)
    if started != finished + aborted or not outcome.calls <= finished <= outcome.calls + min(hung_up, MOST_AT_ONCE):
        raise Failed(f"the counts differ: {said}")
    if aborted > hung_up:
        raise Failed(f"calls were aborted that nobody gave up: {said}")


@contextmanager
def stage(cores: tuple[Core, ...]) -> Iterator[Stage]:
    """A stage with a kernel that has these cores."""
    with Child("benchmarks.rig.upstream") as upstream, Client() as client, kernel(upstream.port, cores) as running:
        yield Stage(upstream, client, running)


def plan(work: Work, agents: int, calls: int, warm: int = 0, stream: bool = False, path: str = "/v1/chat/completions") -> Plan:
    """A plan whose server is named later."""
    return Plan(port=0, path=path, work=work, agents=agents, calls=calls, warm=warm, stream=stream)
