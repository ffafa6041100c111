"""Laws of waiting: rings of waits between processes are refused as a naive look at all waits would, and nobody else is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.errors import AiosError, Deadlock
from aios.abi.lease import AcquireLease
from aios.abi.mail import ReceiveMail, RequestMail
from aios.abi.process import Spawn, WaitFor
from aios.abi.request import Request
from aios.kernel.waiting import LOOK_S, SURE_S
from aios.ports.gate import Gate
from aios.testing.kernel import kernel_for_tests, manifest_of

AGENTS = 5
LEASES = ("a", "b")
GRANTS = ("use /leases/*", "spawn /agents/puppet")

agents = st.integers(0, AGENTS - 1)
acts = st.one_of(
    st.tuples(st.just("ask"), agents, agents),
    st.tuples(st.just("hold"), agents, st.sampled_from(LEASES)),
    st.tuples(st.just("wait"), agents, agents),
    st.tuples(st.just("listen"), agents, st.none()),
    st.tuples(st.just("give up"), agents, st.none()),
)


class Model:
    """Waits as (who, for whom, call): the ring that counts is the one whose youngest wait is the last that was added."""

    def __init__(self) -> None:
        self.open: list[tuple[int, Any, int]] = []  # for whom: an agent, a lease, or None for one's mailbox
        self.holders: dict[str, int] = {}

    def holder(self, on: Any) -> int | None:
        return self.holders.get(on) if isinstance(on, str) else on

    def only_waits(self, agent: int) -> bool:
        return all(self.holder(on) is not None for who, on, _ in self.open if who == agent)

    def reaches(self, start: int, goal: int) -> bool:
        """Whether a chain of waits of those that only wait leads from one to the other."""
        found, more = {start}, True
        while more:
            reached = {self.holder(on) for who, on, _ in self.open if who in found and self.only_waits(who)} - {None}
            more, found = not reached <= found, found | reached  # type: ignore[operator]  # None is taken out
        return goal in found

    def closes_a_ring(self, agent: int, on: Any) -> bool:
        holder = self.holder(on)
        return holder is not None and self.only_waits(agent) and self.reaches(holder, agent)


@asynccontextmanager
async def puppets() -> AsyncIterator[list[Any]]:
    """The gates of agents whose calls the test makes. Each is a child of the one before it."""
    gates: list[Gate] = []

    async def puppet(gate: Gate, left: int) -> None:
        gates.append(gate)
        if left:
            await gate.call(Spawn(manifest=manifest_of("puppet", grants=GRANTS), arguments=(left - 1,)))
        await asyncio.Event().wait()

    async with kernel_for_tests(agents={"puppet": puppet}, limit_s=1e9) as k:
        await k.spawn("puppet", AGENTS - 1, grants=GRANTS)
        await asyncio.sleep(1)
        yield gates


@settings(max_examples=100, deadline=None)
@given(st.lists(acts, max_size=14))
async def test_a_wait_is_refused_exactly_when_it_closes_a_ring(steps: list[tuple[str, int, Any]]) -> None:
    async with puppets() as gates:
        processes = [gate.process for gate in gates]
        model, calls = Model(), dict[int, asyncio.Task[Any]]()
        for number, (act, agent, on) in enumerate(steps):
            if act == "give up":
                await give_up(agent, model, calls)
                continue
            if (act == "ask" and on == agent) or (act == "wait" and on <= agent):
                continue  # refused as such: oneself, and who is no descendant
            request, waits = asked(act, agent, on, processes, model)
            ring = waits and model.closes_a_ring(agent, on)
            if act == "hold" and not waits:
                model.holders[on] = agent
            calls[number] = asyncio.create_task(gates[agent].call(request))
            await asyncio.sleep(SURE_S + 1)
            assert refused(calls[number]) == ring, f"{steps[: number + 1]}: {calls[number]}"
            model.open.append((agent, on, number))
            assert not any(refused(call) for other, call in calls.items() if other != number), "who closes no ring goes on"
            calls = {number: call for number, call in calls.items() if not call.done()}
            model.open = [wait for wait in model.open if wait[2] in calls]
        await asyncio.sleep(3 * LOOK_S)
        assert not any(refused(call) for call in calls.values()), "nor later"
        for call in calls.values():
            call.cancel()
        await asyncio.gather(*calls.values(), return_exceptions=True)


def asked(act: str, agent: int, on: Any, processes: list[Any], model: Model) -> tuple[Request[Any], bool]:
    """The request, and whether it has to wait for somebody."""
    if act == "ask":
        return RequestMail(to=processes[on].pid), True
    if act == "hold":
        return AcquireLease(name=on, ttl_s=3600), on in model.holders
    if act == "wait":
        return WaitFor(pid=processes[on].pid), True
    return ReceiveMail(wait_s=None, sender=processes[agent].pid), False  # what it never gets: others' requests do not end it


async def give_up(agent: int, model: Model, calls: dict[int, asyncio.Task[Any]]) -> None:
    """End the last call of an agent."""
    mine = [number for who, _, number in model.open if who == agent]
    if mine:
        calls[mine[-1]].cancel()
        await asyncio.wait((calls.pop(mine[-1]),))
        model.open = [wait for wait in model.open if wait[2] != mine[-1]]


def refused(call: asyncio.Task[Any]) -> bool:
    return call.done() and not call.cancelled() and isinstance(call.exception(), Deadlock)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(AGENTS)), st.integers(2, AGENTS))
async def test_a_ring_of_any_length_is_told_whole(order: list[int], length: int) -> None:
    async with puppets() as gates:
        names = [gate.process.name for gate in gates]
        ring = order[:length]
        waits = []
        for who, on in zip(ring, [*ring[1:], ring[0]], strict=True):
            waits.append(asyncio.create_task(gates[who].call(RequestMail(to=names[on]))))
            await asyncio.sleep(1)
        await asyncio.sleep(SURE_S)
        *others, last = waits
        assert refused(last) and not any(call.done() for call in others)
        told = str(last.exception())
        assert [told.count(f"`{names[who]}` waits for a reply of") for who in ring] == [1] * length
        assert all(names[who] not in told for who in order[length:])
        for call in others:
            call.cancel()
        ends = await asyncio.gather(*others, return_exceptions=True)
        assert not any(isinstance(end, AiosError) for end in ends)
