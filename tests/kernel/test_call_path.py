"""A call is walked in its caller's own task, and whatever becomes of it ends it alone."""

import asyncio
import logging

import msgspec
import pytest
from scenes import ENDLESS, SECOND, ask, begin, calling, error_of, events, held, nothing_is_held, open_calls, slow, turns

from aios.abi.errors import (
    Conflict,
    CoreFailed,
    DeadlineExceeded,
    Draining,
    Internal,
    Killed,
    Unavailable,
    UnknownCall,
)
from aios.abi.event import CallEnded, Dispatched, KernelChanged
from aios.abi.label import FIRST_PARTY, KERNEL, USER, Label
from aios.abi.llm import Completion, Delta, Generate, Queued, Started
from aios.abi.process import Self, SignalProcess, WaitFor
from aios.abi.record import ABI_VERSION, Record
from aios.abi.request import CallOptions, Done, Request
from aios.abi.system import Drain, Now, RandomBytes, ReadStatistics, RevokeToken, Sleep
from aios.ports.core import CoreCall
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import kernel_for_tests


async def test_a_call_is_answered_by_its_own_reply() -> None:
    async with kernel_for_tests([ScriptedCore("forty two")]) as k:
        client = await k.session()
        completion = await client.call(ask())
        assert (completion.text, completion.core, completion.model) == ("forty two", "scripted", "scripted-1")


async def test_a_stream_tells_its_start_its_pieces_and_its_reply() -> None:
    async with kernel_for_tests([ScriptedCore("a b c")]) as k:
        client = await k.session()
        started, *deltas, completion = [event async for event in client.stream(ask())]
        assert type(started) is Started and started.id == completion.id and started.core == "scripted"
        assert all(type(delta) is Delta for delta in deltas)
        assert "".join(delta.text for delta in deltas) == completion.text == "a b c"


async def test_a_stream_that_waits_says_so_first() -> None:
    async with kernel_for_tests([slow()]) as k:
        client = await k.session()
        async with calling(client):
            queued, started, *_ = [event async for event in client.stream(ask())]
            assert type(queued) is Queued and type(started) is Started
            assert started.wait_s == pytest.approx(1.0)


async def test_closing_a_stream_cancels_its_call() -> None:
    core = ScriptedCore(ENDLESS)
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        stream = client.stream(ask())
        assert type(await anext(stream)) is Started
        await stream.aclose()
        assert core.statistics().aborted == 1
        assert await held(k) == (0, 0) and await open_calls(k, client) == ()


async def test_a_handler_that_raises_ends_its_own_call_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def answers(call: CoreCall) -> Script:
        if call.request.prompt == "break":
            raise ZeroDivisionError("secret detail")
        return SECOND

    caplog.set_level(logging.CRITICAL, "aios.kernel")
    async with kernel_for_tests([ScriptedCore(answers, slots=2)]) as k:
        client = await k.session()
        other = begin(client)
        error = await error_of(begin(client, ask("break")))
        assert type(error) is Internal and "secret" not in error.message
        assert "incident" in error.message
        assert (await other).text == SECOND.text
        await nothing_is_held(k)


async def test_the_incident_id_leads_to_the_details_in_the_kernels_log(caplog: pytest.LogCaptureFixture) -> None:
    def answers(call: CoreCall) -> Script:
        raise ZeroDivisionError("secret detail")

    async with kernel_for_tests([ScriptedCore(answers)]) as k:
        error = await error_of(begin(await k.session()))
    incident = error.message.split()[-1]
    assert [record.exc_info[1].args for record in caplog.records if incident in record.getMessage() and record.exc_info] == [
        ("secret detail",)
    ]


async def test_a_driver_that_cancels_itself_is_a_bug_and_not_a_caller_that_gave_up(caplog: pytest.LogCaptureFixture) -> None:
    def answers(call: CoreCall) -> Script:
        raise asyncio.CancelledError

    caplog.set_level(logging.CRITICAL, "aios.kernel")
    async with kernel_for_tests([ScriptedCore(answers)]) as k:
        client = await k.session()
        with pytest.raises(Internal):
            await client.call(ask())
        assert await held(k) == (0, 0)


