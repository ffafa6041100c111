"""What boards and leases are bounded by, and what becomes of it."""

from __future__ import annotations

import asyncio

import pytest
from scenes import begin, error_of, turns

from aios.abi.board import GetNotice, ListNotices, PutNotice, WatchBoard
from aios.abi.errors import Invalid, NotFound, QueueFull, TooLarge
from aios.abi.lease import AcquireLease, ReleaseLease
from aios.kernel.boards import boards, calls
from aios.kernel.leases import leases
from aios.testing.kernel import kernel_for_tests


def put(board: str, key: str, value: object = None, **fields: bool) -> PutNotice:
    return PutNotice(board=board, key=key, value=value, **fields)


async def test_boards_and_their_keys_are_bounded_and_room_is_made_by_removing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "MOST_BOARDS", 2)
    monkeypatch.setattr(boards, "MOST_KEYS", 2)
    async with kernel_for_tests() as k:
        call = k.operator.call
        last = 0
        for board, key in (("a", "1"), ("a", "2"), ("b", "1")):
            last = max(last, (await call(put(board, key, "x"))).version)
        with pytest.raises(TooLarge, match="has 2 keys"):
            await call(put("a", "3"))
        with pytest.raises(QueueFull, match="2 boards"):
            await call(put("c", "1"))
        await call(put("a", "1", remove=True))
        await call(put("a", "3"))
        removed = await call(put("b", "1", remove=True))
        assert (await call(put("c", "1"))).version > removed.version, "an empty board makes room, and versions go on"
        with pytest.raises(NotFound):
            await call(GetNotice(board="b", key="1"))


async def test_the_bytes_of_all_boards_are_bounded_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "MOST_BYTES", 10_000)
    async with kernel_for_tests() as k:
        call = k.operator.call
        for _ in range(5):
            await call(put("a", "1", "x" * 5000))
        with pytest.raises(TooLarge, match="remove something"):
            await call(put("b", "1", "x" * 5000))
        await call(put("a", "1", remove=True))
        await call(put("b", "1", "x" * 5000))
        for value in ("x" * 300_000, {"a": "x" * 300_000}):
            with pytest.raises(TooLarge):
                await call(put("b", "2", value))
        with pytest.raises(Invalid, match="has no `value`"):
            await call(put("b", "1", "x", remove=True))
        monkeypatch.setattr(boards, "MOST_BOARD_BYTES", 8_000)
        with pytest.raises(TooLarge, match="board `b` holds"):
            await call(put("b", "3", "x" * 3000))
        await call(put("c", "3", "x" * 3000))
        held = k.kernel._boards._bytes["local"]
        assert held == sum(entry.cost for board in k.kernel._boards._boards.values() for entry in board.entries.values())


async def test_old_removals_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "KEPT_REMOVALS", 3)
    async with kernel_for_tests() as k:
        call = k.operator.call
        await call(put("a", "stays"))
        for number in range(10):
            await call(put("a", str(number)))
            await call(put("a", str(number), remove=True))
        assert [n.key for n in (await call(WatchBoard(board="a"))).notices] == ["stays", "7", "8", "9"]
        assert [n.key for n in (await call(ListNotices(board="a"))).notices] == ["stays"]


async def test_watchers_are_bounded_and_a_page_is_no_larger_than_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "MOST_WATCHERS", 2)
    async with kernel_for_tests() as k:
        call = k.operator.call
        watches = [begin(k.operator, WatchBoard(board="a", wait_s=None)) for _ in range(3)]
        await turns()
        assert type(await error_of(watches[2])) is QueueFull
        for number in range(6):
            await call(put("a", str(number), "x" * 250_000))
        assert [(await watch).notices[0].key for watch in watches[:2]] == ["0", "0"]
        page = await call(WatchBoard(board="a"))
        assert sum(len(n.value) for n in page.notices) <= calls.MOST_REPLY_BYTES
        rest = await call(WatchBoard(board="a", after=page.next))
        assert len(page.notices) + len(rest.notices) == 6
        assert not k.kernel._boards._boards["local", "a"].watchers


async def test_leases_and_their_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MOST_HELD", 2)
    monkeypatch.setattr(leases, "MOST_WAITERS", 1)
    async with kernel_for_tests() as k:
        held = [await k.operator.call(AcquireLease(name=name)) for name in "ab"]
        with pytest.raises(QueueFull, match="holds 2 leases"):
            await k.operator.call(AcquireLease(name="c"))
        other = await k.session("other", ("use /leases/*",))
        waits = begin(other, AcquireLease(name="a"))
        await turns()
        with pytest.raises(QueueFull, match="1 calls wait"):
            await other.call(AcquireLease(name="a"))
        await k.operator.call(ReleaseLease(name="a", token=held[0].token))
        assert (await waits).token > held[1].token
        await asyncio.sleep(31)
        assert k.kernel._leases._leases == {} and not any(k.kernel._leases._count.values())
