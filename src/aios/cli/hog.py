"""The proof `hog`: a hundred callers of one tenant do not get in the way of one caller of another, and lose nothing by it.

Over HTTP, with a token for each tenant, on a kernel of its own before a server with 8 slots on which each call takes 500 ms. The
hundred come one after another, as callers do who know nothing of each other, and call for ever; the one calls as soon as it has
its answer. It is first measured alone; then beside them; then beside them under `fifo`, where it must be far worse. By a policy
that cannot stop a call, another call can be held up by what is left of the shortest one, so that twice the time alone is the
most that it may take.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import uvloop

from aios.abi.errors import Failed
from aios.abi.lane import UseLane
from aios.abi.system import AddToken
from aios.cli.callers import Caller
from aios.cli.measured import Bar, Row, percentile
from aios.cli.own import kernel_of_its_own
from aios.cli.phases import Phases
from aios.cli.proof import Proof, proof
from aios.cli.upstream import MODEL, Served, upstream
from aios.sdk.client import Client

SLOTS, TAKES_MS = 8, 500
HUNDRED = 100
HOG, OTHER, AGENT = "hog", "other", "caller"
POLICY, OFF = "elas", "fifo"
WARM, ALONE, BESIDE, BESIDE_OFF = 2, 8, 20, 3
"""Calls of the one."""
COMING = 12.0
"""Times of a call, in which the hundred come."""
SEED = 1
BARS = {"other_p95_vs_unloaded": Bar("at most", 2.0), "hog_share_of_spare": Bar("at least", 0.95)}
MEANINGS = {
    "other_p95_vs_unloaded": "P95 of one tenant's caller beside a hundred of another's ÷ alone",
    "hog_share_of_spare": "the hundred's share of what the one leaves",
    "unloaded_p95_s": "P95 of the one alone, s",
    "other_p95_s": "P95 of the one beside the hundred, s",
    "hog_per_s": "calls per second of the hundred together",
}
SETTINGS = """\
embedder = false
[server]
port = 0
[lanes.cores]
policy = "{policy}"
[[core]]
name = "slots"
base_url = "http://127.0.0.1:{port}/v1"
models = ["{model}"]
slots = {slots}
"""


@dataclass(frozen=True)
class Beside:
    """What the one has met beside the hundred: its calls' seconds, and the time in which it made them."""

    latencies_s: Sequence[float]
    begin: float
    end: float


def hog(takes_ms: int = TAKES_MS, policy: str = POLICY) -> Proof:
    """Measure it. Raises `Failed` if a call is not answered, or the server counts other calls than the callers do."""
    with Phases() as phases, upstream(SLOTS, takes_ms) as port:
        phases.begin(f"a kernel before {SLOTS} slots of {takes_ms} ms")
        settings = SETTINGS.format(policy=policy, port=port, model=MODEL, slots=SLOTS)
        with kernel_of_its_own(settings) as kernel, Client() as operator:
            tokens = {who: operator.call(AddToken(agent=AGENT, tenant=who)).value for who in (HOG, OTHER)}
            hundred, one = (Caller(who, kernel.http, token) for who, token in tokens.items())
            server = Caller("the counts", f"http://127.0.0.1:{port}")
            with hundred, one, server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                stage = Stage(phases, operator, hundred, one, takes_ms / 1000)
                alone, beside, off = runner.run(stage.play(policy))
                served = msgspec.json.decode(runner.run(server.ask("GET", "/served")), type=list[Served])
    check(served, one)
    found, control = figures(alone, beside, served), figures(alone, off, served)
    cases = {"alone": alone, f"beside the hundred, {policy}": beside.latencies_s, f"the control, {OFF}": off.latencies_s}
    return proof(HOG, BARS, found, rows(cases), f"policy {OFF} instead of {policy}", control)


@dataclass(frozen=True)
class Stage:
    """Who takes part. `takes_s`: seconds of a call."""

    phases: Phases
    operator: Client
    hundred: Caller
    one: Caller
    takes_s: float

    async def play(self, policy: str) -> tuple[list[float], Beside, Beside]:
        """The one alone, beside the hundred, and beside them with the mechanism off."""
        self.phases.begin("one caller, alone")
        await self.one.chats(WARM)
        alone = await self.one.chats(ALONE)
        try:
            async with asyncio.TaskGroup() as group:
                crowd = [group.create_task(again_and_again(self.hundred, moment)) for moment in self._moments()]
                beside, off = await self._beside(policy)
                for caller in crowd:
                    caller.cancel()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return alone, beside, off

    async def _beside(self, policy: str) -> tuple[Beside, Beside]:
        self.phases.begin(f"{HUNDRED} callers of another tenant come")
        await asyncio.sleep((COMING + 1) * self.takes_s)
        self.phases.begin(f"the one beside them, by `{policy}`")
        beside = await measured(self.one, BESIDE)
        self.phases.begin(f"the control: the same by `{OFF}`")
        self.operator.call(UseLane(lane="cores", policy=OFF))
        return beside, await measured(self.one, BESIDE_OFF)

    def _moments(self) -> Iterator[float]:
        """When the hundred come, seconds from now."""
        moments = random.Random(SEED)
        return (moments.uniform(0, COMING) * self.takes_s for _ in range(HUNDRED))


async def again_and_again(caller: Caller, first_s: float) -> None:
    """Call for ever, from a moment on."""
    await asyncio.sleep(first_s)
    while True:
        await caller.chats(1)


async def measured(one: Caller, calls: int) -> Beside:
    begin = time.monotonic()
    return Beside(await one.chats(calls), begin, time.monotonic())


def check(served: Iterable[Served], one: Caller) -> None:
    """Raises `Failed` unless the server has served exactly the one's answered calls, so that no call was saved or made twice."""
    count = sum(each.who == OTHER for each in served)
    if count != one.answered:
        raise Failed(f"{one.answered} calls of the one were answered, but the server has served {count}")


def figures(alone: Sequence[float], beside: Beside, served: Sequence[Served]) -> dict[str, float]:
    """The figures of a time beside the hundred."""
    unloaded_s, other_s = percentile(alone, 95), percentile(beside.latencies_s, 95)
    hog_s, one_s = (slot_seconds(served, who, beside.begin, beside.end) for who in (HOG, OTHER))
    seconds = beside.end - beside.begin
    ended = sum(each.who == HOG and each.end is not None and beside.begin < each.end <= beside.end for each in served)
    return {
        "other_p95_vs_unloaded": other_s / unloaded_s,
        "hog_share_of_spare": hog_s / (SLOTS * seconds - one_s),
        "unloaded_p95_s": unloaded_s,
        "other_p95_s": other_s,
        "hog_per_s": ended / seconds,
    }


def slot_seconds(served: Iterable[Served], who: str, begin: float, end: float) -> float:
    """For how long somebody had slots between two moments, all slots together."""
    spans = ((max(begin, each.begin), min(end, end if each.end is None else each.end)) for each in served if each.who == who)
    return sum(until - since for since, until in spans if until > since)


def rows(cases: Mapping[str, Sequence[float]]) -> list[Row]:
    """How the figures came about: the calls of the one in each case, by their seconds."""
    return [
        {
            "question": "seconds of a call of the one", "case": case, "calls": float(len(seconds)),
            "p50_s": percentile(seconds, 50), "p95_s": percentile(seconds, 95), "most_s": max(seconds),
        }
        for case, seconds in cases.items()
    ]  # fmt: skip