async def test_a_door_that_breaks_while_it_is_told_leaks_no_slot(caplog: pytest.LogCaptureFixture) -> None:
    def tell(event: object) -> None:
        raise OSError("the door fell")

    caplog.set_level(logging.CRITICAL, "aios.kernel")
    async with kernel_for_tests([slow()]) as k:
        client = await k.session()
        for _ in range(2):  # one that starts at once, one that waits
            begun = begin(client)
            await turns()
            with pytest.raises(Internal):
                await k.kernel.call(client.process, ask(), tell=tell)
            await begun
        await nothing_is_held(k)


@pytest.mark.parametrize("steps", range(30))
async def test_a_call_that_is_cancelled_anywhere_gives_back_what_it_held(steps: int) -> None:
    """At each turn of the loop from its beginning to its end, free and queued."""
    core = ScriptedCore(Script(text="a b c d e"), slots=1)
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        for queued in (False, True):
            before = [begin(client)] if queued else []
            call = begin(client)
            await turns(steps)
            call.cancel()
            await asyncio.wait([call, *before])
            assert call.cancelled() or type(call.result()) is Completion
            assert await open_calls(k, client) == ()
            await nothing_is_held(k)


async def test_a_cancelled_call_is_recorded_as_cancelled_and_not_as_our_bug() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS)]) as k:
        client = await k.session()
        async with calling(client):
            pass
        assert [event.outcome for event in await events(k, "call") if isinstance(event, CallEnded)][-1] == "Cancelled"


async def test_a_timeout_of_the_callers_own_stays_the_callers_own() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS)]) as k:
        client = await k.session()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await client.call(ask())
        assert time() == 5
        assert await held(k) == (0, 0)


async def test_a_deadline_ends_a_call_that_acts() -> None:
    core = ScriptedCore(ENDLESS)
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        error = await error_of(begin(client, ask(), CallOptions(deadline_s=3)))
        assert type(error) is DeadlineExceeded and "ran on `scripted`" in error.message
        assert time() == 3 and core.statistics().aborted == 1
        assert await held(k) == (0, 0)


async def test_a_deadline_ends_a_call_that_waits() -> None:
    core = ScriptedCore(ENDLESS, slots=1)
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        async with calling(client):
            error = await error_of(begin(client, ask(), CallOptions(deadline_s=3)))
            assert type(error) is DeadlineExceeded and "waited for scripted" in error.message
            assert await held(k) == (1, 0) and core.statistics().started == 1


async def test_a_row_has_a_deadline_of_its_own() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS)]) as k:
        client = await k.session()
        assert type(await error_of(begin(client))) is DeadlineExceeded
        assert time() == 3600


async def test_deadlines_end_their_calls_each_in_its_time() -> None:
    async with kernel_for_tests() as k:
        client = await k.session()
        ended: list[float] = []

        async def nap(deadline_s: float) -> None:
            with pytest.raises(DeadlineExceeded):
                await client.call(Sleep(seconds=5000), CallOptions(deadline_s=deadline_s))
            assert time() == pytest.approx(deadline_s)
            ended.append(deadline_s)

        deadlines = [(7 * number) % 101 + 1.0 for number in range(100)]
        async with asyncio.TaskGroup() as group:
            for deadline_s in deadlines:
                group.create_task(nap(deadline_s))
        assert ended == sorted(deadlines)


async def test_a_caller_that_is_cancelled_and_stopped_at_once_stays_cancelled() -> None:
    """Else the block around it would go on in a task that was told to end."""
    async with kernel_for_tests([ScriptedCore(ENDLESS)]) as k:
        client = await k.session()
        went_on = False

        async def caller() -> None:
            nonlocal went_on
            with pytest.raises(DeadlineExceeded):
                await client.call(ask(), CallOptions(deadline_s=3))
            went_on = True

        task = asyncio.create_task(caller())
        asyncio.get_running_loop().call_at(3, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled() and not went_on


async def test_after_a_stop_the_callers_task_is_not_cancelled_any_more() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS)]) as k:
        client = await k.session()

        async def caller() -> int:
            with pytest.raises(DeadlineExceeded):
                await client.call(ask(), CallOptions(deadline_s=3))
            await asyncio.sleep(1)
            task = asyncio.current_task()
            assert task is not None
            return task.cancelling()

        assert await asyncio.create_task(caller()) == 0


