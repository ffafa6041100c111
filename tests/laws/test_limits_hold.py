"""The law of limits, over a whole kernel: between any two steps of its loop nobody has spent, or may spend, beyond one.

Clients, agents with children and an operator do what Hypothesis thinks of; providers answer, fail, go down, keep quiet and lie;
clocks are set. The law keeps books of its own: what was asked of each provider, and what that may come to on its bill.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import Phase, example, given, seed, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aios.abi.account import SetLimit, Unit, Window
from aios.abi.errors import AiosError, CoreFailed, Internal, OverBudget, QueueFull
from aios.abi.llm import Completion, Generate, Usage
from aios.abi.process import SignalProcess, Spawn
from aios.abi.request import CLASSES, CallOptions, Trace
from aios.abi.system import AddToken
from aios.kernel.amounts import MONEY, NOTHING, Amount, Bound
from aios.kernel.guard import GuardConfig
from aios.kernel.ledger.accounts import Account, Limit
from aios.kernel.ledger.bounds import input_bound
from aios.kernel.ledger.cashier import Cashier
from aios.kernel.ledger.ledger import Ledger, Reservation, Short
from aios.kernel.ledger.payments import Payment, Till
from aios.kernel.process import Call
from aios.ports.core import CoreCall, CoreInfo, Emit, Price
from aios.ports.gate import Gate
from aios.server.local import LocalGate
from aios.testing import Script, ScriptedCore, run_virtual
from aios.testing.kernel import EPOCH_NS, RunningKernel, VirtualClock, kernel_for_tests, manifest_of

PRICE = Price(1_000_003, 1_000_003, 9_999_991)
LONG_AGO = 2**53 + 1
"""Nano-dollars that were spent before: beside so many a float knows no odd ones."""
KINDS = ("good", "good", "slow", "breaks", "breaks early", "is refused", "says nothing", "says nonsense", "lies")
ANSWERS = {
    "slow": Script(text="one two three four", token_s=7.0),
    "breaks": Script(text="one two three", token_s=1.0, fail_after=1),
    "breaks early": Script(fail_after=0, failure=CoreFailed("no")),
    "is refused": Script(fail_after=0, failure=QueueFull("not now")),
}
TAGS = ("provider:a", "provider:b", "job:acme/nightly", "job:local/fleet")
ACCOUNTS = ("/", "/acme", "/acme/@ann", "/acme/@ann/one", "/acme/two", "/local", "/local/work", "model:scripted-1", *TAGS)
JOBS = {"/acme/@ann/one": "job:acme/nightly", "/local/work": "job:local/fleet"}
"""What the calls of an account are booked under: the ones say so, all others are begun so."""
WORST: dict[Unit, int] = {"money": 520 * PRICE.input + 40 * PRICE.output, "tokens": 560, "calls": 1}
"""About what a usual call may come to, so that limits are of a few calls."""
JUMPS_S = (61, 3600, 86_400, 40 * 86_400, -1, -61, -3600, -86_400, -40 * 86_400)

windows = st.sampled_from(["call", "now", "minute", "hour", "day", "month", "lifetime"])
limiting = st.tuples(
    st.just("limit"), st.sampled_from(ACCOUNTS), st.sampled_from(["money", "tokens", "calls"]), windows,
    st.sampled_from([None, 0, 1, 1, 2, 3, 3, 8]),
)  # fmt: skip
acts = st.one_of(
    *[st.tuples(st.just("ask"), st.integers(0, 3), st.sampled_from(KINDS), st.sampled_from([1, 40, 900]))] * 6,
    *[st.tuples(st.just("wait"), st.sampled_from([0.0, 0.0, 0.5, 5.0, 70.0]))] * 3,
    *[st.tuples(st.just("steps"), st.integers(1, 9))] * 2,
    *[limiting] * 3,
    st.tuples(st.just("crowd"), st.integers(0, 3), st.sampled_from(KINDS), st.integers(3, 6)),
    st.tuples(st.just("give up"), st.integers(0, 9)),
    st.tuples(st.just("clock"), st.sampled_from(JUMPS_S)),
    st.tuples(st.sampled_from(["down", "up"]), st.integers(0, 1)),
    st.tuples(st.just("spawn"), st.sampled_from(KINDS)),
    st.tuples(st.sampled_from(["kill", "suspend", "resume"]), st.integers(0, 9)),
    st.tuples(st.just("crash")),
)  # fmt: skip
scripts = st.builds(list.__add__, st.lists(limiting, max_size=3), st.lists(acts, min_size=5, max_size=30))


@dataclass
class Bill:
    """Of one attempt at a provider, in nano-dollars: `most` that it may say, and what it `said`, if it is over."""

    accounts: tuple[str, ...]
    most: int
    said: int | None = None

    @property
    def foreseen(self) -> int:
        """What of it must have been reserved, or is spent by now; a lie is found out a step later."""
        return self.most if self.said is None else min(self.said, self.most)


class Provider(ScriptedCore):
    """A core elsewhere. What a question begins with says whose account pays, and how it is answered."""

    def __init__(self, name: str, bills: list[Bill]) -> None:
        super().__init__(lambda call: ANSWERS.get(kind_of(call), "one two"), name=name, slots=3, price=PRICE)
        self.bills = bills

    def info(self) -> CoreInfo:
        return replace(super().info(), local=False)

    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        asked = call.request
        assert asked.prompt is not None and asked.max_tokens is not None
        most = PRICE.input * input_bound((), asked.prompt) + PRICE.output * asked.max_tokens
        account = asked.prompt.partition(":")[0]
        bill = Bill(("/", account, f"provider:{self.info().name}", JOBS.get(account, "")), most)
        self.bills.append(bill)
        try:
            done = await super().generate(call, emit)
        except QueueFull:
            bill.said = 0
            raise
        except AiosError as error:
            bill.said = 0 if isinstance(error, OverBudget) or error.code == "Unavailable" else most
            raise
        except BaseException:
            bill.said = most  # who knows what it made until then?
            raise
        usage = done.usage
        if kind_of(call) == "says nothing":
            usage = Usage(estimated=True)
        elif kind_of(call) == "says nonsense":
            usage = Usage(-7, 0, 10**400)
        elif kind_of(call) == "lies":
            usage = replace(usage, input_uncached=usage.input_uncached + 5000)
        known = not usage.estimated and usage.input_uncached >= 0
        bill.said = usage.input_uncached * PRICE.input + usage.output_visible * PRICE.output if known else most
        return replace(done, usage=usage)


def kind_of(call: CoreCall) -> str:
    return (call.request.prompt or "").split(":")[1]


@dataclass
class Law:
    """What must hold, and what it was reckoned from. `most`: of each limit, what its account may have spent and reserved."""

    k: RunningKernel
    bills: list[Bill] = field(default_factory=list)
    most: dict[int, tuple[Limit, int]] = field(default_factory=dict)
    lies: int = 0
    broken: str = ""
    stood: list[int] = field(default_factory=list)

    def look(self) -> None:
        """After each step of the loop that has changed anything."""
        book = self.k.kernel.accounts
        stands = [len(self.bills), book.top.spent[MONEY], sum(len(account.limits) for account in book._accounts.values())]
        stands += [each for account in self.accounts() for each in account.reserved]
        if stands != self.stood and not self.broken:
            self.stood = stands
            try:
                self.holds()
            except Exception as wrong:  # noqa: BLE001  # told by the test, and not by the loop
                self.broken = f"{type(wrong).__name__}: {wrong}"

    def accounts(self) -> list[Account]:
        book = self.k.kernel.accounts
        return [*book._accounts.values(), *book.tags.values()]

    def holds(self) -> None:
        lies = sum(account.overbilled for account in self.accounts())
        billed_beyond = lies > self.lies
        for account in self.accounts():
            assert min(account.reserved) >= 0, f"{account.name} has {account.reserved} reserved"
            for limit in account.limits:
                gone = account.gone(limit)
                _, before = self.most.get(id(limit), (limit, gone))
                most = max(limit.wanted, before)
                assert gone <= most or billed_beyond, f"{gone} of {most} are gone of {limit} of {account.name}"
                self.most[id(limit)] = limit, gone
        self.lies = lies
        for name in self.billed_to():
            account = self.k.kernel.accounts.named(name)
            billed = sum(bill.foreseen for bill in self.bills if name in bill.accounts)
            booked = account.spent[MONEY] + account.reserved[MONEY] - (LONG_AGO if name == "/" else 0)
            assert billed <= booked, f"{billed} may be billed to {name}, and {booked} is booked"

    def billed_to(self) -> set[str]:
        """All that has to pay a bill."""
        return {name for bill in self.bills for name in bill.accounts if name}

    def nobody_waits_for_nothing(self) -> None:
        """When all has been done that can be: who waits for room has none."""
        till = self.k.kernel.till
        for account, line in till._waiting.items():
            first = line.first()
            if not till._recalled.get(account):
                short = till.ledger.room(first.accounts_on(first.server), first.bounds[first.server])
                assert isinstance(short, Short), f"there is room for who waits at {account.name}"

    def adds_up(self) -> None:
        """When all has ended."""
        for account in self.accounts():
            assert not any(account.reserved), f"{account.name} has {account.reserved} reserved for nobody"
            assert not self.k.kernel.till.waiting_at(account)
        for name in self.billed_to():
            billed = sum(bill.said or 0 for bill in self.bills if name in bill.accounts)
            spent = self.k.kernel.accounts.named(name).spent[MONEY] - (LONG_AGO if name == "/" else 0)
            assert spent == billed, f"{name} was billed {billed}, and has spent {spent}"


class World:
    """Does what it is told to a kernel."""

    def __init__(self, k: RunningKernel, law: Law, cores: list[Provider]) -> None:
        self.k, self.law, self.cores = k, law, cores
        self.clients: list[tuple[str, LocalGate]] = []
        self.calls: list[asyncio.Task[Any]] = []
        self.agents: list[str] = []

    async def begin(self) -> None:
        tokens = [("acme", "ann", "one"), ("acme", "", "two"), ("acme", "", "two"), ("local", "", "three")]
        for number, (tenant, user, agent) in enumerate(tokens):
            cls = CLASSES[1 + number % 3]
            made = await self.k.operator.call(AddToken(agent=agent, tenant=tenant, user=user, cls=cls))
            path = "/".join(part for part in ("", tenant, user and f"@{user}", agent) if part or not tenant)
            self.clients.append((f"/{path.lstrip('/')}", self.k.attach(made.value)))
        for tag in TAGS[:2]:  # known from the first call on
            await self.limit(tag, "money", "lifetime", None)

    async def do(self, act: tuple[Any, ...]) -> None:
        name, *arguments = act
        await getattr(self, name.replace(" ", "_"))(*arguments)

    async def ask(self, client: int, kind: str, tokens: int) -> None:
        account, gate = self.clients[client]
        self.calls.append(asyncio.create_task(asked(gate, account, kind, tokens)))

    async def crowd(self, client: int, kind: str, count: int) -> None:
        for _ in range(count):
            await self.ask(client, kind, 40)

    async def wait(self, for_s: float) -> None:
        await asyncio.sleep(for_s)

    async def steps(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def limit(self, account: str, unit: Unit, window: Window, calls: int | None) -> None:
        amount = None if calls is None else WORST[unit] * calls
        await self.k.operator.call(SetLimit(account=account, unit=unit, amount=amount, window=window))

    async def give_up(self, number: int) -> None:
        if number < len(self.calls):
            self.calls[-1 - number].cancel()

    async def clock(self, by_s: int) -> None:
        CLOCK[0] += by_s * 10**9

    async def down(self, core: int) -> None:
        self.cores[core].go_down()

    async def up(self, core: int) -> None:
        self.cores[core].come_up()

    async def spawn(self, kind: str) -> None:
        manifest = self.k.accept(manifest_of("work", grants=("use /llm/*", "spawn /agents/*"), on_budget="park"))
        begun = await self.k.operator.call(Spawn(manifest=manifest, arguments=(kind,), job="fleet"))
        self.agents.append(begun.pid)

    async def crash(self) -> None:
        for host in self.k.hosts.hosts[-1:]:
            host.die()

    async def kill(self, number: int) -> None:
        await self._signal(number, "kill")

    async def suspend(self, number: int) -> None:
        await self._signal(number, "suspend")

    async def resume(self, number: int) -> None:
        await self._signal(number, "resume")

    async def _signal(self, number: int, signal: Any) -> None:
        if number < len(self.agents):
            try:
                await self.k.operator.call(SignalProcess(pid=self.agents[number], signal=signal))
            except AiosError:
                pass  # it has ended, or is not held

    async def end(self) -> None:
        """Let everything come to its end: nothing is in the way any more."""
        for core in self.cores:
            core.come_up()
        for account in self.law.accounts():
            for limit in list(account.limits):
                path, unit = account.name, ("money", "tokens", "calls")[limit.unit]
                await self.k.operator.call(SetLimit(account=path, unit=unit, amount=None, window=limit.window))  # type: ignore[arg-type]
        for number in range(len(self.agents)):
            await self.resume(number)
        if self.calls:
            ended = await asyncio.gather(*self.calls, return_exceptions=True)
            wrong = [each for each in ended if isinstance(each, BaseException) and not isinstance(each, asyncio.CancelledError)]
            assert not wrong, f"a call ended in {wrong[0]!r}"
        await asyncio.sleep(300)  # answers are heard out, agents end


async def asked(gate: Gate, account: str, kind: str, tokens: int) -> None:
    try:
        job = JOBS.get(account, "").rpartition("/")[2]
        named = CallOptions(trace=Trace(tag=job if account != "/local/work" else "another"))
        await gate.call(Generate(prompt=f"{account}:{kind}:", max_tokens=tokens), named)
    except Internal:
        raise
    except AiosError:
        pass


async def child(gate: Gate, kind: str) -> None:
    for _ in range(2):
        await asked(gate, "/local/work", kind, 40)


async def work(gate: Gate, kind: str) -> None:
    await gate.call(Spawn(manifest=manifest_of("child", on_budget="park"), arguments=(kind,)))
    await asyncio.gather(*(asked(gate, "/local/work", kind, 40) for _ in range(2)))


CLOCK = [0]
"""Nanoseconds by which the clock was set, since the loop began."""


def now_ns(_: VirtualClock) -> int:
    return EPOCH_NS + round(asyncio.get_running_loop().time() * 1e9) + CLOCK[0]


@contextmanager
def looking(look: Callable[[], None]) -> Iterator[None]:
    """Look after each step of the loop, which is one of a task or of a callback."""
    run = asyncio.Handle._run  # type: ignore[attr-defined]  # of asyncio's own

    def run_and_look(handle: Any) -> None:
        run(handle)
        look()

    with patch.object(asyncio.Handle, "_run", run_and_look):
        yield


@asynccontextmanager
async def world() -> Any:
    CLOCK[0] = 0
    bills: list[Bill] = []
    cores = [Provider(name, bills) for name in ("a", "b")]
    off = GuardConfig(same_calls=0, idle_steps=0, denials=0)
    with patch.object(VirtualClock, "now_ns", now_ns):
        async with kernel_for_tests(cores, {"work": work, "child": child}, guard=off, limit_s=10**6) as k:
            k.kernel.accounts.top.carry(MONEY, {"lifetime": LONG_AGO}, 0, EPOCH_NS)
            made = World(k, Law(k, bills), cores)
            await made.begin()
            with looking(made.law.look):
                yield made


async def run(script: list[tuple[Any, ...]]) -> None:
    async with world() as w:
        for act in script:
            await w.do(act)
            assert not w.law.broken, w.law.broken
            if act[0] == "wait" and act[1]:
                w.law.nobody_waits_for_nothing()
        await w.end()
        assert not w.law.broken, w.law.broken
        w.law.adds_up()


@given(scripts)
@example([("limit", "/", "money", "now", 2), ("crowd", 0, "slow", 3), ("wait", 0.5)])  # somebody waits for room
@settings(max_examples=150, deadline=None)
async def test_nobody_spends_beyond_a_limit_or_waits_for_nothing(script: list[tuple[Any, ...]]) -> None:
    await run(script)


# --- bugs that the law has to find --------------------------------------------------------------------------------------


@contextmanager
def in_floats() -> Iterator[None]:
    """Money is added up in floating point."""
    settle = Account.settle

    def settled(self: Account, reserved: Amount, spent: Amount) -> None:
        before = self.spent[MONEY]
        settle(self, reserved, spent)
        self.spent[MONEY] = int(float(before) + float(spent.money))

    with patch.object(Account, "settle", settled):
        yield


@contextmanager
def looked_before() -> Iterator[None]:
    """Whether there is room is looked at in one step, and it is reserved in the next."""

    def reserve(self: Ledger, accounts: tuple[Account, ...], bound: Bound) -> Reservation | Short:
        tokens = self.room(accounts, bound)
        if isinstance(tokens, Short):
            return tokens
        amount = bound.of(tokens)
        asyncio.get_running_loop().call_soon(lambda: [account.reserve(amount) for account in accounts])
        return Reservation(accounts, amount, tokens)

    with patch.object(Ledger, "reserve", reserve):
        yield


@contextmanager
def once_for_all_attempts() -> Iterator[None]:
    """A further attempt of a call reserves nothing."""
    take = Till.take

    def taken(self: Till, payment: Payment, server: str, recall: Any) -> Any:
        if payment._call.attempt > 1:
            payment.bounds = {name: Bound(NOTHING, 0, bound.most) for name, bound in payment.bounds.items()}
        return take(self, payment, server, recall)

    with patch.object(Till, "take", taken):
        yield


@contextmanager
def settled_twice() -> Iterator[None]:
    """A call that was given up is settled where it was stopped, and where its answer ends."""
    settle = Cashier.settle

    def settled(self: Cashier, call: Call, payment: Payment, error: BaseException | None) -> None:
        reservation, actual = payment.reservation, call.came_to
        settle(self, call, payment, error)
        if reservation is not None and error is not None:
            reservation.settled = False
            self._till.settle(reservation, actual)

    with patch.object(Cashier, "settle", settled):
        yield


@contextmanager
def refunded_by_guess() -> Iterator[None]:
    """What nobody knows is taken to be nothing."""
    settle = Payment.settle

    def settled(self: Payment, actual: Amount | None) -> Amount:
        return settle(self, NOTHING if actual is None else actual)

    with patch.object(Payment, "settle", settled):
        yield


@contextmanager
def along_the_path_alone() -> Iterator[None]:
    """Nothing is reserved for tags."""
    with patch.object(Payment, "accounts_on", lambda self, server: self.accounts):
        yield


@contextmanager
def where_it_began() -> Iterator[None]:
    """A further attempt is paid by the provider of the first one."""
    accounts_on, first = Payment.accounts_on, dict[str, str]()

    def paying(self: Payment, server: str) -> tuple[Account, ...]:
        before = self.tags[f"provider:{first.setdefault(self._call.id, server)}"]
        return tuple(before if each.name == f"provider:{server}" else each for each in accounts_on(self, server))

    with patch.object(Payment, "accounts_on", paying):
        yield


PLANTED = (
    in_floats, looked_before, once_for_all_attempts, settled_twice, refunded_by_guess, along_the_path_alone, where_it_began,
)  # fmt: skip


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("bug", PLANTED)
def test_the_law_finds_what_is_planted(bug: Any, number: int) -> None:
    @seed(number)
    @given(scripts)
    @settings(max_examples=400, deadline=None, phases=[Phase.generate], database=None)
    def law(script: list[tuple[Any, ...]]) -> None:
        with bug():
            run_virtual(run(script))

    with pytest.raises(AssertionError):
        law()
