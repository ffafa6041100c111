"""Turns: who is next, who is refused, what a core that is down means, and what `explain` says about it."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace
from scenes import ENDLESS, ask, begin, calling, error_of, events, held, nothing_is_held, slow, turns, until

from aios.abi.account import SetLimit
from aios.abi.errors import CoreFailed, DeadlineExceeded, QueueFull, Unavailable
from aios.abi.event import CoreChanged, Dispatched
from aios.abi.llm import Completion, Started
from aios.abi.process import Explain
from aios.abi.request import CLASSES, CallOptions, Class
from aios.abi.system import ListCores
from aios.kernel.cores.calls import READER_PATIENCE_S
from aios.kernel.lanes.lane import DOWN_PATIENCE_S, LaneConfig
from aios.ports.core import CoreEvent, CoreInfo
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests

FIFO = LaneConfig(policy="fifo")


async def test_calls_beyond_the_slots_wait_and_are_all_served() -> None:
    core = slow(slots=4)
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(client.call(ask()))
        assert time() == 5 and core.statistics().most_running == 4


async def test_a_core_that_queues_by_itself_gets_one_more_than_its_slots() -> None:
    async with kernel_for_tests([slow(slots=2, queues=True)]) as k:
        client = await k.session()
        async with calling(client, 5):
            assert await held(k) == (3, 2)


async def served_order(k: RunningKernel, classes: list[Class]) -> list[Class]:
    """Queue one call of each class behind a running one, and see in which order they are served."""
    client = await k.session(cls="interactive")
    order: list[Class] = []

    async def one(cls: Class) -> None:
        await client.call(ask(), CallOptions(cls=cls))
        order.append(cls)

    async with asyncio.TaskGroup() as group:
        group.create_task(client.call(ask()))
        await turns()
        for cls in classes:
            group.create_task(one(cls))
            await turns()
    return order


MIXED: list[Class] = ["batch", "standard", "interactive", "batch", "interactive"]


async def test_the_higher_class_is_served_first() -> None:
    async with kernel_for_tests([slow()]) as k:
        assert await served_order(k, MIXED) == sorted(MIXED, key=CLASSES.index)


async def test_under_fifo_arrival_decides_and_nothing_else() -> None:
    async with kernel_for_tests([slow()], lane=FIFO) as k:
        assert await served_order(k, MIXED) == MIXED


async def test_a_call_is_served_in_the_end_whatever_comes_above_it() -> None:
    """Interactive calls keep the only slot busy; after two minutes the standard call is overdue and gets its turn."""
    async with kernel_for_tests([slow()]) as k:
        client = await k.session(cls="interactive")

        async def forever() -> None:
            while True:
                await client.call(ask())

        async with asyncio.TaskGroup() as group:
            busy = [group.create_task(forever()) for _ in range(3)]
            await turns()
            await client.call(ask(), CallOptions(cls="standard"))
            assert 120 < time() < 126
            for task in busy:
                task.cancel()


async def test_an_overdue_call_of_one_core_does_not_hide_that_of_another() -> None:
    """Core a never answers; a standard call for it is the oldest of all. That of core b has its turn nevertheless."""
    a, b = ScriptedCore(ENDLESS, name="a", models=("a",), slots=1), slow(name="b", models=("b",))
    async with kernel_for_tests([a, b]) as k:
        client = await k.session(cls="interactive")

        async def forever() -> None:
            while True:
                await client.call(ask(model="b"))

        busy = [begin(client, ask(model="a")) for _ in range(2)]
        busy.append(begin(client, ask(model="a"), CallOptions(cls="standard")))
        await turns()
        busy += [asyncio.create_task(forever()) for _ in range(2)]
        await turns()
        await client.call(ask(model="b"), CallOptions(cls="standard"))
        assert 120 < time() < 126
        for task in busy:
            task.cancel()
        await asyncio.wait(busy)


async def test_a_free_core_is_used_though_others_wait_for_another_one() -> None:
    a, b = ScriptedCore(ENDLESS, name="a", models=("a",), slots=1), slow(name="b", models=("b",))
    async with kernel_for_tests([a, b]) as k:
        client = await k.session()
        async with calling(client, 2, model="a"):
            assert await held(k) == (1, 1)
            assert (await client.call(ask(model="b"))).core == "b"
            assert time() == 1


async def test_a_call_is_bound_to_the_core_that_is_free_first() -> None:
    a, b = ScriptedCore(Script(first_s=9.0), name="a", slots=1), slow(name="b")
    async with kernel_for_tests([a, b]) as k:
        client = await k.session()
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(client.call(ask())) for _ in range(5)]
        assert sorted(call.result().core for call in calls) == ["a", "b", "b", "b", "b"]


async def test_each_decision_is_an_event_with_its_reason() -> None:
    async with kernel_for_tests([slow()]) as k:
        client = await k.session(cls="interactive")
        async with asyncio.TaskGroup() as group:
            for cls in ("standard", "batch", "interactive"):
                group.create_task(client.call(ask(), CallOptions(cls=cls)))
                await turns()
        decisions = [event for event in await events(k, "dispatch") if isinstance(event, Dispatched)]
        assert [(d.cls, d.reason) for d in decisions] == [
            ("standard", "free"), ("interactive", "class interactive, level 0"), ("batch", "class batch, level 0")
        ]  # fmt: skip
        assert decisions[1].waiting == {"batch": 1}


# --- a full queue -----------------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(queue=3)) as k:
        client = await k.session()
        first = [begin(client) for _ in range(4)]
        await until(first[2].done)  # at one per second: so fast it is
        async with calling(client, 3):
            error = await error_of(begin(client))
            assert type(error) is QueueFull and error.retry_after_s == pytest.approx(4.0)


async def test_the_rate_is_that_of_busy_times() -> None:
    """An hour without calls does not make the kernel believe that a call takes an hour."""
    async with kernel_for_tests([slow()], lane=LaneConfig(queue=3)) as k:
        client = await k.session()
        for pause_s in (1000, 0):
            calls = [begin(client) for _ in range(4)]
            await asyncio.wait(calls)
            await asyncio.sleep(pause_s)
        async with calling(client, 4):
            error = await error_of(begin(client))
            assert error.retry_after_s == pytest.approx(4.0)


async def test_without_a_measured_rate_a_full_queue_still_says_when_to_come_back() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS, slots=1)], lane=LaneConfig(queue=1)) as k:
        client = await k.session()
        async with calling(client, 2):
            error = await error_of(begin(client))
            assert type(error) is QueueFull and error.retry_after_s == 10


async def test_the_queue_of_one_class_does_not_fill_that_of_another() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS, slots=1)], lane=LaneConfig(queue=2)) as k:
        client = await k.session(cls="interactive")
        async with calling(client, 3):
            waits = begin(client, ask(), CallOptions(cls="batch"))
            await turns()
            assert not waits.done() and await held(k) == (1, 3)
            waits.cancel()


async def test_who_gives_up_makes_room_in_the_queue() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS, slots=1)], lane=LaneConfig(queue=1)) as k:
        client = await k.session()
        async with calling(client):
            async with calling(client):
                assert type(await error_of(begin(client))) is QueueFull
            async with calling(client) as (call,):
                assert not call.done()


async def test_a_refused_stream_says_nothing_before_its_error() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS, slots=1)], lane=LaneConfig(queue=1)) as k:
        client = await k.session()
        async with calling(client, 2):
            with pytest.raises(QueueFull):
                await anext(client.stream(ask()))


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granted", CLASSES)
@pytest.mark.parametrize("asked", [None, *CLASSES])
async def test_a_class_may_be_lowered_and_never_raised(granted: Class, asked: Class | None) -> None:
    async with kernel_for_tests([ScriptedCore()]) as k:
        client = await k.session(cls=granted)
        await client.call(ask(), CallOptions(cls=asked))
        (decision,) = (event for event in await events(k, "dispatch") if isinstance(event, Dispatched))
        assert decision.cls == max(granted, asked or granted, key=CLASSES.index)


# --- slow readers -----------------------------------------------------------------------------------------------------


LONG = Script(text=" ".join(["x" * 10_000] * 300))
"""More than a reader's buffer holds."""


