"""What nobody may use up, raise, or decide for somebody else."""

from __future__ import annotations

import msgspec
import pytest

from aios.abi.errors import DeadlineExceeded, Denied, Invalid, NeedsApproval, NotFound, QueueFull
from aios.abi.llm import Generate
from aios.abi.process import Logs, Spawn, WaitFor
from aios.abi.request import CallOptions
from aios.abi.system import AddToken
from aios.abi.wire import decode_request, row_named
from aios.kernel import logs, main, process, process_calls
from aios.ports.core import CoreCall
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import kernel_for_tests, manifest_of


async def work(gate: Gate, *_: object) -> str:
    return "done"


async def chain(gate: Gate) -> str:
    grants = ("spawn /agents/chain",)
    child = await gate.call(Spawn(manifest=manifest_of("chain", grants=grants)))
    exit = await gate.call(WaitFor(pid=child.pid))
    return exit.error or str(exit.result)


async def test_a_chain_of_spawns_ends_in_a_refusal_and_takes_nobody_with_it() -> None:
    async with kernel_for_tests(agents={"chain": chain}) as k:
        first = await k.spawn("chain", grants=("spawn /agents/chain",))
        exit = await k.operator.call(WaitFor(pid=first.pid))
        assert exit.result == "Denied"
        assert k.kernel.processes.living_count() == 1, "the operator's session alone"


async def test_there_are_never_more_processes_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_calls, "MOST_PROCESSES", 3)

    async def nap(gate: Gate) -> None:
        await gate.call(WaitFor(pid="nobody"))

    async with kernel_for_tests(agents={"work": work}) as k:
        for _ in range(2):
            await k.session()
        with pytest.raises(QueueFull) as refused:
            await k.spawn("work")
        assert refused.value.retry_after_s


async def test_a_tokens_most_idle_session_makes_room_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "MOST_SESSIONS", 3)
    async with kernel_for_tests() as k:
        token = (await k.token()).value
        sessions = [k.kernel.attach(token, str(number)) for number in range(4)]
        assert [session.exit is None for session in sessions] == [False, True, True, True]


async def test_what_ended_processes_returned_is_kept_up_to_a_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "KEPT_BYTES", 10_000)

    async def long(gate: Gate) -> str:
        return "x" * 4000

    async with kernel_for_tests(agents={"long": long}) as k:
        pids = [(await k.spawn("long")).pid for _ in range(4)]
        for pid in pids[-2:]:
            assert len((await k.operator.call(WaitFor(pid=pid))).result) == 4000
        with pytest.raises(NotFound):
            await k.operator.call(WaitFor(pid=pids[0]))


async def test_logs_of_all_processes_together_are_bounded_and_the_silent_lose_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "KEPT_CHARACTERS", 1000)
    async with kernel_for_tests(agents={"work": work}) as k:
        silent, talker = [(await k.spawn("work")).pid for _ in range(2)]
        k.kernel.printed(silent, "out", "before")
        for number in range(200):
            k.kernel.printed(talker, "out", f"line {number:4}")
        assert (await k.operator.call(Logs(pid=silent))).lines == ()
        kept = (await k.operator.call(Logs(pid=talker))).lines
        assert sum(len(line.text) for line in kept) <= 1000 and kept[-1].text == "line  199"


async def test_a_caller_lowers_the_rows_deadline_and_never_raises_it() -> None:
    async with kernel_for_tests([ScriptedCore(Script(hang=True))]) as k:
        client = await k.session()
        for asked, given in ((1e6, 3600), (5, 5)):
            with pytest.raises(DeadlineExceeded, match=f"deadline of {given} s"):
                await client.call(Generate(prompt="x"), CallOptions(deadline_s=asked))


async def test_no_agent_and_no_token_bears_the_operators_name() -> None:
    async with kernel_for_tests() as k:
        with pytest.raises(Invalid) as refused:
            await k.operator.call(AddToken(agent="operator"))
        assert refused.value.field == "agent"
    body = msgspec.json.encode({"manifest": {"agent": "operator", "program": "/a.py", "entry": "a"}})
    with pytest.raises(Invalid, match="operator"):
        decode_request(row_named("process.spawn"), body, "json")


async def test_a_client_does_not_accept_for_a_person() -> None:
    async with kernel_for_tests(agents={"work": work}) as k:
        client = await k.session(grants=("spawn /agents/work",))
        manifest = manifest_of("work", grants=())
        asks = Spawn(manifest=manifest, accepted=manifest.hash())
        with pytest.raises(NeedsApproval):
            await client.call(asks)
        k.accept(manifest)
        assert (await client.call(asks)).agent == "work"
        with pytest.raises(Denied):
            await client.call(Spawn(manifest=manifest_of("work"), accepted=manifest.hash()))


async def test_all_that_a_generation_depends_on_is_recorded_before_it_begins() -> None:
    seen: list[CoreCall] = []

    def answer(call: CoreCall) -> str:
        (intent,) = [record for record in k.store.find(client.process.pid, "1") if record.kind == "intent"]
        seen.append(msgspec.msgpack.decode(intent.body, type=CoreCall))
        return "done" if seen[-1] == call else "something else"

    async with kernel_for_tests([ScriptedCore(answer)]) as k:
        client = await k.session()
        assert (await client.call(Generate(prompt="what?"))).text == "done"
    assert seen[0].seed and seen[0].request.prompt == "what?"
