"""Hints: who waits for a process lends its calls its urgency, and pays for them; what a client claims gains it no more."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from scenes import ask, begin, error_of, events, pid_of, slow, turns, until

from aios.abi.errors import Deadlock, NotFound
from aios.abi.event import Dispatched
from aios.abi.mail import ReceiveMail, ReplyMail, RequestMail
from aios.abi.process import Explain, Renice, Self, Spawn, WaitFor
from aios.abi.request import CallOptions
from aios.abi.system import AddToken
from aios.kernel.awaited import MOST_TOLD
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.lanes.policy import Waiter
from aios.ports.gate import Gate
from aios.server.local import LocalGate
from aios.testing import ScriptedCore
from aios.testing.kernel import RunningKernel, kernel_for_tests, manifest_of

ELAS = LaneConfig(policy="elas")


def order_of(core: ScriptedCore) -> list[str]:
    """The prompts in the order in which they were served."""
    return [str(call.request.prompt) for call in core.calls]


def lenders(k: RunningKernel, gate: Gate) -> list[tuple[Waiter, ...]]:
    """Who is known to wait for each of a process's queued calls."""
    process = k.kernel.processes.get(gate.process.pid)  # type: ignore[attr-defined]
    assert process is not None
    return [call.ticket.waiters for call in process.calls.values() if call.ticket is not None]  # type: ignore[attr-defined]


async def serves(gate: Gate) -> None:
    """Ask a model for whoever asks it."""
    while (mail := (await gate.call(ReceiveMail(wait_s=None))).mail) is not None:
        await gate.call(ask(f"for {mail.value}"))
        await gate.call(ReplyMail(id=mail.id, value="done"))


async def crowd(k: RunningKernel, cls: Any = "standard", count: int = 6) -> "list[asyncio.Task[Any]]":
    """Calls of other clients that wait in front."""
    clients = [await k.session(f"other{number}", cls=cls) for number in range(count)]
    calls = [begin(client, ask("crowd")) for client in clients]
    await turns()
    return calls


async def test_a_helper_that_is_asked_by_mail_is_as_urgent_as_who_asks_and_who_asks_pays() -> None:
    core = slow()
    async with kernel_for_tests([core], {"serves": serves}, lane=ELAS) as k:
        helper = await k.spawn("serves", cls="batch")
        person = await k.session("person", grants=("write /mail/*",), cls="interactive")
        crowded = await crowd(k)
        await person.call(RequestMail(to=helper.pid, value="person"))
        assert order_of(core)[:2] == ["crowd", "for person"]
        told = [event for event in await events(k, "dispatch") if isinstance(event, Dispatched)]
        assert [event.reason[:17] for event in told if event.cls == "batch"] == ["class interactive"]
        await asyncio.wait(crowded)


async def test_without_who_waits_the_helper_waits_behind_all() -> None:
    """The control of the scene above."""
    core = slow()
    async with kernel_for_tests([core], {"serves": serves}, lane=LaneConfig(policy="priority")) as k:
        helper = await k.spawn("serves", cls="batch")
        person = await k.session("person", grants=("write /mail/*",), cls="interactive")
        await crowd(k)
        await person.call(RequestMail(to=helper.pid, value="person"))
        assert order_of(core) == ["crowd"] * 6 + ["for person"]


async def test_who_comes_to_wait_for_a_call_in_its_queue_moves_it_and_who_gives_up_moves_it_back() -> None:
    async def works(gate: Gate) -> None:
        call = begin(gate, ask("helper"))
        await serves(gate)
        await call

    core = slow()
    async with kernel_for_tests([core], {"works": works}, lane=ELAS) as k:
        crowded = await crowd(k)
        helper = LocalGate(k.kernel, k.kernel.resident((await k.spawn("works", cls="batch")).pid))
        await until(lambda: lenders(k, helper))
        person = await k.session("person", grants=("write /mail/*",), cls="interactive")
        asked = begin(person, RequestMail(to=helper.process.pid))
        await turns()
        ((lender,), *_) = lenders(k, helper)
        assert (lender.pid, lender.cls) == (await pid_of(person), "interactive")
        asked.cancel()
        await asyncio.wait([asked])
        assert set(lenders(k, helper)) == {()}
        again = begin(person, RequestMail(to=helper.process.pid))
        await until(lambda: "helper" in order_of(core))
        assert order_of(core) == ["crowd", "helper"]
        again.cancel()
        await asyncio.wait([again, *crowded])


