"""Accounts: what was spent, what is reserved, and what may be spent."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from aios.abi.bounds import within
from aios.abi.request import JOB_NAME, Reply, Request

Unit = Literal["money", "tokens", "calls"]
UNITS: tuple[Unit, ...] = ("money", "tokens", "calls")
Window = Literal["call", "now", "minute", "hour", "day", "month", "lifetime"]
WINDOWS: tuple[Window, ...] = ("call", "now", "minute", "hour", "day", "month", "lifetime")
MOST_AMOUNT = 2**53
"""Of any unit; money is in nano-dollars, so it is nine million dollars. JSON can say it exactly."""
TOP = "/"
"""The account above all tenants."""
MAX_ACCOUNT_CHARACTERS = 4096
MODEL = "model:"
"""Before the name of a model: the account of all calls to it, whoever makes them."""
PROVIDER = "provider:"
"""Before the name of a provider, or of a core that names none: the account of all calls to its cores."""
JOB = "job:"
"""Before the name of a job, `TENANT/NAME`: the account of all calls that are made for it."""
TOOL = "tool:"
"""Before the name of a tool, `TENANT/NAME`: the account of its calls, which come to no money and no tokens."""
OF_TENANTS = (JOB, TOOL)
TAGS = (MODEL, PROVIDER, *OF_TENANTS)
"""Before the names of accounts that a call is of beside those of its process; they are no part of the tree."""
_account = re.compile(
    rf"/|(/@?[A-Za-z0-9_][A-Za-z0-9_.@-]{{0,80}})+|({MODEL}|{PROVIDER})[!-_a-~]{{1,200}}|{JOB}({JOB_NAME}/)?{JOB_NAME}"
    rf"|{TOOL}({JOB_NAME}/)?[A-Za-z0-9_-]{{1,64}}"
)


def check_account_path(field: str, name: str) -> None:
    """Raise ValueError for what cannot be the path of an account; letters beyond ASCII are in none."""
    if len(name) > MAX_ACCOUNT_CHARACTERS or not _account.fullmatch(name):
        tags = ", ".join(f"`{tag}NAME`" for tag in TAGS)
        raise ValueError(f"`{field}` must be a path as `/`, `/TENANT`, `/TENANT/@USER` or `/TENANT/AGENT`, or one of {tags}")


class LimitState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A limit of `unit` in a window of UTC, and how much of it is gone. `account`: whose it is.

    `wanted`: as it was set; `amount`: what holds, which is more as long as more was spent or reserved when it was set.
    `soft`: from there on calls are of class batch. `resets_ns`: when the window ends; None for `call`, `now` and `lifetime`.
    `at_ns`: when it stood so.
    """

    account: str
    unit: Unit
    window: Window
    wanted: int
    amount: int
    spent: int
    reserved: int
    soft: int | None = None
    resets_ns: int | None = None
    at_ns: int = 0

    @property
    def free(self) -> int:
        """What is neither spent nor reserved."""
        return self.amount - self.spent - self.reserved


class AccountState(Reply, frozen=True, omit_defaults=True):
    """An account with all below it. Units: `money` in nano-dollars, `tokens`, `calls` of models, or of a tool.

    `spent`: in each window by unit, `reserved` for calls that are under way. `limits`: its own. `effective`: of each unit and
    window the limit that leaves least, its own or one above it; who is one of several tenants sees none that all of them share.
    `overbilled`: what was billed beyond what had been reserved, added up over the units that are limited; it blocks the account
    until a limit is set anew. `waiting`: calls that wait for room in it.
    """

    account: str
    spent: dict[Window, dict[Unit, int]]
    reserved: dict[Unit, int]
    limits: tuple[LimitState, ...] = ()
    effective: tuple[LimitState, ...] = ()
    overbilled: int = 0
    waiting: int = 0


class AccountList(Reply, frozen=True):
    """Accounts by name, each after the one above it. `at_ns`: when they stood so, UTC."""

    accounts: tuple[AccountState, ...]
    at_ns: int


class ShowAccounts(Request[AccountList], frozen=True, kw_only=True):
    """What was spent and may be spent: of an account, or with `below` of it and all accounts below it.

    `account`: a path as `/TENANT/@USER/AGENT/PROCESS` (None: the caller's own), or a tag, see `SetLimit`; or `process`: a pid, of
    whose account it is then. `processes`: False leaves out, of those below, processes that have no limit of their own. Who is no
    operator sees its own and those below.
    """

    account: str | None = None
    below: bool = False
    process: str | None = None
    processes: bool = True

    def __post_init__(self) -> None:
        if self.account is not None:
            check_account_path("account", self.account)
            if self.process is not None:
                raise ValueError("`process` must be left out where `account` says which")


class SetLimit(Request[AccountState], frozen=True, kw_only=True):
    """Limit what an account, with all below it, may spend of a unit in a window. Operators only.

    `account`: a path; or a tag, of which a call is beside all accounts of its path: `model:NAME`, `provider:NAME` (a core that
    names no provider has its own name), counted from their first limit on; `job:TENANT/NAME`, of a job of the caller's tenant
    `job:NAME`. A call of a tool is of the account `tool:TENANT/NAME` alone, which has limits of calls.
    `amount`: nano-dollars, tokens or calls; None: no limit any more. One below what is spent and reserved holds what it can at
    once, and the rest as calls end. `soft`: from there on its calls are of class batch. `window`: `call` is for each call by
    itself, `now` for all that are under way at once, the others are those of UTC. A limit per `minute` is a rate: calls beyond it
    wait for the next minute. Setting any limit also unblocks an account that was overbilled.
    """

    account: str
    unit: Unit
    amount: int | None
    window: Window = "lifetime"
    soft: int | None = None

    def __post_init__(self) -> None:
        check_account_path("account", self.account)
        if self.account.startswith(TOOL) and self.unit != "calls":
            raise ValueError("`unit` must be `calls`: a tool comes to nothing else")
        if self.account.startswith(TOOL) and self.soft is not None:
            raise ValueError("`soft` must be left out: calls of a tool have no class")
        if self.window == "call" and self.soft is not None:
            raise ValueError("`soft` must be left out: of a limit per call nothing is spent before the call")
        within("amount", self.amount, 0, MOST_AMOUNT)
        within("soft", self.soft, 0, MOST_AMOUNT)
        if self.soft is not None and self.amount is not None and self.soft > self.amount:
            raise ValueError("`soft` must be at most `amount`")
