"""Laws of the policies that divide: `fair` between shares, `round-robin` between processes. Each law has its negative control."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lanes import ticket

from aios.kernel.lanes.fair import UNKNOWN_COST, Fair
from aios.kernel.lanes.policies import Fifo
from aios.kernel.lanes.policy import Dispatch, Policy, Ticket
from aios.kernel.lanes.round_robin import RoundRobin

LARGEST = 2000.0
ANY = frozenset("a")
IDLE = {"a": 0.0}

SERVERS = ("a", "b")
arrivals = st.tuples(st.just("arrive"), st.sampled_from("pqrs"), st.frozensets(st.sampled_from(SERVERS), min_size=1))
picks = st.tuples(st.just("pick"), st.frozensets(st.sampled_from(SERVERS), min_size=1))
leaves = st.tuples(st.just("leave"), st.integers(0, 1000))

# --- fair -------------------------------------------------------------------------------------------------------------


class Shares:
    """A machine of `slots` on which each share always has calls waiting. What it was really served is counted here."""

    def __init__(self, policy: Policy, costs: Mapping[str, float], slots: int) -> None:
        self.policy = policy
        self.costs = costs
        self.slots = slots
        self.served = dict.fromkeys(costs, 0.0)
        self.running: list[Ticket] = []
        self.count = 0

    def call(self, share: str) -> None:
        """One more call of a share waits."""
        self.count += 1
        self.policy.add(ticket(f"{self.count}", "standard", ANY, float(self.count), share))

    def serve(self, which: int) -> str:
        """End one of those that run if all slots are taken, and serve the next; whose it is."""
        if len(self.running) == self.slots:
            ended = self.running.pop(which % self.slots)
            self.policy.settled(ended, self.costs[ended.pid])
        dispatch = self.policy.pick(IDLE, 0.0)
        assert dispatch is not None, "work-conserving"
        share = dispatch.ticket.pid
        self.policy.started(dispatch.ticket)
        self.running.append(dispatch.ticket)
        self.served[share] += self.costs[share]
        self.call(share)
        return share

    def want(self, share: str) -> None:
        """From now on a share always has calls waiting, also while one of them is being taken."""
        self.call(share)
        self.call(share)


def bound(slots: int, weights: Mapping[str, float]) -> float:
    """What one call makes a difference, and what is not known yet of those that run: charged and corrected, on both sides."""
    return (1 + 3 * slots) * LARGEST / min(1.0, *weights.values())


def check_backlogged(
    policy: Policy, costs: Mapping[str, float], weights: Mapping[str, float], slots: int, ends: list[int]
) -> None:
    """Two shares that always have something waiting never differ by more than a bound, however long it goes on."""
    machine = Shares(policy, costs, slots)
    for share in costs:
        machine.want(share)
    for which in ends:
        machine.serve(which)
        got = [served / weights.get(share, 1.0) for share, served in machine.served.items()]
        assert max(got) - min(got) <= bound(slots, weights), machine.served


def check_return(policy: Policy, alone: int, slots: int, ends: list[int]) -> None:
    """From when a share comes back it is as if it had never been away: idling earns nothing."""
    machine = Shares(policy, {"busy": LARGEST, "idler": LARGEST}, slots)
    machine.want("busy")
    for which in range(alone):
        assert machine.serve(which) == "busy"
    machine.want("idler")
    machine.served = dict.fromkeys(machine.served, 0.0)
    for which in ends:
        machine.serve(which)
        assert abs(machine.served["busy"] - machine.served["idler"]) <= bound(slots, {"": 1.0}), machine.served


shares = st.dictionaries(st.sampled_from("pqrs"), st.floats(1, LARGEST), min_size=2)
weighing = st.dictionaries(st.sampled_from("pqrs"), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
ends = st.lists(st.integers(0, 7), min_size=150, max_size=150)


@given(costs=shares, weights=weighing, slots=st.integers(1, 4), ends=ends)
@settings(max_examples=100, deadline=None)
def test_shares_that_want_work_get_it_in_equal_parts_by_their_weights(
    costs: dict[str, float], weights: dict[str, float], slots: int, ends: list[int]
) -> None:
    check_backlogged(Fair(weights), costs, {"": 1.0, **weights}, slots, ends)


@given(alone=st.integers(0, 200), slots=st.integers(1, 4), ends=ends)
@settings(max_examples=50, deadline=None)
def test_idling_earns_nothing(alone: int, slots: int, ends: list[int]) -> None:
    check_return(Fair(), alone, slots, ends)


class NeverCorrected(Fair):
    """What a call really came to is not looked at."""

    def settled(self, ticket: Ticket, cost: float, at_least: bool = False) -> None:
        super().settled(ticket, self._charged.get(ticket, 0.0))


class NeverLifted(Fair):
    """Who comes back is owed all that others got meanwhile."""

    def _lift(self, share: str) -> None:
        self._served.setdefault(share, 0.0)


class Unweighted(Fair):
    """Every share weighs the same."""

    def _weight(self, share: str) -> float:
        return 1.0


UNEQUAL = {"p": LARGEST, "q": 1.0}


@pytest.mark.parametrize("planted", [NeverCorrected(), Fifo()], ids=["never corrected", "fifo"])
def test_the_law_of_equal_parts_finds_a_policy_that_divides_otherwise(planted: Policy) -> None:
    check_backlogged(Fair(), UNEQUAL, {"": 1.0}, 2, [0] * 150)
    with pytest.raises(AssertionError):
        check_backlogged(planted, UNEQUAL, {"": 1.0}, 2, [0] * 150)


def test_the_law_of_weights_finds_a_policy_without_them() -> None:
    weights = {"": 1.0, "p": 4.0}
    check_backlogged(Fair(weights), dict.fromkeys("pq", LARGEST), weights, 1, [0] * 150)
    with pytest.raises(AssertionError):
        check_backlogged(Unweighted(weights), dict.fromkeys("pq", LARGEST), weights, 1, [0] * 150)


def test_the_law_of_idling_finds_a_policy_that_pays_for_it() -> None:
    check_return(Fair(), 100, 1, [0] * 150)
    with pytest.raises(AssertionError):
        check_return(NeverLifted(), 100, 1, [0] * 150)


def test_who_is_served_without_waiting_is_charged_too() -> None:
    """A share that had the machine to itself, and whose calls never had to wait, has not been idle."""
    policy = Fair()
    policy.started(ticket("long", "standard", ANY, 0.0, "third"))
    for number in range(50):
        policy.started(free := ticket(f"{number}", "standard", ANY, 0.0, "busy"))
        policy.settled(free, LARGEST)
    machine = Shares(policy, {"busy": LARGEST, "other": LARGEST}, 1)
    machine.want("busy")
    machine.want("other")
    turns = [machine.serve(0) for _ in range(20)]
    assert 8 <= turns.count("busy") <= 12


def test_who_makes_one_call_now_and_then_is_next_beside_somebody_with_many() -> None:
    policy = Fair()
    machine = Shares(policy, {"busy": LARGEST}, 2)
    machine.want("busy")
    for number in range(30):
        for _ in range(5):
            machine.serve(number)
        policy.add(now_and_then := ticket(f"call {number}", "standard", ANY, 1e6, "now and then"))
        dispatch = policy.pick(IDLE, 0.0)
        assert dispatch is not None and dispatch.ticket is now_and_then
        policy.settled(now_and_then, 7.0)


def test_a_call_that_is_broken_off_costs_what_was_expected_or_what_it_said() -> None:
    policy = Fair()
    policy.add(ticket("x", "standard", ANY, 0.0, "p"))
    for number, said in enumerate((0.0, 10 * LARGEST)):
        policy.started(one := ticket(f"{number}", "standard", ANY, 0.0, "p"))
        policy.settled(one, said, at_least=True)
    assert policy._served["t/p"] == UNKNOWN_COST + 10 * LARGEST


@pytest.mark.parametrize("beside", [True, False], ids=["beside a long call", "alone"])
def test_shares_that_are_gone_are_forgotten(beside: bool) -> None:
    policy = Fair()
    if beside:
        policy.started(ticket("long", "standard", ANY, 0.0))
    for number in range(5000):
        policy.started(one := ticket(f"{number}", "standard", ANY, 0.0, f"{number}"))
        policy.settled(one, 10.0)
    assert len(policy._served) < 200 and len(policy._means) < 200 and len(policy._running) < 200
    assert len(policy._charged) == beside


settles = st.tuples(st.just("settle"), st.integers(0, 1000), st.floats(0, LARGEST), st.booleans())


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_the_line_says_what_a_look_at_all_shares_says(data: st.DataObject) -> None:
    """The line is kept so that nobody has to look at all shares: whoever it names is the least served of those that could be."""
    policy = Fair()
    waiting: list[Ticket] = []
    running: list[Ticket] = []
    for step, (what, *rest) in enumerate(
        data.draw(st.lists(st.one_of(arrivals, arrivals, picks, leaves, settles), max_size=120))
    ):
        if what == "arrive":
            waiting.append(ticket(f"{step}", "standard", rest[1], float(step), rest[0]))
            policy.add(waiting[-1])
        elif what == "leave" and waiting:
            policy.remove(waiting.pop(rest[0] % len(waiting)))
        elif what == "settle" and running:
            policy.settled(running.pop(rest[0] % len(running)), rest[1], at_least=rest[2])
        elif what == "pick":
            could = [one for one in waiting if one.feasible & rest[0]]
            served = dict(policy._served)
            dispatch = policy.pick(dict.fromkeys(sorted(rest[0]), 0.0), 0.0)
            assert (dispatch is not None) == bool(could)
            if dispatch is not None:
                assert served[dispatch.ticket.share] == min(served[one.share] for one in could)
                waiting.remove(dispatch.ticket)
                running.append(dispatch.ticket)


# --- round robin ------------------------------------------------------------------------------------------------------

traces = st.lists(st.one_of(arrivals, picks, picks, leaves), max_size=80)


def check_turns(policy: Policy, trace: list[tuple[object, ...]]) -> None:
    """Between two turns of one process everybody else who waited all the time, and could be served now, had one."""
    waiting: list[Ticket] = []
    since: dict[str, int] = {}  # process → the step from which on it has waited
    turns: dict[str, int] = {}  # process → the step of its last turn
    for step, (what, *rest) in enumerate(trace):
        if what == "arrive":
            who, able = rest
            waiting.append(ticket(f"{step}", "standard", able, float(step), who))  # type: ignore[arg-type]
            policy.add(waiting[-1])
            since.setdefault(who, step)  # type: ignore[arg-type]
        elif what == "leave" and waiting:
            policy.remove(waiting.pop(rest[0] % len(waiting)))  # type: ignore[operator]
        elif what == "pick":
            idle: frozenset[str] = rest[0]  # type: ignore[assignment]
            dispatch = policy.pick(dict.fromkeys(sorted(idle), 0.0), 0.0)
            if dispatch is not None:
                check_turn(dispatch, waiting, since, turns, idle)
                waiting.remove(dispatch.ticket)
                policy.started(dispatch.ticket)
                turns[dispatch.ticket.pid] = step
        for who in [who for who in since if all(one.pid != who for one in waiting)]:
            del since[who]


def check_turn(
    dispatch: Dispatch, waiting: list[Ticket], since: dict[str, int], turns: dict[str, int], idle: frozenset[str]
) -> None:
    before = turns.get(dispatch.ticket.pid)
    if before is None:
        return
    for who in {one.pid for one in waiting if one.feasible & idle} - {dispatch.ticket.pid}:
        passed_over = since[who] <= before and turns.get(who, -1) < before
        assert not passed_over, f"`{dispatch.ticket.pid}` had two turns while `{who}` waited"


@given(trace=traces)
@settings(max_examples=500, deadline=None)
def test_between_two_turns_of_a_process_every_other_has_one(trace: list[tuple[object, ...]]) -> None:
    check_turns(RoundRobin(), trace)


def test_the_law_of_turns_finds_a_policy_that_passes_somebody_over() -> None:
    trace: list[tuple[object, ...]] = [("arrive", who, frozenset("a")) for who in "ppq"] + [("pick", frozenset("a"))] * 3
    check_turns(RoundRobin(), trace)
    with pytest.raises(AssertionError, match="two turns"):
        check_turns(Fifo(), trace)
