"""A kernel before two servers that bill, and callers who share a budget there: what they spend of it, and what beyond.

What counts is what the servers billed. What the kernel's account shows stands beside it, and must never be less.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aios.abi.account import AccountState, SetLimit, ShowAccounts
from aios.abi.system import AddToken, ListCores
from aios.cli.own import kernel_of_its_own
from aios.cli.running import Running
from aios.sdk.client import Client
from benchmarks.rig.biller import Tally
from benchmarks.rig.bills import LIMIT, MODEL, PRICE
from benchmarks.rig.child import Child, Failed
from benchmarks.rig.spenders import Outcome, Plan, Way

BILLER = "benchmarks.rig.biller"
DIES_AFTER = 12
"""Calls of the smaller server in a run, in the midst of the last of which it dies."""
MUCH = 10**15
"""A limit that is never reached: so those who charge by themselves have their answers heard out like the others."""
SETTLE_S, LOOK_S = 10.0, 0.02
SETTINGS = """\
embedder = false
[server]
port = 0
"""
CORE = """
[[core]]
name = "{name}"
base_url = "http://127.0.0.1:{port}/v1"
models = ["{model}"]
slots = {slots}
window = 200_000
price = {{ input = {price.input}, cached = {price.cached}, output = {price.output} }}
"""
COMMON = {"model": MODEL, "price": PRICE}


@dataclass(frozen=True)
class Spent:
    """What came of a run. Parts of the limit: `booked` by the kernel, `billed` by the servers, whose calls are in `tally`."""

    booked: float
    billed: float
    outcome: Outcome
    tally: Tally

    @property
    def overshoot(self) -> float:
        """What was billed beyond the limit, as a part of it."""
        return max(0.0, self.billed - 1)

    @property
    def refused_early(self) -> int:
        """Calls that were refused though there was room, by what their refusals said, or by what was left in the end."""
        return self.outcome.refused_early or int(self.outcome.least_room <= (1 - self.booked) * LIMIT)


class Spending:
    """The processes: a kernel, the server that lasts, the one that dies, and the callers."""

    def __init__(self, kernel: Running, operator: Client, lasting: Child, mortal_port: int, callers: Child) -> None:
        self._kernel_port = int(kernel.http.rpartition(":")[2])
        self._operator = operator
        self._lasting = lasting
        self._mortal_port = mortal_port
        self._callers = callers

    def run(self, callers: int, seed: int, way: Way = "reserve", token_bytes: int = 1) -> Spent:
        """A run with an account and a mortal server of its own. Raises `Failed` if the kernel booked too much or too little.

        Servers fail no calls of those who charge by themselves: what is booked in full for these would hide what they overspend.
        """
        fails = way == "reserve"
        agent = f"{way}-{token_bytes}-{callers}-{seed}"
        account = f"/local/{agent}"
        token = self._operator.call(AddToken(agent=agent)).value
        self._operator.call(SetLimit(account=account, unit="money", amount=LIMIT if fails else MUCH))
        with Child(BILLER, str(self._mortal_port), str(DIES_AFTER if fails else 0)) as mortal:
            self._wait_up()
            plan = Plan(self._kernel_port, token, callers, seed, way, fails, token_bytes)
            outcome = self._callers.ask(plan, Outcome)
            booked = self._settled(account).spent["lifetime"]["money"]
            tally = both(self._lasting.ask(None, Tally), last_of(mortal))
        check(agent, booked, tally.billed, outcome, fails)
        return Spent(booked / LIMIT, tally.billed / LIMIT, outcome, tally)

    def _wait_up(self) -> None:
        """Return when the kernel knows that all servers are there. Raises `Failed` if it does not find one again."""
        give_up = time.monotonic() + SETTLE_S
        while not all(core.up for core in self._operator.call(ListCores()).cores):
            wait(give_up, "the kernel does not find a server again")

    def _settled(self, account: str) -> AccountState:
        """An account once nothing is reserved for it. Raises `Failed` if something stays so."""
        give_up = time.monotonic() + SETTLE_S
        while (state := self._operator.call(ShowAccounts(account=account)).accounts[0]).reserved["money"]:
            wait(give_up, f"`{account}` keeps a reservation, for nobody: {state}")
        return state


def check(agent: str, booked: int, billed: int, outcome: Outcome, fails: bool) -> None:
    """Raises `Failed` unless what is booked holds the limit, and what was billed: exactly that, where no server failed."""
    said = f"{agent}: of {LIMIT} the kernel booked {booked}, {billed} were billed, and a call was refused at {outcome.said_spent}"
    if booked < max(billed, outcome.said_spent) or (booked > LIMIT if fails else booked != billed):
        raise Failed(said)


def wait(give_up: float, why: str) -> None:
    """A moment. Raises `Failed` after so long."""
    if time.monotonic() > give_up:
        raise Failed(why)
    time.sleep(LOOK_S)


def last_of(mortal: Child) -> Tally:
    """The tally of a server that is dead, or is not."""
    try:
        mortal.tell()
    except BrokenPipeError:
        pass  # it has said it
    return mortal.hear(Tally)


def both(one: Tally, other: Tally) -> Tally:
    """The tally of two servers together."""
    return Tally(*(getattr(one, each) + getattr(other, each) for each in Tally.__struct_fields__))


@contextmanager
def spending() -> Iterator[Spending]:
    """The processes, for as long as the block runs."""
    with Child(BILLER, "0", "0") as lasting, Child("benchmarks.rig.spenders") as callers, Child(BILLER, "0", "0") as first:
        cores = CORE.format(name="lasting", port=lasting.port, slots=1024, **COMMON)
        cores += CORE.format(name="mortal", port=first.port, slots=256, **COMMON)
        with kernel_of_its_own(SETTINGS + cores) as kernel, Client() as operator:
            first.kill()  # the kernel wants to see its servers once; each run brings one of its own
            yield Spending(kernel, operator, lasting, first.port, callers)
