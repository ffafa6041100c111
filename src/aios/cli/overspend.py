"""The proof `overspend`: a thousand callers at the same time do not spend a nano-dollar more than they may, and nearly all of it.

Over HTTP, on a kernel of its own before a server that bills each call the same. All callers have one token, whose account may
spend what 256 calls come to, and each calls until it is refused. What counts is what the server has served, and not what the
kernel says. The control is how gateways do it that charge after a call: each caller looks whether there is anything left, and
calls then; nothing is reserved.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec
import uvloop

from aios.abi.account import AccountList, SetLimit, ShowAccounts
from aios.abi.errors import Failed
from aios.abi.system import AddToken
from aios.cli.callers import Caller
from aios.cli.measured import Bar, Row
from aios.cli.money import amount_of
from aios.cli.own import kernel_of_its_own
from aios.cli.phases import Phases
from aios.cli.proof import Proof, proof
from aios.cli.upstream import MODEL, PROMPT_TOKENS, Served, upstream
from aios.sdk.client import Client
from aios.server.listener import raise_descriptors

CALLERS, WORTH = 1024, 256
"""How many call at once, and how many calls there is money for."""
PRICE = 1000
"""Nano-dollars per token."""
COST = (PROMPT_TOKENS + 1) * PRICE
LIMIT = WORTH * COST
TAKES_MS = 250
MOST_TOKENS = 64
"""That a call may be answered with, so that it reserves ten times what it comes to."""
SPENT = 402
"""The status that says so."""
RESERVED, CHARGED = "reserved", "charged"
SHOW = "/v1/call/account.show"
BARS = {"overshoot": Bar("at most", 0.0), "used": Bar("at least", 0.9)}
MEANINGS = {
    "overshoot": "spent beyond the limit ÷ the limit",
    "used": "what of the limit is spent when all are refused",
    "callers": "callers at the same time",
    "calls": "calls that the server has served",
}
SETTINGS = """\
embedder = false
[server]
port = 0
[[core]]
name = "billed"
base_url = "http://127.0.0.1:{port}/v1"
models = ["{model}"]
slots = {callers}
price = {{ input = {price}, cached = {price}, output = {price} }}
"""


@dataclass(frozen=True)
class Spending:
    """What came of a thousand callers: calls that the server has served."""

    served: int

    def figures(self, callers: int) -> dict[str, float]:
        """What that is of the limit."""
        used = self.served * COST / LIMIT
        return {
            "overshoot": max(0.0, used - 1), "used": used, "callers": callers, "calls": self.served,
        }  # fmt: skip


def overspend(callers: int = CALLERS) -> Proof:
    """Measure it. Raises `Failed` if a call is neither answered nor refused, or the kernel booked what was not served."""
    raise_descriptors()
    with Phases() as phases, upstream(callers, TAKES_MS) as port:
        phases.begin(f"a kernel before a server that bills {amount_of('money', COST)} a call")
        settings = SETTINGS.format(port=port, model=MODEL, callers=callers, price=PRICE)
        with kernel_of_its_own(settings) as kernel, Client() as operator:
            tokens = {who: operator.call(AddToken(agent=who)).value for who in (RESERVED, CHARGED)}
            operator.call(SetLimit(account=f"/local/{RESERVED}", unit="money", amount=LIMIT))
            reserved, charged = (Caller(who, kernel.http, token, max_tokens=MOST_TOKENS) for who, token in tokens.items())
            server = Caller("the counts", f"http://127.0.0.1:{port}")
            with reserved, charged, server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                phases.begin(f"{callers} callers, money for {WORTH} calls")
                runner.run(all_of(reserved, callers, until_refused))
                phases.begin("the control: the same, charged after the call")
                runner.run(all_of(charged, callers, until_charged))
                served = runner.run(counts(server))
            booked = operator.call(ShowAccounts(account=f"/local/{RESERVED}")).accounts[0].spent["lifetime"]["money"]
    if booked != served[RESERVED] * COST:
        raise Failed(f"the kernel booked {booked}, but what was served came to {served[RESERVED] * COST}")
    on, off = Spending(served[RESERVED]), Spending(served[CHARGED])
    found, control = on.figures(callers), off.figures(callers)
    cases = {RESERVED: found, CHARGED: control}
    rows: list[Row] = [{"question": "spent of the limit", "case": case, **each} for case, each in cases.items()]
    return proof("overspend", BARS, found, rows, "charged after the call instead of reserved before it", control)


async def all_of(caller: Caller, callers: int, one: Callable[[Caller], Coroutine[Any, Any, None]]) -> None:
    """So many at once."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(one(caller))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def until_refused(caller: Caller) -> None:
    """Call until the budget is spent. Raises `Failed` if another answer comes."""
    while (status := await caller.try_chat()) == 200:
        pass
    if status != SPENT:
        raise Failed(f"a call of `{caller.who}` was answered {status}")


async def until_charged(caller: Caller) -> None:
    """Call as long as what was charged is below the limit."""
    while await charged(caller) < LIMIT:
        if await caller.try_chat() != 200:
            raise Failed(f"a call of `{caller.who}` was not answered")


async def charged(caller: Caller) -> int:
    """Nano-dollars that a caller's calls have come to."""
    (state,) = msgspec.json.decode(await caller.ask("POST", SHOW, b"{}"), type=AccountList).accounts
    return state.spent["lifetime"]["money"]


async def counts(server: Caller) -> Counter[str]:
    """How many calls the server has served, by who called."""
    return Counter(each.who for each in msgspec.json.decode(await server.ask("GET", "/served"), type=list[Served]))
