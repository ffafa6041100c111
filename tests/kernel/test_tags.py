"""Tags: the provider that a call is bound to, and the job that it is made for, have accounts beside those of its process."""

import asyncio
from typing import Any

import msgspec
import pytest

from aios.abi.account import AccountState, SetLimit, ShowAccounts, Unit, Window
from aios.abi.errors import CoreFailed, NotFound, OverBudget
from aios.abi.event import ReadEvents
from aios.abi.llm import Generate
from aios.abi.process import List, Spawn, WaitFor
from aios.abi.request import CallOptions, Trace
from aios.abi.system import AddToken
from aios.kernel.ledger import book
from aios.ports.core import CoreCall, CoreInfo, Price
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests, manifest_of

PRICE = Price(10, 1, 100)
hello = Generate(prompt="hello", max_tokens=4)
MOST = (512 + 5) * 10 + 4 * 100
"""Nano-dollars that `hello` may come to."""


class ProvidedCore(ScriptedCore):
    """A scripted core of a provider."""

    def __init__(self, answers: Any, provider: str, **fields: Any) -> None:
        super().__init__(answers, **fields)
        self._provider = provider

    def info(self) -> CoreInfo:
        return msgspec.structs.replace(super().info(), provider=self._provider)


def of(job: str) -> CallOptions:
    return CallOptions(trace=Trace(tag=job))


async def limit(
    k: RunningKernel, account: str, amount: int | None, unit: Unit = "calls", window: Window = "lifetime"
) -> AccountState:
    return await k.operator.call(SetLimit(account=account, unit=unit, amount=amount, window=window))


async def state(k: RunningKernel, account: str) -> AccountState:
    return (await k.operator.call(ShowAccounts(account=account))).accounts[0]


async def calls_of(k: RunningKernel, account: str) -> int:
    return (await state(k, account)).spent["lifetime"]["calls"]


def two_providers(one: Any = "one") -> list[Any]:
    return [
        ProvidedCore(one, "acme", name="a", price=PRICE, slots=8, models=("shared", "mine")),
        ProvidedCore("two", "bolt", name="b", price=PRICE, slots=8, models=("shared",)),
    ]


async def test_a_provider_has_limits_of_its_own_over_all_its_models_and_cores() -> None:
    cores = [*two_providers(Script(text="one", first_s=1)), ProvidedCore("three", "acme", name="c", models=("large",))]
    async with kernel_for_tests(cores) as k:
        one, other = await k.session("one"), await k.session("other")
        under_way = asyncio.ensure_future(one.call(Generate(prompt="hello", max_tokens=4, model="mine")))
        await asyncio.sleep(0.5)
        now = await limit(k, "provider:acme", 3)
        assert (now.account, now.effective, now.spent["lifetime"]["calls"]) == ("provider:acme", now.limits, 0)
        await under_way
        await other.call(Generate(prompt="hello", max_tokens=4, model="large"))
        await one.call(Generate(prompt="hello", max_tokens=4, model="mine"))
        with pytest.raises(OverBudget, match=r"`provider:acme` has spent 2 calls of 3 calls|`aios budget provider:acme --calls"):
            for _ in range(3):
                await other.call(Generate(prompt="hello", max_tokens=4, model="mine"))
        for _ in range(3):  # what another provider can do goes there
            await one.call(Generate(prompt="hello", max_tokens=4, model="shared"))
        assert [len(core.calls) for core in cores[1:]] == [3, 1]
        shown = (await k.operator.call(ShowAccounts(account="/", below=True))).accounts
        assert [each.account for each in shown][-1] == "provider:acme"
        refused: Any = (await k.operator.call(ReadEvents(kinds=("account",)))).events[-1]
        assert (refused.change, refused.account) == ("refused", "provider:acme")
        with pytest.raises(NotFound, match="no core has a provider `akme`.*acme"):
            await limit(k, "provider:akme", 3)
        with pytest.raises(NotFound):
            await one.call(ShowAccounts(account="provider:acme"))


async def test_the_first_limit_of_a_provider_begins_with_what_is_under_way_and_leaves_others_as_free_as_before() -> None:
    for price in (PRICE, Price()):
        slow = Script(text="one", first_s=1)
        cores = [
            ProvidedCore(slow, "acme", name="a", price=price, slots=8, models=("mine",)),
            ScriptedCore(slow, name="shelf", slots=8, models=("free",)),
        ]
        mine, free = (Generate(prompt="hello", max_tokens=4, model=model) for model in ("mine", "free"))
        async with kernel_for_tests(cores) as k:
            gate, other, began = await k.session(), await k.session("other"), time()
            calls = [asyncio.ensure_future(gate.call(mine)) for _ in range(3)]
            beside = asyncio.ensure_future(other.call(free))
            await asyncio.sleep(0.5)
            now = await limit(k, "provider:acme", 2, window="now")
            assert (now.reserved["calls"], now.limits[0].amount) == (3, 3)
            await limit(k, "model:mine", 100)
            calls += [asyncio.ensure_future(gate.call(mine)) for _ in range(3)]
            await asyncio.gather(*calls, beside, other.call(free))
            assert time() - began == pytest.approx(3, abs=0.1) and await calls_of(k, "provider:acme") == 6
            assert await calls_of(k, "model:mine") == 6
            assert (await state(k, "provider:acme")).reserved == {"money": 0, "tokens": 0, "calls": 0} and not k.kernel.till.held
            assert "reservation" not in {record.kind for record in k.store.tail(other.process.pid)}
            await limit(k, "provider:acme", None, window="now")
            await limit(k, "model:mine", None)
            await gate.call(mine)
            assert (await calls_of(k, "provider:acme"), await calls_of(k, "model:mine")) == (7, 7)


