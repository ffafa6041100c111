"""What kernels before have spent stands in the windows that still go on, and in no others."""

import datetime

import pytest

from aios.abi.account import Window
from aios.kernel.amounts import MONEY
from aios.kernel.ledger.accounts import Account

NOW = datetime.datetime(2026, 11, 21, 10, 30, tzinfo=datetime.UTC)
SPENT: dict[Window, int] = {"hour": 1, "day": 20, "month": 300, "lifetime": 4000}


def ns(moment: datetime.datetime) -> int:
    return int(moment.timestamp()) * 10**9


@pytest.mark.parametrize(
    ("later", "stands"),
    [
        (datetime.timedelta(), SPENT),
        (datetime.timedelta(minutes=29), SPENT),
        (datetime.timedelta(minutes=30), {**SPENT, "hour": 0}),
        (datetime.timedelta(hours=14), {**SPENT, "hour": 0, "day": 0}),
        (datetime.timedelta(days=10), {**SPENT, "hour": 0, "day": 0, "month": 0}),
        (datetime.timedelta(days=-40), SPENT),
    ],
)
def test_what_was_spent_stands_in_the_windows_that_still_go_on(later: datetime.timedelta, stands: dict[Window, int]) -> None:
    account = Account("/")
    account.carry(MONEY, SPENT, ns(NOW), ns(NOW + later))
    assert {window: account.spent_in(window, MONEY) for window in SPENT} == stands
    assert account.spent_in("day", 1) == 0


def test_a_limit_below_what_was_carried_leaves_nothing() -> None:
    account = Account("/")
    account.carry(MONEY, SPENT, ns(NOW), ns(NOW))
    account.limit("month", MONEY, 100)
    assert account.free(account.limits[0]) == 0
    account.turn(ns(NOW + datetime.timedelta(days=10)))
    assert account.free(account.limits[0]) == 100


def test_a_time_that_cannot_be_is_one_that_lets_nothing_off() -> None:
    account = Account("/")
    account.carry(MONEY, SPENT, 10**40, ns(NOW))
    assert account.spent_in("month", MONEY) == 300
