"""Admission: a call whose turn would come after its deadline is told so at once, and every other one may wait."""

import asyncio

import pytest
from scenes import ask, begin, error_of, nothing_is_held, slow, turns, until

from aios.abi.errors import AiosError, DeadlineExceeded, QueueFull
from aios.abi.llm import Completion
from aios.abi.process import Explain, Signal, SignalProcess
from aios.abi.request import CallOptions
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.lanes.policies import POLICIES
from aios.kernel.lanes.rate import FEWEST_TIMES
from aios.server.local import LocalGate
from aios.testing import time
from aios.testing.kernel import RunningKernel, kernel_for_tests


async def busy(k: RunningKernel, waiting: int, tenant: str = "acme", cls: str = "standard") -> list["asyncio.Task[object]"]:
    """So many calls of a second each wait for the one slot, the rate of which is known."""
    made = k.kernel.tokens.add("busy", ("use /llm/*",), cls, tenant)  # type: ignore[arg-type]
    client = k.attach(made.value)
    calls = [begin(client) for _ in range(waiting + 1 + FEWEST_TIMES + 1)]
    await until(lambda: sum(call.done() for call in calls) > FEWEST_TIMES)
    await turns()
    return calls


def client_of(k: RunningKernel, tenant: str) -> LocalGate:
    return k.attach(k.kernel.tokens.add("late", ("use /llm/*",), "standard", tenant).value)


@pytest.mark.parametrize("policy", ["fifo", "priority"])
async def test_a_call_whose_turn_comes_after_its_deadline_is_refused_at_once_and_told_when_to_try_again(policy: str) -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy=policy)) as k:
        waiting = await busy(k, 20)
        client, asked = client_of(k, "zeta"), time()
        refused = await error_of(begin(client, ask(), CallOptions(deadline_s=5)))
        assert type(refused) is QueueFull and time() == asked
        assert refused.retry_after_s == pytest.approx(21 - 5, abs=1.5)
        assert refused.message.startswith("its turn would come in about 21 s, its deadline comes in 5 s")
        patient = begin(client, ask(), CallOptions(deadline_s=40))
        endless = begin(client)
        assert type(await patient) is Completion and time() - asked == pytest.approx(22, abs=1.5)
        await asyncio.wait([endless, *waiting])
        await nothing_is_held(k)


async def test_after_the_time_that_it_was_told_it_is_taken_in() -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy="fifo")) as k:
        waiting = await busy(k, 20)
        client = client_of(k, "zeta")
        refused = await error_of(begin(client, ask(), CallOptions(deadline_s=5)))
        assert refused.retry_after_s is not None
        await asyncio.sleep(refused.retry_after_s)
        assert type(await client.call(ask(), CallOptions(deadline_s=6.5))) is Completion
        await asyncio.wait(waiting)


@pytest.mark.parametrize("policy", ["fair", "round-robin", "elas"])
async def test_where_tenants_have_shares_the_queue_of_another_is_no_reason_to_refuse(policy: str) -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy=policy)) as k:
        waiting = await busy(k, 40)
        assert type(await client_of(k, "zeta").call(ask(), CallOptions(deadline_s=6))) is Completion
        for call in waiting:
            call.cancel()
        await asyncio.wait(waiting)


async def test_under_elas_a_deadline_goes_before_calls_of_its_own_account_that_have_none() -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy="elas")) as k:
        waiting = await busy(k, 30)
        client = next(p for p in k.kernel.processes.living() if p.agent == "busy")
        assert type(await LocalGate(k.kernel, client).call(ask(), CallOptions(deadline_s=6))) is Completion
        for call in waiting:
            call.cancel()
        await asyncio.wait(waiting)