async def test_of_a_core_without_a_provider_the_account_has_its_own_name() -> None:
    async with kernel_for_tests([ScriptedCore("one", name="shelf")]) as k:
        gate = await k.session()
        await limit(k, "provider:shelf", 1)
        await gate.call(hello)
        with pytest.raises(OverBudget, match="`provider:shelf`"):
            await gate.call(hello)


async def test_a_retry_at_another_provider_reserves_anew_there() -> None:
    class Failing(ProvidedCore):
        failures = 0

        async def generate(self, call: Any, emit: Any) -> Any:
            self.failures += 1
            raise CoreFailed("it fell over")

    failing = Failing("never", "acme", name="a", price=PRICE, models=("shared",))
    answering = ProvidedCore(Script(text="two", first_s=5), "bolt", name="b", price=PRICE, models=("shared",))
    async with kernel_for_tests([failing, answering]) as k:
        gate = await k.session()
        for provider in ("acme", "bolt"):
            await limit(k, f"provider:{provider}", 100_000, "money")
        call = asyncio.ensure_future(gate.call(hello))
        await asyncio.sleep(1)
        acme, bolt = await state(k, "provider:acme"), await state(k, "provider:bolt")
        assert failing.failures == 1, "which was tried first"
        assert (acme.reserved["money"], bolt.reserved["money"]) == (0, MOST)
        assert acme.spent["lifetime"] == {"money": 5170, "tokens": 517, "calls": 1}, "of its question nobody knows"
        await call
        assert (await state(k, "provider:bolt")).spent["lifetime"]["calls"] == 1
        await limit(k, "provider:bolt", 0, "calls")
        with pytest.raises(CoreFailed):  # one attempt, at the one that has budget
            await gate.call(hello)
        assert (await state(k, "provider:bolt")).spent["lifetime"]["calls"] == 1


async def test_what_a_job_spends_is_gathered_over_processes_before_anybody_limits_it() -> None:
    paid = Generate(prompt="hello", max_tokens=4, model="scripted-1")
    async with kernel_for_tests([ScriptedCore("one two", price=PRICE), ScriptedCore("free", name="f", models=("free",))]) as k:
        one, other = await k.session("one"), await k.session("other")
        await one.call(paid, of("nightly"))
        await other.call(paid, of("nightly"))
        await other.call(Generate(prompt="hello", max_tokens=4, model="free"), of("nightly"))
        await other.call(paid)
        spent = (await state(k, "job:nightly")).spent["lifetime"]
        assert spent == {"money": 2 * (1 * 10 + 2 * 100), "tokens": 2 * 3 + 2, "calls": 3}
        assert (await state(k, "job:local/nightly")).account == "job:local/nightly"
        assert await calls_of(k, "/local") == 4, "it is beside the accounts of its processes, and not instead"
        shown = (await k.operator.call(ShowAccounts(account="/", below=True))).accounts
        assert shown[-1].account == "job:local/nightly"


async def test_a_jobs_limit_holds_over_all_processes_and_naming_it_escapes_no_other() -> None:
    cores = ScriptedCore(Script(text="one", first_s=1), slots=8, price=PRICE)
    async with kernel_for_tests([cores]) as k:
        one, other = await k.session("one"), await k.session("other")
        waiting = [asyncio.ensure_future(gate.call(hello, of("nightly"))) for gate in (one, other) for _ in range(2)]
        await asyncio.sleep(0.5)
        await limit(k, "job:nightly", 2, window="now")
        now = await state(k, "job:nightly")
        assert (now.limits[0].reserved, now.limits[0].amount) == (4, 4), "it begins with what is under way"
        calls = [asyncio.ensure_future(gate.call(hello, of("nightly"))) for gate in (one, other) for _ in range(3)]
        free = [asyncio.ensure_future(gate.call(hello)) for gate in (one, other)]
        await asyncio.gather(*waiting, *free)
        assert time() < 2 and (await state(k, "job:nightly")).waiting == 4
        await asyncio.gather(*calls)
        assert time() == pytest.approx(4, abs=0.1)
        await limit(k, "job:nightly", 10)
        with pytest.raises(OverBudget, match=r"`job:local/nightly` .*`aios budget job:local/nightly --calls AMOUNT` raises it"):
            await one.call(hello, of("nightly"))
        await one.call(hello)
        await limit(k, "/local/one", 6)
        with pytest.raises(OverBudget, match="`/local/one`"):
            for _ in range(3):
                await one.call(hello, of("another"))