async def test_it_goes_on_through_those_who_wait_in_between() -> None:
    async def hands_on(gate: Gate, to: str) -> None:
        while (mail := (await gate.call(ReceiveMail(wait_s=None))).mail) is not None:
            await gate.call(RequestMail(to=to, value=mail.value))
            await gate.call(ReplyMail(id=mail.id))

    core = slow()
    async with kernel_for_tests([core], {"serves": serves, "hands_on": hands_on}, lane=ELAS) as k:
        helper = await k.spawn("serves", cls="batch")
        between = await k.spawn("hands_on", helper.pid, cls="batch", grants=("write /mail/*",))
        person = await k.session("person", grants=("write /mail/*",), cls="interactive")
        crowded = await crowd(k)
        await person.call(RequestMail(to=between.pid, value="person"))
        assert order_of(core)[:2] == ["crowd", "for person"]
        await asyncio.wait(crowded)


async def test_what_begins_after_others_lends_them_its_class() -> None:
    async def says(gate: Gate, text: str) -> None:
        await gate.call(ask(text))

    async def parent(gate: Gate) -> None:
        first = await gate.call(Spawn(manifest=manifest_of("says", cls="batch"), arguments=("first",)))
        then = await gate.call(Spawn(manifest=manifest_of("says"), arguments=("then",), after=(first.pid,)))
        await gate.call(WaitFor(pid=then.pid))

    core = slow()
    async with kernel_for_tests([core], {"says": says, "parent": parent}, lane=ELAS) as k:
        crowded = await crowd(k, "batch", 8)
        family = await k.spawn("parent", grants=("spawn /agents/*", "use /llm/*"))
        await k.operator.call(WaitFor(pid=family.pid))
        assert order_of(core)[:4] == ["crowd", "first", "crowd", "then"], "it is spawned in batch, for one that is standard"
        await asyncio.wait(crowded)


async def test_a_child_that_was_begun_in_a_lower_class_stays_there_though_its_parent_waits_for_it() -> None:
    async def says(gate: Gate, text: str) -> None:
        await gate.call(ask(text))

    core = slow()
    async with kernel_for_tests([core], {"says": says}, lane=ELAS) as k:
        crowded = await crowd(k)
        child = await k.spawn("says", "child", cls="batch")
        await k.operator.call(WaitFor(pid=child.pid))
        assert order_of(core) == ["crowd"] * 6 + ["child"]
        await asyncio.wait(crowded)


async def test_the_deadline_of_who_waits_is_the_childs_too() -> None:
    async def says(gate: Gate, text: str) -> None:
        await gate.call(ask(text))

    core = slow()
    async with kernel_for_tests([core], {"says": says}, lane=ELAS) as k:
        busy = await k.session("busy")
        calls = [begin(busy, ask("busy"))]
        await turns()
        children = [await k.spawn("says", name, agent="says") for name in ("slow", "urgent")]
        waits = begin(k.operator, WaitFor(pid=children[1].pid), CallOptions(deadline_s=5.5))
        await waits
        assert order_of(core)[:2] == ["busy", "urgent"]
        reasons = [event.reason for event in await events(k, "dispatch") if isinstance(event, Dispatched)]
        assert "class standard, deadline at risk" in reasons
        await asyncio.wait(calls)


async def test_a_waiter_that_is_reniced_lends_its_new_class() -> None:
    async def asks(gate: Gate, to: str) -> None:
        await gate.call(RequestMail(to=to, value="it"))

    async def works(gate: Gate) -> None:
        call = begin(gate, ask("helper"))
        await serves(gate)
        await call

    async with kernel_for_tests([slow()], {"works": works, "asks": asks}, lane=ELAS) as k:
        crowded = await crowd(k, count=9)
        helper = LocalGate(k.kernel, k.kernel.resident((await k.spawn("works", cls="batch")).pid))
        asker = await k.spawn("asks", helper.process.pid, cls="batch", grants=("write /mail/*",))
        await until(lambda: lenders(k, helper) not in ([], [()]))
        await k.operator.call(Renice(pid=asker.pid, cls="interactive"))
        ((lender,), *_) = lenders(k, helper)
        assert (lender.name, lender.cls) == (asker.name, "interactive")
        await asyncio.wait(crowded)


async def test_a_client_says_for_which_of_its_sessions_it_waits_by_name_or_by_ticket() -> None:
    core = slow()
    async with kernel_for_tests([core], lane=ELAS) as k:
        made = await k.token(cls="interactive")
        one, other = k.attach(made.value, "one"), k.attach(made.value, "other")
        crowded = await crowd(k)
        low = begin(one, ask("one"), CallOptions(cls="batch"))
        await turns()
        (ticket,) = one.process.calls.values()
        for named in (await pid_of(one), ticket.id):
            waits = begin(other, ask("other"), CallOptions(waits_for=(named,)))
            await turns()
            assert [lender.cls for lender in lenders(k, one)[0]] == []
            waits.cancel()
            await asyncio.wait([waits])
        await asyncio.wait([low, *crowded])


