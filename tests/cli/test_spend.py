"""`aios spend` and `aios budget`: what they reckon, and what they make of odd arguments."""

import pytest
from click.testing import CliRunner

from aios.abi.account import AccountState, LimitState
from aios.cli.group import aios
from aios.cli.spend import above_of, cells

HOUR_NS = 3600 * 10**9
AT_NS = 100 * HOUR_NS + HOUR_NS // 2
"""Half an hour after the full hour."""


def state(account: str, calls: int, limit: LimitState, overbilled: int = 0) -> AccountState:
    spent = {"money": calls, "tokens": calls, "calls": calls}
    windows = dict.fromkeys(("minute", "hour", "day", "month", "lifetime"), spent)
    return AccountState(account, windows, dict.fromkeys(spent, 0), effective=(limit,), overbilled=overbilled)  # type: ignore[arg-type]


def test_what_is_left_lasts_as_long_as_all_who_use_it_up_let_it() -> None:
    limit = LimitState("/", "calls", "lifetime", 1000, 1000, 600, 0)
    states = {each.account: each for each in (state("/", 600, limit), state("/a", 100, limit), state("/b", 500, limit))}
    for each in states.values():
        *_, whose, left, lasts = cells(each, states, AT_NS)
        assert (left, lasts) == ("400 calls", "20 m 0 s"), "400 at 600 in half an hour"
        assert whose.endswith(" of /") == (each.account != "/")


def test_what_is_below_a_blocked_account_is_blocked_too() -> None:
    limit = LimitState("/", "calls", "lifetime", 1000, 1000, 600, 0)
    states = {each.account: each for each in (state("/", 600, limit), state("/a", 1, limit, 5), state("/a/b", 1, limit))}
    assert [list(cells(each, states, AT_NS))[-2] for each in states.values()] == ["400 calls", "BLOCKED", "BLOCKED"]


def test_above_an_account_are_all_whose_path_its_own_begins_with() -> None:
    assert above_of("/a/@b/c") == ["/", "/a", "/a/@b"] and above_of("/a") == ["/"]
    assert above_of("/") == above_of("model:x/y") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("5", "--usd", "6"), "say one limit at a time"),
        (("5", "--none", "money"), "say one limit at a time"),
        (("--soft", "5"), "`--soft` is said with the limit"),
        (("--none", "money", "--soft", "5"), "`--soft` is said with the limit"),
        (("--per", "day"), "say how much: `5 --per day`"),
        (("--calls", "\uff12"), "in plain digits"),
        (("--tokens", "9007199254740993"), "is no number of 0 to 9,007,199,254,740,992"),
        (("nan",), "is no amount"),
        (("--", "-5"), "is no amount"),
    ],
)
def test_a_budget_that_is_none_is_refused(arguments: tuple[str, ...], said: str) -> None:
    result = CliRunner().invoke(aios, ["budget", "/", *arguments])
    assert result.exit_code == 2 and said in result.stderr