async def test_a_job_that_costs_nothing_is_limited_with_what_is_under_way() -> None:
    async with kernel_for_tests([ScriptedCore(Script(text="one", first_s=1), slots=1)]) as k:
        gate = await k.session()
        calls = [asyncio.ensure_future(gate.call(hello, of("nightly"))) for _ in range(3)]
        others = asyncio.ensure_future(gate.call(hello))
        await asyncio.sleep(0.5)
        now = await limit(k, "job:nightly", 2)
        assert now.reserved["calls"] == 1, "one has its turn, two wait for it"
        ended = await asyncio.gather(*calls, others, return_exceptions=True)
        assert [type(each) for each in ended if isinstance(each, BaseException)] == [OverBudget]
        assert await calls_of(k, "job:nightly") == 2


async def test_all_that_a_job_starts_is_of_it_and_cannot_leave_it() -> None:
    manifest = manifest_of("work", grants=("use /llm/*", "spawn /agents/work"))

    async def work(gate: Gate, depth: int) -> None:
        await gate.call(hello, of("elsewhere"))
        if depth:
            child = await gate.call(Spawn(manifest=manifest, arguments=(depth - 1,), job="elsewhere"))
            await gate.call(WaitFor(pid=child.pid))

    async with kernel_for_tests([ScriptedCore("one")], {"work": work}) as k:
        for job, calls in (("nightly", 3), ("weekly", 2)):
            await limit(k, f"job:{job}", calls)
            await k.operator.call(Spawn(manifest=manifest, arguments=(3,), accepted=manifest.hash(), job=job))
            await asyncio.sleep(1)
            assert {each.job for each in (await k.operator.call(List())).processes[-calls:]} == {job}
            assert (await calls_of(k, f"job:{job}"), (await state(k, f"job:{job}")).waiting) == (calls, 1)
        with pytest.raises(NotFound):
            await state(k, "job:elsewhere")


async def test_tenants_have_jobs_of_their_own() -> None:
    async with kernel_for_tests([ScriptedCore("one")]) as k:
        gates = []
        for tenant in ("acme", "bolt"):
            made = await k.operator.call(AddToken(agent="client", tenant=tenant))
            gates.append(k.attach(made.value))
        await limit(k, "job:acme/nightly", 1)
        for _ in range(2):
            await gates[1].call(hello, of("nightly"))
        await gates[0].call(hello, of("nightly"))
        with pytest.raises(OverBudget, match="`job:acme/nightly`"):
            await gates[0].call(hello, of("nightly"))
        assert await calls_of(k, "job:bolt/nightly") == 2
        told: Any = (await k.operator.call(ReadEvents(kinds=("account",)))).events
        assert {event.tenant for event in told} == {"acme"}
        for job, name in (("acme/nightly", "acme/nightly"), ("nightly", "bolt/nightly")):
            with pytest.raises(NotFound, match=f"`job:{name}`"):
                await gates[1].call(ShowAccounts(account=f"job:{job}"))


async def test_jobs_are_bounded_and_one_with_a_limit_or_a_call_under_way_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(call: CoreCall) -> Script:
        return Script(text="one", first_s=call.request.max_tokens or 0)

    monkeypatch.setattr(book, "MOST_OF_TENANT", 3)
    async with kernel_for_tests([ScriptedCore(slow, slots=9, price=PRICE)]) as k:
        gate = await k.session()
        await limit(k, "job:limited", 5)
        under_way = asyncio.ensure_future(gate.call(Generate(prompt="hello", max_tokens=5), of("busy")))
        await asyncio.sleep(0.5)
        await gate.call(Generate(prompt="hello", max_tokens=1), of("old"))
        await gate.call(Generate(prompt="hello", max_tokens=1), of("new"))
        for job in ("limited", "busy", "new"):
            await state(k, f"job:{job}")
        with pytest.raises(NotFound):
            await state(k, "job:old")
        await under_way
        assert await calls_of(k, "job:busy") == 1


@pytest.mark.parametrize("job", ["", "a b", "a/b", "-a", "é", "\uff4c", "a\u200b", "x" * 82, "e\u0301", "a\n"])
def test_no_two_names_of_jobs_are_one_after_normalisation(job: str) -> None:
    for account in (f"job:{job}", f"job:local/{job}"):
        if job != "a/b" or account != "job:a/b":
            with pytest.raises(msgspec.ValidationError, match="account"):
                msgspec.convert({"account": account, "unit": "calls", "amount": 5}, SetLimit)
    for kind, fields in ((Trace, {"tag": job}), (Spawn, {"manifest": manifest_of("work"), "job": job})):
        if job:
            with pytest.raises((ValueError, msgspec.ValidationError), match="tag|job"):
                kind(**fields)


@pytest.mark.parametrize(
    "name", ["provider:", "provider:a b", "provider:\uff4c", "job:", "job:a/b/c", "task:a", "JOB:a", "job:/a"]
)
def test_what_cannot_be_a_tag_is_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match="account"):
        msgspec.convert({"account": name, "unit": "calls", "amount": 5}, SetLimit)
