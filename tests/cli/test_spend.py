"""`aios spend` and `aios budget`: what they reckon, and what they make of odd arguments."""

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from aios.abi.account import AccountState, LimitState
from aios.abi.errors import NotFound
from aios.cli.accounts import check_no_agent, same_name
from aios.cli.budget import lines_of
from aios.cli.group import aios
from aios.cli.spend import above_of, cells, dearest, unit_of

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
    ends = [list(cells(each, states, AT_NS))[-2:] for each in states.values()]
    assert ends == [["400 calls", "20 m 0 s"], ["BLOCKED", "-"], ["BLOCKED", "-"]]


def test_what_is_gone_lasts_no_time_and_a_blocked_limit_is_listed_as_such() -> None:
    limit = LimitState("/", "calls", "lifetime", 1000, 1000, 1000, 0)
    assert list(cells(state("/", 1000, limit), {}, AT_NS))[-2:] == ["0 calls", "-"]
    assert [[line[5] for line in lines_of((limit,), "", AT_NS, "0", blocked)] for blocked in (False, True)] == [
        ["0 calls"],
        ["BLOCKED"],
    ]


def test_of_a_limit_that_was_lowered_below_what_stood_both_are_listed() -> None:
    for wanted, said in ((1000, "1,000 calls per day"), (5, "5 calls per day (now 1,000 calls)")):
        assert [line[1] for line in lines_of((LimitState("/", "calls", "day", wanted, 1000, 900, 100),), "", AT_NS, "0")] == [
            said
        ]


def test_an_agent_or_a_user_is_told_by_its_account() -> None:
    paths = ["/", "/acme", "/acme/@ann", "/acme/@ann/bot", "/acme/@ann/bot/bot-1", "/other/bot", "/other/bot/bot-2"]
    for text, said in (
        ("bot", "say the account, as `/acme/@ann/bot`, `/other/bot`"),
        ("ann", "say the account, as `/acme/@ann`"),
    ):
        with pytest.raises(NotFound, match=said):
            check_no_agent(paths, text)
    for text in ("bot-1", "acme/bot-1", "nobody-4", ""):
        check_no_agent(paths, text)


def test_a_limit_of_an_account_that_is_not_there_says_which_may_have_been_meant() -> None:
    paths = ["/", "/acme", "/acme/@ann", "/acme/@ann/bot", "/acme/@bob", "/acme/@bob/bot", "/other/bot", "job:acme/bot"]
    assert same_name(paths, "/acme/bot") == ["/acme/@ann/bot", "/acme/@bob/bot"]
    assert same_name(paths, "/acme/ann") == ["/acme/@ann"] and same_name(paths, "/other/@bot") == ["/other/bot"]
    for there_or_new in ("/", "/acme", "/new", "/acme/@ann", "/other/bot", "/acme/new", "job:acme/bot", "model:bot"):
        assert same_name(paths, there_or_new) == []


def test_where_nothing_costs_money_what_was_spent_is_shown_in_tokens() -> None:
    limit = LimitState("/", "tokens", "lifetime", 1000, 1000, 600, 0)
    paid = state("/a", 600, limit)
    free = replace(paid, spent={window: {**spent, "money": 0} for window, spent in paid.spent.items()})
    unused = state("/a", 0, limit)
    assert [unit_of(states) for states in ([paid], [free], [free, paid], [unused], [])] == [
        "money",
        "tokens",
        "money",
        "money",
        "money",
    ]
    shown = list(cells(free, {}, AT_NS, "tokens"))
    assert shown[1:8] == ["600 tokens"] * 4 + ["600", "600", "0 tokens"]


def test_who_spent_most_comes_first_by_money_then_tokens_and_only_processes_are_named() -> None:
    limit = LimitState("/", "calls", "lifetime", 1000, 1000, 600, 0)
    names = {"/": 9, "/a": 9, "/a/@u": 9, "/a/@u/bot": 9, "/a/@u/bot/bot-1": 3, "/a/x/x-2": 6, "/a/x/x-3": 0, "job:a/b/c": 9}
    found = dearest([state(name, calls, limit) for name, calls in names.items()], "hour")
    assert [each.account for each in found] == ["/a/x/x-2", "/a/@u/bot/bot-1"]


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