async def test_a_process_that_kills_itself_gets_no_stray_cancellation() -> None:
    """The stop meets the very call that asks for it, which has nothing left to wait for."""
    told: list[object] = []

    async def suicide(gate: Gate) -> None:
        me = await gate.call(Self())
        try:
            told.append(await gate.call(SignalProcess(pid=me.pid, signal="kill")))
        except Killed as error:
            told.append(error)
        await gate.call(Sleep(seconds=100))

    async with kernel_for_tests(agents={"suicide": suicide}) as k:
        agent = await k.spawn("suicide")
        exit = await k.operator.call(WaitFor(pid=agent.pid))
        assert exit.outcome == "killed" and time() == 0
        assert [type(what) for what in told] in ([Done], [Killed])


async def test_a_client_that_revokes_its_own_token_is_answered() -> None:
    async with kernel_for_tests() as k:
        token = await k.token(grants=("own /tokens",))
        client = k.attach(token.value)
        assert await client.call(RevokeToken(id=token.info.id)) == Done()
        await asyncio.sleep(0)


async def test_what_has_ended_makes_no_calls() -> None:
    kept: list[Gate] = []

    async def work(gate: Gate) -> None:
        kept.append(gate)

    async with kernel_for_tests(agents={"work": work}) as k:
        agent = await k.spawn("work")
        await k.operator.call(WaitFor(pid=agent.pid))
        with pytest.raises(Conflict, match="has ended"):
            await kept[0].call(Now())


async def test_a_request_without_a_row_is_refused() -> None:
    class Stray(Request[Done], frozen=True, kw_only=True):
        """A request that no row takes."""

    async with kernel_for_tests() as k:
        with pytest.raises(UnknownCall, match="Stray"):
            await k.operator.call(Stray())


# --- going down -------------------------------------------------------------------------------------------------------


async def test_an_error_leaves_the_kernels_block_as_it_is() -> None:
    """Who starts a kernel shows it to people: one sentence, and no group of one."""
    with pytest.raises(Unavailable, match="two cores"):
        async with kernel_for_tests([ScriptedCore(), ScriptedCore()]):
            raise AssertionError


async def test_a_draining_kernel_takes_no_new_work_and_lets_the_old_end() -> None:
    async with kernel_for_tests([slow(slots=2)]) as k:
        client = await k.session()
        running = begin(client)
        await turns()
        await k.operator.call(Drain(grace_s=60))
        error = await error_of(begin(client))
        assert type(error) is Draining and error.retry_after_s == 10
        assert (await running).text == SECOND.text
        await k.kernel.down.wait()
        assert time() == 1
        assert [event.change for event in await events(k, "kernel") if isinstance(event, KernelChanged)] == ["up", "draining"]


async def test_a_kernel_goes_down_when_the_calls_have_ended_though_their_callers_live_on() -> None:
    async with kernel_for_tests([slow()]) as k:
        client = await k.session()

        async def caller() -> None:
            await client.call(ask())
            await asyncio.sleep(1000)

        task = asyncio.create_task(caller())
        await turns()
        await k.operator.call(Drain(grace_s=60))
        await k.kernel.down.wait()
        assert time() == 1
        task.cancel()


async def test_a_drain_ends_when_its_patience_does() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS)]) as k:
        client = await k.session()
        call = begin(client)
        await turns()
        await k.operator.call(Drain(grace_s=7))
        await k.kernel.down.wait()
        assert time() == 7
    assert type(await error_of(call)) is Killed


async def test_a_kernel_that_goes_down_ends_every_call_with_an_error() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS, slots=1)]) as k:
        client = await k.session()
        calls = [begin(client), begin(client), begin(client, Sleep(seconds=500)), begin(client, WaitFor(pid="1"))]
        await turns()
    outcomes = [type(await error_of(call)).__name__ for call in calls]
    assert outcomes == ["Killed", "Killed", "Killed", "NotFound"]


# --- the record -------------------------------------------------------------------------------------------------------


def lines(records: list[Record]) -> list[tuple[str, int]]:
    return [(record.kind, record.attempt) for record in records]


