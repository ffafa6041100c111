"""Groups of children: how they begin, in which order, how they fail, and that nothing outlives the block."""

import asyncio
from functools import partial
from typing import Any

import pytest

import aios
from aios.abi.event import ReadEvents
from aios.abi.process import Explain, List
from aios.kernel import process as processes
from aios.testing import Script, Scripted, scripted, time

ALL = ("use /llm/*", "spawn /agents/*")


@aios.agent
async def note(k: aios.Kernel, text: str, seconds: float = 1.0) -> str:
    await k.sleep(seconds)
    if text.startswith("bad"):
        raise ValueError(text)
    return text.upper()


@aios.agent
async def merge(k: aios.Kernel, notes: list[str]) -> str:
    await k.sleep(1)
    return "+".join(notes)


@aios.agent
async def shout(k: aios.Kernel, text: str) -> str:
    return text + "!"


@aios.agent
async def ask(k: aios.Kernel, text: str) -> str:
    return await k.ask(text)


@aios.agent
async def hang(k: aios.Kernel) -> None:
    await asyncio.Event().wait()


@aios.agent(grants=ALL)
async def digest(k: aios.Kernel, texts: list[str], width: int, on_error: Any) -> list[Any]:
    async with k.group(width=width, on_error=on_error) as g:
        notes = g.map(note, texts, key=lambda text: f"note {text}")
        report = g.start(merge, after=notes)
        loud = g.start(shout, after=report, cls="batch")
    return [loud.result, [child.key for child in g.failed], [str(child.error) for child in g.failed]]


@aios.agent(grants=ALL)
async def one_fails(k: aios.Kernel) -> list[str]:
    try:
        async with k.group() as g:
            g.start(hang)
            g.start(note, "bad one", 2)
            g.start(note, "bad two", 2)
            await k.sleep(1000)
    except ExceptionGroup as group:
        return [*map(str, group.exceptions), *(note for error in group.exceptions for note in error.__notes__)]
    return []


@aios.agent(grants=ALL)
async def fails_itself(k: aios.Kernel) -> None:
    async with k.group() as g:
        await g.spawn(hang)
        g.start(note, "late", 1000)
        raise aios.Conflict("enough")


@aios.agent(grants=ALL)
async def waits(k: aios.Kernel, width: int = 200) -> list[str]:
    async with k.group(width=width) as g:
        slow = g.map(hang_or, ["a", "b", "c"], key=str)
        g.start(merge, after=slow, key="all")
    return [child.result for child in slow]


@aios.agent
async def hang_or(k: aios.Kernel, text: str) -> str:
    await k.sleep(100)
    return text


@aios.agent(grants=ALL)
async def shortcuts(k: aios.Kernel) -> list[str]:
    return await k.map(shout, ["a", "b", "c"], width=2)


@aios.agent(grants=ALL)
async def asks(k: aios.Kernel, texts: list[str], width: int) -> list[str]:
    async with k.group(width=width) as g:
        children = g.map(ask, texts, key=str)
    return [child.result for child in children]


@aios.agent(grants=ALL)
async def refused(k: aios.Kernel) -> list[str]:
    said = []
    for wrong in ({"width": 0}, {"width": 201}, {"on_error": "ignore"}):
        try:
            k.group(**wrong)
        except aios.Invalid as error:
            said.append(error.field)
    group = k.group()
    for begin in (lambda: group.start(hang), lambda: k.group().start(hang)):
        try:
            begin()
        except aios.Invalid as error:
            said.append(str(error).split(":")[0])
    async with group as g:
        first = g.start(shout, "x", key="twice")
        other = k.group()
        for begin in (
            lambda: g.start(shout, "x", key="twice"),
            lambda: g.start(shout, "x", key="a\nb"),
            lambda: g.start(len, "x"),
            lambda: g.start(shout, after=aios.Child(k._gate, "stranger", "s")),
            lambda: g.start(shout, object()),
            lambda: first.result,
        ):
            try:
                begin()
            except aios.AiosError as error:
                said.append(f"{error.code} {error.field}")
    assert other.children == ()
    return said


def answer_late(slow: str, request: aios.Generate) -> Script:
    return Script(text="x", first_s=5 if request.messages[0].content == slow else 1)


async def living(s: Scripted) -> list[str]:
    return [process.agent for process in (await s.k.call(List(ended=False))).processes]


