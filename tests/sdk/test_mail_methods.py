"""Mail, boards and leases as agents use them."""

import asyncio
from typing import Any

import msgspec
import pytest

import aios
from aios.abi.errors import Conflict, DeadlineExceeded, Fenced, Invalid
from aios.abi.lease import ReleaseLease, RenewLease
from aios.testing import scripted, time

LEASES = ("use /leases/*",)
BOARDS = ("read /boards/paper", "write /boards/paper", "spawn /agents/*")


class Draft(msgspec.Struct):
    text: str
    words: int


@aios.agent
async def doubles(k: aios.Kernel) -> str:
    await k.send("parent", {"ready": True})
    while True:
        mail = await k.receive()
        if mail.value == "stop":
            return f"stopped by {mail.name}"
        if mail.asks:
            await mail.reply(mail.value * 2)


@aios.agent(grants=("use /llm/*", "spawn /agents/doubles"))
async def asks(k: aios.Kernel) -> list[Any]:
    async with k.group() as g:
        worker = await g.spawn(doubles)
        ready = await k.receive(sender=worker)
        answers = [await k.request(worker, number, timeout_s=10) for number in (1, 2)]
        await k.send(ready, "stop")
    return [ready.value, *answers, worker.result == f"stopped by {(await k.self()).name}"]


@aios.agent(grants=("use /llm/*", "spawn /agents/doubles"))
def asks_plainly(k: Any) -> list[Any]:
    worker = k.spawn(doubles)
    ready = k.receive(sender=worker)
    answers = [k.request(worker, number) for number in (1, 2)]
    k.send(ready, "stop")
    worker.wait()
    return [ready.value, *answers]


@aios.agent
async def waits_in_vain(k: aios.Kernel) -> list[Any]:
    told = []
    for timeout_s in (0, 5):
        try:
            await k.receive(timeout_s=timeout_s)
        except DeadlineExceeded as error:
            told.append(type(error).__name__)
    with pytest.raises(Invalid, match="cannot be sent"):
        await k.send("parent", object())
    return told


@aios.agent(grants=BOARDS)
async def critic(k: aios.Kernel) -> None:
    board = k.board("paper")
    async for draft in board.watch("draft/*", out=Draft):
        await board.put(f"review/{draft.key}", f"{draft.value.words} words?", if_version=0)


@aios.agent(grants=BOARDS)
async def writer(k: aios.Kernel) -> list[Any]:
    board = k.board("paper")
    peer = await k.spawn(critic)
    version = await board.put("draft/1", Draft("so it began", 3))
    review = await board.wait("review/draft/1", timeout_s=120)
    with pytest.raises(Conflict, match=f"is in version {version}"):
        await board.put("draft/1", Draft("again", 1), if_version=0)
    read = await board.get("draft/1", out=Draft)
    listed = [(headline.key, headline.type) for headline in await board.list()]
    await board.remove("draft/1", if_version=version)
    with pytest.raises(DeadlineExceeded):
        await board.wait("draft/1", timeout_s=3)
    await peer.kill()
    assert read is not None and isinstance(read.value, Draft)
    return [review.value, read.value.text, listed, await board.get("draft/1")]


@aios.agent(grants=LEASES)
async def counts(k: aios.Kernel, log: str) -> int:
    async with k.lease("counter", ttl_s=3) as lease:
        await asyncio.sleep(10)  # it is renewed meanwhile
        return lease.token


@aios.agent(grants=LEASES)
async def loses(k: aios.Kernel) -> str:
    try:
        async with k.lease("counter", ttl_s=3) as lease:
            await k.call(RenewLease(name="counter", token=lease.token, ttl_s=1))
            await k.call(ReleaseLease(name="counter", token=lease.token))
            await asyncio.sleep(1000)
    except Fenced as error:
        return error.message
    return "it went on"


@aios.agent(grants=LEASES)
def holds_plainly(k: Any) -> int:
    with k.lease("counter") as lease:
        return int(lease.token)


@aios.agent(grants=BOARDS)
def reads_plainly(k: Any) -> list[Any]:
    board = k.board("paper")
    for number in range(2):
        board.put(f"draft/{number}", number)
    seen = []
    for notice in board.watch("draft/*"):
        seen.append(notice.value)
        if len(seen) == 2:
            break
    return [seen, board.get("draft/1").value, board.get("nothing"), [headline.key for headline in board.list()]]


async def test_agents_ask_and_reply_by_mail() -> None:
    async with scripted() as k:
        assert await k.run(asks) == [{"ready": True}, 2, 4, True]


@pytest.mark.real
async def test_a_plain_function_has_mail_and_leases_too() -> None:
    async with scripted() as k:
        assert await k.run(asks_plainly) == [{"ready": True}, 2, 4]
        assert await k.run(holds_plainly) > 0
        assert await k.run(reads_plainly) == [[0, 1], 1, None, ["draft/0", "draft/1"]]


async def test_who_waits_in_vain_is_told() -> None:
    async with scripted() as k:
        assert await k.run(waits_in_vain) == ["DeadlineExceeded"] * 2 and time() == 5


@aios.agent(grants=("spawn /agents/*", *LEASES, *BOARDS))
async def has_no_time(k: aios.Kernel) -> list[str]:
    told = []
    deaf = await k.spawn(holds)
    await k.receive(sender=deaf)
    for timeout_s in (0, -1):
        with pytest.raises(DeadlineExceeded):
            await k.request(deaf, "?", timeout_s=timeout_s)
        with pytest.raises(Conflict, match="held by `holds-"):
            async with k.lease("counter", timeout_s=timeout_s):
                told.append("held twice")
    with pytest.raises(ValueError, match="deadline_s"):
        await k.request(deaf, "?", timeout_s=float("nan"))
    with pytest.raises(Invalid, match="a `int` is nobody"):
        await k.send(5, "?")  # type: ignore[arg-type]
    await deaf.kill()
    return told


@aios.agent(grants=LEASES)
async def holds(k: aios.Kernel) -> None:
    async with k.lease("counter"):
        await k.send("parent", "held")
        await k.sleep(1000)


@aios.agent(grants=("spawn /agents/*", *BOARDS))
async def waits_among_removals(k: aios.Kernel) -> float:
    board = k.board("paper")
    version = await board.put("draft", 1)
    await k.spawn(removes)
    with pytest.raises(DeadlineExceeded):
        await board.wait("draft", after=version, timeout_s=5)
    return time()


@aios.agent(grants=BOARDS)
async def removes(k: aios.Kernel) -> None:
    await k.sleep(3)
    await k.board("paper").remove("draft")


async def test_a_removal_makes_no_wait_longer() -> None:
    async with scripted() as k:
        assert await k.run(waits_among_removals) == 5


async def test_who_has_no_time_does_not_wait() -> None:
    async with scripted() as k:
        assert await k.run(has_no_time) == [] and time() == 0


async def test_agents_share_a_board() -> None:
    async with scripted() as k:
        assert await k.run(writer) == ["3 words?", "so it began", [["draft/1", "Draft"], ["review/draft/1", ""]], None]


async def test_a_lease_is_renewed_as_long_as_its_block_runs() -> None:
    async with scripted() as k:
        processes = [await k.start(counts, name) for name in "ab"]
        tokens = [await process.wait() for process in processes]
        assert tokens[0] < tokens[1] and time() == 20


async def test_a_block_whose_lease_is_lost_is_ended() -> None:
    async with scripted() as k:
        told = await k.run(loses)
        assert told.startswith("the lease `counter` was lost: ") and time() == 1