async def test_the_intent_is_recorded_before_the_act_and_the_result_after_it() -> None:
    seen: list[list[tuple[str, int]]] = []

    async with kernel_for_tests() as k:
        client = await k.session()
        pid = client.process.pid

        def answers(call: CoreCall) -> str:
            seen.append(lines(list(k.store.tail(pid))))
            return "yes"

        await k.kernel.add_core(ScriptedCore(answers))
        await client.call(ask())
        records = k.store.tail(pid)
        assert seen == [[("intent", 1)]]
        assert lines(list(records)) == [("intent", 1), ("result", 1)]
        assert len({record.digest for record in records}) == 1 and len(records[0].digest) == 32
        assert records[1].lsn == records[0].lsn + 1
        assert {(record.abi, record.shard, record.tenant) for record in records} == {(ABI_VERSION, 0, "local")}


async def test_a_result_stands_in_the_record_before_anybody_hears_of_it() -> None:
    async with kernel_for_tests([ScriptedCore("42")]) as k:
        client = await k.session()
        answer = await client.answer(ask())
        (result,) = k.store.find(client.process.pid, answer.call.partition("/")[2])[1:]
        assert msgspec.msgpack.decode(result.body, type=Completion) == answer.value
        assert msgspec.msgpack.decode(result.label, type=Label) == answer.label


async def test_a_call_acts_and_is_answered_when_its_record_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    acted: list[float] = []

    def answers(call: CoreCall) -> str:
        acted.append(time())
        return "yes"

    async with kernel_for_tests([ScriptedCore(answers)]) as k:
        client = await k.session()
        monkeypatch.setattr(k.store, "commit", lambda lsn: asyncio.sleep(lsn))
        begun = time()
        await client.call(ask())
        intent, result = k.store.tail(client.process.pid)
        assert acted == [begun + intent.lsn]
        assert time() == begun + intent.lsn + result.lsn


async def test_a_failure_is_recorded_with_its_code() -> None:
    failing = ScriptedCore(Script(fail_after=1, failure=Unavailable("no")))
    async with kernel_for_tests([failing]) as k:
        client = await k.session()
        await error_of(begin(client))
        _, error = k.store.tail(client.process.pid)
        assert error.kind == "error" and msgspec.msgpack.decode(error.body)["code"] == "Unavailable"


async def test_reads_of_a_client_leave_no_record_and_those_of_an_agent_do() -> None:
    async def look(gate: Gate) -> int:
        return (await gate.call(Now())).at_ns

    async with kernel_for_tests(agents={"look": look}) as k:
        client = await k.session()
        await client.call(Now())
        assert k.store.tail(client.process.pid) == []
        agent = await k.spawn("look")
        await k.operator.call(WaitFor(pid=agent.pid))
        assert lines(list(k.store.tail(agent.pid))) == [("result", 1)]


async def test_random_bytes_are_recorded_as_they_were_drawn() -> None:
    async def draw(gate: Gate) -> str:
        return (await gate.call(RandomBytes(size=16))).data.hex()

    async with kernel_for_tests(agents={"draw": draw}) as k:
        agent = await k.spawn("draw")
        exit = await k.operator.call(WaitFor(pid=agent.pid))
        (record,) = k.store.tail(agent.pid)
        assert msgspec.msgpack.decode(record.body)["data"].hex() == exit.result


# --- labels -----------------------------------------------------------------------------------------------------------


async def test_what_a_model_said_is_labelled_and_marks_who_heard_it() -> None:
    async with kernel_for_tests([ScriptedCore("yes")]) as k:
        client = await k.session()
        assert (await client.answer(Now())).label == KERNEL
        answer = await client.answer(ask())
        assert answer.label == FIRST_PARTY.join(USER) == FIRST_PARTY


async def test_a_result_carries_the_label_of_the_agent_that_made_it() -> None:
    async def work(gate: Gate) -> str:
        return (await gate.call(ask())).text

    async def idle(gate: Gate) -> str:
        return "mine"

    async with kernel_for_tests([ScriptedCore("yes")], {"work": work, "idle": idle}) as k:
        labels = {}
        for entry in ("work", "idle"):
            agent = await k.spawn(entry)
            labels[entry] = (await k.operator.answer(WaitFor(pid=agent.pid))).label
        assert labels == {"work": FIRST_PARTY, "idle": USER}


