"""Accounts: tenants know nothing of each other, share by their weights, and leave nothing behind."""

import asyncio
import gc
import math
from collections import Counter
from types import FunctionType, ModuleType
from typing import Any

import msgspec
import pytest
from scenes import ask, begin, calling, events, slow, turns

from aios.abi.account import SetLimit
from aios.abi.errors import Denied, NotFound, OverBudget
from aios.abi.event import AccountChanged, Dispatched, ReadEvents
from aios.abi.mail import SendMail
from aios.abi.process import Explain, List, Self
from aios.abi.record import Record
from aios.abi.system import AddToken, ListTokens, RevokeToken
from aios.kernel import events as event_log
from aios.kernel import process as processes
from aios.kernel.lanes.lane import LaneConfig
from aios.kernel.lanes.policies import POLICIES
from aios.kernel.main import Kernel
from aios.ports.gate import Gate
from aios.server.local import LocalGate
from aios.testing import ScriptedCore
from aios.testing.kernel import RunningKernel, kernel_for_tests

ELAS = LaneConfig(policy="elas")
EVERYTHING = ("use /*", "read /*", "write /*", "spawn /*", "own /*")


async def client_of(
    k: RunningKernel, tenant: str, user: str = "", weight: float | None = None, grants: Any = EVERYTHING
) -> LocalGate:
    """The session of a client of a tenant."""
    made = await k.operator.call(AddToken(agent="client", tenant=tenant, user=user, weight=weight, grants=tuple(grants)))
    return k.attach(made.value)


async def test_a_process_belongs_to_the_tenant_of_its_token_and_so_do_its_children() -> None:
    async def work(gate: Gate) -> str:
        return (await gate.call(Self())).tenant

    async with kernel_for_tests(agents={"work": work}) as k:
        client = await client_of(k, "acme", "ann")
        child = await k.spawn("work", by=client, grants=())
        assert (await client.call(Self())).tenant == child.tenant == "acme"
        process = k.kernel.processes.get(child.pid)
        assert process is not None and (process.user, process.share) == ("ann", "acme/ann/client")


async def test_nothing_of_a_tenant_is_told_to_another_whatever_its_grants() -> None:
    async with kernel_for_tests([ScriptedCore()]) as k:
        acme, zeta = await client_of(k, "acme"), await client_of(k, "zeta")
        assert acme.process.name == zeta.process.name == "client-1"
        await zeta.call(ask("secret"))
        everything = List(kinds=("agent", "session", "service"))
        assert [p.tenant for p in (await acme.call(everything)).processes] == ["acme"]
        assert {getattr(event, "tenant", "") for event in (await acme.call(ReadEvents())).events} <= {"acme"}
        for request in (Explain(pid=zeta.process.pid), SendMail(to=zeta.process.pid), Explain(pid="zeta/client-1")):
            with pytest.raises(NotFound):
                await acme.call(request)


async def test_who_may_read_events_hears_what_becomes_of_its_own_calls_at_accounts_and_not_of_others() -> None:
    async with kernel_for_tests([ScriptedCore()]) as k:
        acme, zeta = await client_of(k, "acme"), await client_of(k, "zeta")
        await k.operator.call(SetLimit(account="/", unit="calls", amount=0))
        for gate in (acme, zeta, acme):
            with pytest.raises(OverBudget):
                await gate.call(ask())
        heard = (await acme.call(ReadEvents(kinds=("account",)))).events
        assert [(event.change, event.call.split("/")[0]) for event in heard if isinstance(event, AccountChanged)] == [
            ("refused", acme.process.pid), ("refused", acme.process.pid),
        ]  # fmt: skip


async def test_what_tenants_have_spent_together_is_in_no_event_but_operators() -> None:
    async with kernel_for_tests([ScriptedCore()]) as k:
        acme, zeta = await client_of(k, "acme"), await client_of(k, "zeta")
        await k.operator.call(SetLimit(account="/", unit="calls", amount=1, soft=0))
        await zeta.call(ask())
        with pytest.raises(OverBudget):
            await acme.call(ask())
        await k.operator.call(SetLimit(account="/", unit="calls", amount=100))
        await k.operator.call(SetLimit(account="/acme", unit="calls", amount=0))
        with pytest.raises(OverBudget):
            await acme.call(ask())
        wanted = ReadEvents(kinds=("account",))
        whole, own = [
            [e for e in (await gate.call(wanted)).events if isinstance(e, AccountChanged)] for gate in (k.operator, acme)
        ]
        assert [(e.account, e.change, bool(e.limit), bool(e.detail)) for e in own] == [
            ("/", "refused", False, False), ("/acme", "refused", True, True),
        ]  # fmt: skip
        assert all(e.limit and e.detail for e in whole)


async def test_operators_see_all_tenants_and_name_what_is_another_ones_with_its_tenant() -> None:
    async with kernel_for_tests([ScriptedCore()]) as k:
        acme = await client_of(k, "acme")
        await acme.call(ask())
        listed = (await k.operator.call(List(kinds=("session",)))).processes
        assert {process.tenant for process in listed} == {"acme", "local"}
        for name in ("acme/client-1", acme.process.pid):
            assert (await k.operator.call(Explain(pid=name))).process.tenant == "acme"
        with pytest.raises(NotFound):
            await k.operator.call(Explain(pid="client-1"))
        assert {event.tenant for event in await events(k, "dispatch")} == {"acme"}