async def test_of_more_deadlines_than_can_be_kept_those_that_are_taken_in_are_kept() -> None:
    """Forty calls that are all to be done within 12 s, of a second each: about as many as that are taken in."""
    async with kernel_for_tests([slow()], lane=LaneConfig(policy="elas")) as k:
        waiting = await busy(k, 30)
        client = client_of(k, "acme")
        results = await asyncio.gather(
            *(client.call(ask(), CallOptions(deadline_s=12)) for _ in range(40)), return_exceptions=True
        )
        kinds = [type(result) for result in results]
        assert set(kinds) <= {Completion, QueueFull, DeadlineExceeded}
        taken = [kind for kind in kinds if kind is not QueueFull]
        assert 4 <= len(taken) <= 13, "no more than could be done if nothing else were"
        assert kinds.count(Completion) >= 4
        for call in waiting:
            call.cancel()
        await asyncio.wait(waiting)


@pytest.mark.parametrize("policy", POLICIES)
async def test_before_the_rate_is_known_nobody_is_refused(policy: str) -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy=policy)) as k:
        client = client_of(k, "zeta")
        calls = [begin(client) for _ in range(5)]
        late = begin(client, ask(), CallOptions(deadline_s=2))
        await turns()
        assert not late.done()
        await asyncio.gather(late, *calls, return_exceptions=True)


async def test_a_call_that_had_to_give_up_its_place_is_not_refused_when_it_comes_again() -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy="fifo"), agents={"asks": lambda gate: asks(gate)}) as k:
        agent = await k.spawn("asks")
        await turns()
        waiting = await busy(k, 20)
        for signal in ("suspend", "resume"):
            sent: Signal = signal  # type: ignore[assignment]
            await k.operator.call(SignalProcess(pid=agent.pid, signal=sent))
        await asyncio.wait(waiting)
        process = k.kernel.processes.get(agent.pid)
        assert process is not None
        await process.ended.wait()
        assert process.exit is not None and process.exit.result == "Completion"


async def asks(gate: LocalGate) -> str:
    """Two calls: the second one waits with a deadline that is long enough when it comes first."""
    first = begin(gate)
    try:
        return type(await gate.call(ask(), CallOptions(deadline_s=60))).__name__
    except AiosError as error:
        return error.code
    finally:
        await asyncio.wait([first])


@pytest.mark.parametrize("policy", POLICIES)
async def test_calls_that_wait_for_another_core_are_no_reason_to_refuse(policy: str) -> None:
    cores = [slow(name="old", models=("old",)), slow(name="new", models=("new",))]
    async with kernel_for_tests(cores, lane=LaneConfig(policy=policy)) as k:
        client = client_of(k, "acme")
        of_old = [begin(client, ask(model="old")) for _ in range(20 + FEWEST_TIMES)]
        await until(lambda: sum(call.done() for call in of_old) > FEWEST_TIMES)
        holds = begin(client, ask(model="new"))
        await turns()
        assert type(await client.call(ask(model="new"), CallOptions(deadline_s=6))) is Completion
        await asyncio.wait([holds, *of_old])


@pytest.mark.parametrize("slots", [1, 4, 8, 64])
async def test_calls_that_begin_and_end_in_step_are_no_reason_to_tell_a_wrong_time(slots: int) -> None:
    """Twelve rounds of calls of a second each: whoever comes last waits for all of them, and is told how long still."""
    async with kernel_for_tests([slow(slots=slots)], lane=LaneConfig(policy="fifo")) as k:
        client = client_of(k, "acme")
        crowd = [begin(client) for _ in range(12 * slots)]
        await turns()
        last = client_of(k, "zeta")
        late = begin(last)
        ended = max(2 * slots, 1 + FEWEST_TIMES)
        await until(lambda: sum(call.done() for call in crowd) >= ended)
        await turns()
        left_s = 12 - ended / slots
        (call,) = (await last.call(Explain(pid=last.process.pid))).calls
        assert call.wait is not None and call.wait.eta_s == pytest.approx(left_s, rel=0.5)
        assert type(await last.call(ask(), CallOptions(deadline_s=1.5 * left_s + 2))) is Completion
        await asyncio.wait([*crowd, late])
