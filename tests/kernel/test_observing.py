"""What can be seen: events after a cursor, logs, waits, and what a process may see of them."""

import asyncio

import pytest
from scenes import ask, begin, turns

from aios.abi.errors import Invalid, NotFound
from aios.abi.event import EventPage, KernelChanged, ProcessChanged, ReadEvents
from aios.abi.process import Exit, Explain, Logs, Self, Spawn, WaitFor
from aios.abi.system import RandomBytes, Sleep
from aios.kernel.events import SCANNED, EventLog
from aios.kernel.logs import KEPT_LINES
from aios.ports.gate import Gate
from aios.testing import ScriptedCore, time
from aios.testing.kernel import VirtualClock, kernel_for_tests, manifest_of


async def nap(gate: Gate, seconds: float) -> None:
    await gate.call(Sleep(seconds=seconds))


AGENTS = {"nap": nap}


async def read(gate: Gate, **fields: object) -> EventPage:
    return await gate.call(ReadEvents(**fields))  # type: ignore[arg-type]


async def test_events_are_counted_from_one_without_gaps_and_read_after_a_cursor() -> None:
    async with kernel_for_tests([ScriptedCore()], AGENTS) as k:
        for _ in range(5):
            await k.spawn("nap", 1)
        await asyncio.sleep(2)
        everything = await read(k.operator)
        assert [event.seq for event in everything.events] == list(range(1, len(everything.events) + 1))
        paged, cursor = [], 0
        while (page := await read(k.operator, after=cursor, limit=3)).events:
            paged += page.events
            cursor = page.next
        assert tuple(paged) == everything.events and cursor == everything.next and everything.lost == 0


async def test_a_reader_waits_for_the_first_new_event_and_no_longer() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        cursor = (await read(k.operator)).next
        waits = begin(k.operator, ReadEvents(after=cursor, wait_s=100))
        await asyncio.sleep(10)
        assert not waits.done()
        agent = await k.spawn("nap", 1)
        page = await waits
        assert [event.pid for event in page.events if isinstance(event, ProcessChanged)] == [agent.pid] and time() == 10
        assert (await read(k.operator, after=page.next + 100, wait_s=5)).events == () and time() == 15


async def test_only_the_kinds_that_were_asked_for_wake_a_reader() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        waits = begin(k.operator, ReadEvents(after=1, wait_s=100, kinds=("kernel",)))
        agent = await k.spawn("nap", 1)
        await k.operator.call(WaitFor(pid=agent.pid))
        assert not waits.done()
        page = await waits
        assert page.events == () and page.next == (await read(k.operator)).next


async def test_a_reader_learns_of_children_that_came_while_it_waited() -> None:
    async def parent(gate: Gate) -> list[str]:
        me = await gate.call(Self())
        cursor = (await read(gate)).next
        waits = asyncio.create_task(read(gate, after=cursor, wait_s=10, kinds=("process",)))
        await asyncio.sleep(1)
        child = await gate.call(Spawn(manifest=manifest_of("nap", grants=()), arguments=(1,)))
        page = await waits
        return [event.pid == child.pid for event in page.events if isinstance(event, ProcessChanged) and event.pid != me.pid]

    async with kernel_for_tests(agents={**AGENTS, "parent": parent}) as k:
        agent = await k.spawn("parent", grants=("spawn /agents/*", "read /events"))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == [True]


async def test_who_is_no_operator_reads_its_own_events_alone() -> None:
    async with kernel_for_tests([ScriptedCore()], AGENTS) as k:
        one, two = await k.session("one", grants=("use /llm/*", "read /events")), await k.session("two")
        await k.spawn("nap", 1)
        await two.call(ask())
        await one.call(ask())
        page = await read(one)
        assert {getattr(event, "pid", None) for event in page.events} == {one.process.pid}
        assert {type(event).__name__ for event in page.events} == {"Dispatched", "CallEnded"}


async def test_a_reader_that_came_too_late_is_told_how_much_it_lost() -> None:
    log = EventLog(VirtualClock(), kept=100)
    for _ in range(250):
        log.add(KernelChanged, change="late")
    events, cursor, lost = log.after(0, 1000, lambda event: True)
    assert (len(events), cursor, lost, log.last) == (150, 250, 100, 250)
    assert events[0].seq == 101
    assert log.after(cursor, 10, lambda event: True) == ([], 250, 0)


