"""Boards and leases, over every transport."""

import asyncio

import pytest
from requirements import proves

from aios.abi.board import GetNotice, ListNotices, PutNotice, WatchBoard
from aios.abi.errors import Conflict, Denied, Fenced, Invalid, NotFound
from aios.abi.lease import AcquireLease, ReleaseLease, RenewLease
from aios.abi.process import Explain, Self, SignalProcess, Spawn
from aios.abi.request import CallOptions, Done
from aios.abi.system import Sleep
from aios.ports.gate import Gate
from aios.testing import time
from aios.testing.kernel import EPOCH_NS, manifest_of
from aios.testing.transports import ALL, world


def put(key: str, value: object = None, **fields: object) -> PutNotice:
    return PutNotice(board="paper", key=key, value=value, **fields)  # type: ignore[arg-type]


@proves("row board.put", "row board.get", "row board.list")
async def test_put_get_and_list(transport: str) -> None:
    async with world(transport) as w:
        one, two = await w.process(ALL), await w.process(("read /boards/paper",))
        me = await one.call(Self())
        versions = [(await one.call(put(key, {"text": key}, type="Draft"))).version for key in ("draft/1", "draft/2", "x", "x")]
        assert versions == sorted(set(versions)) and versions[0] > 0
        notice = await two.call(GetNotice(board="paper", key="draft/2"))
        assert (notice.value, notice.version, notice.type) == ({"text": "draft/2"}, versions[1], "Draft")
        assert (notice.writer, notice.name, notice.at_ns) == (me.pid, me.name, EPOCH_NS)
        all_ = await two.call(ListNotices(board="paper"))
        assert [(n.key, n.version) for n in all_.notices] == list(
            zip(("draft/1", "draft/2", "x"), (*versions[:2], versions[3]), strict=True)
        )
        page = await two.call(ListNotices(board="paper", pattern="draft/*", limit=1))
        assert ([n.key for n in page.notices], page.more, page.next) == (["draft/1"], True, versions[0])
        page = await two.call(ListNotices(board="paper", pattern="draft/*", limit=1, after=page.next))
        assert ([n.key for n in page.notices], page.more) == (["draft/2"], False)
        await one.call(put("x", remove=True))
        for board, key in (("paper", "x"), ("paper", "y"), ("other", "x")):
            with pytest.raises((NotFound, Denied)):
                await two.call(GetNotice(board=board, key=key))
        with pytest.raises(Denied, match="write /boards/paper"):
            await two.call(put("x"))
        for wrong in ({"board": "a b"}, {"key": ""}, {"key": "a*"}, {"key": "\n"}, {"type": "x" * 65}, {"if_version": -1}):
            with pytest.raises(Invalid) as refused:
                await one.call(PutNotice(**{"board": "paper", "key": "k", **wrong}))  # type: ignore[arg-type]
            assert refused.value.field == next(iter(wrong))


@proves("row board.watch")
async def test_watch(transport: str) -> None:
    async with world(transport) as w:
        one, two = await w.process(ALL), await w.process(("read /boards/*",))
        await one.call(put("draft/1", 1))
        page = await two.call(WatchBoard(board="paper", pattern="draft/*"))
        assert [notice.value for notice in page.notices] == [1]
        waits = asyncio.ensure_future(two.call(WatchBoard(board="paper", pattern="draft/*", after=page.next, wait_s=None)))
        await asyncio.sleep(1)
        await one.call(put("review/1", 2))
        await asyncio.sleep(1)
        assert not waits.done()
        await one.call(put("draft/2", 3))
        page = await waits
        assert [(notice.key, notice.value) for notice in page.notices] == [("draft/2", 3)] and time() == 2
        for value in (4, 5):
            await one.call(put("draft/1", value))
        await one.call(put("draft/2", remove=True))
        page = await two.call(WatchBoard(board="paper", after=page.next, wait_s=None))
        assert [(notice.key, notice.value, notice.removed) for notice in page.notices] == [
            ("draft/1", 5, False), ("draft/2", None, True)
        ]  # fmt: skip
        assert (await two.call(WatchBoard(board="paper", after=page.next, wait_s=7))).notices == () and time() == 9
        assert (await two.call(WatchBoard(board="never"))).notices == ()


