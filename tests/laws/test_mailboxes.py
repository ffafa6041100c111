"""Laws of mailboxes, boards and leases, against models that a glance takes in."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.board import PutNotice, WatchBoard
from aios.abi.errors import AiosError, Conflict
from aios.abi.lease import AcquireLease, ReleaseLease
from aios.abi.mail import Inbox, ReceiveMail, SendMail
from aios.abi.process import Self
from aios.ports.gate import Gate
from aios.testing.kernel import RunningKernel, kernel_for_tests

GRANTS = ("write /mail/*", "read /boards/*", "write /boards/*", "use /leases/*")


async def sessions(k: RunningKernel, count: int) -> tuple[list[Gate], list[str]]:
    gates: list[Gate] = [await k.session(f"s{number}", GRANTS) for number in range(count)]
    return gates, [(await gate.call(Self())).name for gate in gates]


mail_steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1)),
        st.tuples(st.just("receive"), st.sampled_from([None, 0, 1])),
        st.tuples(st.just("give up"), st.integers(0, 9)),
        st.tuples(st.just("send and give up"), st.integers(0, 9)),
        st.tuples(st.just("pass"), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(mail_steps)
async def test_every_mail_is_received_once_and_in_order(steps: list[tuple[str, Any]]) -> None:
    """Two senders, any number of receivers that come and go, also in the very step in which they are handed a mail."""
    async with kernel_for_tests() as k:
        (one, two, box), names = await sessions(k, 3)
        sent: list[tuple[int, int]] = []
        waiting: list[asyncio.Task[Inbox]] = []
        everybody: list[asyncio.Task[Inbox]] = []
        got: list[list[int]] = []
        for act, what in steps:
            if act in ("send", "send and give up"):
                sender = what % 2
                sent.append((sender, len(sent)))
                await (one, two)[sender].call(SendMail(to=names[2], value=[sender, len(sent) - 1]))
            if act == "receive":
                of = names[what] if what is not None else None
                task = asyncio.create_task(box.call(ReceiveMail(wait_s=None, sender=of)))
                task.add_done_callback(lambda done: got.append(_value(done)) if not done.cancelled() else None)
                waiting.append(task)
                everybody.append(task)
            if act.endswith("give up") and waiting:
                waiting.pop(what % len(waiting)).cancel()
            if act == "pass":
                await asyncio.sleep(0.01)
            waiting = [task for task in waiting if not task.done()]
        await asyncio.sleep(0.01)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*everybody, return_exceptions=True)
        handed = len(got)
        while (inbox := await box.call(ReceiveMail())).mail is not None:
            got.append(inbox.mail.value)
        assert sorted(map(tuple, got)) == sorted(sent)
        left = [number for _, number in got[handed:]]
        assert left == sorted(left), "what was given back lies where it lay"
        post = k.kernel._post
        assert (post._boxes, sum(post._bytes.values()), post._awaited) == ({}, 0, {})


def _value(task: asyncio.Task[Inbox]) -> list[int]:
    mail = task.result().mail
    assert mail is not None
    value: list[int] = mail.value
    return value


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=1, max_size=20), st.sampled_from([None, 0, 1]))
async def test_mail_keeps_its_order(senders: list[int], of: int | None) -> None:
    async with kernel_for_tests() as k:
        (one, two, box), names = await sessions(k, 3)
        for number, sender in enumerate(senders):
            await (one, two)[sender].call(SendMail(to=names[2], value=number))
        wanted = [number for number, sender in enumerate(senders) if of is None or sender == of]
        got = []
        while (inbox := await box.call(ReceiveMail(sender=names[of] if of is not None else None))).mail is not None:
            got.append(inbox.mail.value)
        assert got == wanted


keys = st.sampled_from(["a", "b", "a/x", "c"])
puts = st.tuples(keys, st.one_of(st.none(), st.integers(0, 9)), st.sampled_from(["any", "right", "zero", "wrong"]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(puts, st.just("read")), max_size=30), st.sampled_from(["*", "a*", "a/*", "b"]), st.integers(1, 5))
async def test_a_board_is_a_dict_with_versions_and_a_watcher_learns_its_state(steps: Any, pattern: str, limit: int) -> None:
    """None is a removal. What a watcher has put together from what it was told is what stands there."""
    async with kernel_for_tests() as k:
        (writer, reader), _ = await sessions(k, 2)
        model: dict[str, tuple[int, int]] = {}
        told: dict[str, tuple[int, int]] = {}
        cursor = last = 0

        async def read() -> int:
            page = await reader.call(WatchBoard(board="b", pattern=pattern, after=cursor, limit=limit))
            versions = [notice.version for notice in page.notices]
            assert versions == sorted(set(versions)) and all(cursor < version <= page.next for version in versions)
            for notice in page.notices:
                told.pop(notice.key, None)
                if not notice.removed:
                    told[notice.key] = (notice.version, notice.value)
            return page.next

        for step in steps:
            if step == "read":
                cursor = await read()
                continue
            key, value, how = step
            stands = model.get(key, (0, 0))[0]
            expected = {"any": None, "right": stands, "zero": 0, "wrong": stands + 1}[how]
            try:
                request = PutNotice(board="b", key=key, value=value, if_version=expected, remove=value is None)
                version = (await writer.call(request)).version
            except Conflict:
                assert expected is not None and expected != stands
                continue
            assert expected is None or expected == stands
            if value is not None:
                assert version > last
                model[key], last = (version, value), version
            elif key in model:
                assert version > last
                del model[key]
                last = version
        while (after := await read()) != cursor:
            cursor = after
        prefix = pattern.rstrip("*")
        fits = {key for key in model if (key.startswith(prefix) if "*" in pattern else key == pattern)}
        assert told == {key: model[key] for key in fits}


lease_acts = st.sampled_from(["acquire", "release", "release and give up", "give up", "wait 1", "wait 5"])
lease_steps = st.lists(st.tuples(lease_acts, st.integers(0, 2)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(lease_steps)
async def test_a_lease_has_one_holder_in_the_order_of_asking_and_tokens_that_grow(steps: list[tuple[str, int]]) -> None:
    async with kernel_for_tests() as k:
        gates, _ = await sessions(k, 3)
        line: list[tuple[int, asyncio.Task[Any]]] = []
        holder: tuple[int, int] | None = None
        ends, last = 0.0, 0
        loop = asyncio.get_running_loop()
        for act, who in steps:
            if act == "acquire":
                line.append((who, asyncio.create_task(gates[who].call(AcquireLease(name="l", ttl_s=4)))))
            elif act.startswith("release") and holder is not None:
                await gates[holder[0]].call(ReleaseLease(name="l", token=holder[1]))
                holder = None
                if act != "release" and line:
                    line.pop(0)[1].cancel()  # who is handed the lease in this very step
            elif act == "give up" and line:
                line.pop(who % len(line))[1].cancel()
            elif act.startswith("wait"):
                await asyncio.sleep(float(act[-1]))
            await asyncio.sleep(0.01)
            granted = [(number, task.result()) for number, task in line if task.done()]
            assert [task.done() for _, task in line] == [True] * len(granted) + [False] * (len(line) - len(granted)), "in order"
            for number, held in granted:
                assert held.token > last
                holder, last = (number, held.token), held.token
                ends = loop.time() + (held.expires_ns - k.kernel.clock.now_ns()) / 1e9  # it may have been granted a while ago
            line = line[len(granted) :]
            if holder is not None and loop.time() > ends:
                holder = None
            assert holder is not None or not line, "a free lease has no line"
        for _, task in line:
            task.cancel()
        await asyncio.gather(*(task for _, task in line), return_exceptions=True)
        await asyncio.sleep(10)
        assert (k.kernel._leases._leases, k.kernel._leases._held) == ({}, {})
        assert not any(isinstance(task.exception(), AiosError) for _, task in line if not task.cancelled())