async def test_a_search_through_many_events_does_not_hold_the_loop() -> None:
    """The reader looks at so many in each turn, and finds what is far behind nevertheless."""
    async with kernel_for_tests() as k:
        for _ in range(3 * SCANNED):
            k.kernel.events.add(KernelChanged, change="late")
        waits = begin(k.operator, ReadEvents(after=1, kinds=("process",)))
        await turns(2)
        assert not waits.done()
        page = await waits
        assert page.events == () and page.next == k.kernel.events.last and time() == 0
        k.kernel.events.add(KernelChanged, change="draining")
        assert len((await read(k.operator, after=page.next)).events) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("wait_s", -1), ("wait_s", 1e9), ("wait_s", float("nan")), ("limit", 0), ("limit", 10**9), ("after", -1), ("kinds", ("x",))],
)
async def test_a_reader_that_asks_for_nonsense_is_told_which_field(field: str, value: object) -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        agent = await k.spawn("nap", 1)
        requests = [ReadEvents(**{field: value})]  # type: ignore[arg-type]
        if field != "kinds":
            requests.append(Logs(pid=agent.pid, **{field: value}))  # type: ignore[arg-type]
        for request in requests:
            with pytest.raises(Invalid) as refused:
                await k.operator.call(request)
            assert refused.value.field == field


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e12])
async def test_a_sleep_without_sense_is_refused(seconds: float) -> None:
    async with kernel_for_tests() as k:
        with pytest.raises(Invalid) as refused:
            await k.operator.call(Sleep(seconds=seconds))
        assert refused.value.field == "seconds"


@pytest.mark.parametrize("size", [0, -1, 4097, 10**12])
async def test_bytes_without_sense_are_refused(size: int) -> None:
    async with kernel_for_tests() as k:
        with pytest.raises(Invalid) as refused:
            await k.operator.call(RandomBytes(size=size))
        assert refused.value.field == "size"


# --- waiting for processes --------------------------------------------------------------------------------------------


async def test_who_waits_for_a_process_hears_how_it_ended() -> None:
    async def good(gate: Gate) -> dict[str, int]:
        await gate.call(Sleep(seconds=5))
        return {"answer": 42}

    async def bad(gate: Gate) -> None:
        raise LookupError("no such thing")

    async with kernel_for_tests(agents={"good": good, "bad": bad}) as k:
        agents = [await k.spawn(entry) for entry in ("good", "bad")]
        waits = begin(k.operator, WaitFor(pid=agents[0].name))
        await turns()
        (waiting,) = (await k.operator.call(Explain(pid=k.operator.process.pid))).calls
        assert waiting.wait is not None and (waiting.wait.code, waiting.wait.on) == ("W", agents[0].name)
        assert await waits == Exit(pid=agents[0].pid, outcome="result", result={"answer": 42}) and time() == 5
        exit = await k.operator.call(WaitFor(pid=agents[1].pid))
        assert (exit.outcome, exit.error) == ("error", "ChildFailed") and "no such thing" in exit.message


async def test_a_process_cannot_wait_for_itself() -> None:
    async with kernel_for_tests() as k:
        with pytest.raises(Invalid):
            await k.operator.call(WaitFor(pid=k.operator.process.pid))


async def test_a_misspelled_name_leads_to_the_right_one() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        agent = await k.spawn("nap", 1)
        with pytest.raises(NotFound, match=f"did you mean `{agent.name}`"):
            await k.operator.call(WaitFor(pid=agent.name.replace("nap", "npa")))


# --- logs -------------------------------------------------------------------------------------------------------------


async def test_lines_are_read_after_a_cursor_and_waited_for() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        agent = await k.spawn("nap", 10)
        waits = begin(k.operator, Logs(pid=agent.pid, wait_s=100))
        await asyncio.sleep(1)
        k.kernel.printed(agent.pid, "out", "one\ntwo")
        page = await waits
        assert [line.text for line in page.lines] == ["one", "two"] and not page.ended and time() == 1
        k.kernel.printed(agent.pid, "err", "three")
        page = await k.operator.call(Logs(pid=agent.pid, after=page.next))
        assert [(line.stream, line.text) for line in page.lines] == [("err", "three")]
        last = await k.operator.call(Logs(pid=agent.pid, after=page.next, wait_s=100))
        assert last.lines == () and last.ended and time() == 10


async def test_a_log_keeps_its_last_lines() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        agent = await k.spawn("nap", 10)
        for number in range(2 * KEPT_LINES):
            k.kernel.printed(agent.pid, "out", f"line {number}")
        page = await k.operator.call(Logs(pid=agent.pid))
        assert len(page.lines) == KEPT_LINES and page.lines[-1].text == f"line {2 * KEPT_LINES - 1}"
        assert page.next == 2 * KEPT_LINES


async def test_what_a_process_prints_cannot_steer_a_terminal() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        agent = await k.spawn("nap", 10)
        k.kernel.printed(agent.pid, "out", "a\x1b[2Jb\tc\x07\u202ed\x9be")
        (line,) = (await k.operator.call(Logs(pid=agent.pid))).lines
        assert line.text.replace("\t", " ").isprintable() and "\t" in line.text


async def test_the_log_of_a_forgotten_process_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios.kernel.process.KEPT_ENDED", 5)
    async with kernel_for_tests(agents=AGENTS) as k:
        pids = []
        for _ in range(20):
            agent = await k.spawn("nap", 1)
            pids.append(agent.pid)
            k.kernel.printed(agent.pid, "out", "hello")
            await k.operator.call(WaitFor(pid=agent.pid))
        with pytest.raises(NotFound):
            await k.operator.call(Logs(pid=pids[0]))
        assert len(k.kernel.logs._logs) <= 6


async def test_a_printed_line_of_nobody_is_dropped() -> None:
    async with kernel_for_tests() as k:
        k.kernel.printed("4711", "out", "hello")
