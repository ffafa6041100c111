"""The benchmark of budgets: its workload, what its callers make of answers, and a run through real doors."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from benchmarks.rig.biller import Tally
from benchmarks.rig.bills import LIMIT, Ask, Work, bill, drawn
from benchmarks.rig.budgets import Spent, check, spending
from benchmarks.rig.child import Failed
from benchmarks.rig.spenders import Outcome, Plan, Spenders

ASK = Ask(Work(given=20_000, answer=220), "/v1/messages", stream=True, leaves="", leaves_s=0.0)
SPENT = b'{"error":{"message":"`/local/a` has spent $%b of $5, and this call may come to $0.064: `aios budget ...` raises it"}}'


@pytest.mark.parametrize("token_bytes", [1, 4])
@pytest.mark.parametrize("work", [Work(20_000, 220), Work(500, 8192, "silent"), Work(150_000, 5, "busy", early=True)])
def test_a_prompt_has_its_tokens_and_says_what_its_call_is_to_come_to(work: Work, token_bytes: int) -> None:
    prompt = work.prompt(token_bytes)
    assert len(prompt) == work.given * token_bytes
    assert Work.of(prompt) == work


def test_nine_tenths_of_a_prompt_are_billed_as_read_before() -> None:
    assert bill(20_000, 220) == 2000 * 3000 + 18_000 * 300 + 220 * 15_000


def test_the_workload_has_the_shares_that_it_states() -> None:
    chance = random.Random(1)
    asks = [drawn(chance) for _ in range(20_000)]
    shares = {each: n / len(asks) for each, n in Counter(ask.work.fails or ask.leaves or ask.door for ask in asks).items()}
    assert sum(shares[each] for each in ("busy", "breaks", "silent")) == pytest.approx(0.03, abs=0.005)
    assert sum(shares[each] for each in ("early", "midway")) == pytest.approx(0.97 / 8, abs=0.01)
    assert shares["/v1/chat/completions"] / shares["/v1/responses"] == pytest.approx(2, abs=0.1)
    assert all(ask.stream for ask in asks if ask.leaves == "midway")
    assert sorted(ask.work.given for ask in asks)[10_000] == pytest.approx(20_000, rel=0.05)
    assert sorted(ask.work.answer for ask in asks)[10_000] == pytest.approx(220, rel=0.05)


def refused(status: int, said: bytes) -> Outcome:
    callers = Spenders(Plan(port=0, token="", callers=1, seed=1))
    callers.refuses(ASK, status, said)
    return callers.outcome


def test_a_refusal_while_enough_was_only_reserved_is_found() -> None:
    late, early = refused(402, SPENT % b"4.96"), refused(200, b"event: error\ndata: " + SPENT % b"3.5")
    assert (late.refused, late.refused_early, late.said_spent) == (1, 0, 4_960_000_000)
    assert (early.refused, early.refused_early, early.first_refusal) == (1, 1, 3_500_000_000)


def test_a_refused_call_that_would_fit_in_what_is_left_in_the_end_was_refused_early() -> None:
    outcome = refused(402, SPENT % b"4.96")
    assert outcome.least_room == (20_000 + 1024) * 3000 + 256 * 15_000
    assert [Spent(booked, 0.9, outcome, Tally()).refused_early for booked in (0.99, 0.98)] == [0, 1]


def test_an_error_that_is_not_the_providers_fails_the_run() -> None:
    assert refused(500, b'{"error":{"message":"the server ended its answer in the middle"}}').failed == 1
    assert refused(200, b'data: {"choices":[{"delta":{"content":"tok"}}]}\n\ndata: [DONE]\n\n').answered == 1
    with pytest.raises(Failed, match="answered 500"):
        refused(500, b'{"error":{"message":"something went wrong in the kernel"}}')
    with pytest.raises(Failed, match="answered 200"):
        refused(200, b'event: response.failed\ndata: {"response":{"error":{"message":"something went wrong in the kernel"}}}')


@pytest.mark.parametrize(
    ("booked", "billed", "fails"),
    [(LIMIT - 1, LIMIT, True), (LIMIT + 1, LIMIT, True), (LIMIT // 2, LIMIT // 3, True), (LIMIT, LIMIT - 1, False)],
)
def test_books_that_cannot_be_true_fail_the_run(booked: int, billed: int, fails: bool) -> None:
    outcome = Outcome(said_spent=LIMIT * 2 // 3)
    check("someone", LIMIT, LIMIT, outcome, fails)
    with pytest.raises(Failed, match="someone: of 5000000000"):
        check("someone", booked, billed, outcome, fails)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning")  # a kernel outlives who started it
def test_through_real_doors_the_ledger_holds_a_budget_that_charging_afterwards_does_not() -> None:
    with spending() as on:
        ours, control = on.run(64, 1), on.run(256, 1, "after")
    assert ours.billed <= ours.booked <= 1
    assert ours.overshoot == 0
    assert ours.refused_early == 0
    assert ours.booked >= 0.97
    assert control.overshoot > 0 and control.booked == control.billed
    assert ours.tally.died and not control.tally.died
    for found in (ours, control):
        assert found.outcome.midway and found.outcome.early and found.outcome.answered > 50