@proves("board conflict")
async def test_a_put_that_expects_another_version_or_type_is_refused(transport: str) -> None:
    async with world(transport) as w:
        gates = [await w.process(ALL) for _ in range(8)]

        async def first(gate: Gate) -> bool:
            try:
                await gate.call(put("k", "mine", if_version=0))
            except Conflict as error:
                return "is in version" not in error.message
            return True

        assert sum(await asyncio.gather(*map(first, gates))) == 1
        gate = gates[0]
        version = (await gate.call(GetNotice(board="paper", key="k"))).version
        for wrong in (0, version - 1, version + 1):
            with pytest.raises(Conflict, match=f"is in version {version}, not in version {wrong}"):
                await gate.call(put("k", 2, if_version=wrong))
        newer = (await gate.call(put("k", 2, if_version=version, type="Count"))).version
        assert newer > version
        with pytest.raises(Conflict, match="is a `Count`: a `Text` does not replace it") as refused:
            await gate.call(put("k", "two", type="Text"))
        assert refused.value.field == "type"
        await gate.call(put("k", remove=True, if_version=newer))
        again = await gate.call(put("k", "two", type="Text", if_version=0), CallOptions(key="once"))
        assert again.version > newer
        assert await gate.call(put("k", "two", type="Text", if_version=0), CallOptions(key="once")) == again


@proves("row lease.acquire", "row lease.renew", "row lease.release")
async def test_leases(transport: str) -> None:
    async with world(transport) as w:
        one, two, three = [await w.process(("use /leases/printer",)) for _ in range(3)]
        held = await one.call(AcquireLease(name="printer", ttl_s=10))
        assert (held.name, held.expires_ns) == ("printer", EPOCH_NS + 10 * 10**9)
        second = asyncio.ensure_future(two.call(AcquireLease(name="printer", ttl_s=5)))
        await asyncio.sleep(1)
        third = asyncio.ensure_future(three.call(AcquireLease(name="printer")))
        await asyncio.sleep(1)
        why = await w.k.operator.call(Explain(pid=(await two.call(Self())).pid))
        (wait,) = [call.wait for call in why.calls if call.row == "lease.acquire"]
        assert wait is not None and (wait.code, wait.word, wait.on, wait.eta_s) == ("L", "blocked", "lease printer", 8)
        held = await one.call(RenewLease(name="printer", token=held.token, ttl_s=20))
        assert held.expires_ns == EPOCH_NS + 22 * 10**9
        with pytest.raises(Conflict, match="is held by"):
            await one.call(AcquireLease(name="printer", wait_s=0))
        assert await one.call(ReleaseLease(name="printer", token=held.token)) == Done()
        passed = await second
        assert passed.token > held.token and not third.done() and time() == 2
        last = await third  # two does not renew
        assert last.token > passed.token and time() == 7
        with pytest.raises(Conflict, match="after 3 s"):
            await one.call(AcquireLease(name="printer", wait_s=3))
        for request in (AcquireLease(name="scanner"), ReleaseLease(name="scanner", token=1)):
            with pytest.raises(Denied, match="use /leases/scanner"):
                await one.call(request)  # type: ignore[arg-type]  # of two kinds
        with pytest.raises(Invalid, match="`ttl_s`"):
            await one.call(AcquireLease(name="printer", ttl_s=0))


@proves("fenced")
async def test_a_lost_lease_is_of_no_use(transport: str) -> None:
    async with world(transport) as w:
        one, two = [await w.process(ALL) for _ in range(2)]
        held = await one.call(AcquireLease(name="l", ttl_s=5))
        for token, gate in ((held.token, two), (held.token + 1, one), (held.token - 1, one)):
            for request in (RenewLease(name="l", token=token), ReleaseLease(name="l", token=token)):
                with pytest.raises(Fenced, match="does not hold lease `l`"):
                    await gate.call(request)  # type: ignore[arg-type]  # of two kinds
        other = await two.call(AcquireLease(name="l", ttl_s=5))
        assert time() == 5
        with pytest.raises(Fenced):
            await one.call(RenewLease(name="l", token=held.token))
        await two.call(ReleaseLease(name="l", token=other.token))
        with pytest.raises(Fenced):
            await two.call(ReleaseLease(name="l", token=other.token))


@proves("lease and ends")
async def test_what_a_process_holds_passes_on_when_it_ends(transport: str) -> None:
    async def holds(gate: Gate) -> None:
        await gate.call(AcquireLease(name="l", ttl_s=3600))
        await gate.call(Sleep(seconds=1e6))

    async with world(transport, agents={"holds": holds}) as w:
        gate = await w.process(ALL)
        holders = [await gate.call(Spawn(manifest=w.k.accept(manifest_of("holds", grants=("use /leases/l",))))) for _ in range(2)]
        await asyncio.sleep(1)
        mine = asyncio.ensure_future(gate.call(AcquireLease(name="l")))
        await asyncio.sleep(1)
        await gate.call(SignalProcess(pid=holders[1].pid, signal="kill"))  # it stood in line
        await gate.call(SignalProcess(pid=holders[0].pid, signal="kill"))
        assert (await mine).name == "l" and time() == 2
