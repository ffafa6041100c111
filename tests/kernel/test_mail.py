"""Mail, leases and rings of waits where processes begin again, serve, stop serving, and give up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scenes import begin, error_of, pid_of, turns

from aios.abi.board import GetNotice, PutNotice
from aios.abi.errors import Conflict, DeadlineExceeded, Deadlock, Invalid, NotFound, QueueFull, TooLarge
from aios.abi.lease import AcquireLease, ReleaseLease
from aios.abi.mail import Inbox, ReceiveMail, ReplyMail, RequestMail, SendMail
from aios.abi.process import Explain, List, SignalProcess, Spawn, WaitFor
from aios.abi.request import CallOptions
from aios.abi.system import Sleep
from aios.kernel.mail import post
from aios.kernel.waiting import LOOK_S, SURE_S
from aios.ports.gate import Gate
from aios.server.local import LocalGate
from aios.testing import time
from aios.testing.kernel import RunningKernel, kernel_for_tests, manifest_of

FAMILY = ("spawn /agents/*", "use /leases/*")


async def silent(gate: Gate) -> None:
    await gate.call(Sleep(seconds=1e6))


async def test_another_life_gets_the_requests_that_the_last_one_did_not_reply_to() -> None:
    lives: list[list[Any]] = []

    async def serves(gate: Gate) -> None:
        seen: list[Any] = []
        lives.append(seen)
        while True:
            mail = (await gate.call(ReceiveMail(wait_s=None))).mail
            assert mail is not None
            seen.append(mail.value)
            if mail.asks and len(lives) == 2:
                await gate.call(ReplyMail(id=mail.id, value=f"{mail.value}, at last"))

    async with kernel_for_tests(agents={"serves": serves}) as k:
        server = await k.spawn("serves")
        await k.operator.call(SendMail(to=server.pid, value="plain"))
        asked = [begin(k.operator, RequestMail(to=server.pid, value=value)) for value in ("one", "two")]
        await asyncio.sleep(1)
        k.hosts.hosts[0].die()
        assert [(await request).value for request in asked] == ["one, at last", "two, at last"]
        assert lives == [["plain", "one", "two"], ["one", "two"]]


async def test_what_was_received_under_a_key_comes_back_by_its_record_and_not_twice() -> None:
    lives: list[list[Any]] = []

    async def serves(gate: Gate) -> None:
        seen: list[Any] = []
        lives.append(seen)
        for number in range(3):
            inbox = await gate.call(ReceiveMail(wait_s=None), CallOptions(key=str(number)))
            assert inbox.mail is not None
            seen.append(inbox.mail.value)
        await gate.call(Sleep(seconds=1e6))

    async with kernel_for_tests(agents={"serves": serves}) as k:
        server = await k.spawn("serves")
        asks = begin(k.operator, RequestMail(to=server.pid, value="asked"))
        await turns()
        await k.operator.call(SendMail(to=server.pid, value="plain"))
        await asyncio.sleep(1)
        k.hosts.hosts[0].die()
        await asyncio.sleep(1)
        await k.operator.call(SendMail(to=server.pid, value="later"))
        await asyncio.sleep(1)
        assert lives == [["asked", "plain"], ["asked", "plain", "later"]]
        asks.cancel()
        await asyncio.wait((asks,))


async def test_a_lease_passes_on_when_the_host_of_its_holder_dies() -> None:
    async def holds(gate: Gate) -> None:
        await gate.call(AcquireLease(name="l", ttl_s=3600))
        await gate.call(Sleep(seconds=1e6))

    async with kernel_for_tests(agents={"holds": holds}) as k:
        await k.spawn("holds", grants=("use /leases/l",))
        await asyncio.sleep(1)
        waits = begin(k.operator, AcquireLease(name="l"))
        await turns()
        k.hosts.hosts[0].die()
        assert (await waits).name == "l" and time() == 1


@pytest.mark.parametrize("patience_s", [5, 50])
async def test_a_suspended_process_receives_nothing_before_it_goes_on(patience_s: float) -> None:
    async def waits(gate: Gate) -> list[Any]:
        got: list[Any] = []
        try:
            async with asyncio.timeout(patience_s):  # its own clock, which nobody stops
                got.append((await gate.call(ReceiveMail(wait_s=None))).mail)
        except TimeoutError:
            await gate.call(Sleep(seconds=1))
            got.append((await gate.call(ReceiveMail())).mail)
        got.append((await gate.call(ReceiveMail())).mail)
        return [mail.value if mail is not None else None for mail in got]

    async with kernel_for_tests(agents={"waits": waits}) as k:
        agent = await k.spawn("waits")
        await asyncio.sleep(1)
        await k.operator.call(SignalProcess(pid=agent.pid, signal="suspend"))
        await k.operator.call(SendMail(to=agent.pid, value="once"))
        await asyncio.sleep(20)
        await k.operator.call(SignalProcess(pid=agent.pid, signal="resume"))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == ["once", None]


async def test_who_gives_up_takes_back_what_was_not_read() -> None:
    async with kernel_for_tests() as k:
        one, two = await k.session("one", ("write /mail/two",)), await k.session("two")
        to = await pid_of(two)
        assert type(await error_of(begin(one, RequestMail(to=to), CallOptions(deadline_s=2)))) is DeadlineExceeded
        assert await two.call(ReceiveMail()) == Inbox()
        asks = begin(one, RequestMail(to=to))
        await turns()
        mail = (await two.call(ReceiveMail())).mail
        assert mail is not None and mail.asks
        asks.cancel()
        await asyncio.wait((asks,))
        with pytest.raises(NotFound):
            await two.call(ReplyMail(id=mail.id))
        assert k.kernel._post._boxes == {}


async def test_nobody_replies_for_another_and_none_twice() -> None:
    async with kernel_for_tests() as k:
        one, two, three = [await k.session(name, ("write /mail/*",)) for name in ("one", "two", "three")]
        asks = begin(one, RequestMail(to=await pid_of(two), value="?"))
        await turns()
        mail = (await two.call(ReceiveMail())).mail
        assert mail is not None
        with pytest.raises(NotFound):
            await three.call(ReplyMail(id=mail.id, value="mine"))
        await two.call(ReplyMail(id=mail.id, value="yes"))
        with pytest.raises(NotFound):
            await two.call(ReplyMail(id=mail.id, value="no"))
        assert (await asks).value == "yes"


async def test_what_is_no_json_value_is_not_sent() -> None:
    deep: Any = None
    for _ in range(600):
        deep = [deep]
    async with kernel_for_tests() as k:
        me = await pid_of(k.operator)
        for value in (float("nan"), {1: 2}, b"bytes", 1 << 70, "\ud800", deep, {"a": {"b": {2}}}, [float("inf")]):
            with pytest.raises(Invalid):
                await k.operator.call(SendMail(to=me, value=value))
        with pytest.raises(TooLarge):
            await k.operator.call(SendMail(to=me, value="x" * 10_000_000))
        assert await k.operator.call(ReceiveMail()) == Inbox()


async def test_mail_of_all_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "MOST_BYTES", 10_000)
    async with kernel_for_tests() as k:
        boxes = [await k.session(f"box{number}") for number in range(4)]
        for box in boxes[:3]:
            await k.operator.call(SendMail(to=await pid_of(box), value="x" * 2500))
        with pytest.raises(QueueFull):
            await k.operator.call(SendMail(to=await pid_of(boxes[3]), value="x" * 2500))
        await boxes[0].call(ReceiveMail())
        await k.operator.call(SendMail(to=await pid_of(boxes[3]), value="x" * 2500))


async def test_no_family_fills_the_boxes_of_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "MOST_OF_FAMILY_BYTES", 10_000)

    async def floods(gate: Gate, boxes: list[str]) -> list[str]:
        told = []
        for box in boxes[:2]:
            try:
                await gate.call(SendMail(to=box, value="x" * 2500))
                told.append("sent")
            except QueueFull as error:
                told.append(error.message)
        if boxes[2:]:
            request = Spawn(manifest=manifest_of("floods", grants=("write /mail/box",)), arguments=(boxes[2:],))
            told += (await gate.call(WaitFor(pid=(await gate.call(request)).pid))).result
        return told

    async with kernel_for_tests(agents={"floods": floods}) as k:
        boxes = [await k.session("box") for _ in range(4)]
        pids = [await pid_of(box) for box in boxes]
        for _ in range(2):
            agent = await k.spawn("floods", pids, grants=("spawn /agents/*", "write /mail/box"))
            told = (await k.operator.call(WaitFor(pid=agent.pid))).result
            assert told[:3] == ["sent"] * 3 and "of `floods-" in told[3] and "family" in told[3]
        for box in boxes:
            while (await box.call(ReceiveMail())).mail is not None:
                pass
        assert k.kernel._post._bytes == {}


async def test_what_two_give_back_lies_where_it_lay() -> None:
    async with kernel_for_tests(agents={"silent": silent}) as k:
        agent = await k.spawn("silent")
        await turns()
        gate = LocalGate(k.kernel, k.kernel.resident(agent.pid))
        waits = [begin(gate, ReceiveMail(wait_s=None)) for _ in range(2)]
        await turns()
        await k.operator.call(SignalProcess(pid=agent.pid, signal="suspend"))
        for value in (1, 2):
            await k.operator.call(SendMail(to=agent.pid, value=value))
        for wait in reversed(waits):
            await turns()
            wait.cancel()
        await asyncio.wait(waits)
        await k.operator.call(SignalProcess(pid=agent.pid, signal="resume"))
        inboxes = [await gate.call(ReceiveMail()) for _ in range(3)]
        assert [inbox.mail.value if inbox.mail is not None else None for inbox in inboxes] == [1, 2, None]


async def test_requests_that_are_read_and_not_replied_to_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "MOST_UNREAD_BYTES", 10_000)
    async with kernel_for_tests() as k:
        server = await k.session("server")
        to = await pid_of(server)
        asks = [begin(k.operator, RequestMail(to=to, value="x" * 2500)) for _ in range(3)]
        await turns()
        mails = [(await server.call(ReceiveMail())).mail for _ in asks]
        assert type(await error_of(begin(k.operator, RequestMail(to=to, value="x" * 2500)))) is QueueFull
        assert mails[0] is not None
        await server.call(ReplyMail(id=mails[0].id))
        await asks[0]
        await k.operator.call(SendMail(to=to, value="x" * 2500))
        for ask in asks[1:]:
            ask.cancel()
        await asyncio.wait(asks)
        await server.call(ReceiveMail())
        assert (k.kernel._post._boxes, k.kernel._post._bytes) == ({}, {})


async def test_nothing_crosses_a_tenant() -> None:
    async with kernel_for_tests() as k:
        foreign = k.kernel.processes.add(
            kind="session", agent="other", tenant="other", cls="standard", grants=k.operator.process.grants,  # type: ignore[attr-defined]
        )  # fmt: skip
        me = await pid_of(k.operator)
        for request in (SendMail(to=me), RequestMail(to=me), ReceiveMail(sender=me, wait_s=None)):
            with pytest.raises(NotFound):
                await k.kernel.call(foreign, request)
        await k.operator.call(PutNotice(board="b", key="k", value=1))
        with pytest.raises(NotFound):
            await k.kernel.call(foreign, GetNotice(board="b", key="k"))
        await k.kernel.call(foreign, PutNotice(board="b", key="k", value=2))
        assert (await k.operator.call(GetNotice(board="b", key="k"))).value == 1
        mine = await k.operator.call(AcquireLease(name="l"))
        theirs = (await k.kernel.call(foreign, AcquireLease(name="l", wait_s=0))).value
        assert theirs.token != mine.token


# --- rings of waits ---------------------------------------------------------------------------------------------------


async def family(k: RunningKernel, entry: str) -> Any:
    """What an agent returns that may start the others."""
    agent = await k.spawn(entry, grants=FAMILY)
    exit = await k.operator.call(WaitFor(pid=agent.pid))
    return exit.result if exit.outcome == "result" else exit


async def test_a_parent_that_serves_its_children_while_it_waits_for_them_is_not_taken_for_stuck() -> None:
    async def child(gate: Gate) -> Any:
        return (await gate.call(RequestMail(to="parent", value="?"))).value

    async def parent(gate: Gate) -> Any:
        children = [await gate.call(Spawn(manifest=manifest_of("child", grants=()))) for _ in range(3)]
        ends = [begin(gate, WaitFor(pid=each.pid)) for each in children]
        for number in range(3):
            mail = (await gate.call(ReceiveMail(wait_s=None))).mail
            assert mail is not None
            await asyncio.sleep(2.5)  # its own code works, and the kernel sees nothing but waits
            await gate.call(ReplyMail(id=mail.id, value=number))
        return sorted([(await end).result for end in ends])

    async with kernel_for_tests(agents={"parent": parent, "child": child}) as k:
        assert await family(k, "parent") == [0, 1, 2]


async def test_a_parent_that_stops_serving_its_children_is_found_out() -> None:
    async def child(gate: Gate) -> str:
        try:
            await gate.call(RequestMail(to="parent", value="?"))
        except Deadlock as error:
            return error.message
        return ""

    async def parent(gate: Gate) -> Any:
        agent = await gate.call(Spawn(manifest=manifest_of("child", grants=())))
        end = begin(gate, WaitFor(pid=agent.pid))
        assert (await gate.call(ReceiveMail(wait_s=None))).mail is not None
        await gate.call(Sleep(seconds=5))
        return (await end).result  # it never replies

    async with kernel_for_tests(agents={"parent": parent, "child": child}) as k:
        told = await family(k, "parent")
        assert "waits for a reply of `parent-" in told and "waits for the end of `child-" in told
        assert 5 + SURE_S <= time() <= 5 + SURE_S + LOOK_S


async def test_a_ring_over_a_lease_and_one_over_who_begins_after_another() -> None:
    async def child(gate: Gate) -> str:
        try:
            await gate.call(AcquireLease(name="l"))
        except Deadlock as error:
            return error.message
        return ""

    async def parent(gate: Gate) -> list[str]:
        held = await gate.call(AcquireLease(name="l", ttl_s=3600))
        agent = await gate.call(Spawn(manifest=manifest_of("child", grants=("use /leases/l",))))
        told: list[str] = [(await gate.call(WaitFor(pid=agent.pid))).result]
        await gate.call(ReleaseLease(name="l", token=held.token))
        first = await gate.call(Spawn(manifest=manifest_of("first", grants=())))
        second = await gate.call(Spawn(manifest=manifest_of("silent", grants=()), after=(first.pid,)))
        await gate.call(SendMail(to=first.pid, value=second.pid))
        return [*told, (await gate.call(WaitFor(pid=first.pid))).result]

    async def first(gate: Gate) -> str:
        mail = (await gate.call(ReceiveMail(wait_s=None))).mail
        assert mail is not None
        try:
            await gate.call(RequestMail(to=mail.value))
        except Deadlock as error:
            return error.message
        return ""

    agents = {"parent": parent, "child": child, "first": first, "silent": silent}
    async with kernel_for_tests(agents=agents) as k:
        lease, after = await family(k, "parent")
        assert "`child-3` waits for a lease of `parent-2`, `parent-2` waits for the end of `child-3`" in lease
        assert "`first-4` waits for a reply of `silent-5`, `silent-5` begins after `first-4`" in after


async def test_sessions_are_never_stuck() -> None:
    """Others may speak with the same token."""
    async with kernel_for_tests() as k:
        one, two = [await k.session(name, ("write /mail/*",)) for name in ("one", "two")]
        asks = [begin(one, RequestMail(to=await pid_of(two))), begin(two, RequestMail(to=await pid_of(one)))]
        await asyncio.sleep(3 * LOOK_S)
        mail = (await one.call(ReceiveMail())).mail
        assert mail is not None
        await one.call(ReplyMail(id=mail.id, value="here"))
        assert (await asks[1]).value == "here"
        asks[0].cancel()
        await asyncio.wait(asks)


async def test_why_names_the_holder_of_a_lease_to_those_who_may_know_it_and_how_long_still() -> None:
    async def holds(gate: Gate) -> None:
        await gate.call(AcquireLease(name="l", ttl_s=100))
        await gate.call(Sleep(seconds=1000))

    async def curious(gate: Gate) -> list[str]:
        child = await gate.call(Spawn(manifest=manifest_of("holds", grants=("use /leases/l",))))
        await gate.call(Sleep(seconds=10))
        why = await gate.call(Explain(pid=child.pid))
        assert why.process.wait is not None
        with pytest.raises(Conflict, match="`another`"):
            await gate.call(AcquireLease(name="l", wait_s=1))
        return [why.reason, why.process.wait.holder, *why.moves]

    async with kernel_for_tests(agents={"holds": holds, "curious": curious}) as k:
        holder = await k.spawn("holds", grants=("use /leases/l",))
        agents = [await k.spawn("holds", grants=("use /leases/l",)) for _ in range(2)]
        await asyncio.sleep(10)
        why = await k.operator.call(Explain(pid=agents[0].pid))
        left = f"held by {holder.name}, for 90.0 s more unless it renews"
        assert why.reason == f"`lease.acquire` waits for lease l, {left}" and why.process.word == "blocked"
        assert why.moves == (f"`{holder.name}` releasing its lease, or not renewing it",)
        found = {process.pid: process.wait for process in (await k.operator.call(List())).processes}
        wait = found[agents[1].pid]
        assert wait is not None and (wait.holder, wait.eta_s) == (holder.name, None)
        told = await family(k, "curious")
        assert told[1] == "another" and not any(holder.name in words for words in told)


async def test_a_request_of_a_dead_sender_gets_no_reply() -> None:
    async def asks(gate: Gate, to: str) -> None:
        await gate.call(RequestMail(to=to, value="?"))

    async with kernel_for_tests(agents={"asks": asks, "silent": silent}) as k:
        server = await k.session("server")
        agent = await k.spawn("asks", await pid_of(server), grants=("write /mail/server",))
        mail = (await server.call(ReceiveMail(wait_s=None))).mail
        assert mail is not None
        k.hosts.hosts[0].die()
        again = (await server.call(ReceiveMail(wait_s=None))).mail
        assert again is not None and again.id != mail.id and again.sender == agent.pid
        with pytest.raises(NotFound):
            await server.call(ReplyMail(id=mail.id))
        await server.call(ReplyMail(id=again.id))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).outcome == "result"


async def test_who_waits_for_mail_of_one_sender_hears_of_its_end() -> None:
    async def leaves(gate: Gate) -> None:
        await gate.call(Sleep(seconds=5))

    async with kernel_for_tests(agents={"leaves": leaves}) as k:
        agent = await k.spawn("leaves")
        with pytest.raises(Conflict, match="has ended: it returned"):
            await k.operator.call(ReceiveMail(wait_s=None, sender=agent.name))
        assert time() == 5 and k.kernel._post._awaited == {}


async def test_a_request_under_a_key_is_asked_again_by_the_next_life_and_counted_once() -> None:
    async def asks(gate: Gate, to: str) -> Any:
        return (await gate.call(RequestMail(to=to, value="?"), CallOptions(key="k"))).value

    async with kernel_for_tests(agents={"asks": asks}) as k:
        server = await k.session("server")
        agent = await k.spawn("asks", await pid_of(server), grants=("write /mail/server",))
        first = (await server.call(ReceiveMail(wait_s=None))).mail
        k.hosts.hosts[0].die()
        second = (await server.call(ReceiveMail(wait_s=None))).mail
        assert first is not None and second is not None and first.id == second.id
        await server.call(ReplyMail(id=second.id, value="yes"))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "yes"
        assert (k.kernel._post._boxes, k.kernel._post._bytes) == ({}, {})
