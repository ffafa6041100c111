"""The agent's end of the socketpair: calls, streams, cancels, and the end of the kernel."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest
from kernel_end import KernelEnd, kernel_end

from aios.abi import frames
from aios.abi.errors import Denied, Invalid, Unavailable
from aios.abi.llm import Choice, Completion, Delta, Generate, Queued, Started, Usage
from aios.abi.record import ABI_VERSION
from aios.abi.request import CallOptions
from aios.abi.system import Instant, Now, RandomBytes
from aios.sdk.gate import SocketGate

ANSWER = Completion(id="c", model="m", core="core", choices=(Choice(text="one two"),), usage=Usage())


class Resident:
    """Remembers what the kernel asks and tells."""

    def __init__(self) -> None:
        self.asks: list[frames.Ask] = []
        self.tells: list[frames.Tell] = []
        self.ended, self.was_asked = asyncio.Event(), asyncio.Event()

    def asked(self, ask: frames.Ask) -> None:
        self.asks.append(ask)
        self.was_asked.set()

    def told(self, tell: frames.Tell) -> None:
        self.tells.append(tell)

    def cut_off(self) -> None:
        self.ended.set()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[SocketGate, KernelEnd, Resident]]:
    resident = Resident()
    async with kernel_end() as (end, theirs):
        connecting = asyncio.create_task(SocketGate.connect(theirs, resident))
        await end.welcome()
        gate = await connecting
        try:
            yield gate, end, resident
        finally:
            gate.close()
            await resident.ended.wait()


async def test_a_call_names_its_process_and_gets_its_typed_reply() -> None:
    async with connected() as (gate, end, _):
        call = asyncio.create_task(gate.of("7").call(Now(), CallOptions(cls="batch")))
        frame = await end.hear(frames.Call)
        assert (frame.pid, frame.name, frame.options.cls, frame.stream) == ("7", "clock.now", "batch", False)
        end.say(frames.Reply(frame.id, frames.pack(Instant(at_ns=5))))
        assert await call == Instant(at_ns=5)


async def test_replies_find_their_calls_in_any_order() -> None:
    async with connected() as (gate, end, _):
        calls = [asyncio.create_task(gate.of(pid).call(Now())) for pid in ("1", "2", "3")]
        heard = [await end.hear(frames.Call) for _ in calls]
        assert len({frame.id for frame in heard}) == 3
        end.say(*(frames.Reply(frame.id, frames.pack(Instant(at_ns=int(frame.pid)))) for frame in reversed(heard)))
        assert [(await call).at_ns for call in calls] == [1, 2, 3]


async def test_the_calls_of_one_turn_leave_in_one_write() -> None:
    async with connected() as (gate, end, _):
        before = end.reads
        calls = [asyncio.create_task(gate.of("1").call(Now())) for _ in range(50)]
        heard = [await end.hear(frames.Call) for _ in calls]
        assert end.reads == before + 1
        end.say(*(frames.Reply(frame.id, frames.pack(Instant(at_ns=0))) for frame in heard))
        await asyncio.gather(*calls)


async def test_a_fault_is_raised_as_the_error_it_stands_for() -> None:
    async with connected() as (gate, end, _):
        call = asyncio.create_task(gate.of("1").call(Now()))
        frame = await end.hear(frames.Call)
        end.say(frames.Reply(frame.id, fault=Invalid("no", field="x").fault()))
        with pytest.raises(Invalid, match="no") as caught:
            await call
        assert caught.value.field == "x"


async def test_a_cancelled_call_is_cancelled_at_the_kernel_and_its_late_reply_hurts_nobody() -> None:
    async with connected() as (gate, end, _):
        call = asyncio.create_task(gate.of("1").call(Now()))
        frame = await end.hear(frames.Call)
        call.cancel()
        assert (await end.hear(frames.Cancel)).id == frame.id
        end.say(frames.Reply(frame.id, frames.pack(Instant(at_ns=1))))
        other = asyncio.create_task(gate.of("1").call(Now()))
        second = await end.hear(frames.Call)
        end.say(frames.Reply(second.id, frames.pack(Instant(at_ns=2))))
        assert (await other).at_ns == 2 and call.cancelled()


async def test_a_call_that_was_answered_is_not_cancelled_at_the_kernel() -> None:
    async with connected() as (gate, end, resident):
        call = asyncio.create_task(gate.of("1").call(Now()))
        frame = await end.hear(frames.Call)
        end.say(frames.Reply(frame.id, frames.pack(Instant(at_ns=1))), frames.Tell("1", "stop"))
        await call
        assert resident.tells == [frames.Tell("1", "stop")]
        gate.close()
        await end.hear_end()


async def test_a_stream_yields_its_events_then_its_reply_and_passes_over_unknown_ones() -> None:
    async with connected() as (gate, end, _):
        heard = asyncio.create_task(drained(gate.of("1").stream(Generate(prompt="x"))))
        frame = await end.hear(frames.Call)
        assert frame.stream
        started = Started(call="c", id="a", model="m", core="core", wait_s=0.5)
        events = (Queued(call="c"), started, Delta(text="one"), Delta(text=" two"))
        end.say(*(frames.Event(frame.id, frames.pack(event)) for event in events))
        end.say(frames.Event(frame.id, frames.pack({"event": "newer"})), frames.Reply(frame.id, frames.pack(ANSWER)))
        assert await heard == [*events, ANSWER]


async def drained(stream: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in stream]


async def test_a_stream_that_is_closed_is_cancelled_at_the_kernel() -> None:
    async with connected() as (gate, end, _):

        async def first() -> Any:
            async with aclosing(gate.of("1").stream(Generate(prompt="x"))) as stream:  # type: ignore[type-var]
                return await anext(stream)

        reading = asyncio.create_task(first())
        frame = await end.hear(frames.Call)
        end.say(frames.Event(frame.id, frames.pack(Delta(text="one"))))
        assert await reading == Delta(text="one")
        assert (await end.hear(frames.Cancel)).id == frame.id


async def test_a_reader_that_lags_behind_does_not_hold_up_another_call() -> None:
    async with connected() as (gate, end, _):
        stream = gate.of("1").stream(Generate(prompt="x"))
        first: asyncio.Task[Any] = asyncio.create_task(anext(stream))  # type: ignore[arg-type]  # an awaitable
        frame = await end.hear(frames.Call)
        end.say(*(frames.Event(frame.id, frames.pack(Delta(text="x" * 10_000))) for _ in range(500)))
        await first
        call = asyncio.create_task(gate.of("1").call(Now()))
        asked = await end.hear(frames.Call)
        end.say(frames.Reply(asked.id, frames.pack(Instant(at_ns=1))))
        assert (await call).at_ns == 1
        end.say(frames.Reply(frame.id, frames.pack(ANSWER)))
        assert len(await drained(stream)) == 500


async def test_callers_wait_while_the_kernel_does_not_read() -> None:
    async with connected() as (gate, end, _):
        end.transport.pause_reading()
        large = Generate(prompt="x" * 1_000_000)
        calls = [asyncio.create_task(gate.of("1").call(large)) for _ in range(4)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        late = asyncio.create_task(gate.of("1").call(Now()))
        await asyncio.sleep(0)
        assert len(gate._open) == 4
        end.transport.resume_reading()
        for _ in range(5):
            frame = await end.hear(frames.Call)
            end.say(frames.Reply(frame.id, fault=Denied("no").fault()))
        ends = await asyncio.gather(*calls, late, return_exceptions=True)
        assert [type(end) for end in ends] == [Denied] * 5


async def test_when_the_kernel_goes_every_call_ends_and_new_ones_are_refused() -> None:
    async with connected() as (gate, end, resident):
        call = asyncio.create_task(gate.of("1").call(Now()))
        stream = asyncio.create_task(drained(gate.of("2").stream(Generate(prompt="x"))))
        await end.hear(frames.Call)
        await end.hear(frames.Call)
        end.transport.abort()
        for task in (call, stream):
            with pytest.raises(Unavailable, match="the kernel is gone"):
                await task
        with pytest.raises(Unavailable, match="the kernel is gone"):
            await gate.of("1").call(RandomBytes())
        assert resident.ended.is_set()


async def test_a_kernel_that_speaks_another_version_is_refused_with_both() -> None:
    async with kernel_end() as (end, theirs):
        connecting = asyncio.create_task(SocketGate.connect(theirs, Resident()))
        await end.hear(frames.Hello)
        end.say(frames.Welcome(ABI_VERSION + 1))
        with pytest.raises(Unavailable, match=f"version {ABI_VERSION + 1} .* this program {ABI_VERSION}"):
            await connecting
        await end.hear_end()


async def test_a_question_may_come_in_one_read_with_the_welcome() -> None:
    resident = Resident()
    async with kernel_end() as (end, theirs):
        end.say(frames.Welcome(ABI_VERSION), frames.Ask(1, "1", "main", (), "default"))
        gate = await SocketGate.connect(theirs, resident)
        assert resident.asks == []  # whoever connects has its gate before the first question
        await resident.was_asked.wait()
        assert [ask.pid for ask in resident.asks] == ["1"]
        gate.close()
        await resident.ended.wait()


async def test_a_frame_that_cannot_be_understood_ends_the_connection() -> None:
    async with connected() as (gate, end, _):
        call = asyncio.create_task(gate.of("1").call(Now()))
        await end.hear(frames.Call)
        body = msgspec.msgpack.encode({"type": "nonsense"})
        end.transport.write(len(body).to_bytes(4, "big") + body)
        with pytest.raises(Unavailable, match="cannot be understood"):
            await call
