"""Callers who share a budget, on the kernel itself in virtual time: how much of it they spend, and how much beyond it.

The workload is that of gateways: prompts of 20,000 tokens, mostly read before, answers of 220 tokens in the median where up to
8,192 are asked for. One call in eight is a stream whose reader goes away in its midst, one in fifty fails; both are billed by the
provider for what was made. What counts is what the provider billed, and not what the kernel booked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
from contextlib import aclosing
from typing import Any

from aios.abi.account import SetLimit
from aios.abi.errors import CoreFailed, OverBudget
from aios.abi.llm import Choice, Completion, Delta, Generate, Usage
from aios.kernel.amounts import MONEY, Amount, Bound
from aios.kernel.ledger.accounts import Account
from aios.kernel.ledger.ledger import Ledger, Reservation, Short
from aios.ports.core import Core, CoreCall, CoreInfo, Emit, Health, Price
from aios.ports.gate import Gate
from aios.testing.kernel import RunningKernel, kernel_for_tests

CACHED = 300
PRICE = Price(3000, CACHED, 15_000)
"""$3, $0.30 and $15 per million tokens."""
LIMIT = 5 * 10**9
MAX_TOKENS, LEAST_TOKENS = 8192, 256
FIRST_S, PER_S = 1.5, 50.0
"""Seconds to the first token, tokens per second."""
GIVES_UP, FAILS = 1 / 8, 1 / 50
ACCOUNT = "/local/caller"


class Billing(Core):
    """A provider: answers as the workload says, and keeps what it bills for each call, however that ends."""

    def __init__(self, seed: int, callers: int) -> None:
        self._chance = random.Random(seed)
        self._info = CoreInfo(
            name="provider", models=("large",), features=frozenset({"chat", "completion"}), slots=callers, window=200_000,
            driver="billing", price=PRICE,
        )  # fmt: skip
        self.billed = self.calls = self.running = self.most_running = 0

    def info(self) -> CoreInfo:
        return self._info

    def health(self) -> Health:
        return Health(up=True)

    async def start(self, changed: Any) -> None:
        return None

    async def close(self) -> None:
        return None

    async def count(self, request: Any, model: str) -> Any:
        raise NotImplementedError

    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        """Make tokens one by one as far as the bill is concerned: who goes away pays for what was made until then."""
        given = len(call.request.prompt or "")
        assert call.request.max_tokens is not None
        wanted = int(min(MAX_TOKENS, max(5, 220 * math.exp(1.18 * self._chance.gauss(0, 1)))))
        tokens, fails = min(wanted, call.request.max_tokens), self._chance.random() < FAILS
        cached = int(given * 0.9)
        self.calls += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        began, made = asyncio.get_running_loop().time(), 0
        try:
            await asyncio.sleep(FIRST_S)
            if (wait := emit(Delta(text="a", tokens=1))) is not None:
                await wait
            await asyncio.sleep(tokens / PER_S)
            made = tokens
            if fails:
                raise CoreFailed("the provider broke off")
        finally:
            self.running -= 1
            made = made or min(tokens, int(max(0.0, asyncio.get_running_loop().time() - began - FIRST_S) * PER_S) + 1)
            self.billed += (given - cached) * PRICE.input + cached * CACHED + made * PRICE.output
        usage = Usage(given - cached, cached, tokens)
        return Completion(id=call.id, model=call.model, core="provider", choices=(Choice("a"),), usage=usage)


class After(Ledger):
    """Charges after the call: whoever comes while there is anything left may call."""

    def reserve(self, accounts: tuple[Account, ...], bound: Bound) -> Reservation | Short:
        return self._taken(accounts, bound, Amount())

    def room(self, accounts: tuple[Account, ...], bound: Bound) -> int | Short:
        for account in accounts:
            for limit in account.limits:
                if account.spent_in(limit.window, limit.unit) >= limit.wanted:
                    return Short(account, limit, "spent")
        return bound.most

    def _taken(self, accounts: tuple[Account, ...], bound: Bound, amount: Amount) -> Reservation | Short:
        tokens = self.room(accounts, bound)
        if isinstance(tokens, Short):
            return tokens
        for account in accounts:
            account.reserve(amount)
        return Reservation(accounts, amount, tokens)

    def settle(self, reservation: Reservation, actual: Amount | None) -> Amount:
        """What is billed beyond is booked, and blocks nobody."""
        over = super().settle(reservation, actual)
        for account in reservation.accounts:
            account.overbilled = 0
        return over


class Resized(After):
    """Reserves what is left where the most that a call can come to does not fit, and lets it go."""

    def room(self, accounts: tuple[Account, ...], bound: Bound) -> int | Short:
        for account in accounts:
            for limit in account.limits:
                if account.spent_in(limit.window, limit.unit) + account.reserved[limit.unit] >= limit.wanted:
                    return Short(account, limit, "spent")
        return bound.most

    def reserve(self, accounts: tuple[Account, ...], bound: Bound) -> Reservation | Short:
        amount = bound.of(bound.most)
        left = [limit.wanted - account.gone(limit) for account in accounts for limit in account.limits]
        return self._taken(accounts, bound, amount._replace(money=min(amount.money, max(0, *left, 0))))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Parts of the limit: `used` as the kernel booked it, `billed` by the provider, `overshoot` beyond the limit.

    `refused_early`: callers refused while enough was only reserved.
    """

    used: float
    billed: float
    overshoot: float
    calls: int
    most_running: int
    refused_early: int


async def spend(ledger: type[Ledger] | None, callers: int, seed: int) -> Outcome:
    """So many callers call until they are refused."""
    provider = Billing(seed, callers)
    async with kernel_for_tests([provider], limit_s=1e9) as k:
        if ledger is not None:
            k.kernel.till.ledger = ledger(k.kernel.clock)
        gate = await k.session("caller")
        await k.operator.call(SetLimit(account=ACCOUNT, unit="money", amount=LIMIT))
        chance = random.Random(seed + 1000)
        early = await asyncio.gather(*(until_refused(k, gate, chance) for _ in range(callers)))
        booked, billed = booked_of(k) / LIMIT, provider.billed / LIMIT
    return Outcome(booked, billed, max(0.0, billed - 1, booked - 1), provider.calls, provider.most_running, sum(early))


def booked_of(k: RunningKernel) -> int:
    """Nano-dollars that the kernel says were spent."""
    return k.kernel.accounts.named(ACCOUNT).spent[MONEY]


async def until_refused(k: RunningKernel, gate: Gate, chance: random.Random) -> bool:
    """Call until that is refused; whether it was refused although its call would have fitted in what is not spent."""
    while True:
        given = int(min(150_000, max(500, 20_000 * math.exp(0.8 * chance.gauss(0, 1)))))
        request = Generate(model="large", prompt="x" * given, max_tokens=MAX_TOKENS)
        try:
            if chance.random() < GIVES_UP:
                await give_up(gate, request)
            else:
                await gate.call(request)
        except CoreFailed:
            continue
        except OverBudget:
            left = LIMIT - booked_of(k)
            return left >= (given + 1024) * PRICE.input + LEAST_TOKENS * PRICE.output


async def give_up(gate: Gate, request: Generate) -> None:
    """Read a stream to its first piece, and go away."""
    async with aclosing(gate.stream(request)) as stream:  # type: ignore[type-var]  # it is a generator
        async for event in stream:
            if isinstance(event, Delta):
                return
