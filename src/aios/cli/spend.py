"""`aios spend`: what was spent, what is reserved, and how long it will last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import click

from aios.abi.account import TAGS, TOP, AccountState, LimitState, ShowAccounts, Unit, Window
from aios.cli.accounts import depth_of, is_process, path_of
from aios.cli.command import Command, as_json, valid
from aios.cli.money import amount_of, per
from aios.cli.show import duration, put_json, say, table
from aios.sdk.client import Client

BLOCKED = "BLOCKED"
"""What is left of an account that was billed more than it had reserved."""
HOUR_NS = 3600 * 10**9
WINDOWS_SHOWN: tuple[Window, ...] = ("hour", "day", "month", "lifetime")
MOST = 20
"""Accounts that `--most` shows."""
SPARE = ("IN ALL", "RESERVED", "THIS MONTH", "LASTS", "CALLS", "TOKENS", "TODAY")
"""Columns that a narrow terminal does without."""
HEADERS = ("ACCOUNT", "THIS HOUR", "TODAY", "THIS MONTH", "IN ALL", "TOKENS", "CALLS", "RESERVED", "LIMIT", "LEFT", "LASTS")


@click.command(cls=Command)
@click.argument("account", metavar="[ACCOUNT|PID|NAME]", default=TOP)
@click.option("--all", "-a", "everything", is_flag=True, help="Processes too, and accounts that have spent nothing.")
@click.option("--most", type=click.Choice(WINDOWS_SHOWN), help=f"The {MOST} processes that spent most in it, first.")
@as_json
def spend(account: str, everything: bool, most: Window | None, as_json: bool) -> None:
    """Show what was spent, and what may be.

    Of all accounts, or of one and those below it: `/TENANT/@USER/AGENT/PROCESS`, each with all that is below it, a process also
    by its pid or name; then of jobs and tools, `job:TENANT/NAME`, and of each `model:NAME` and `provider:NAME` that was ever
    limited. It is told in tokens as long as nothing has cost money. The limit is the one that leaves least, its own or one above
    it; it lasts as long as this hour's spending goes on. Whoever spends too much is held at once with `aios suspend NAME`, its
    name being the last part of its account.
    """
    if most is not None and (everything or as_json):
        raise click.UsageError("`--most` goes with neither `--all` nor `--json`, which have all accounts")
    with Client() as kernel:
        account = path_of(kernel, account)
        processes = everything or as_json or most is not None or account != TOP
        found = kernel.call(valid(lambda: ShowAccounts(account=account, below=True, processes=processes)))
        above = [] if as_json else [kernel.call(ShowAccounts(account=name)).accounts[0] for name in above_of(account)]
    if as_json:
        put_json(found)
        return
    states = {each.account: each for each in (*above, *found.accounts)}
    shown = [each for each in found.accounts if everything or is_shown(each, account)]
    if most is not None:
        shown = dearest(found.accounts, most)
    if shown:
        unit = unit_of(shown)
        table(HEADERS, (tuple(cells(each, states, found.at_ns, unit)) for each in shown), spare=SPARE)
    else:
        say("nothing was spent yet")


def dearest(states: Iterable[AccountState], window: Window) -> list[AccountState]:
    """The processes that spent most in a window: money first, then tokens."""
    processes = [each for each in states if is_process(each.account) and each.spent[window]["calls"]]
    return sorted(processes, key=lambda each: (-each.spent[window]["money"], -each.spent[window]["tokens"]))[:MOST]


def above_of(account: str) -> list[str]:
    """The paths of all accounts above one, from the widest down."""
    parts = account.split("/")[1:] if account.startswith("/") and account != TOP else []
    return [f"/{'/'.join(parts[:count])}" for count in range(len(parts))]


def is_shown(state: AccountState, asked: str) -> bool:
    """Accounts that have spent something or have a limit; of processes those below the one that was asked for."""
    depth = depth_of(state.account)
    used = state.spent["lifetime"]["calls"] or state.limits or state.reserved["calls"]
    return state.account == asked or bool(used and (depth <= 2 or state.account.startswith(TAGS) or state.limits or asked != TOP))


def unit_of(states: Sequence[AccountState]) -> Unit:
    """What is shown of each window: money, or tokens where nothing has cost any, as on a model of this machine."""
    sums = [state.spent["lifetime"] for state in states] + [state.reserved for state in states]
    return "tokens" if not any(each["money"] for each in sums) and any(each["tokens"] for each in sums) else "money"


def cells(state: AccountState, states: Mapping[str, AccountState], at_ns: int, unit: Unit = "money") -> Iterator[str]:
    """One line of the table. `states`: of all accounts that are shown, and of those above them. `unit`: of the windows."""
    yield state.account
    for window in WINDOWS_SHOWN:
        yield amount_of(unit, state.spent[window][unit])
    yield f"{state.spent['lifetime']['tokens']:,}"
    yield f"{state.spent['lifetime']['calls']:,}"
    yield amount_of(unit, state.reserved[unit])
    limit = tightest(state)
    if limit is None:
        yield from ("-", "-", "-")
        return
    whose = "" if limit.account == state.account else f" of {limit.account}"
    yield f"{amount_of(limit.unit, limit.amount)}{per(limit.window)}{whose}"
    blocked = any(states[name].overbilled for name in (*above_of(state.account), state.account) if name in states)
    yield BLOCKED if blocked else amount_of(limit.unit, limit.free)
    left_s = lasts_s(states.get(limit.account, state), limit, at_ns)  # all below the one that is limited use it up
    yield duration(left_s) if left_s is not None and not blocked else "-"


def tightest(state: AccountState) -> LimitState | None:
    """Of the limits that hold for an account the one with the least part left."""
    return min(state.effective, key=lambda limit: limit.free / max(1, limit.amount), default=None)


def lasts_s(state: AccountState, limit: LimitState, at_ns: int) -> float | None:
    """How long what is left lasts at this hour's rate; None if nothing was spent or is left, or its window ends before."""
    if limit.window in ("call", "now") or limit.free <= 0:
        return None
    rate = burn(state, limit.unit, at_ns)
    if not rate:
        return None
    left_s = limit.free / rate
    return left_s if limit.resets_ns is None or left_s * 1e9 < limit.resets_ns - at_ns else None


def burn(state: AccountState, unit: Unit, at_ns: int) -> float:
    """Units per second in this hour."""
    return state.spent["hour"][unit] / max(1.0, at_ns % HOUR_NS / 1e9)