# --- attempts ---------------------------------------------------------------------------------------------------------


def failing(name: str, after: int) -> ScriptedCore:
    return ScriptedCore(Script(text="a b c", fail_after=after), name=name)


async def test_a_core_that_comes_later_does_calls_like_those_before_it() -> None:
    async with kernel_for_tests([ScriptedCore("first", slots=1, name="a")]) as k:
        await k.operator.call(ask())
        await k.kernel.add_core(ScriptedCore("second", slots=1, name="b"))
        answers = await asyncio.gather(k.operator.call(ask()), k.operator.call(ask()))
        assert {answer.core for answer in answers} == {"a", "b"}


async def test_a_core_that_fails_before_its_first_word_is_replaced_by_another() -> None:
    """And whoever listens hears of one answer, with one id."""
    bad, good = failing("a-bad", after=0), ScriptedCore("fine", name="b-good")
    async with kernel_for_tests([bad, good]) as k:
        client = await k.session()
        started, *deltas, completion = [event async for event in client.stream(ask(model="default"))]
        assert [type(event) for event in (started, completion)] == [Started, Completion]
        assert completion.text == "fine" == "".join(delta.text for delta in deltas) and completion.core == "b-good"
        assert started.id == completion.id
        assert (bad.statistics().failed, good.statistics().finished) == (1, 1)
        assert [(e.core, e.attempt) for e in await events(k, "dispatch") if isinstance(e, Dispatched)] == [
            ("a-bad", 1), ("b-good", 2)
        ]  # fmt: skip
        assert lines(list(k.store.tail(client.process.pid))) == [("intent", 1), ("intent", 2), ("result", 2)]
        await nothing_is_held(k)


async def test_a_core_that_fails_after_its_first_word_is_not_replaced_in_silence() -> None:
    bad, good = failing("a-bad", after=1), ScriptedCore("fine", name="b-good")
    async with kernel_for_tests([bad, good]) as k:
        client = await k.session()
        heard: list[object] = []
        with pytest.raises(CoreFailed):
            async for event in client.stream(ask()):
                heard.append(event)
        assert [type(event) for event in heard] == [Started, Delta]
        assert good.statistics().started == 0


async def test_a_core_that_fails_alone_is_tried_once_more_and_then_not_again() -> None:
    core = failing("only", after=0)
    async with kernel_for_tests([core]) as k:
        assert type(await error_of(begin(await k.session()))) is CoreFailed
        assert core.statistics().failed == 2
        assert await held(k) == (0, 0)


async def test_a_call_that_was_stopped_is_not_tried_again() -> None:
    """Its core failed because the stop reached it."""

    class Stubborn(ScriptedCore):
        async def generate(self, call: CoreCall, emit: object) -> Completion:
            self.calls.append(call)
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                raise CoreFailed("it was interrupted") from None
            raise AssertionError

    core = Stubborn()
    async with kernel_for_tests([core]) as k:
        client = await k.session()
        assert type(await error_of(begin(client, ask(), CallOptions(deadline_s=3)))) is DeadlineExceeded
        assert len(core.calls) == 1 and time() == 3
        assert await held(k) == (0, 0)


# --- figures ----------------------------------------------------------------------------------------------------------


async def test_the_figures_count_what_happened() -> None:
    async with kernel_for_tests([slow(slots=1)]) as k:
        client = await k.session()
        async with calling(client, 3):
            figures = await k.operator.call(ReadStatistics())
            assert (figures.calls_running, figures.calls_waiting) == (2, 2)
        await client.call(Generate(prompt="one two"))
        figures = await k.operator.call(ReadStatistics())
        assert (figures.calls_failed, figures.input_tokens, figures.output_tokens) == (3, 2, 4)


async def test_every_piece_of_work_is_one_event_with_its_times() -> None:
    async with kernel_for_tests([slow(slots=1)]) as k:
        client = await k.session()
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(client.call(ask()))
        first, second = (event for event in await events(k, "call") if isinstance(event, CallEnded) and event.core)
        assert (second.turn_ns or 0) - second.asked_ns == 10**9
        assert (first.first_ns or 0) - (first.turn_ns or 0) == 250_000_000
        assert {first.outcome, second.outcome} == {"ok"} and first.output_tokens == 4
