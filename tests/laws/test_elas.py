"""Laws of the policy `elas`, each with a fault planted that it finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_elas import ScanElas

from aios.abi.request import CLASSES, Class
from aios.kernel.lanes.ageing import AGEING_EVERY, PATIENCE_S
from aios.kernel.lanes.elas import CLASS_LEAD, CLASS_WEIGHTS, SYSTEM_BURST, SYSTEM_SHARE, Band, Elas
from aios.kernel.lanes.places import Account
from aios.kernel.lanes.policy import Accounts, Dispatch, Policy, Ticket, Waiter
from aios.kernel.programs import FEWEST_COMPLETIONS, History, Program

SERVERS = ("a", "b", "c")
ACCOUNTS: tuple[Accounts, ...] = (
    (("p", 1.0), ("ann", 1.0)), (("p", 1.0), ("bob", 2.0)), (("q", 3.0), ("cy", 1.0)), (("r", 0.5), ("di", 1.0)),
)  # fmt: skip
COSTS = (0.0, 300.0, 1000.0, 20_000.0, 90_000.0)

# --- the same decisions as the one that looks at everything -----------------------------------------------------------

servers = st.frozensets(st.sampled_from(SERVERS), min_size=1)
maybe_s = st.none() | st.sampled_from([0.0, 5.0, 40.0, 900.0])
whose = st.tuples(st.sampled_from(CLASSES), st.sampled_from(ACCOUNTS), maybe_s, maybe_s)
arrivals = st.tuples(st.just("arrive"), whose, servers, st.lists(whose, max_size=2), st.booleans())
starts = st.tuples(st.just("start"), whose, servers)
picks = st.tuples(st.just("pick"), servers)
ends = st.tuples(st.just("end"), st.integers(0, 1000), st.sampled_from(COSTS), st.booleans())
leaves = st.tuples(st.just("leave"), st.integers(0, 1000))
lends = st.tuples(st.just("lend"), st.integers(0, 1000), st.lists(whose, max_size=2))
sleeps = st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 200.0, 900.0]))
traces = st.lists(st.one_of(arrivals, arrivals, picks, picks, ends, starts, leaves, lends, sleeps), max_size=80)

Who = tuple[Class, Accounts, float | None, float | None]


def lenders(waiters: list[Who], now: float) -> tuple[Waiter, ...]:
    return tuple(Waiter(c, a, Program(), left, now + d if d is not None else None) for c, a, left, d in waiters)


def made(number: int, who: Who, able: frozenset[str], now: float, waiters: list[Who], system: bool = False) -> Ticket:
    cls, accounts, remaining_s, in_s = who
    return Ticket(
        accounts[0][0], cls, f"{number}", f"{number}", now, round(now * 1e9), able, "", "", accounts,
        Program(accounts[-1][0]), remaining_s, now + in_s if in_s is not None else None,
        lenders(waiters, now), system,
    )  # fmt: skip


def decisions(policy: Policy, trace: list[tuple[object, ...]]) -> Iterator[tuple[str, str, str]]:
    """What a policy decides on a trace, in which each step may be the last for a call."""
    waiting: list[Ticket] = []
    running: list[Ticket] = []
    now = 0.0
    for number, step in enumerate(trace):
        match step:
            case ("arrive", who, able, waiters, system):
                waiting.append(made(number, who, able, now, waiters, system))  # type: ignore[arg-type]
                policy.add(waiting[-1])
            case ("start", who, able):
                running.append(made(number, who, able, now, []))  # type: ignore[arg-type]
                policy.started(running[-1])
            case ("leave", place) if waiting:
                policy.remove(waiting.pop(place % len(waiting)))  # type: ignore[operator]
            case ("lend", place, waiters) if waiting:
                ticket = waiting[place % len(waiting)]  # type: ignore[operator]
                ticket.waiters = lenders(waiters, now)  # type: ignore[arg-type]
                policy.changed(ticket)
            case ("end", place, cost, at_least) if running:
                policy.settled(running.pop(place % len(running)), cost, at_least)  # type: ignore[operator, arg-type]
            case ("wait", seconds):
                now += seconds  # type: ignore[operator]
            case ("pick", idle):
                found = policy.pick(dict.fromkeys(sorted(idle), 0.0), now)  # type: ignore[call-overload]
                able = [one for one in waiting if one.feasible & idle]  # type: ignore[operator]
                assert (found is not None) == bool(able), "work-conserving over compatible calls"
                if found is not None:
                    waiting.remove(found.ticket)
                    running.append(found.ticket)
                    policy.started(found.ticket)
                    yield found.ticket.name, found.server, found.reason


@given(trace=traces)
@settings(max_examples=600, deadline=None)
def test_it_decides_as_the_one_that_looks_at_every_call(trace: list[tuple[object, ...]]) -> None:
    assert list(decisions(Elas(), trace)) == list(decisions(ScanElas(), trace))


plain = st.tuples(st.just("arrive"), st.tuples(st.just("standard"), st.sampled_from(ACCOUNTS), st.none(), st.none()),
                  st.just(frozenset("a")), st.just([]), st.just(False))  # fmt: skip
plain_picks = st.tuples(st.just("pick"), st.just(frozenset("a")))
plain_ends = st.tuples(st.just("end"), st.integers(0, 1000), st.sampled_from(COSTS), st.booleans())
busy = st.lists(st.one_of(plain, plain, plain_picks, plain_picks, plain_ends), min_size=40, max_size=120)
"""Where nothing decides but what accounts were served: one class and one server, without deadlines or anybody who waits."""


@given(trace=busy)
@settings(max_examples=300, deadline=None)
def test_it_decides_as_that_one_where_only_shares_count(trace: list[tuple[object, ...]]) -> None:
    assert list(decisions(Elas(), trace)) == list(decisions(ScanElas(), trace))


class Stale(Elas):
    """Where an account stands is not found anew when it is known what its call came to."""

    def settled(self, ticket: Ticket, cost: float, at_least: bool = False) -> None:
        moved = dict(self._moved)
        super().settled(ticket, cost, at_least)
        self._moved = moved


def test_the_law_of_equal_decisions_finds_an_order_that_is_out_of_date() -> None:
    one, other = (("standard", path, None, None) for path in (ACCOUNTS[0], ACCOUNTS[1]))
    able = frozenset("a")
    trace: list[tuple[object, ...]] = [("arrive", one, able, [], False), ("pick", able)]
    trace += [("arrive", who, able, [], False) for who in (one, one, other, other)]
    trace += [("pick", able), ("end", 0, 0.0, False), *[("pick", able)] * 3]
    assert list(decisions(Elas(), trace)) == list(decisions(ScanElas(), trace))
    assert list(decisions(Stale(), trace)) != list(decisions(ScanElas(), trace))


# --- shares -----------------------------------------------------------------------------------------------------------

LARGEST = 2000.0
ONE = frozenset("a")
IDLE = {"a": 0.0}


class Machine:
    """Some slots, and owners who always have calls waiting: what each was really served is counted here."""

    def __init__(self, policy: Policy, slots: int, make: Callable[[str, int], Ticket], costs: Mapping[str, float]) -> None:
        self.policy = policy
        self.slots = slots
        self.make = make
        self.costs = costs
        self.served = dict.fromkeys(costs, 0.0)
        self.running: list[tuple[Ticket, str]] = []
        self.owner: dict[Ticket, str] = {}
        self.count = 0

    def call(self, owner: str) -> None:
        self.count += 1
        ticket = self.make(owner, self.count)
        self.owner[ticket] = owner
        self.policy.add(ticket)

    def want(self, owner: str) -> None:
        """From now on it always has calls waiting, also while one of them is being taken."""
        self.call(owner)
        self.call(owner)

    def serve(self, which: int) -> str:
        """End a call if all slots are taken, serve the next, and let another come; whose it was."""
        if len(self.running) == self.slots:
            ended, owner = self.running.pop(which % self.slots)
            self.policy.settled(ended, self.costs[owner])
        found = self.policy.pick(IDLE, 0.0)
        assert found is not None, "work-conserving"
        owner = self.owner.pop(found.ticket)
        self.policy.started(found.ticket)
        self.running.append((found.ticket, owner))
        self.served[owner] += self.costs[owner]
        self.call(owner)
        return owner


def of_tenant(weights: Mapping[str, float], declared: Mapping[str, float]) -> Callable[[str, int], Ticket]:
    """Calls of tenants in one class; what they declare to need."""

    def make(tenant: str, number: int) -> Ticket:
        accounts: Accounts = ((tenant, weights.get(tenant, 1.0)), (f"user {number % 3}", 1.0))
        return made(number, ("standard", accounts, declared.get(tenant), None), ONE, float(number), [])

    return make


def check_tenants(
    policy: Policy, costs: Mapping[str, float], weights: Mapping[str, float], slots: int, ends: list[int],
    declared: Mapping[str, float],
) -> None:  # fmt: skip
    """Tenants that always have something waiting differ by no more than a call, and what is not known yet of those that run."""
    machine = Machine(policy, slots, of_tenant(weights, declared), costs)
    for tenant in costs:
        machine.want(tenant)
    bound = (1 + 3 * slots) * LARGEST / min(1.0, *(weights.get(tenant, 1.0) for tenant in costs))
    for which in ends:
        machine.serve(which)
        got = [served / weights.get(tenant, 1.0) for tenant, served in machine.served.items()]
        assert max(got) - min(got) <= bound, machine.served


tenants = st.dictionaries(st.sampled_from("pqrs"), st.floats(1, LARGEST), min_size=2)
weighing = st.dictionaries(st.sampled_from("pqrs"), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
claims = st.dictionaries(st.sampled_from("pqrs"), st.sampled_from([0.0, 1.0, 1e6]))
endings = st.lists(st.integers(0, 7), min_size=150, max_size=150)


@given(costs=tenants, weights=weighing, slots=st.integers(1, 4), ends=endings, declared=claims)
@settings(max_examples=100, deadline=None)
def test_tenants_get_equal_parts_by_their_weights_whatever_their_programs_claim_to_need(
    costs: dict[str, float], weights: dict[str, float], slots: int, ends: list[int], declared: dict[str, float]
) -> None:
    check_tenants(Elas(), costs, weights, slots, ends, declared)


class NeverCorrected(Elas):
    """What a call really came to is not looked at."""

    def settled(self, ticket: Ticket, cost: float, at_least: bool = False) -> None:
        super().settled(ticket, self._charged[ticket].estimate)


class Believing(Elas):
    """Who claims to need little goes first, whosesoever it is."""

    def _account(self, band: Band, accounts: Accounts) -> Account:
        return super()._account(band, (("all", 1.0),))


class Unweighted(Elas):
    """Every account weighs the same."""

    def _account(self, band: Band, accounts: Accounts) -> Account:
        return super()._account(band, tuple((name, 1.0) for name, _ in accounts))


@pytest.mark.parametrize(
    ("planted", "costs", "weights", "declared"),
    [
        (NeverCorrected(), {"p": LARGEST, "q": 1.0}, {}, {}),
        (Believing(), {"p": LARGEST, "q": LARGEST}, {}, {"p": 0.0, "q": 900.0}),
        (Unweighted(), {"p": LARGEST, "q": LARGEST}, {"p": 4.0}, {}),
    ],
    ids=["never corrected", "believing", "unweighted"],
)
def test_the_law_of_tenants_finds_a_policy_that_divides_otherwise(
    planted: Policy, costs: dict[str, float], weights: dict[str, float], declared: dict[str, float]
) -> None:
    check_tenants(Elas(), costs, weights, 1, [0] * 150, declared)
    with pytest.raises(AssertionError):
        check_tenants(planted, costs, weights, 1, [0] * 150, declared)


def check_return(policy: Policy, alone: int, slots: int, ends: list[int]) -> None:
    """From when a tenant comes back it is as if it had never been away."""
    machine = Machine(policy, slots, of_tenant({}, {}), {"busy": LARGEST, "idler": LARGEST})
    machine.want("busy")
    for which in range(alone):
        assert machine.serve(which) == "busy"
    machine.want("idler")
    machine.served = dict.fromkeys(machine.served, 0.0)
    for which in ends:
        machine.serve(which)
        assert abs(machine.served["busy"] - machine.served["idler"]) <= (1 + 3 * slots) * LARGEST


@given(alone=st.integers(0, 200), slots=st.integers(1, 4), ends=endings)
@settings(max_examples=50, deadline=None)
def test_idling_earns_nothing(alone: int, slots: int, ends: list[int]) -> None:
    check_return(Elas(), alone, slots, ends)


def test_the_law_of_idling_finds_a_policy_that_pays_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "child", owed(Account.child))
    with pytest.raises(AssertionError):
        check_return(Elas(), 100, 1, [0] * 150)


def owed(child: Callable[[Account, object, float], Account]) -> Callable[[Account, object, float], Account]:
    """Whoever is new begins at the beginning, and nothing lifts it."""

    def begin(self: Account, name: object, weight: float) -> Account:
        new = name not in self.children
        found = child(self, name, weight)
        if new:
            found.served = 0.0
        self.floor = 0.0
        return found

    return begin


# --- classes ----------------------------------------------------------------------------------------------------------


def of_band(band: str, number: int) -> Ticket:
    """Calls of the classes, and of `system`."""
    cls: Any = "standard" if band == "system" else band
    return made(number, (cls, ACCOUNTS[number % 4], None, None), ONE, float(number), [], band == "system")


def check_classes(policy: Policy, costs: Mapping[str, float], ends: list[int]) -> None:
    """A class that always has something waiting gets its part at least, but for the lead that another may have; `system` no more
    than its own."""
    machine = Machine(policy, 1, of_band, costs)
    for band in costs:
        machine.want(band)
    weights = {band: weight for band, weight in CLASS_WEIGHTS.items() if band in costs}
    for which in ends:
        machine.serve(which)
        every = sum(machine.served.values())
        shared = sum(machine.served[band] for band in weights)
        for band, weight in weights.items():
            lag = weight * (CLASS_LEAD + 3 * 20_000.0)
            assert machine.served[band] >= shared * weight / sum(weights.values()) - lag, (band, machine.served)
        assert machine.served.get("system", 0.0) <= SYSTEM_SHARE * every + SYSTEM_BURST + 3 * 20_000.0, machine.served


classes = st.dictionaries(st.sampled_from(["system", *CLASS_WEIGHTS]), st.floats(5_000, 20_000), min_size=2).filter(
    lambda costs: set(costs) != {"system"}
)


@given(costs=classes, ends=st.lists(st.integers(0, 7), min_size=400, max_size=400))
@settings(max_examples=30, deadline=None)
def test_a_class_gets_its_share_and_what_the_kernel_needs_no_more_than_its_own(costs: dict[str, float], ends: list[int]) -> None:
    check_classes(Elas(), costs, ends)


class Strict(Elas):
    """The most urgent class is always first."""

    def _band(self, idle: Mapping[str, float], now: float) -> Band | None:
        waiting = [band for band, root in self._bands.items() if root.places]
        return waiting[0] if waiting else None


@pytest.mark.parametrize("over", ["system", "interactive"])
def test_the_law_of_classes_finds_strict_priority(over: str) -> None:
    costs = {over: 20_000.0, "batch": 20_000.0}
    check_classes(Elas(), costs, [0] * 600)
    with pytest.raises(AssertionError):
        check_classes(Strict(), costs, [0] * 600)


def check_idle(policy: Policy, trace: list[tuple[object, ...]]) -> None:
    """What is idle is not served where something else waits that could be."""
    waiting: dict[str, tuple[str, frozenset[str]]] = {}
    for number, step in enumerate(trace):
        if step[0] == "arrive":
            who: Who = step[1]  # type: ignore[assignment]
            ticket = made(number, who, step[2], 0.0, [])  # type: ignore[arg-type]
            waiting[ticket.name] = (ticket.cls, ticket.feasible)
            policy.add(ticket)
        elif step[0] == "pick":
            idle: frozenset[str] = step[1]  # type: ignore[assignment]
            found = policy.pick(dict.fromkeys(sorted(idle), 0.0), 0.0)
            if found is not None:
                del waiting[found.ticket.name]
                others = [cls for cls, able in waiting.values() if able & idle and cls != "idle"]
                assert found.ticket.cls != "idle" or not others


@given(trace=traces)
@settings(max_examples=300, deadline=None)
def test_what_is_idle_waits_for_all_others(trace: list[tuple[object, ...]]) -> None:
    check_idle(Elas(), trace)


class Unequal(Elas):
    """To be idle is a class like the others."""

    def _band(self, idle: Mapping[str, float], now: float) -> Band | None:
        waiting = [band for band, root in self._bands.items() if root.places]
        return min(waiting, key=lambda band: self._bands[band].served) if waiting else None


def test_the_law_of_idle_finds_a_policy_that_gives_it_a_share() -> None:
    one, other = (("arrive", (cls, ACCOUNTS[0], None, None), ONE, [], False) for cls in ("standard", "idle"))
    trace = [one, one, other, other, *[("pick", ONE)] * 3]
    check_idle(Elas(), trace)
    with pytest.raises(AssertionError):
        check_idle(Unequal(), trace)


# --- bounded waits ----------------------------------------------------------------------------------------------------


def check_bounded(policy: Policy, overdue: list[frozenset[str]], idle: list[str]) -> None:
    """However many calls of its own account come that need less, on however odd a pattern of servers: what is overdue is
    served, by one in four of the turns of those that can do it."""
    now = 10_000.0
    waiting = [made(n, ("batch", ACCOUNTS[0], 1e6, None), able, float(n), []) for n, able in enumerate(overdue)]
    for one in waiting:
        policy.add(one)
    for number in range(AGEING_EVERY * (len(overdue) + 1)):
        for server in [*idle, *SERVERS]:
            policy.add(made(number, ("batch", ACCOUNTS[0], 0.0, None), frozenset(SERVERS), now, []))
            found = policy.pick({server: 0.0}, now)
            assert found is not None
            if found.ticket in waiting:
                waiting.remove(found.ticket)
    assert waiting == [], "an overdue call was never served"


@given(overdue=st.lists(servers, min_size=1, max_size=6), idle=st.lists(st.sampled_from(SERVERS), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_everybody_has_a_bounded_wait(overdue: list[frozenset[str]], idle: list[str]) -> None:
    check_bounded(Elas(), overdue, idle)


class Ageless(Elas):
    """Nothing is ever overdue."""

    def _overdue(self, *_: object) -> Dispatch | None:
        return None


def test_the_law_of_bounded_waits_finds_a_policy_that_forgets_the_old() -> None:
    with pytest.raises(AssertionError, match="never served"):
        check_bounded(Ageless(), [ONE], ["a"])


def check_not_starved(policy: Policy, above: Class, below: Class, cost: float, every_s: float) -> None:
    """However slow the core is, and however much comes of a more urgent class: what is overdue has its turn."""
    low = made(0, (below, ACCOUNTS[0], None, None), ONE, 0.0, [])
    policy.add(low)
    now = 0.0
    while now <= PATIENCE_S[below] + 8 * every_s:
        policy.add(made(1, (above, ACCOUNTS[1], None, None), ONE, now, []))
        policy.add(made(1, (above, ACCOUNTS[1], None, None), ONE, now, []))
        found = policy.pick(IDLE, now)
        assert found is not None
        if found.ticket is low:
            return
        policy.settled(found.ticket, cost)
        now += every_s
    raise AssertionError("it starves")


@given(
    classes=st.sampled_from([("interactive", "standard"), ("interactive", "batch"), ("standard", "batch")]),
    cost=st.floats(1, 5000), every_s=st.floats(0.5, 50),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_no_class_starves_below_another_also_on_a_slow_core(classes: tuple[Class, Class], cost: float, every_s: float) -> None:
    check_not_starved(Elas(), *classes, cost, every_s)


class Leading(Elas):
    """A class may be ahead of another by so much, however long that takes."""

    def _is_overdue(self, *_: object) -> bool:
        return False


def test_the_law_of_starving_finds_a_lead_without_end() -> None:
    with pytest.raises(AssertionError, match="starves"):
        check_not_starved(Leading(), "interactive", "batch", 100.0, 1.0)


# --- who waits for whom -----------------------------------------------------------------------------------------------

others = st.lists(st.tuples(whose, servers), max_size=12)


def served_as(policy: Policy, before: list[Any], helper: Who, after: list[Any], waiters: list[Who], idle: list[str]) -> int:
    """The how many-th turn a helper gets, one of many calls, with those who wait for it."""
    for number, (who, able) in enumerate(before):
        policy.add(made(number, who, able, 0.0, []))
    policy.add(one := made(-1, helper, frozenset(SERVERS), 0.0, waiters))
    for number, (who, able) in enumerate(after):
        policy.add(made(1000 + number, who, able, 0.0, []))
    for turn in range(100):
        found = policy.pick({idle[turn % len(idle)]: 0.0}, 0.0)
        if found is not None and found.ticket is one:
            return turn
    raise AssertionError("it was never served")


@given(
    before=others, helper=whose, after=others, waiters=st.lists(whose, min_size=1, max_size=3),
    idle=st.lists(st.sampled_from(SERVERS), min_size=1, max_size=4),
)  # fmt: skip
@settings(max_examples=500, deadline=None)
def test_a_helper_is_never_slower_because_somebody_waits_for_it(
    before: list[Any], helper: Who, after: list[Any], waiters: list[Who], idle: list[str]
) -> None:
    args = before, helper, after
    assert served_as(Elas(), *args, waiters, idle) <= served_as(Elas(), *args, [], idle)


class Moved(Elas):
    """A helper stands only in the queue of the last who waits for it."""

    def _homes(self, ticket: Ticket) -> Iterator[Account]:
        return iter([*super()._homes(ticket)][-1:])


URGENT: Who = ("interactive", ACCOUNTS[0], 0.0, None)
HUMBLE: Who = ("batch", ACCOUNTS[2], 0.0, None)


def test_the_law_of_helpers_finds_a_policy_that_moves_them() -> None:
    crowd = [(("standard", ACCOUNTS[1], 0.0, None), ONE)] * 5
    args = (crowd, URGENT, [])
    assert served_as(Elas(), *args, [HUMBLE], ["a"]) == served_as(Elas(), *args, [], ["a"]) == 0
    assert served_as(Moved(), *args, [HUMBLE], ["a"]) > 0


def test_whoever_waits_for_a_helper_lends_its_turn_and_pays_for_it() -> None:
    policy = Elas()
    crowd = [(("standard", ACCOUNTS[1], 0.0, None), ONE)] * 5
    assert served_as(policy, crowd, HUMBLE, [], [URGENT], ["a"]) == 0
    assert policy._bands["interactive"].served > 0 == policy._bands["batch"].served


# --- levels -----------------------------------------------------------------------------------------------------------


def test_a_deadline_at_risk_goes_before_the_lowest_level_also_when_it_comes_to_be_so_while_it_waits() -> None:
    for asked_first in ("lowest", "due"):
        policy = Elas()
        lowest = made(1, ("standard", ACCOUNTS[0], 0.0, None), ONE, 0.0, [])
        due = made(2, ("standard", ACCOUNTS[0], 100.0, 700.0), ONE, 0.0, [])
        for one in (lowest, due) if asked_first == "lowest" else (due, lowest):
            policy.add(one)
        early = next(iter(policy.order(94.0)))
        late = policy.pick(IDLE, 96.0)  # 700 s less 5 s less six times 100 s
        assert early is lowest and late is not None and (late.ticket, late.reason) == (due, "class standard, deadline at risk")


def test_what_a_program_needs_is_what_its_kind_needed_from_there_on() -> None:
    history = History()
    program = Program("fixer", history)
    for _ in range(FEWEST_COMPLETIONS - 1):
        history.add("fixer", 10.0)
    assert program.ran(0.0, 4.0) == 4.0
    assert program.expected_s() == 4.0, "too few are known: as much again as it has got"
    history.add("fixer", 90.0)
    assert program.expected_s() == pytest.approx((7 * 10 + 90) / 8 - 4)
    program.ran(4.0, 8.0)
    assert program.expected_s() == pytest.approx(90 - 12), "of those that went on for longer"
    program.ran(0.0, 9.0)
    assert program.attained_s == 12.0, "what runs side by side does not add up"


def test_who_asks_what_comes_next_changes_nothing_of_what_was_charged() -> None:
    policy = Elas()
    who: Who = ("standard", ACCOUNTS[0], 0.0, None)
    for number in range(9):
        policy.add(made(number, who, ONE, 0.0, []))
    for _ in range(6):
        picked = policy.pick(IDLE, 0.0)
        assert picked is not None
        policy.settled(picked.ticket, 50.0)
    running = policy.pick(IDLE, 0.0)
    assert running is not None
    account = policy._charged[running.ticket].account
    before = account.served, account.running
    told = [list(policy.order(0.0)) for _ in range(2)]
    assert told[0] == told[1] and len(told[0]) == 2
    assert (account.served, account.running) == before


@pytest.mark.parametrize("declared", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_no_claim_breaks_it(declared: float) -> None:
    policy = Elas()
    policy.add(made(1, ("standard", ACCOUNTS[0], declared, 10.0), ONE, 0.0, []))
    assert policy.pick(IDLE, 1e9) is not None


def test_tenants_that_come_and_go_leave_nothing_behind() -> None:
    policy = Elas()
    policy.started(long := made(0, ("standard", ACCOUNTS[0], None, None), ONE, 0.0, []))
    policy.add(elsewhere := made(1, ("standard", ACCOUNTS[1], None, None), frozenset("b"), 0.0, []))
    for number in range(5000):
        accounts: Accounts = ((f"tenant {number}", 1.0), ("user", 1.0))
        one = made(number, ("standard", accounts, None, 1e9), ONE, 0.0, [])
        one.program.kind = f"kind {number}"
        if number % 3 == 0:  # a server was free
            policy.started(one)
            policy.settled(one, float(number))
            continue
        policy.add(one)
        if number % 3 == 1:
            policy.remove(one)
        else:
            assert policy.pick(IDLE, 0.0) is not None
            policy.settled(one, float(number))
    assert len(policy._bands["standard"].children) < 200 and len(policy._risks) < 200 and list(policy._waiting) == [elsewhere]
    assert list(policy._charged) == [long] and len(policy._bands["standard"].places) == 1 and len(policy._moved) < 200
    policy.remove(elsewhere)
    assert policy._bands["standard"].waiting == 0 and policy._bands["standard"].running == 1


def waited_for(number: int, accounts: Accounts, by: Accounts) -> Ticket:
    return made(number, ("standard", accounts, None, None), ONE, 0.0, [("standard", by, None, None)])


def test_accounts_with_work_are_not_forgotten_while_those_of_who_waits_are_looked_for() -> None:
    policy = Elas()
    for number in range(2000):
        one = waited_for(number, ((f"tenant {number}", 1.0), ("user", 1.0)), ((f"lender {number}", 1.0), ("user", 1.0)))
        policy.add(one)
        for line in policy._waiting[one].lines:
            tenant = line.account.parent
            assert tenant is not None and policy._bands["standard"].children[tenant.name] is tenant
        assert policy.pick(IDLE, 0.0) is not None
        policy.settled(one, 500.0)


def test_the_idle_are_looked_for_only_when_as_many_came_as_have_work() -> None:
    """Else each that comes would cost a look at all."""
    root = Account("class", 1.0, None)
    for number in range(1000):
        root.child(number, 1.0)
        if number % 10 == 0:
            root.children[number].wait()
        assert 0 <= root.busy <= root.waiting
    assert root.busy > 30 and len(root.children) < 300


@pytest.mark.parametrize("usual", [None, 20_000.0])
def test_what_a_newcomer_is_thought_to_cost_lets_it_lead_by_no_more_than_its_calls(usual: float | None) -> None:
    """Eight small calls of a kind that nobody knows run when another tenant comes, and end: both are served in turn."""
    policy, known = Elas(), ("standard", ACCOUNTS[2], None, None)
    for number in range(20 if usual is not None else 0):
        policy.started(one := made(number, known, ONE, 0.0, []))
        policy.settled(one, usual or 0.0)
    many, other = ("standard", ACCOUNTS[0], None, None), ("standard", ACCOUNTS[3], None, None)
    running = [made(100 + number, many, ONE, 0.0, []) for number in range(8)]
    for one in running:
        policy.started(one)
    for number in range(60):
        policy.add(made(200 + number, many, ONE, 0.0, []))
        policy.add(made(300 + number, other, ONE, 0.0, []))
    for one in running:
        policy.settled(one, 10.0)
    served = []
    for _ in range(20):
        picked = policy.pick(IDLE, 0.0)
        assert picked is not None
        served.append(picked.ticket.tenant)
        policy.settled(picked.ticket, 10.0)
    assert served.count("r") >= 6, "it has a third of the weight"
