"""What holds for every call, whatever it does and however it comes."""

import asyncio
import logging
from typing import Any

import pytest
from msgspec.structs import replace
from requirements import proves

from aios.abi.errors import (
    Conflict,
    CoreFailed,
    DeadlineExceeded,
    Denied,
    Internal,
    Invalid,
    NoCore,
    NotFound,
    QueueFull,
    Unavailable,
)
from aios.abi.event import Dispatched, Preempted, ReadEvents
from aios.abi.llm import Completion, Delta, Generate, Queued, Started, ToolSpec
from aios.abi.process import Exit, Explain, Logs, Self, SignalProcess, Spawn, WaitFor
from aios.abi.request import CLASSES, CallOptions, Class
from aios.abi.system import ListCores, RandomBytes, Sleep
from aios.kernel.lanes.lane import DOWN_PATIENCE_S, LaneConfig
from aios.kernel.restarts import RESTARTS
from aios.ports.core import CoreCall, CoreInfo
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import manifest_of
from aios.testing.transports import ALL, World, world

ENDLESS = Script(text="well", hang=True)


def ask(text: str = "x", **fields: Any) -> Generate:
    return Generate(prompt=text, **fields)


def begin(gate: Gate, request: Any, **options: Any) -> "asyncio.Future[Any]":
    return asyncio.ensure_future(gate.call(request, CallOptions(**options)))


async def held(w: World) -> tuple[int, int]:
    """Slots that are held, and calls that wait, when the wires are quiet."""
    await asyncio.sleep(0.01)
    cores = await w.k.operator.call(ListCores())
    return sum(core.running for core in cores.cores), sum(cores.waiting.values())


@proves("stream queued")
async def test_a_stream_that_waits_says_so(transport: str) -> None:
    async with world(transport, [ScriptedCore(Script(text="a", first_s=2), slots=1)]) as w:
        gate = await w.process()
        first = begin(gate, ask())
        await asyncio.sleep(1)
        queued, started, *_, last = [event async for event in gate.stream(ask())]
        assert (type(queued), type(started), type(last)) == (Queued, Started, Completion)
        assert started.wait_s == pytest.approx(1) and queued.call == started.call
        await first


@proves("preemption")
async def test_an_urgent_call_has_its_turn_at_once_and_who_stands_back_loses_nothing(transport: str) -> None:
    story, reply = Script(text=" ".join(map(str, range(30))), token_s=0.1), Script(text="at noon", token_s=0.1)
    core = ScriptedCore(
        lambda call: reply if call.request.prompt == "when?" else story, slots=1, features=frozenset({"completion", "suspend"})
    )
    async with world(transport, [core]) as w:
        gate, person = await w.process(ALL), await w.process(cls="interactive")
        first = begin(gate, ask("a story"), cls="batch")
        await asyncio.sleep(1.05)
        asked = time()
        urgent = begin(person, ask("when?"))
        await asyncio.sleep(0.01)
        explained = await gate.call(Explain(pid=(await gate.call(Self())).pid))
        assert [call.frozen for call in explained.calls] == [True] and "frozen" in explained.reason
        assert (await urgent).text == "at noon" and time() < asked + 0.2
        assert (await first).text == story.text and time() == pytest.approx(3.0, abs=0.11)
        page = await w.k.operator.call(ReadEvents(kinds=("preempt",)))
        assert [event.change for event in page.events if isinstance(event, Preempted)] == ["frozen", "resumed"]


@proves("stream closed")
async def test_closing_a_stream_frees_its_slot(transport: str) -> None:
    core = ScriptedCore(ENDLESS)
    async with world(transport, [core]) as w:
        gate = await w.process()
        stream: Any = gate.stream(ask())
        assert type(await anext(stream)) is Started
        assert await held(w) == (1, 0)
        await stream.aclose()
        assert await held(w) == (0, 0) and core.statistics().aborted == 1


@proves("cancel")
async def test_a_cancelled_call_gives_its_turn_back(transport: str) -> None:
    core = ScriptedCore(ENDLESS, slots=1)
    async with world(transport, [core]) as w:
        gate = await w.process()
        acts, waits, next = (begin(gate, ask()) for _ in range(3))
        await asyncio.sleep(1)
        assert await held(w) == (1, 2)
        waits.cancel()
        assert await held(w) == (1, 1)
        acts.cancel()
        assert await held(w) == (1, 0) and len(core.calls) == 2
        next.cancel()
        assert await held(w) == (0, 0)


