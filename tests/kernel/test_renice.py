"""`process.renice`: who may give whom which class, and what becomes of the calls that wait."""

import asyncio

import pytest

from aios.abi.errors import Conflict, Denied, NotFound
from aios.abi.event import ProcessChanged, ReadEvents
from aios.abi.llm import Generate
from aios.abi.process import Explain, List, Renice, Self, Spawn, WaitFor
from aios.abi.request import CallOptions, Class
from aios.abi.system import ListCores
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import RunningKernel, kernel_for_tests, manifest_of


async def sleep(gate: Gate) -> None:
    await asyncio.sleep(1000)


async def parent(gate: Gate) -> None:
    await gate.call(Spawn(manifest=manifest_of("sleep", grants=())))
    await asyncio.sleep(1000)


AGENTS = {"sleep": sleep, "parent": parent}
GRANTS = ("use /llm/*", "spawn /agents/*")


async def classes(k: RunningKernel) -> dict[str, Class]:
    """Of the agents that live, by agent."""
    return {process.agent: process.cls for process in (await k.operator.call(List(ended=False))).processes}


async def test_a_lower_class_is_the_descendants_too_and_only_an_operator_raises_it_again() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        client = await k.session(grants=GRANTS, cls="interactive")
        agent = await client.call(Spawn(manifest=k.accept(manifest_of("parent", grants=("spawn /agents/*",), cls="interactive"))))
        await asyncio.sleep(1)
        assert await classes(k) == {"parent": "interactive", "sleep": "standard"}
        await client.call(Renice(pid=agent.pid, cls="batch"))
        assert await classes(k) == {"parent": "batch", "sleep": "batch"}
        with pytest.raises(Denied, match="an operator may raise it"):
            await client.call(Renice(pid=agent.pid, cls="standard"))
        await k.operator.call(Renice(pid=agent.pid, cls="standard"))
        assert await classes(k) == {"parent": "standard", "sleep": "batch"}


async def test_nobody_is_raised_above_what_the_token_may_have() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        client = await k.session(grants=GRANTS, cls="standard")
        agent = await client.call(Spawn(manifest=k.accept(manifest_of("sleep", grants=(), cls="batch"))))
        for pid in (agent.pid, (await client.call(Self())).pid):
            with pytest.raises(Denied, match="standard at most"):
                await k.operator.call(Renice(pid=pid, cls="interactive"))
        await k.operator.call(Renice(pid=agent.pid, cls="standard"))
        assert await classes(k) == {"sleep": "standard"}


async def test_who_has_ended_or_is_anothers_has_no_class_to_give() -> None:
    async def quick(gate: Gate) -> None:
        return

    async with kernel_for_tests(agents={"quick": quick}) as k:
        client = await k.session(grants=GRANTS)
        agent = await client.call(Spawn(manifest=k.accept(manifest_of("quick", grants=()))))
        await client.call(WaitFor(pid=agent.pid))
        with pytest.raises(Conflict, match="has ended"):
            await client.call(Renice(pid=agent.pid, cls="batch"))
        with pytest.raises(NotFound):
            await client.call(Renice(pid=(await k.operator.call(Self())).pid, cls="batch"))


async def test_calls_that_wait_are_of_the_new_class_at_once() -> None:
    core = ScriptedCore(Script(text="x", first_s=10), slots=1)
    async with kernel_for_tests([core]) as k:
        first, slow, fast = [await k.session(cls="interactive") for _ in range(3)]
        calls = [asyncio.ensure_future(first.call(Generate(prompt="first")))]
        await asyncio.sleep(1)
        for gate, name in ((slow, "slow"), (fast, "fast")):
            calls.append(asyncio.ensure_future(gate.call(Generate(prompt=name))))
            await asyncio.sleep(1)
        await slow.call(Renice(pid=(await slow.call(Self())).pid, cls="batch"))
        assert (await k.operator.call(ListCores())).waiting == {"interactive": 1, "batch": 1}
        await asyncio.gather(*calls)
        assert [call.request.prompt for call in core.calls] == ["first", "fast", "slow"]
        assert (await k.operator.call(ListCores())).waiting == {}


async def test_a_call_that_asked_for_a_lower_class_keeps_it() -> None:
    async with kernel_for_tests([ScriptedCore(Script(hang=True), slots=1)]) as k:
        gate = await k.session(cls="interactive")
        pid = (await gate.call(Self())).pid
        calls = [
            asyncio.ensure_future(gate.call(Generate(prompt="x"), CallOptions(cls=cls))) for cls in (None, "batch", None)
        ]  # fmt: skip
        await asyncio.sleep(1)
        await k.operator.call(Renice(pid=pid, cls="standard"))
        assert (await k.operator.call(ListCores())).waiting == {"batch": 1, "standard": 1}
        moves = (await k.operator.call(Explain(pid=pid))).moves
        assert any("aios nice client-" in move and "interactive" in move for move in moves)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert (await k.operator.call(ListCores())).waiting == {}


async def test_it_is_an_event_that_says_by_whom() -> None:
    async with kernel_for_tests() as k:
        gate = await k.session(cls="interactive")
        await k.operator.call(Renice(pid=(await gate.call(Self())).pid, cls="batch"))
        (event,) = [e for e in (await k.operator.call(ReadEvents())).events if isinstance(e, ProcessChanged)][-1:]
        assert (event.cls, event.detail) == ("batch", "class given by operator-1")
