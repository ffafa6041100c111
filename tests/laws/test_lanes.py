"""Laws of lanes and policies, whatever comes, goes, or breaks, and when."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.errors import QueueFull, Unavailable
from aios.abi.request import CLASSES, Class
from aios.kernel.lanes.ageing import AGEING_EVERY, PATIENCE_S
from aios.kernel.lanes.lane import DOWN_PATIENCE_S, Lane, Server, Turn
from aios.kernel.lanes.policies import POLICIES
from aios.kernel.lanes.policy import Dispatch, Policy, Ticket
from aios.testing.kernel import VirtualClock

SERVERS = ("a", "b", "c")
policies = pytest.mark.parametrize("policy", sorted(POLICIES))
feasible = st.frozensets(st.sampled_from(SERVERS), min_size=1)


def ticket(name: str, cls: Class, able: frozenset[str], asked: float, who: str = "") -> Ticket:
    return Ticket("t", cls, who or name, name, asked, round(asked * 1e9), able, f"t/{who or name}")


# --- policies alone ---------------------------------------------------------------------------------------------------

arrivals = st.tuples(st.just("arrive"), st.sampled_from(CLASSES), feasible, st.sampled_from("pqr"))
picks = st.tuples(st.just("pick"), st.frozensets(st.sampled_from(SERVERS)))
leaves = st.tuples(st.just("leave"), st.integers(0, 1000))
waits = st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 200.0, 900.0]))
traces = st.lists(st.one_of(arrivals, picks, leaves, waits), max_size=80)


def run(policy: Policy, trace: list[tuple[object, ...]]) -> list[tuple[str, str, str]]:
    """Play a trace, hold each decision against the model, and return the decisions."""
    waiting: list[Ticket] = []
    decisions: list[tuple[str, str, str]] = []
    since_aged: Counter[str] = Counter()
    now, count = 0.0, 0
    for step in trace:
        match step:
            case ("arrive", cls, able, who):
                count += 1
                waiting.append(ticket(f"{count}", cls, able, now, who))  # type: ignore[arg-type]
                policy.add(waiting[-1])
            case ("leave", place) if waiting:
                policy.remove(waiting.pop(place % len(waiting)))  # type: ignore[operator]
            case ("wait", seconds):
                now += seconds  # type: ignore[operator]
            case ("pick", idle):
                dispatch = policy.pick(dict.fromkeys(sorted(idle), 0.0), now)  # type: ignore[call-overload]
                could = [one for one in waiting if one.feasible & idle]  # type: ignore[operator]
                assert (dispatch is not None) == bool(could), "work-conserving: somebody who can be served is served"
                if dispatch is not None:
                    assert dispatch.ticket in waiting, "nobody is invented, or served twice"
                    assert dispatch.server in dispatch.ticket.feasible & idle, "on a server that is idle and can do it"
                    check_order(policy.name, dispatch, could, now)
                    aged = dispatch.reason == "age"
                    assert not aged or policy.name == "elas" or since_aged[dispatch.server] >= AGEING_EVERY - 1, (
                        "age takes one turn of a server in four"
                    )
                    since_aged[dispatch.server] = 0 if aged else since_aged[dispatch.server] + 1
                    waiting.remove(dispatch.ticket)
                    policy.started(dispatch.ticket)
                    policy.settled(dispatch.ticket, 10.0 * count)
                    decisions.append((dispatch.ticket.name, dispatch.server, dispatch.reason))
        assert sorted(t.name for t in policy.order(now)) == sorted(t.name for t in waiting), "nobody is lost"
    return decisions


def check_order(name: str, dispatch: Dispatch, could: list[Ticket], now: float) -> None:
    """Whom each policy promises to serve, among those that could be served; of a process or a share, who came first."""
    chosen = dispatch.ticket
    if name == "fifo":
        assert chosen is could[0]
    elif name == "elas":
        pass  # see test_elas
    elif name in ("fair", "round-robin"):
        assert chosen is next(one for one in could if one.pid == chosen.pid)
    elif dispatch.reason == "age":
        assert now - chosen.asked > PATIENCE_S[chosen.cls]
        here = [one for one in could if dispatch.server in one.feasible and now - one.asked > PATIENCE_S[one.cls]]
        assert chosen.asked == min(one.asked for one in here)
    else:
        assert chosen is min(could, key=lambda one: (CLASSES.index(one.cls), int(one.name)))


@policies
@given(trace=traces)
@settings(max_examples=400, deadline=None)
def test_a_policy_serves_who_can_be_served_once_and_in_its_order(policy: str, trace: list[tuple[object, ...]]) -> None:
    run(POLICIES[policy](), trace)


@policies
@given(trace=traces)
@settings(max_examples=150, deadline=None)
def test_the_same_trace_leads_to_the_same_decisions(policy: str, trace: list[tuple[object, ...]]) -> None:
    assert run(POLICIES[policy](), trace) == run(POLICIES[policy](), trace)


@given(
    ages=st.lists(st.tuples(st.sampled_from(CLASSES), st.floats(0, 1000), st.sampled_from("pqr")), min_size=1, max_size=30),
    before=st.integers(0, 10),
    now=st.floats(1000, 2000),
)
@settings(max_examples=400, deadline=None)
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_order_that_is_told_is_the_order_that_is_taken(
    policy: str, ages: list[tuple[Class, float, str]], before: int, now: float
) -> None:
    chooser = POLICIES[policy]()
    for number in range(before):
        chooser.add(ticket(f"before {number}", "interactive", frozenset("a"), now))
        chooser.pick({"a": 0.0}, now)
    for number, (cls, asked, who) in enumerate(sorted(ages, key=lambda age: age[1])):
        chooser.add(ticket(f"{number}", cls, frozenset("a"), asked, who))
    told = [one.name for one in chooser.order(now)]
    taken = [decision.ticket.name for decision in iter(lambda: chooser.pick({"a": 0.0}, now), None)]
    assert told == taken


@given(
    overdue=st.lists(feasible, min_size=1, max_size=6),
    idle=st.lists(st.sampled_from(SERVERS), min_size=1, max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_under_priority_everybody_has_a_bounded_wait(overdue: list[frozenset[str]], idle: list[str]) -> None:
    """However many interactive calls come, on however odd a pattern of servers: what is overdue is served by the
    servers that can do it, one in four of their turns each."""
    policy = POLICIES["priority"]()
    now = 10_000.0
    waiting = [ticket(f"old {number}", "batch", able, float(number)) for number, able in enumerate(overdue)]
    for one in waiting:
        policy.add(one)
    pattern, others = [*idle, *SERVERS], Counter[str]()
    bound = AGEING_EVERY * (len(waiting) + 1)
    for round in range(bound):
        for server in pattern:
            policy.add(ticket(f"new {round}", "interactive", frozenset(SERVERS), now))
            dispatch = policy.pick({server: 0.0}, now)
            assert dispatch is not None
            others[server] += 1
            if dispatch.ticket in waiting:
                assert others[server] >= AGEING_EVERY, "and no more than one in four"
                others[server] = 0
                waiting.remove(dispatch.ticket)
    assert waiting == []


# --- a lane in which everything happens -------------------------------------------------------------------------------


@dataclass
class Model:
    """What a lane must never do, counted by those who wait and work in it."""

    widths: dict[str, int]
    working: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SERVERS, 0))
    begun: int = 0
    served: int = 0
    refused: int = 0
    given_up: int = 0

    def begin(self, turn: Turn, able: frozenset[str]) -> str:
        server = turn.dispatch.server
        assert server in able
        self.working[server] += 1
        assert self.working[server] <= self.widths[server], "never more at once than its width"
        return server


async def caller(lane: Lane, model: Model, one: Ticket, works_s: float, patience_s: float) -> None:
    """One who comes, waits, works and goes; or gives up at some moment."""
    model.begun += 1
    try:
        async with asyncio.timeout(patience_s):
            turn = lane.try_turn(one)
            if turn is None:
                lane.enter(one)
                turn = await lane.wait(one)
            server = model.begin(turn, one.feasible)
            try:
                await asyncio.sleep(works_s)
            finally:
                model.working[server] -= 1
                turn.release()
                turn.release()
                turn.settle(works_s)
        model.served += 1
    except TimeoutError:
        model.given_up += 1
    except (QueueFull, Unavailable):
        model.refused += 1


moments = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0, 7.0])
callers = st.tuples(moments, st.sampled_from(CLASSES), feasible, moments, st.sampled_from([0.5, 1.0, 2.0, 5.0, 1000.0]))
outages = st.tuples(moments, st.sampled_from(SERVERS), st.sampled_from([0.0, 0.5, 3.0, 20.0]))


def check_nobody_waits_in_vain(lane: Lane, tickets: list[Ticket]) -> None:
    idle = {server.name for server in lane.servers() if server.up and server.running < server.width}
    waiting = [one for one in tickets if one.queued and one.given is not None and not one.given.done()]
    stuck = [one.name for one in waiting if one.feasible & idle]
    assert not stuck, f"work-conserving: {stuck} could be served by {idle}"


@policies
@given(
    people=st.lists(callers, max_size=40),
    downs=st.lists(outages, max_size=6),
    widths=st.tuples(*[st.integers(1, 3)] * 3),
    queue=st.sampled_from([3, 1000]),
    changes=st.lists(st.tuples(moments, st.sampled_from(sorted(POLICIES))), max_size=3),
)
@settings(max_examples=400, deadline=None)
async def test_a_lane_keeps_its_promises_under_any_schedule(
    policy: str, people: list[tuple[float, Class, frozenset[str], float, float]], downs: list[tuple[float, str, float]],
    widths: tuple[int, ...], queue: int, changes: list[tuple[float, str]],
) -> None:  # fmt: skip
    """Its width is never exceeded, nobody waits beside a free server, and in the end nothing is held or lost: whoever decides,
    and whenever another policy does."""
    model = Model(dict(zip(SERVERS, widths, strict=True)))
    lane = Lane("cores", POLICIES[policy](), VirtualClock(), queue)
    for name, width in model.widths.items():
        lane.add_server(Server(name, width))
    tickets: list[Ticket] = []

    async def come(at: float, cls: Class, able: frozenset[str], works_s: float, patience_s: float) -> None:
        await asyncio.sleep(at)
        one = ticket(f"{len(tickets)}", cls, able, asyncio.get_running_loop().time())
        tickets.append(one)
        await caller(lane, model, one, works_s, patience_s)
        check_nobody_waits_in_vain(lane, tickets)

    async def break_down(at: float, name: str, for_s: float) -> None:
        await asyncio.sleep(at)
        lane.set_up(name, False)
        await asyncio.sleep(for_s)
        lane.set_up(name, True)
        check_nobody_waits_in_vain(lane, tickets)

    async def change(at: float, other: str) -> None:
        await asyncio.sleep(at)
        before = lane.waiting_by_class()
        lane.use(POLICIES[other]())
        assert lane.waiting_by_class() == before
        check_nobody_waits_in_vain(lane, tickets)

    async with asyncio.timeout(5000), asyncio.TaskGroup() as group:
        for each in changes:
            group.create_task(change(*each))
        for person in people:
            group.create_task(come(*person))
        for down in downs:
            group.create_task(break_down(*down))
    assert model.begun == model.served + model.refused + model.given_up == len(people)
    assert sum(server.running for server in lane.servers()) == 0
    assert lane.waiting_by_class() == {} and list(lane.policy.order(0.0)) == []


async def test_a_lane_of_a_thousand_random_callers_serves_them_all() -> None:
    """The same with a crowd, where no one gives up: all are served."""
    chance = random.Random(7)
    model = Model(dict.fromkeys(SERVERS, 2))
    lane = Lane("cores", POLICIES["priority"](), VirtualClock(), 10_000)
    for name in SERVERS:
        lane.add_server(Server(name, 2))
    async with asyncio.TaskGroup() as group:
        for number in range(1000):
            able = frozenset(chance.sample(SERVERS, chance.randint(1, 3)))
            one = ticket(f"{number}", chance.choice(CLASSES), able, 0.0)
            group.create_task(caller(lane, model, one, chance.random(), 10**6))
    assert model.served == 1000


async def test_who_waits_for_a_server_that_stays_down_is_told_and_the_others_are_served() -> None:
    lane = Lane("cores", POLICIES["fifo"](), VirtualClock(), 10)
    for name in SERVERS:
        lane.add_server(Server(name, 1))
    model = Model(dict.fromkeys(SERVERS, 1))
    lane.set_up("a", False)
    async with asyncio.TaskGroup() as group:
        group.create_task(caller(lane, model, ticket("only a", "batch", frozenset("a"), 0.0), 1.0, 1000.0))
        group.create_task(caller(lane, model, ticket("a or b", "batch", frozenset("ab"), 0.0), 1.0, 1000.0))
    assert (model.refused, model.served) == (1, 1)
    assert asyncio.get_running_loop().time() == pytest.approx(DOWN_PATIENCE_S)