async def test_a_reader_that_does_not_read_gives_its_turn_to_others_where_the_core_queues() -> None:
    """A slot at a remote server is not ours to keep: what it holds for the reader, it holds itself."""

    class Remote(ScriptedCore):
        def info(self) -> CoreInfo:
            return replace(super().info(), slots=1)

    core = Remote(lambda call: LONG if call.request.prompt == "long" else "next", slots=4, queues=True)
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        streams = [client.stream(ask("long")) for _ in range(2)]
        for stream in streams:
            assert type(await anext(stream)) is Started
        assert await held(k) == (2, 0)
        await turns(400)  # nobody reads, and the buffers fill
        assert await held(k) == (0, 0)
        assert (await client.call(ask())).text == "next"
        for stream in streams:
            pieces = [event async for event in stream]
            assert type(pieces[-1]) is Completion and pieces[-1].text == LONG.text
        await nothing_is_held(k)


async def test_a_reader_that_does_not_read_is_cut_off_where_it_holds_a_slot() -> None:
    """A slot of a local core is really taken: so the turn is kept, but not for ever."""
    core = ScriptedCore(lambda call: LONG if call.request.prompt == "long" else "next", slots=1)
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        stream = client.stream(ask("long"))
        assert type(await anext(stream)) is Started
        await turns(400)
        waits = begin(client)
        await turns()
        assert await held(k) == (1, 1)
        (reading, _) = (await k.operator.call(Explain(pid=client.process.pid))).calls
        assert reading.wait is not None and (reading.wait.code, reading.wait.on) == ("X", "its reader")
        assert (await waits).text == "next" and time() == READER_PATIENCE_S
        with pytest.raises(DeadlineExceeded, match="has not read"):
            async for _ in stream:
                pass
        await nothing_is_held(k)


