"""`aios budget`: set and list the limits of accounts."""

from __future__ import annotations

from collections.abc import Iterator

import click

from aios.abi.account import TAGS, TOP, UNITS, WINDOWS, LimitState, SetLimit, ShowAccounts, Unit, Window
from aios.abi.errors import NotFound
from aios.cli.accounts import alike, path_of
from aios.cli.command import Command, as_json, valid
from aios.cli.money import Count, Dollars, amount_of, is_dollars, per
from aios.cli.show import put_json, say, since, table
from aios.cli.spend import BLOCKED
from aios.sdk.client import Client

COUNT = Count()
HEADERS = ("ACCOUNT", "LIMIT", "SOFT", "SPENT", "RESERVED", "LEFT", "RESETS IN", "WAITING")
SPARE = ("SOFT", "WAITING", "RESERVED", "RESETS IN")
"""Columns that a narrow terminal does without."""


@click.command(cls=Command)
@click.argument("account", metavar="[ACCOUNT|PID|NAME]", default=TOP)
@click.argument("usd", metavar="[USD]", required=False, type=Dollars())
@click.option("--usd", "dollars", type=Dollars(), metavar="USD", help="Limit money, in dollars.")
@click.option("--tokens", type=COUNT, metavar="N", help="Limit tokens, of questions and answers together.")
@click.option("--calls", type=COUNT, metavar="N", help="Limit calls of models, or of a tool.")
@click.option("--soft", metavar="AMOUNT", help="From there on calls are of class batch; in the unit of the limit.")
@click.option(
    "--per",
    "window",
    type=click.Choice(WINDOWS),
    show_default="lifetime",
    help="For how long, in UTC; `now`: at once.",
)
@click.option("--none", "lifted", type=click.Choice(UNITS), help="Lift the limit of this unit.")
@as_json
def budget(
    account: str, usd: int | None, dollars: int | None, tokens: int | None, calls: int | None, soft: str | None,
    window: Window | None, lifted: Unit | None, as_json: bool,
) -> None:  # fmt: skip
    """Limit what an account may spend, or list the limits.

    An account is a path as `/` (all), `/TENANT`, `/TENANT/@USER`, `/TENANT/AGENT`, a process by its pid or name, or one of
    `model:NAME`, `provider:NAME`, `job:NAME` and `tool:NAME` (another tenant's: `job:TENANT/NAME`). What is below it counts too.
    A limit below what is spent holds at once; calls that wait for a higher one go on when it is raised. One per minute is a rate:
    calls beyond it wait for the next minute; `--per now` limits calls at once.
    """
    asked: list[tuple[Unit, int | None]] = [("money", usd), ("money", dollars), ("tokens", tokens), ("calls", calls)]
    wanted: list[tuple[Unit, int | None]] = [(unit, amount) for unit, amount in asked if amount is not None]
    if lifted is not None:
        wanted.append((lifted, None))
    if len(wanted) > 1:
        raise click.UsageError("say one limit at a time")
    if soft is not None and (lifted is not None or not wanted):
        raise click.UsageError("`--soft` is said with the limit that it stands below, as in `5 --soft 4`")
    if window is not None and not wanted:
        if is_dollars(account):
            raise click.UsageError(whose(account, window))
        raise click.UsageError(f"say how much: `5 --per {window}`, or `--none money --per {window}` for no limit")
    if wanted and account.startswith((TOP, *TAGS)):  # before any kernel is asked
        limit_of(account, *wanted[0], window, soft)
    with Client() as kernel:
        try:
            path = path_of(kernel, account)
        except NotFound:
            if not wanted and is_dollars(account):
                raise click.UsageError(whose(account, window)) from None
            raise
        if wanted:
            for near in alike(kernel, path) if lifted is None else ():
                say(f"nobody has spent as {path} yet, and this limits no other account: there is {near}")
            set_limit(kernel, limit_of(path, *wanted[0], window, soft), as_json)
        else:
            limits(kernel, path, as_json)


def whose(amount: str, window: Window | None) -> str:
    """What to say to somebody who names an amount alone."""
    return f"say whose limit it is: `aios budget / {amount}{f' --per {window}' if window else ''}` is one for all together"


def limit_of(path: str, unit: Unit, amount: int | None, window: Window | None, soft: str | None) -> SetLimit:
    """The limit that a person means. Raises `click.UsageError`."""
    most_soft = soft_of(unit, soft)
    return valid(lambda: SetLimit(account=path, unit=unit, amount=amount, window=window or "lifetime", soft=most_soft))


def set_limit(kernel: Client, wanted: SetLimit, as_json: bool) -> None:
    """Limit an account, or no longer, and say what holds now. Raises `NotFound` where there is none that a limit could be of."""
    unit, amount, window = wanted.unit, wanted.amount, wanted.window
    before = kernel.call(ShowAccounts(account=wanted.account)).accounts[0].limits if amount is None else ()
    state = kernel.call(wanted)
    if as_json:
        put_json(state)
    elif amount is None:
        others = [f"{amount_of(unit, each.wanted)}{per(each.window) or ' in all'}" for each in state.limits if each.unit == unit]
        still = f"; it still has one of {' and of '.join(others)}" if others else ""
        was = any((each.unit, each.window) == (unit, window) for each in before)
        none = f"no limit of {unit}{per(window) or ' in all'}"
        say(f"{state.account} {f'has {none} any more' if was else f'had {none}'}{still}")
    else:
        holds = next(each for each in state.limits if (each.unit, each.window) == (unit, window))
        later = f", now {amount_of(unit, holds.amount)} as that is spent or reserved" if holds.amount > holds.wanted else ""
        say(f"{state.account} may spend {amount_of(unit, amount)}{per(window)}{later}; left: {amount_of(unit, holds.free)}")


def soft_of(unit: Unit, soft: str | None) -> int | None:
    """A soft limit in the unit of its limit."""
    if soft is None:
        return None
    if unit == "money":
        return Dollars().convert(soft, None, None)
    return Count().convert(soft, None, None)


def limits(kernel: Client, path: str, as_json: bool) -> None:
    """List the limits of an account and of all below it, and those above that hold for it."""
    found = kernel.call(valid(lambda: ShowAccounts(account=path, below=True, processes=False)))
    if as_json:
        put_json(found)
        return
    lines = list(lines_of(found.accounts[0].effective, found.accounts[0].account, found.at_ns, "-"))
    for state in found.accounts:
        lines += lines_of(state.limits, "", found.at_ns, str(state.waiting), blocked=bool(state.overbilled))
    if lines:
        table(HEADERS, lines, spare=SPARE)
    else:
        say(f"nothing limits {path}: `aios budget {path} --usd 5 --per day` would")


def lines_of(
    states: tuple[LimitState, ...], below: str, at_ns: int, waiting: str, blocked: bool = False
) -> Iterator[tuple[str, ...]]:
    """One line for each limit; with `below` of those above that account alone. `blocked`: as more was billed than reserved.

    Of one that was lowered below what stood it is told what it was lowered to, and what holds now.
    """
    for state in states:
        if state.account == below:
            continue
        holds = f" (now {amount_of(state.unit, state.amount)})" if state.amount > state.wanted else ""
        yield (
            state.account, f"{amount_of(state.unit, state.wanted)}{per(state.window)}{holds}",
            amount_of(state.unit, state.soft) if state.soft is not None else "-", amount_of(state.unit, state.spent),
            amount_of(state.unit, state.reserved), BLOCKED if blocked else amount_of(state.unit, state.free),
            since(at_ns, state.resets_ns) if state.resets_ns is not None else "-", waiting,
        )  # fmt: skip
