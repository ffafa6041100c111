"""Callers who share a budget: each calls through a kernel's doors until it is refused, and some of them hang up.

A process of its own. The kernel's ledger refuses them, or they do by themselves what gateways do: look what the account has spent
(`after`), or besides reserve what is left where the most that a call can come to does not fit (`resize`).
"""

from __future__ import annotations

import asyncio
import random
import re
from decimal import Decimal
from typing import Literal

import msgspec

from aios.abi.account import AccountList
from aios.drivers.core.http1 import Answer, Broken, Connections
from benchmarks.rig.bills import LIMIT, MAX_TOKENS, PRICE, Ask, drawn
from benchmarks.rig.child import Failed, obey, run

KEEP_S = 4.0
NANO = 10**9
LEAST_TOKENS = 256
"""Of an answer that the ledger finds useful."""
OVERHEAD_TOKENS = 1024
"""That it allows for a model's template."""
SHOW = "/v1/call/account.show"
REFUSED = re.compile(rb"has spent \$([0-9.]+) of \$[0-9.]+, and this call may come to ")
FAILURES = (b'"error":{', b"event: error", b"response.failed")
"""In a stream that began well."""
PROVIDERS = (b"too many requests", b"in the middle", b"broke off", b"does not answer", b"is down")
"""What the kernel says of failures that are the provider's."""
Way = Literal["reserve", "after", "resize"]


class Plan(msgspec.Struct, frozen=True):
    """So many callers at a kernel, with the token of the account that pays.

    `fails`: the provider fails some of their calls. `token_bytes`: of each token of their prompts.
    """

    port: int
    token: str
    callers: int
    seed: int
    way: Way = "reserve"
    fails: bool = True
    token_bytes: int = 1


class Outcome(msgspec.Struct):
    """What came of them. Calls: `answered`, whole; `failed`, with an error of the provider's; `early`, `midway`: hung up on.

    `refused`: for their budget; `refused_early`: of these, which would have had room in what the account had not spent.
    Nano-dollars: what the first refusal and any one said was spent, at most; the least room that a refused call needed.
    """

    answered: int = 0
    failed: int = 0
    early: int = 0
    midway: int = 0
    refused: int = 0
    refused_early: int = 0
    first_refusal: int = 0
    said_spent: int = 0
    least_room: int = LIMIT


class Spenders:
    """The callers of a plan."""

    def __init__(self, plan: Plan) -> None:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {plan.token}"}
        self._plan = plan
        self._connections = Connections("127.0.0.1", plan.port, headers, KEEP_S)
        self._reserved = 0
        self._settled = asyncio.Event()
        self.outcome = Outcome()

    async def spend(self) -> Outcome:
        """All of them, until each is refused. Raises `Failed` for an answer that is neither an answer nor a refusal."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._plan.callers):
                group.create_task(self._caller(random.Random(f"{self._plan.seed}/{number}")))
        self._connections.close()
        return self.outcome

    async def _caller(self, chance: random.Random) -> None:
        """Call until that is refused."""
        refused = False
        while not refused:
            ask = drawn(chance, fails=self._plan.fails)
            reserved = 0 if self._plan.way == "reserve" else await self._own_reservation(ask)
            if reserved is None:
                return
            self._reserved += reserved
            status, said = await self._call(ask)
            self._reserved -= reserved
            self._settled.set()
            refused = bool(status) and self.refuses(ask, status, said)

    async def _own_reservation(self, ask: Ask) -> int | None:
        """What a gateway reserves for a call, nano-dollars; None if it refuses it."""
        while (spent := await self._spent()) < LIMIT:
            left = LIMIT - spent - self._reserved
            if self._plan.way == "after":
                return 0
            if left > 0:
                return min(room_of(ask, self._plan.token_bytes, MAX_TOKENS), left)
            self._settled.clear()
            await self._settled.wait()
        return None

    async def _spent(self) -> int:
        """Nano-dollars that the account has spent, as the kernel says."""
        status, said = await self._told("POST", SHOW, b"{}")
        if status != 200:
            raise Failed(f"the account was not shown: {said[:300]!r}")
        return msgspec.json.decode(said, type=AccountList).accounts[0].spent["lifetime"]["money"]

    async def _call(self, ask: Ask) -> tuple[int, bytes]:
        """One call, to its end or as long as its caller waits; see `_told`."""
        if ask.leaves != "early":
            return await self._told("POST", ask.door, ask.body(self._plan.token_bytes), midway=ask.leaves == "midway")
        try:
            async with asyncio.timeout(ask.leaves_s):
                return await self._told("POST", ask.door, ask.body(self._plan.token_bytes))
        except TimeoutError:
            self.outcome.early += 1
            return 0, b""

    async def _told(self, method: str, path: str, body: bytes, midway: bool = False) -> tuple[int, bytes]:
        """Ask; the status and body of the answer. Status 0: hung up in its midst. Raises `Failed` if it breaks off."""
        try:
            answer = await self._connections.request(method, path, body)
            try:
                said = await read(answer, until=b"tok" if midway else b"")
            finally:
                self._connections.done(answer)
        except Broken as error:
            raise Failed(f"the kernel broke off: {error}") from None
        if midway and not answer.at_end:
            self.outcome.midway += 1
            return 0, said
        return answer.status, said

    def refuses(self, ask: Ask, status: int, said: bytes) -> bool:
        """Whether an answer is the refusal of a spent budget; count it. Raises `Failed` for what no answer may be."""
        outcome, refusal = self.outcome, REFUSED.search(said)
        if refusal is None:
            failed = status != 200 or any(word in said for word in FAILURES)
            if failed and not any(words in said for words in PROVIDERS):
                raise Failed(f"a call was answered {status}: {said[-300:].decode(errors='replace')}")
            outcome.failed += failed
            outcome.answered += not failed
            return False
        room = room_of(ask, self._plan.token_bytes, LEAST_TOKENS)
        spent = int(Decimal(refusal[1].decode()) * NANO)
        outcome.first_refusal = outcome.first_refusal or spent
        outcome.refused += 1
        outcome.refused_early += LIMIT - spent >= room
        outcome.least_room = min(outcome.least_room, room)
        outcome.said_spent = max(outcome.said_spent, spent)
        return True


def room_of(ask: Ask, token_bytes: int, tokens: int) -> int:
    """Nano-dollars that a call can come to, at most, with so many tokens of an answer: a byte may be a token."""
    return (ask.work.given * token_bytes + OVERHEAD_TOKENS) * PRICE.input + tokens * PRICE.output


async def read(answer: Answer, until: bytes = b"") -> bytes:
    """All of an answer's body, or as far as something is said in it."""
    said = bytearray()
    while piece := await answer.read():
        said += piece
        if until and until in piece:
            break
    return bytes(said)


async def carry_out(line: bytes) -> Outcome:
    """Carry out a plan."""
    try:
        return await Spenders(msgspec.json.decode(line, type=Plan)).spend()
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def main() -> None:
    """Carry out the parent's plans."""
    await obey(carry_out)


if __name__ == "__main__":
    run(main)