@pytest.mark.parametrize("name", ["nobody", "stranger", "zeta/other-1", "\x00"])
async def test_nobody_waits_for_what_it_may_not_know_of(name: str) -> None:
    async with kernel_for_tests([ScriptedCore()]) as k:
        stranger, client = await k.session("stranger"), await k.session()
        name = await pid_of(stranger) if name == "stranger" else name
        with pytest.raises(NotFound) as refused:
            await client.call(ask(), CallOptions(waits_for=(name,)))
        assert refused.value.field == "waits_for" and refused.value.message.endswith("that `client-3` may wait for")
        assert (await client.call(ask(), CallOptions(waits_for=(await pid_of(client),)))).text


async def test_an_agent_that_says_that_it_waits_for_who_waits_for_it_is_refused_with_the_ring() -> None:
    async def child(gate: Gate) -> str:
        refused = await error_of(begin(gate, ask(), CallOptions(waits_for=("parent",))))
        assert type(refused) is Deadlock
        return refused.message

    async def parent(gate: Gate) -> str:
        made = await gate.call(Spawn(manifest=manifest_of("child")))
        return (await gate.call(WaitFor(pid=made.pid))).result

    async with kernel_for_tests([ScriptedCore()], {"child": child, "parent": parent}) as k:
        agent = await k.spawn("parent", grants=("spawn /agents/*", "use /llm/*"))
        said = (await k.operator.call(WaitFor(pid=agent.pid))).result
        assert said == f"this would wait for ever: `child-3` waits for `{agent.name}`, which waits for `child-3`"


@pytest.mark.parametrize(
    "fields",
    [{"kind": "x" * 81}, {"kind": "\n"}, {"remaining_s": -1}, {"remaining_s": float("nan")}, {"remaining_s": float("inf")},
     {"waits_for": ("x",) * 9}, {"waits_for": ("",)}, {"waits_for": ("x" * 201,)}],
)  # fmt: skip
def test_a_hint_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(fields))}`"):
        CallOptions(**fields)


async def test_a_hint_that_lies_gains_nothing_from_other_tenants() -> None:
    """Two tenants that always want more: one of them lies about all that can be said, and gets no more than half."""
    lies = CallOptions(remaining_s=0.0, deadline_s=300.0, kind="tiny")
    async with kernel_for_tests([slow()], lane=ELAS) as k:
        honest = k.attach((await k.operator.call(AddToken(agent="honest", tenant="acme"))).value)
        liar = k.attach((await k.operator.call(AddToken(agent="liar", tenant="zeta"))).value)
        calls = [begin(honest) for _ in range(60)] + [begin(liar, ask(), lies) for _ in range(60)]
        await until(lambda: k.kernel.events.last > 90 * 2)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        told = [event for event in await events(k, "dispatch") if isinstance(event, Dispatched)]
        counts = Counter(event.tenant for event in told)
        assert abs(counts["acme"] - counts["zeta"]) <= 2 and len(told) > 80


async def test_of_many_who_wait_a_bounded_number_counts_and_nothing_is_left_of_them() -> None:
    async def idles(gate: Gate) -> None:
        calls = [begin(gate, ask("mine")) for _ in range(MOST_TOLD + 20)]
        try:
            await serves(gate)
        finally:
            await asyncio.gather(*calls, return_exceptions=True)

    async with kernel_for_tests([slow()], {"idles": idles}, lane=ELAS) as k:
        helper = LocalGate(k.kernel, k.kernel.resident((await k.spawn("idles", cls="batch")).pid))
        await until(lambda: len(lenders(k, helper)) > MOST_TOLD)
        people = [await k.session(f"person{number}", grants=("write /mail/*",), cls="interactive") for number in range(20)]
        asks = [begin(person, RequestMail(to=helper.process.pid)) for person in people]
        await turns()
        assert {len(waiters) for waiters in lenders(k, helper)} == {8}
        for asking in asks:
            asking.cancel()
        await asyncio.wait(asks)
        await turns()
        assert not helper.process.awaited and not any(person.process.awaits for person in people)
        assert {len(waiters) for waiters in lenders(k, helper)} == {0}
        assert (await k.operator.call(Explain(pid=helper.process.pid))).calls
        assert (await people[0].call(Self())).calls
