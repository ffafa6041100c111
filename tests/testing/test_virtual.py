"""Virtual time keeps its promises."""

import asyncio
import socket

import pytest

from aios.testing import Deadlock, run_virtual, time


async def test_an_hour_passes_at_once_and_exactly() -> None:
    await asyncio.sleep(3600)
    assert time() == 3600


async def test_timers_end_in_their_order() -> None:
    ended = []

    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)
        ended.append((seconds, time()))

    async with asyncio.TaskGroup() as group:
        for seconds in (30, 0.001, 86_400 * 90, 7):
            group.create_task(nap(seconds))
    assert ended == [(0.001, 0.001), (7, 7), (30, 30), (86_400 * 90, 86_400 * 90)]


async def test_a_hundred_years_pass_too() -> None:
    await asyncio.sleep(86_400 * 365 * 100)
    assert time() == pytest.approx(86_400 * 365 * 100, abs=0.001)


async def test_time_stands_still_while_there_is_work() -> None:
    for _ in range(1000):
        await asyncio.sleep(0)
    assert time() == 0


async def test_a_timeout_ends_a_wait_that_never_would() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await asyncio.Event().wait()
    assert time() == 600


async def test_two_ends_of_a_socket_talk_without_time() -> None:
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)
    echo_reader, echo_writer = await asyncio.open_connection(sock=there)

    async with asyncio.timeout(1):
        for number in range(100):
            writer.write(b"%d\n" % number)
            echo_writer.write(await echo_reader.readline())
            assert await reader.readline() == b"%d\n" % number
    assert time() == 0
    for end in (writer, echo_writer):
        end.close()
        await end.wait_closed()


def test_a_deadlock_is_an_error_that_names_the_line() -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"everything waits and no timer is set:\n.* in .*locks\.py:\d+"):
        run_virtual(stuck())


def test_the_result_and_the_exception_are_the_callers() -> None:
    async def answer() -> int:
        return 42

    async def fail() -> None:
        raise LookupError("no such thing")

    assert run_virtual(answer()) == 42
    with pytest.raises(LookupError, match="no such thing"):
        run_virtual(fail())


async def test_what_works_in_real_time_is_refused() -> None:
    with pytest.raises(RuntimeError, match="real loop"):
        await asyncio.to_thread(int)
    with pytest.raises(RuntimeError, match="real loop"):
        await asyncio.create_subprocess_exec("true")


@pytest.mark.real
async def test_a_real_test_runs_in_real_time() -> None:
    assert await asyncio.to_thread(int) == 0
    assert time() > 0