async def test_a_reader_that_does_not_read_is_cut_off_where_it_holds_room_in_a_budget() -> None:
    core = ScriptedCore(lambda call: LONG if call.request.prompt == "long" else "next", slots=4, queues=True)
    async with kernel_for_tests([core]) as k:
        client, other = await k.session(), await k.session("other")
        await k.operator.call(SetLimit(account="/local", unit="calls", amount=1, window="now"))
        stream = client.stream(ask("long"))
        while type(await anext(stream)) is not Started:
            pass
        assert (await other.call(ask())).text == "next" and time() == READER_PATIENCE_S
        with pytest.raises(DeadlineExceeded, match="has not read .* holds room in a budget"):
            async for _ in stream:
                pass
        await nothing_is_held(k)


# --- a core that is down ----------------------------------------------------------------------------------------------


async def test_a_call_waits_for_a_core_that_is_down_and_goes_on_when_it_is_back() -> None:
    core = ScriptedCore("back")
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        core.go_down()
        call = begin(client)
        await asyncio.sleep(DOWN_PATIENCE_S - 1)
        (waiting,) = (await k.operator.call(Explain(pid=client.process.pid))).calls
        assert waiting.wait is not None and (waiting.wait.code, waiting.wait.word) == ("C", "blocked")
        core.come_up()
        assert (await call).text == "back"
        assert [e.change for e in await events(k, "core") if isinstance(e, CoreChanged)] == ["up", "down", "up"]


async def test_a_call_is_told_when_its_core_stays_down() -> None:
    core = ScriptedCore()
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        core.go_down()
        error = await error_of(begin(client))
        assert type(error) is Unavailable and "`scripted` is down" in error.message
        assert time() == pytest.approx(DOWN_PATIENCE_S) and error.retry_after_s
        at = time()
        assert type(await error_of(begin(client))) is Unavailable
        assert time() == at  # nobody waits for what is known to be gone
        core.come_up()
        await nothing_is_held(k)


async def test_a_core_that_comes_and_goes_has_its_patience_anew() -> None:
    core = ScriptedCore()
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        core.go_down()
        await asyncio.sleep(10)
        core.come_up()
        await asyncio.sleep(1)
        core.go_down()
        call = begin(client)
        assert type(await error_of(call)) is Unavailable
        assert time() == pytest.approx(11 + DOWN_PATIENCE_S)