async def test_why_names_the_processes_of_other_tenants_to_operators_as_they_name_them() -> None:
    async with kernel_for_tests([slow()], lane=LaneConfig(policy="fifo")) as k:
        acme, zeta = await client_of(k, "acme"), await client_of(k, "zeta")
        assert acme.process.name == zeta.process.name
        async with calling(acme, 2), calling(zeta):
            said = await k.operator.call(Explain(pid="zeta/client-1"))
            (call,) = said.calls
            assert call.wait is not None and call.wait.holder == "acme/client-1" in said.reason
            assert [ahead.name for ahead in call.ahead] == ["acme/client-1"]
            (own,) = (await zeta.call(Explain(pid=zeta.process.pid))).calls
            assert own.wait is not None and (own.wait.holder, [ahead.name for ahead in own.ahead]) == ("another", ["another"])


async def test_how_many_calls_wait_is_told_to_operators_alone() -> None:
    async with kernel_for_tests([slow()]) as k:
        acme, zeta = await client_of(k, "acme"), await client_of(k, "zeta")
        async with calling(zeta, 3):
            await acme.call(ask())
            heard = (await acme.call(ReadEvents(kinds=("dispatch",)))).events
            told = [event for event in await events(k, "dispatch") if isinstance(event, Dispatched)]
        assert [event.waiting for event in heard if isinstance(event, Dispatched)] == [{}]
        assert any(event.waiting for event in told)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, 1000.5, 5e-324])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"`weight` must be 0\.001 to 1000"):
        AddToken(agent="a", weight=weight)


@pytest.mark.parametrize("field", ["tenant", "user"])
@pytest.mark.parametrize("name", ["a/b", "a b", "\x1b[2J", "x" * 65, "-a", "a\n"])
def test_an_account_with_a_name_that_cannot_be_typed_is_refused(field: str, name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"`{field}` must be"):
        msgspec.convert({"agent": "a", field: name}, AddToken)


async def test_who_is_no_operator_makes_lists_and_revokes_tokens_of_its_own_account_alone() -> None:
    async with kernel_for_tests() as k:
        clerk, ann = await client_of(k, "acme"), await client_of(k, "acme", "ann")
        zeta = await k.operator.call(AddToken(agent="other", tenant="zeta"))
        assert (await ann.call(AddToken(agent="a"))).info.user == "ann"
        assert (await clerk.call(AddToken(agent="b", user="bob", weight=3))).info.tenant == "acme"
        for gate, wanted in (
            (clerk, AddToken(agent="a", tenant="zeta")), (ann, AddToken(agent="a", user="bob")),
            (clerk, AddToken(agent="a", weight=2)), (ann, AddToken(agent="a", weight=2)),
        ):  # fmt: skip
            with pytest.raises(Denied):
                await gate.call(wanted)
        assert {info.tenant for info in (await clerk.call(ListTokens())).tokens} == {"acme"}
        assert {info.user for info in (await ann.call(ListTokens())).tokens} == {"ann"}
        with pytest.raises(NotFound):
            await clerk.call(RevokeToken(id=zeta.info.id))


async def test_the_newest_token_that_says_a_weight_counts_until_it_is_revoked() -> None:
    async with kernel_for_tests() as k:
        tokens = k.kernel.tokens
        first = tokens.add("a", (), "batch", "acme", weight=2.0)
        second = tokens.add("b", (), "batch", "acme", weight=5.0)
        tokens.add("c", (), "batch", "acme")
        assert (tokens.weight("acme"), tokens.weight("zeta")) == (5.0, 1.0)
        tokens.revoke(second.info.id)
        assert tokens.weight("acme") == 2.0
        tokens.revoke(first.info.id)
        assert tokens.weight("acme") == 1.0


async def served(k: RunningKernel, clients: list[LocalGate], count: int) -> Counter[str]:
    """Of the first so many turns, how many each of the clients had that all want more than they get."""
    calls = [begin(client) for client in clients for _ in range(count)]
    await turns()
    while len(told := await events(k, "dispatch")) < count:
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        calls = [call for call in calls if not call.done()]
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    return Counter(event.pid for event in told[:count] if isinstance(event, Dispatched))


async def test_tenants_share_by_weight_however_many_tokens_and_users_they_have() -> None:
    async with kernel_for_tests([slow()], lane=ELAS) as k:
        many = [await client_of(k, "acme", f"user{number}") for number in range(3)]
        heavy = await client_of(k, "zeta", weight=2.0)
        counts = await served(k, [*many, heavy], 90)
        assert abs(counts[heavy.process.pid] - 60) <= 3
        assert all(abs(counts[one.process.pid] - 10) <= 2 for one in many), "two users of one tenant are equal"


def remembered(kernel: Kernel) -> set[str]:
    """The tenants whose names are found anywhere in a kernel, but in its journal."""
    found, seen, left = set(), set(), [kernel]
    while left:
        here: Any = left.pop()
        if id(here) in seen or isinstance(here, Record | ModuleType | type | asyncio.AbstractEventLoop):
            continue
        seen.add(id(here))
        if isinstance(here, str) and here.startswith("tenant"):
            found.add(here.partition("/")[0])
        left += gc.get_referents(here) if not isinstance(here, FunctionType) else here.__closure__ or ()
    return found


@pytest.mark.parametrize("policy", POLICIES)
async def test_tenants_that_appear_and_disappear_leave_nothing_behind(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "KEPT_ENDED", 50)
    monkeypatch.setattr(event_log, "KEPT", 50)
    core = ScriptedCore(slots=1)
    async with kernel_for_tests([core], lane=LaneConfig(policy=policy)) as k:
        for number in range(1000):
            made = k.kernel.tokens.add("client", ("use /llm/*",), "standard", f"tenant{number}")
            client = k.attach(made.value)
            calls = [begin(client) for _ in range(3)]
            await calls[0]
            await k.operator.call(RevokeToken(id=made.info.id))
            await asyncio.wait(calls)
            assert None not in [call.exception() for call in calls[1:]]
        core.calls.clear()
        assert 50 <= len(remembered(k.kernel)) < 300