@proves("deadline")
async def test_a_call_ends_at_its_deadline(transport: str) -> None:
    async with world(transport, [ScriptedCore(ENDLESS, slots=1)]) as w:
        gate = await w.process()
        acts, waits = begin(gate, ask(), deadline_s=4), begin(gate, ask(), deadline_s=3)
        for call, at in ((waits, 3), (acts, 4)):
            with pytest.raises(DeadlineExceeded, match="deadline"):
                await call
            assert time() == at
        assert await held(w) == (0, 0)


@proves("bug")
async def test_a_bug_ends_one_call(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    def answers(call: CoreCall) -> Script:
        if call.request.prompt == "break":
            raise ZeroDivisionError("secret")
        return Script(text="fine", first_s=1)

    caplog.set_level(logging.CRITICAL, "aios.kernel")
    async with world(transport, [ScriptedCore(answers)]) as w:
        gate = await w.process()
        other = begin(gate, ask())
        with pytest.raises(Internal, match="incident") as told:
            await gate.call(ask("break"))
        assert "secret" not in str(told.value) and "Zero" not in str(told.value)
        assert (await other).text == "fine" and await held(w) == (0, 0)


@proves("denied")
async def test_what_was_not_granted_is_denied(transport: str) -> None:
    core = ScriptedCore()
    async with world(transport, [core]) as w:
        gate = await w.process(("use /llm/other",))
        for request, wanted in ((ask(), "use /llm/default"), (ReadEvents(), "read /events"), (ListCores(), "read /cores")):
            with pytest.raises(Denied, match=wanted):
                await gate.call(request)
        assert core.calls == []


@proves("foreign")
async def test_a_process_of_others_does_not_exist(transport: str) -> None:
    async with world(transport) as w:
        other, gate = await w.process(ALL), await w.process(ALL)
        them = await other.call(Self())
        for pid in (them.pid, them.name, "4711"):
            for request in (WaitFor(pid=pid), SignalProcess(pid=pid, signal="kill"), Explain(pid=pid), Logs(pid=pid)):
                with pytest.raises(NotFound, match="there is no process"):
                    await gate.call(request)
        assert (await other.call(Self())).state != "ended"


@proves("subset")
async def test_no_child_has_more_than_its_parent(transport: str) -> None:
    async def work(gate: Gate) -> str:
        return "started"

    async with world(transport, agents={"work": work}) as w:
        gate = await w.process(("spawn /agents/work", "use /llm/small"))
        for grants, given in ((("use /llm/*",), False), (("read /events",), False), (("use /llm/small",), True), ((), True)):
            manifest = manifest_of("work", grants=grants)
            w.k.accept(manifest)
            try:
                agent = await gate.call(Spawn(manifest=manifest, accepted=manifest.hash()))
            except Denied as error:
                assert not given and grants[0] in error.message
            else:
                assert given and (await gate.call(WaitFor(pid=agent.pid))).result == "started"


@pytest.mark.parametrize("granted", ["standard", "batch"])
@proves("class")
async def test_a_class_is_lowered_and_never_raised(transport: str, granted: Class) -> None:
    async with world(transport, [ScriptedCore()]) as w:
        gate = await w.process(cls=granted)
        for asked in CLASSES:
            await gate.call(ask(), CallOptions(cls=asked))
        decisions = (await w.k.operator.call(ReadEvents(kinds=("dispatch",)))).events
        got = [event.cls for event in decisions if isinstance(event, Dispatched)]
        assert got == [max(granted, asked, key=CLASSES.index) for asked in CLASSES]


@proves("order")
async def test_the_higher_class_is_served_first(transport: str) -> None:
    async with world(transport, [ScriptedCore(Script(text="a", first_s=1), slots=1)]) as w:
        gate = await w.process(cls="interactive")
        order: list[Class] = []

        async def one(cls: Class) -> None:
            await gate.call(ask(), CallOptions(cls=cls))
            order.append(cls)

        async with asyncio.TaskGroup() as group:
            for cls in ("standard", "batch", "standard", "interactive"):
                group.create_task(one(cls))  # type: ignore[arg-type]
                await asyncio.sleep(0.1)
        assert order == ["standard", "interactive", "standard", "batch"]


@proves("key")
async def test_a_call_with_a_key_happens_once(transport: str) -> None:
    core = ScriptedCore()
    async with world(transport, [core]) as w:
        gate = await w.process()
        first = await gate.call(ask(), CallOptions(key="k"))
        assert await gate.call(ask(), CallOptions(key="k")) == first and len(core.calls) == 1
        assert await gate.call(ask(), CallOptions(key="l")) != first


@proves("key conflict")
async def test_another_request_under_a_used_key_is_refused(transport: str) -> None:
    async with world(transport, [ScriptedCore()]) as w:
        gate = await w.process()
        first = await gate.call(ask(), CallOptions(key="k"))
        for _ in range(2):
            with pytest.raises(Conflict) as refused:
                await gate.call(ask("other"), CallOptions(key="k"))
            assert refused.value.field == "key"
        assert await gate.call(ask(), CallOptions(key="k")) == first


@proves("queue full")
async def test_a_full_queue_is_refused_with_a_time(transport: str) -> None:
    async with world(transport, [ScriptedCore(ENDLESS, slots=1)], lane=LaneConfig(queue=2)) as w:
        gate = await w.process()
        calls = [begin(gate, ask()) for _ in range(3)]
        await asyncio.sleep(1)
        for answer in (gate.call(ask()), anext(gate.stream(ask()))):
            with pytest.raises(QueueFull) as refused:
                await answer
            assert refused.value.retry_after_s == 10
        for call in calls:
            call.cancel()
        await asyncio.sleep(0.01)


@proves("unknown model")
async def test_an_unknown_model_is_named(transport: str) -> None:
    async with world(transport, [ScriptedCore()]) as w:
        with pytest.raises(NotFound, match="did you mean `scripted-1`") as missing:
            await (await w.process()).call(ask(model="scrpted-1"))
        assert missing.value.field == "model"


@proves("no core")
async def test_what_no_core_can_do_is_refused(transport: str) -> None:
    async with world(transport, [ScriptedCore()]) as w:
        with pytest.raises(NoCore, match="`tools`") as refused:
            await (await w.process()).call(ask(tools=(ToolSpec(name="f"),)))
        assert refused.value.field == "tools"


@proves("core down")
async def test_who_waits_for_a_core_that_stays_down_is_told(transport: str) -> None:
    core = ScriptedCore()
    async with world(transport, [core]) as w:
        gate = await w.process()
        core.go_down()
        with pytest.raises(Unavailable, match="`scripted` is down"):
            await gate.call(ask())
        assert time() == pytest.approx(DOWN_PATIENCE_S)


@proves("core back")
async def test_a_call_goes_on_when_its_core_is_replaced(transport: str) -> None:
    core = ScriptedCore(Script(text="whole", first_s=2))
    async with world(transport, [core]) as w:
        gate = await w.process()
        call = begin(gate, ask())
        await asyncio.sleep(1)
        core.go_down()
        await asyncio.sleep(5)
        core.come_up()
        assert (await call).text == "whole" and time() == 8


@proves("core dies")
async def test_half_an_answer_is_never_begun_anew_in_silence(transport: str) -> None:
    core, other = ScriptedCore(Script(text="a b c", token_s=1), name="a"), ScriptedCore("other", name="b")
    async with world(transport, [core, other]) as w:
        gate = await w.process()
        heard: list[Any] = []
        with pytest.raises(CoreFailed):
            async for event in gate.stream(ask()):
                heard.append(event)
                if len(heard) == 2:
                    core.go_down()
        assert [type(event) for event in heard] == [Started, Delta] and other.calls == []


OUT_OF_RANGE = [
    (Sleep(seconds=-1), "seconds"), (RandomBytes(size=10**6), "size"), (ReadEvents(limit=0), "limit"),
    (ReadEvents(kinds=("x",)), "kinds"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "field"), OUT_OF_RANGE)
@proves("bad range")
async def test_a_value_out_of_range_is_named(transport: str, request_: Any, field: str) -> None:
    async with world(transport) as w:
        with pytest.raises(Invalid) as refused:
            await (await w.process(ALL)).call(request_)
        assert refused.value.field == field


@proves("slow reader")
async def test_a_reader_that_does_not_read_holds_no_slot(transport: str) -> None:
    """The core has a queue of its own; where it has none, a reader that does not read is cut off in the end."""

    class Narrow(ScriptedCore):
        """Its engine has room for more than the two that the kernel gives it."""

        def info(self) -> CoreInfo:
            return replace(super().info(), slots=1)

    words = " ".join(["x" * 50_000] * 120)
    script = Script(text=words, token_s=0.001)
    core = Narrow(lambda call: script if call.request.prompt == "long" else "next", slots=4, queues=True)
    async with world(transport, [core]) as w:
        gate, other = await w.process(), await w.process()
        streams: list[Any] = [gate.stream(ask("long")) for _ in range(2)]
        assert [type(await anext(stream)) for stream in streams] == [Started, Started]
        if transport == "socket":  # there the agent's end reads everything: a reader that sleeps costs itself the memory
            await asyncio.sleep(2)
        assert (await asyncio.wait_for(other.call(ask()), 5)).text == "next"
        for stream in streams:
            assert [event async for event in stream][-1].text == words
        assert await held(w) == (0, 0)


def crashing(w_: list[World], lives: list[float]) -> Any:
    async def work(gate: Gate, deaths: int) -> str:
        lives.append(time())
        if len(lives) <= deaths:
            me = await gate.call(Self())
            next(host for host in w_[0].hosts if host.os_pid == me.host_pid).kill()
            await asyncio.sleep(100)
        return f"life {len(lives)}"

    return work


@proves("crash")
async def test_an_agent_whose_host_dies_begins_again(transport: str) -> None:
    here: list[World] = []
    async with world(transport, agents={"work": crashing(here, [])}) as w:
        here.append(w)
        agent = await w.k.spawn("work", 2)
        assert await w.k.operator.call(WaitFor(pid=agent.pid)) == Exit(pid=agent.pid, outcome="result", result="life 3")
        assert (await w.k.operator.call(Explain(pid=agent.pid))).process.restarts == 2


@proves("restart")
async def test_an_agent_is_started_again_three_times_at_most(transport: str) -> None:
    here: list[World] = []
    lives: list[float] = []
    async with world(transport, agents={"work": crashing(here, lives)}) as w:
        here.append(w)
        agent = await w.k.spawn("work", 100)
        exit = await w.k.operator.call(WaitFor(pid=agent.pid))
        assert (exit.outcome, exit.error, len(lives)) == ("error", "ChildFailed", 1 + RESTARTS)


@proves("after")
async def test_a_process_begins_after_others_with_their_results(transport: str) -> None:
    async def work(gate: Gate, seconds: float) -> float:
        await gate.call(Sleep(seconds=seconds))
        if seconds > 5:
            raise ValueError("too long")
        return seconds

    async def merge(gate: Gate, *results: Any) -> list[Any]:
        return list(results)

    async with world(transport, agents={"work": work, "merge": merge}) as w:
        gate, other = await w.process(ALL), await w.process(ALL)
        first, second, fails = [(await gate.call(Spawn(manifest=manifest_of("work"), arguments=(s,)))).pid for s in (2, 5, 9)]

        def begin(*after: str, results: Any = "none") -> Any:
            return gate.call(Spawn(manifest=manifest_of("merge"), arguments=("x",), after=after, results=results))

        all, one, none, never = [
            (await made).pid
            for made in (begin(first, fails, second, results="all"), begin(second, results="one"), begin(first), begin(fails))
        ]
        waiting = await gate.call(Explain(pid=one))
        assert waiting.process.state == "declared" and waiting.reason.startswith("it begins after work-")
        assert (await gate.call(WaitFor(pid=none))).result == ["x"] and time() == pytest.approx(2)
        assert (await gate.call(WaitFor(pid=one))).result == ["x", 5] and time() == pytest.approx(5)
        assert (await gate.call(WaitFor(pid=all))).result == ["x", [2, 5]] and time() == pytest.approx(9)
        failed = await gate.call(WaitFor(pid=never))
        assert failed.error == "ChildFailed" and "it did not begin: `work-" in failed.message
        for wrong, field in (((first, second), "results"), ((), "results")):
            with pytest.raises((Invalid, ValueError), match=field):
                await begin(*wrong, results="one")
        with pytest.raises(NotFound, match="there is no process"):
            await other.call(Spawn(manifest=manifest_of("merge"), after=(first,)))


async def test_results_that_are_too_much_to_begin_with_are_not_kept_until_the_last_one_has_ended() -> None:
    async def large(gate: Gate) -> str:
        return "x" * 200_000

    async def never(gate: Gate) -> None:
        await asyncio.Event().wait()

    async with world("socket", agents={"large": large, "never": never}) as w:
        gate = await w.process(ALL)
        before = [(await gate.call(Spawn(manifest=manifest_of(entry)))).pid for entry in ("never", "large", "large")]
        waits = [await gate.call(Spawn(manifest=manifest_of("never"), after=tuple(before), results="all")) for _ in range(3)]
        only_ordered = await gate.call(Spawn(manifest=manifest_of("never"), after=tuple(before)))
        for waiting in waits:
            exit = await gate.call(WaitFor(pid=waiting.pid))
            assert exit.error == "TooLarge" and exit.message.startswith("it did not begin: the results")
        assert time() < 1 and (await gate.call(Explain(pid=only_ordered.pid))).process.state == "declared"
        living = w.k.kernel.processes.get(before[0])
        assert living is not None and len(living.followers) == 1
        await gate.call(SignalProcess(pid=only_ordered.pid, signal="kill"))
        await gate.call(WaitFor(pid=only_ordered.pid))
        assert not living.followers