async def test_a_core_that_is_down_from_the_beginning_is_waited_for_too() -> None:
    class Late(ScriptedCore):
        async def start(self, changed: Callable[[CoreEvent], None]) -> None:
            await super().start(changed)
            self.go_down("its model is loading")

    core = Late()
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        await asyncio.sleep(5)
        call = begin(client)
        await asyncio.sleep(5)
        core.come_up()
        assert type(await call) is Completion


async def test_a_call_that_another_core_can_do_does_not_wait_for_the_one_that_is_down() -> None:
    a, b = ScriptedCore(name="a"), ScriptedCore(name="b")
    async with kernel_for_tests([a, b]) as k:
        client = await k.session()
        a.go_down()
        assert (await client.call(ask())).core == "b" and time() == 0


async def test_a_call_whose_core_dies_before_its_first_word_is_answered_by_it_when_it_is_back() -> None:
    core = slow()
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        call = begin(client)
        await turns()
        core.go_down()
        await asyncio.sleep(3)
        core.come_up()
        assert type(await call) is Completion and time() == 4
        assert [state.restarts for state in (await k.operator.call(ListCores())).cores] == [1]


async def test_a_call_whose_core_dies_in_mid_sentence_is_told() -> None:
    core = slow()
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        call = begin(client)
        await asyncio.sleep(0.6)
        core.go_down()
        assert type(await error_of(call)) is CoreFailed
        assert await held(k) == (0, 0)


# --- explain ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["fifo", "priority", "elas"])
@pytest.mark.parametrize("age_s", [0, 130])
async def test_what_is_explained_is_what_is_decided_later(policy: str, age_s: int) -> None:
    """Also when calls are overdue: who is named as served before is served before, in that order."""
    classes: list[Class] = [
        "batch",
        "standard",
        "interactive",
        "batch",
        "standard",
        "batch",
        "interactive",
        "batch",
        "interactive",
    ]
    core = ScriptedCore(lambda call: Script(first_s=1.0 if len(core.calls) > 1 else age_s + 1.0), slots=1)
    async with kernel_for_tests([core], lane=LaneConfig(policy=policy)) as k:
        clients = [await k.session(f"agent{number}", cls=cls) for number, cls in enumerate(classes)]
        order: list[str] = []

        async def one(number: int) -> None:
            await clients[number].call(ask())
            order.append(clients[number].process.name)

        async with asyncio.TaskGroup() as group:
            group.create_task(k.operator.call(ask()))
            await turns()
            for number in range(len(classes)):
                group.create_task(one(number))
                await turns()
            await asyncio.sleep(age_s)
            explained = [await k.operator.call(Explain(pid=client.process.pid)) for client in clients]
        for client, explanation in zip(clients, explained, strict=True):
            (call,) = explanation.calls
            assert [ahead.name for ahead in call.ahead] == order[: order.index(client.process.name)]
            assert call.ahead_count == order.index(client.process.name)
            assert call.wait is not None and call.wait.holder.startswith("operator-")


async def test_a_call_that_waits_knows_how_long_still() -> None:
    async with kernel_for_tests([slow()]) as k:
        client = await k.session()
        first = [begin(client) for _ in range(4)]
        await until(first[2].done)
        late = await k.session("late")
        async with calling(late):
            explanation = await late.call(Explain(pid=late.process.pid))
            (call,) = explanation.calls
            assert call.wait is not None and call.wait.eta_s == pytest.approx(1.0)
            assert "waits for a slot on scripted" in explanation.reason
            assert (await k.operator.call(Explain(pid=late.process.pid))).process.state == "ready"
            assert any("free slot" in move for move in explanation.moves)


async def test_who_explains_itself_does_not_learn_who_else_is_there() -> None:
    async with kernel_for_tests([slow()]) as k:
        other, me = await k.session("secret", cls="interactive"), await k.session("me")
        async with calling(other, 3), calling(me):
            (call,) = (await me.call(Explain(pid=me.process.pid))).calls
            assert "secret" not in str(call) and call.ahead_count == 2
            (seen,) = (await k.operator.call(Explain(pid=me.process.pid))).calls
            assert "secret" in str(seen)