async def test_a_map_and_what_comes_after_it() -> None:
    async with scripted() as s:
        assert await s.run(digest, ["a", "b", "c"], 16, "cancel") == ["A+B+C!", [], []]
        assert time() == pytest.approx(2, abs=0.1) and await living(s) == []


async def test_the_width_bounds_how_many_run_at_once() -> None:
    async with scripted() as s:
        assert (await s.run(digest, ["a", "b", "c", "d", "e"], 2, "cancel"))[0] == "A+B+C+D+E!"
        assert time() == pytest.approx(4, abs=0.1)


async def test_with_collect_the_others_go_on_and_what_comes_after_gets_the_results_there_are() -> None:
    async with scripted() as s:
        result, failed, errors = await s.run(digest, ["a", "bad", "c"], 16, "collect")
        assert (result, failed) == ("A+C!", ["note bad"]) and errors[0].startswith("ValueError: bad (test_group.py")


async def test_what_comes_after_nothing_but_failures_does_not_begin() -> None:
    async with scripted() as s:
        with pytest.raises(aios.ChildFailed, match="it did not begin: `merge-5`, which .* failed: it did not begin: `note-3`"):
            await s.run(digest, ["bad", "bad too"], 16, "collect")
        assert "merge" not in [p.agent for p in (await s.k.call(List())).processes if p.outcome == "result"]


async def test_the_first_error_ends_the_others_and_errors_arrive_whole() -> None:
    async with scripted() as s:
        said = await s.run(one_fails)
        assert len(said) == 4 and said[0].startswith("ValueError: bad one") and said[1].startswith("ValueError: bad two")
        assert said[2] == "child `note-1` of the group" and time() == pytest.approx(2, abs=0.1)
        assert await living(s) == []


async def test_an_error_of_the_block_is_itself_and_ends_the_children() -> None:
    async with scripted() as s:
        with pytest.raises(aios.Conflict, match="enough"):
            await s.run(fails_itself)
        assert time() < 1 and await living(s) == []


@pytest.mark.parametrize("signal", ["stop", "kill"])
async def test_children_end_with_their_parent(signal: str) -> None:
    async with scripted() as s:
        running = await s.start(waits)
        await asyncio.sleep(1)
        assert await living(s) == ["waits", "hang-or", "hang-or", "hang-or", "merge"]
        await (running.stop() if signal == "stop" else running.kill())
        with pytest.raises(aios.Killed):
            await running.wait()
        await asyncio.sleep(0.1)
        assert time() < 2 and await living(s) == []


async def test_a_child_that_is_killed_fails_its_group() -> None:
    async with scripted() as s:
        running = await s.start(waits)
        await asyncio.sleep(1)
        victim = next(p for p in (await s.k.call(List())).processes if p.agent == "hang-or")
        await aios.Process(s.kernel.operator, victim).kill()
        with pytest.raises(aios.ChildFailed, match="child `[abc]` of the group: Killed: ended by operator"):
            await running.wait()
        assert time() < 7 and await living(s) == []


async def test_who_asks_why_is_told_for_whom_a_child_waits() -> None:
    async with scripted() as s:
        await s.start(waits)
        await asyncio.sleep(1)
        child = next(p for p in (await s.k.call(List())).processes if p.agent == "merge")
        assert (child.state, child.word, child.wait and child.wait.code) == ("declared", "queued", "W")
        explained = await s.k.call(Explain(pid=child.pid))
        assert explained.reason == "it begins after hang-or-3 and 2 others"


async def test_a_child_that_waits_for_others_leaves_its_place_to_one_that_could_run() -> None:
    async with scripted() as s:
        assert await s.run(waits, 3) == ["a", "b", "c"]
        assert time() == pytest.approx(101, abs=0.1)


async def test_ids_of_childrens_calls_do_not_depend_on_who_is_first() -> None:
    ids = []
    for width, slow in ((3, "a"), (3, "c"), (1, "b")):
        async with scripted(answer=partial(answer_late, slow)) as s:
            running = await s.start(asks, ["a", "b", "c"], width)
            assert await running.wait() == ["x", "x", "x"]
            events = (await s.k.call(ReadEvents(kinds=("call",)))).events
            ids.append(sorted(e.call.split("/")[1] for e in events if e.pid == running.pid and e.row == "process.spawn"))
    assert ids == [["s.g1.a.1", "s.g1.b.1", "s.g1.c.1"]] * 3


