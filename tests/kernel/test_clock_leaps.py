"""Clocks that leap, and policies that change under ten thousand calls: nothing is lost, and nothing is told wrong."""

import asyncio
import itertools

import pytest
from scenes import ask, begin, calling, nothing_is_held, slow, turns

from aios.abi.account import SetLimit, ShowAccounts
from aios.abi.errors import OverBudget
from aios.abi.lane import UseLane
from aios.abi.process import Explain
from aios.abi.request import CLASSES, CallOptions
from aios.kernel.lanes.lane import Lane, LaneConfig, Server
from aios.kernel.lanes.policies import POLICIES, policy_of
from aios.kernel.lanes.policy import Ticket
from aios.kernel.lanes.rate import MOST_MEANS, Rate
from aios.testing import ScriptedCore
from aios.testing.kernel import EPOCH_NS, VirtualClock, kernel_for_tests

YEAR_NS = 366 * 86400 * 10**9


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("leap_ns", [YEAR_NS, -YEAR_NS])
async def test_a_clock_that_is_set_changes_neither_waits_nor_deadlines(
    policy: str, leap_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy=policy)) as k:
        client = await k.session()
        held = begin(client)
        waiting = [begin(client, ask(), CallOptions(deadline_s=10)) for _ in range(3)]
        answer = asyncio.create_task(k.kernel.call(client.process, ask()))
        await turns()
        monkeypatch.setattr(VirtualClock, "now_ns", lambda self: EPOCH_NS + leap_ns)
        said = (await k.operator.call(Explain(pid=client.process.pid))).calls
        assert sum(call.wait is not None and call.wait.code == "S" for call in said) == 4
        assert 1 <= (await answer).wait_s <= 4, "seconds that passed, not what two clocks differ by"
        await asyncio.gather(held, *waiting)
        await nothing_is_held(k)


async def test_a_time_in_which_the_machine_slept_does_not_make_the_lane_seem_slow() -> None:
    rate, now = Rate(), 1.0
    for _ in range(200):
        rate.tick(now := now + 1.0)
    before = rate.per_s
    rate.tick(now := now + 86400.0)
    assert before / (1 + 0.05 * MOST_MEANS) * 0.99 <= rate.per_s < before
    for _ in range(200):
        rate.tick(now := now + 30.0)
    assert rate.per_s == pytest.approx(1 / 30, rel=0.1), "one that has become slow is known as slow"


async def test_whatever_time_has_passed_all_that_wait_are_served() -> None:
    """All calls are overdue at once, and all deadlines at risk."""
    for name in POLICIES:
        lane = Lane("cores", policy_of(name, {}), VirtualClock(), 1000)
        lane.add_server(Server("a", 1))
        first, *others = [ticket(number) for number in range(200)]
        turn = lane.try_turn(first)
        assert turn is not None
        for one in others:
            lane.enter(one)
        await asyncio.sleep(30 * 86400.0)
        waits = [asyncio.create_task(lane.wait(one)) for one in others]
        turn.release()
        for done in asyncio.as_completed(waits):
            (await done).release()
        assert lane.waiting_by_class() == {}


def ticket(number: int) -> Ticket:
    cls, tenant, user = CLASSES[number % 4], f"t{number % 40}", f"u{number % 3}"
    share = f"{tenant}/{user}"
    return Ticket(
        tenant, cls, f"{number % 500}", f"{number}", 0.0, 0, frozenset(["a"]), share, "", ((tenant, 1.0), (share, 1.0)),
        deadline=None if number % 5 else 1e9,
    )  # fmt: skip


async def test_a_policy_that_is_changed_under_ten_thousand_waiting_calls_loses_none_and_serves_none_twice() -> None:
    lane = Lane("cores", policy_of("elas", {}), VirtualClock(), 10_000)
    lane.add_server(Server("a", 4))
    tickets = [ticket(number) for number in range(10_004)]
    held = [lane.try_turn(one) for one in tickets[:4]]
    for one in tickets[4:]:
        lane.enter(one)
    served: list[Ticket] = []
    names = itertools.cycle([*POLICIES, *reversed(POLICIES)])
    for turn in held:
        assert turn is not None
        turn.release()
    while len(served) < 10_000:
        if len(served) % 1000 == 0:
            lane.use(policy_of(next(names), {}))
        given = [one for server in lane.servers() for one in server.holders]
        for one in given:
            served.append(one)
            turn = await lane.wait(one)
            turn.settle(100.0)
            turn.release()
    assert len(served) == len(set(served)) == 10_000 and set(served) == set(tickets[4:])
    assert lane.waiting_by_class() == {} and not any(server.running for server in lane.servers())


async def test_the_row_changes_the_policy_under_waiting_calls_of_many_clients() -> None:
    async with kernel_for_tests([ScriptedCore(slots=1)]) as k:
        clients = [await k.session(f"client{number}") for number in range(10)]
        async with calling(await k.session("holder")):
            calls = [begin(client) for client in clients for _ in range(20)]
            await turns()
            for name in POLICIES:
                await k.operator.call(UseLane(lane="cores", policy=name))
        assert all([(await call).text for call in calls])
        await nothing_is_held(k)


async def test_a_clock_that_is_set_back_begins_no_budget_anew_and_says_when_one_will(monkeypatch: pytest.MonkeyPatch) -> None:
    async with kernel_for_tests([ScriptedCore("one")]) as k:
        client, day = await k.session(), 86400 * 10**9
        await k.operator.call(SetLimit(account="/local", unit="calls", amount=1, window="day"))
        await client.call(ask())
        ends_ns = EPOCH_NS - EPOCH_NS % day + day
        for back_ns in (0, day, YEAR_NS):
            monkeypatch.setattr(VirtualClock, "now_ns", lambda self, at_ns=EPOCH_NS - back_ns: at_ns)
            with pytest.raises(OverBudget, match="begins anew at 2023-11-15 00:00 UTC"):
                await client.call(ask())
            (account,) = (await k.operator.call(ShowAccounts(account="/local"))).accounts
            assert account.limits[0].resets_ns == ends_ns
        monkeypatch.setattr(VirtualClock, "now_ns", lambda self: ends_ns)
        await client.call(ask())
