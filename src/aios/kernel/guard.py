"""The guard against runaways: who goes round in circles gets a lower class, then is suspended, and an operator is asked.

It looks at an agent together with all that it began, so that a loop over many children is one loop, and one suspension stops
them all: each ends the call that it is in, and begins no other. Of a client that comes with a token of its own only denials
count, by its token, which in the end is revoked: there is nothing here that could be suspended, and another session is soon made.

What is looked at is the end of a call. What comes side by side is a map and no loop, and who rests between its calls polls.
Of each family so many counters are kept as stand in `Loops` and `Tally`, however many calls it makes. A call that was refused
and may be made again later counts for nothing: it was told to come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Generic, TypeVar

from aios.abi.account import MOST_AMOUNT
from aios.abi.bounds import within
from aios.abi.errors import AiosError, Denied, Refused, Stopped
from aios.abi.event import Cause, Incident, Measure
from aios.abi.request import Class, is_above
from aios.kernel.amounts import MONEY
from aios.kernel.events import EventLog
from aios.kernel.ledger.book import Book
from aios.kernel.ledger.windows import ends_ns
from aios.kernel.ledger.words import utc, words
from aios.kernel.process import Call, Process
from aios.ports.clock import Clock

NANO = 10**9
STEPS = frozenset({"llm.generate", "llm.score", "tool.execute"})
"""The rows by which an agent goes on. Mail, boards and clocks are waited for, again and again, by who is well."""
LOWERED: Class = "batch"
TALLIED = 8
"""Different calls, and answers, that are counted for a family at once."""
LONG_ANSWER = 16
"""Tokens. Shorter answers (`yes`) are alike by chance."""
MINUTE_S = 60.0
POLL_S = 5.0
"""Who makes the same call again only after so many seconds of rest looks how things stand, and goes round in no circle."""
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """What makes a runaway of an agent with all that it began; 0: that is not looked at.

    `same_calls`: so often the same call to a model or a tool, each after the one before; of these one is forgotten for each five
    seconds in which the agent made no step, so that who polls is none. `idle_steps`: the same of steps that failed or gave a
    long answer that had been given before. `denials`: in a minute, of a client too. `usd_per_minute`: so much was spent in one.
    """

    same_calls: int = 100
    idle_steps: int = 50
    denials: int = 200
    usd_per_minute: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        for name in ("same_calls", "idle_steps", "denials"):
            within(name, getattr(self, name), 0, 10**9)
        dollars = self.usd_per_minute
        # Compared before anything is computed: `1e999999` is short to write.
        if not dollars.is_finite() or not 0 <= dollars <= MOST_AMOUNT // NANO or dollars * NANO != int(dollars * NANO):
            raise ValueError(f"`usd_per_minute` must be 0 to {MOST_AMOUNT // NANO:,} dollars with at most nine decimals")


class Tally(Generic[Key]):
    """How often a thing came, of those that come often: Misra and Gries, Finding repeated elements (1982).

    It never says more than is true. What came c times among n things is said to have come at least c - n / (TALLIED + 1) times.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[Key, int] = {}

    def add(self, key: Key) -> int:
        """Count a thing; how often it came, at least. 0 for one that is not counted now."""
        counts = self._counts
        count = counts.get(key)
        if count is not None:
            counts[key] = count = count + 1
            return count
        if len(counts) < TALLIED:
            counts[key] = 1
            return 1
        self._counts = {other: count - 1 for other, count in counts.items() if count > 1}
        return 0


@dataclass(slots=True)
class Loop:
    """The same thing, again and again. `ended`: when the last one that counts did, `rest_s`: how long the family had rested."""

    count: float = 0.0
    ended: float = -math.inf
    rest_s: float = 0.0

    def again(self, asked: float, ended: float, rest_s: float) -> int:
        """Count it once more, if it came after the last one and not beside it; how often it came, at least."""
        if asked >= self.ended:
            self.count = max(0.0, self.count - (rest_s - self.rest_s) / POLL_S) + 1
            self.ended, self.rest_s = ended, rest_s
        return int(self.count)


class Loops:
    """How often the same call came, each after the one before: as `Tally`, but what comes side by side is a map and no loop."""

    __slots__ = ("_loops",)

    def __init__(self) -> None:
        self._loops: dict[bytes, Loop] = {}

    def add(self, key: bytes, asked: float, ended: float, rest_s: float) -> int:
        """Count a call; how often it came, at least."""
        loop = self._loops.get(key)
        if loop is not None:
            return loop.again(asked, ended, rest_s)
        if len(self._loops) < TALLIED:
            self._loops[key] = Loop(1.0, ended, rest_s)
            return 1
        for loop in self._loops.values():
            loop.count -= 1
        self._loops = {other: loop for other, loop in self._loops.items() if loop.count > 0}
        return 0


@dataclass(slots=True, eq=False)
class Watch:
    """What is kept of a family. `rest_s`: how long it made no step, between steps of which the last ended at `ended`; `spent`:
    nano-dollars that it had spent when it was last told off; `minute`: since when denials are counted, by the monotonic clock;
    `members`: of those that live."""

    head: Process
    calls: Loops = field(default_factory=Loops)
    answers: Tally[str] = field(default_factory=Tally)
    ended: float = math.inf
    rest_s: float = 0.0
    idle: Loop = field(default_factory=Loop)
    denied: int = 0
    minute: float = 0.0
    spent: int = 0
    strikes: int = 0
    members: int = 0