async def test_map_is_a_group_of_its_own() -> None:
    async with scripted() as s:
        assert await s.run(shortcuts) == ["a!", "b!", "c!"]


async def test_what_a_group_cannot_do_is_refused_where_it_is_written() -> None:
    async with scripted() as s:
        said = await s.run(refused)
    assert said[:5] == ["width", "width", "on_error", "the group is not open", "the group is not open"]
    assert said[5:] == ["Invalid key", "Invalid key", "Invalid agent", "Invalid after", "Invalid arguments", "Conflict None"]


@aios.agent(grants=ALL)
async def leaves_at_once(k: aios.Kernel) -> list[str]:
    children = []
    try:
        async with k.group() as g:
            children.append(g.start(hang))
            raise aios.Conflict("never mind")
    except aios.Conflict:
        pass
    try:
        async with k.group() as g:
            children.append(g.start(hang))
            await asyncio.sleep(0)  # its start is under way
            raise aios.Conflict("never mind")
    except aios.Conflict:
        pass
    try:
        async with asyncio.timeout(2), k.group(width=1) as g:
            children += g.map(hang_or, ["a", "b"])
            await children[-1].wait()
    except TimeoutError:
        pass
    return [str(child.error) for child in children]


@aios.agent(grants=ALL)
async def crowd(k: aios.Kernel) -> int:
    async with k.group() as one, k.group() as other:
        children = [*one.map(shout_late, range(150)), *other.map(shout_late, range(150))]
    return len({child.pid for child in children})


@aios.agent
async def shout_late(k: aios.Kernel, number: int) -> None:
    await k.sleep(5)


@aios.agent(grants=ALL)
def plain(k: Any) -> list[Any]:
    try:
        k.group()
    except aios.Invalid as error:
        return [k.map(shout, ["a", "b"]), k.do(count, "abc"), str(error)]
    return []


@aios.tool
def count(text: str) -> int:
    return len(text)


async def test_what_is_left_at_once_leaves_nothing_behind() -> None:
    async with scripted() as s:
        assert await s.run(leaves_at_once) == [
            "`hang-1` was not started: its group ended before",
            "`hang-1` was ended with its group",
            "`hang-or-1` was ended with its group",
            "`hang-or-2` was not started: its group ended before",
        ]
        assert await living(s) == [] and time() == pytest.approx(2, abs=0.1)
        assert {p.outcome for p in (await s.k.call(List())).processes if p.agent.startswith("hang")} == {"killed"}


async def test_more_children_than_a_process_may_have_calls_wait_for_room() -> None:
    async with scripted() as s:
        assert await s.run(crowd) == 300 and await living(s) == []


@pytest.mark.real
async def test_a_plain_agent_maps_and_uses_tools_and_has_no_groups() -> None:
    async with scripted() as s:
        mapped, counted, said = await s.run(plain)
        assert (mapped, counted) == (["a!", "b!"], 3) and said.startswith("a group needs an `async def` agent")


async def test_a_plain_agent_is_refused_in_virtual_time() -> None:
    async with scripted() as s:
        with pytest.raises(aios.Invalid, match="`plain` is a plain function"):
            await s.run(plain)


async def test_results_that_the_kernel_has_forgotten_are_still_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "KEPT_ENDED", 2)
    async with scripted() as s:
        assert (await s.run(digest, ["a", "b", "c", "d"], 1, "cancel"))[0] == "A+B+C+D!"


async def test_a_child_trusts_what_it_begins_with_no_more_than_its_parent_may_be_trusted() -> None:
    async with scripted("an answer") as s:
        assert await s.run(asks_first) == "x!"
        known = [s.kernel.kernel.processes.get(p.pid) for p in (await s.k.call(List())).processes]
        assert {p.agent: p.label.integrity for p in known if p} == {"asks-first": 1, "shout": 1}


@aios.agent(grants=ALL)
async def asks_first(k: aios.Kernel) -> str:
    await k.ask("what?")
    return (await k.map(shout, ["x"]))[0]


def test_chunks_are_all_of_the_items_in_order() -> None:
    assert aios.chunks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]] and aios.chunks("", 3) == []
    with pytest.raises(aios.Invalid, match="size"):
        aios.chunks([1], 0)


async def test_what_comes_after_none_gets_no_results() -> None:
    async with scripted() as s:
        assert await s.run(digest, [], 3, "cancel") == ["!", [], []]
