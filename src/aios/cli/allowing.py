"""What the operator lets keys of providers spend: asked once at a terminal, said with `--budget`, never taken for granted."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from aios.abi.account import LimitState, Window
from aios.cli.money import Dollars, amount_of, per
from aios.cli.show import say
from aios.config import Config
from aios.keys import Allowance, Use, coming, keys_in, paid_cores, read_allowance, write_allowance

TIMED: tuple[Window, ...] = ("hour", "day", "month", "lifetime")


def allow(config: Config, budget: int | None, window: Window, places: Sequence[str], yes: bool) -> None:
    """Settle what the kernel that starts now may do with the keys that are there. Nothing is switched on but by an amount.

    An amount without a question is one for providers' own addresses, and for `places`: a configuration may name others.
    """
    allowance = read_allowance(config.home)
    there = keys_in(os.environ, config)
    uses = [each.use for each in paid_cores(config, dict.fromkeys(there)) if each.present]
    new = [use for use in uses if use not in allowance.accepted]
    unasked = [use for use in new if use not in allowance.declined]
    if budget is not None:
        meant = [use for use in uses if use.usual or use in allowance.accepted or use.origin in places]
        for use in [use for use in uses if use not in meant and budget]:
            say(f"{use} is not meant by --budget alone: `--to {use.origin}` adds it")
        write_allowance(config.home, allowance.accepting(meant, budget, window) if budget else allowance.off(uses))
    elif unasked and not yes and can_ask():
        write_allowance(config.home, asked(allowance, unasked))
    elif unasked and yes:
        say(f"--yes switches no key on without an amount: `{unasked[0].command}` does")
    for name, provider in coming(there, config):
        say(f"key {name}: {provider} is coming, its wire is not spoken yet")


def can_ask() -> bool:
    """Whether a person can answer: what we read is a terminal, and we are in its foreground.

    An input that was closed is None, and who reads in the background is stopped by the terminal.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # a terminal, but not the one that we were started from: nobody else reads it
        return True


def asked(allowance: Allowance, uses: list[Use]) -> Allowance:
    """What a person says of keys that nobody has spoken of yet."""
    say("These could be used, and cost money; they are off until they have a limit:")
    for use in uses:
        say(f"  {use}")
    if allowance.amount is not None and allowance.accepted:
        too = click.confirm(f"Use them too, within {limit_of(allowance)} for all keys?", err=True)
        return allowance.accepting(uses, allowance.amount, allowance.window) if too else allowance.declining(uses)
    question = "The most that all of them may spend, in dollars (nothing: they stay off)"
    amount = click.prompt(question, default=0, show_default=False, type=Dollars(), err=True)
    if not amount:
        say("they stay off: `aios up --budget USD --per month` switches them on")
        return allowance.declining(uses)
    window = click.prompt("For each", default="month", type=click.Choice(TIMED), err=True)
    return allowance.accepting(uses, amount, window)


def limit_of(allowance: Allowance) -> str:
    """An allowance as people read it."""
    return amount_of("money", allowance.amount or 0) + per(allowance.window)


def left(limit: LimitState) -> str:
    """A limit and what is left of it."""
    return f"{amount_of('money', limit.wanted)}{per(limit.window)} for all together, {amount_of('money', limit.free)} left"


def per_option(window: Window) -> str:
    """The option of `aios budget` for a window."""
    return "" if window == "lifetime" else f" --per {window}"