class Guard:
    """Looks at each call that ended. `lower`, `suspend`: what is done to the head of a family, and why; `revoke`: to a token."""

    def __init__(
        self, config: GuardConfig, book: Book, clock: Clock, events: EventLog, lower: Callable[[Process, str], None],
        suspend: Callable[[Process, str], None], revoke: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._config = config
        self._most_same, self._most_idle, self._most_money = (
            config.same_calls,
            config.idle_steps,
            int(config.usd_per_minute * NANO),
        )
        self._steps = STEPS if self._most_same or self._most_idle or self._most_money else frozenset[str]()
        self._book = book
        self._clock = clock
        self._events = events
        self._lower = lower
        self._suspend = suspend
        self._revoke = revoke
        self._watches: dict[Process, Watch] = {}
        self._heads: dict[Process | str, Watch] = {}

    def ended(self, call: Call) -> None:
        """A call of an agent has ended well."""
        process = call.process
        if call.row.name in self._steps and process.held is None and process.exit is None:
            self._step(self._watches.get(process) or self._watch(process), call, False)

    def failed(self, call: Call, error: AiosError) -> None:
        """A call has ended in an error."""
        process, denied = call.process, type(error) is Denied
        if process.operator or process.held is not None or process.exit is not None:
            return
        if denied and self._config.denials:
            self._denial(self._watches.get(process) or self._watch(process), call.row.name)
        elif process.kind == "agent" and call.row.name in self._steps and not excused(error):
            self._step(self._watches.get(process) or self._watch(process), call, True)

    def left(self, process: Process) -> None:
        """A process has ended; or begins again, and then it is looked at anew."""
        watch = self._watches.pop(process, None)
        if watch is not None:
            watch.members -= 1
            if not watch.members:
                self._heads.pop(_key(watch.head), None)

    def _watch(self, process: Process) -> Watch:
        head = head_of(process)
        watch = self._heads.get(_key(head))
        if watch is None:
            watch = self._heads[_key(head)] = Watch(head)
        for member in {head, process} - self._watches.keys():  # the head too: while it lives, it is one family
            watch.members += 1
            self._watches[member] = watch
        return watch

    def _denial(self, watch: Watch, row: str) -> None:
        now = self._clock.monotonic()
        if not 0 <= now - watch.minute < MINUTE_S:
            watch.minute, watch.denied = now, 0
        watch.denied += 1
        if watch.denied >= self._config.denials:
            self._strike(watch, "denials", f"was denied {watch.denied} calls within a minute, `{row}` last", watch.denied)

    def _step(self, watch: Watch, call: Call, failed: bool) -> None:
        now = self._clock.monotonic()
        watch.rest_s += max(0.0, call.asked - watch.ended)
        watch.ended = now
        most = self._most_same
        if most:
            same = watch.calls.add(call.digest, call.asked, now, watch.rest_s)
            if same >= most:
                return self._strike(watch, "same calls", f"made the same call `{call.row.name}` {same} times", same)
        most = self._most_idle
        if most and (failed or call.answer):
            if failed or (call.output_tokens >= LONG_ANSWER and watch.answers.add(call.answer) > 1):
                idle = watch.idle.again(call.asked, now, watch.rest_s)
                if idle >= most:
                    text = f"made {idle} steps without progress: they failed, or gave answers that it had"
                    return self._strike(watch, "idle steps", text, idle)
            elif watch.idle.count:
                watch.idle = Loop()
        if self._most_money:
            self._velocity(watch)

    def _velocity(self, watch: Watch) -> None:
        account, now_ns = self._book.of(watch.head), self._clock.now_ns()
        account.turn(now_ns)
        spent = min(account.spent_in("minute", MONEY), account.spent[MONEY] - watch.spent)
        if spent >= self._most_money:
            ends = utc(ends_ns("minute", now_ns) or now_ns)
            text = f"spent {words(MONEY, spent)} in the minute that ends at {ends}, of {words(MONEY, self._most_money)} at most"
            self._strike(watch, "spend", text, spent)

    def _strike(self, watch: Watch, cause: Cause, text: str, count: int) -> None:
        """The first time it gets a lower class, the second time it stops. It begins anew each time."""
        head, strikes = watch.head, watch.strikes
        account = self._book.of(head)
        watch.calls, watch.answers, watch.idle, watch.denied, watch.spent = Loops(), Tally(), Loop(), 0, account.spent[MONEY]
        watch.strikes = 0 if strikes else 1
        tells = f"`{head.name}` of `{account.name}` {text}"
        if not strikes and is_above(head.cls, LOWERED):
            detail = (
                f"{tells}: it is of class {LOWERED} now, and next time it stops; `aios nice {head.name} {head.cls}` undoes it"
            )
            self._tell(head, account.name, "lowered", cause, count, detail)
            self._lower(head, detail)
        elif head.kind == "agent":
            detail = f"{tells}: `aios resume {head.name}` lets it go on, `aios kill {head.name}` ends it"
            self._tell(head, account.name, "suspended", cause, count, detail)
            self._suspend(head, f"suspended as a runaway: {detail}")
        elif strikes:
            detail = f"{tells}: its token is revoked; `aios token add --agent {head.agent}` makes another one"
            self._tell(head, account.name, "revoked", cause, count, detail)
            self._revoke(head.token)

    def _tell(self, head: Process, account: str, change: Measure, cause: Cause, count: int, detail: str) -> None:
        self._events.add(
            Incident, tenant=head.tenant, pid=head.pid, name=head.name, account=account, change=change, cause=cause, count=count,
            detail=detail,
        )  # fmt: skip


def excused(error: AiosError) -> bool:
    """Whether a call counts for nothing: it was stopped, or is to come again."""
    return isinstance(error, Stopped) or (isinstance(error, Refused) and error.retry)


def head_of(process: Process) -> Process:
    """The agent that began all this; of a client it is the session itself."""
    while process.parent is not None and process.parent.kind == "agent":
        process = process.parent
    return process


def _key(head: Process) -> Process | str:
    """Sessions of one token are one."""
    return head if head.kind == "agent" else head.token
