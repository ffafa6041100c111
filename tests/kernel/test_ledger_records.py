"""What the journal says of money: enough to know, after a crash, what was spent, what stands reserved, and every limit."""

import asyncio
import collections
from collections.abc import Sequence

import msgspec
import pytest

from aios.abi.account import AccountState, SetLimit, ShowAccounts
from aios.abi.errors import AiosError, Cancelled
from aios.abi.llm import Generate
from aios.abi.record import Record, Reserved, Settled
from aios.ports.core import CoreCall, Price
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import RunningKernel, kernel_for_tests

hello = Generate(prompt="hello", max_tokens=4)
_reserved, _settled, _limit = (msgspec.msgpack.Decoder(each) for each in (Reserved, Settled, SetLimit))


def rebuilt(records: Sequence[Record]) -> tuple[dict[str, int], dict[str, int]]:
    """Nano-dollars by account: spent, and reserved by attempts that nobody settled."""
    spent: collections.Counter[str] = collections.Counter()
    open_: dict[tuple[str, str, int], Reserved] = {}
    for record in records:
        attempt = (record.pid, record.path, record.attempt)
        if record.kind == "reservation":
            open_[attempt] = _reserved.decode(record.body)
        elif record.kind == "settlement":
            for account in open_.pop(attempt).accounts:
                spent[account] += _settled.decode(record.body).money
    reserved: collections.Counter[str] = collections.Counter()
    for each in open_.values():
        for account in each.accounts:
            reserved[account] += each.money
    return dict(spent), dict(reserved)


async def state(k: RunningKernel, account: str) -> AccountState:
    return (await k.operator.call(ShowAccounts(account=account))).accounts[0]


async def test_from_its_records_all_that_was_spent_and_stands_reserved_is_known_at_any_time() -> None:
    def answer(call: CoreCall) -> Script:
        number = len(core.calls)
        return Script(text="one two", first_s=1 + number % 3, fail_after=number % 2 if number % 4 == 1 else None)

    core = ScriptedCore(answer, price=Price(10, 1, 100), slots=3)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        calls = [asyncio.ensure_future(gate.call(hello)) for _ in range(12)]
        for moment in range(12):
            await asyncio.sleep(0.7)
            if moment == 3:
                calls[5].cancel()
            spent, reserved = rebuilt(k.store.tail(gate.process.pid))
            for account in ("/", "/local", "/local/client", f"/local/client/{gate.process.name}"):
                now = await state(k, account)
                assert spent.get(account, 0) == now.spent["lifetime"]["money"]
                assert reserved.get(account, 0) == now.reserved["money"]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert any(isinstance(each, AiosError) for each in ended) and spent["/"] > 0
        assert isinstance(ended[5], asyncio.CancelledError | Cancelled)


async def test_a_reservation_stands_before_the_intent_that_it_pays_for() -> None:
    async with kernel_for_tests([ScriptedCore("one two", price=Price(10, 1, 100))]) as k:
        gate = await k.session()
        await gate.call(hello)
        assert [each.kind for each in k.store.tail(gate.process.pid)] == ["reservation", "intent", "settlement", "result"]


@pytest.mark.parametrize("limited", [False, True])
async def test_where_neither_money_nor_a_limit_stands_on_it_nothing_more_is_recorded(limited: bool) -> None:
    async with kernel_for_tests([ScriptedCore("one two")]) as k:
        gate = await k.session()
        if limited:
            await k.operator.call(SetLimit(account="/local", unit="tokens", amount=10_000))
        await gate.call(hello)
        kinds = [each.kind for each in k.store.tail(gate.process.pid)]
        assert kinds == (["reservation", "intent", "settlement", "result"] if limited else ["intent", "result"])


async def test_each_limit_that_was_set_is_there_as_it_was_asked_for() -> None:
    wanted = (SetLimit(account="/local", unit="money", amount=5), SetLimit(account="/local", unit="calls", amount=None))
    async with kernel_for_tests([ScriptedCore()]) as k:
        for each in wanted:
            await k.operator.call(each)
        records = k.store.tail(k.operator.process.pid)
        assert tuple(_limit.decode(each.body) for each in records if each.kind == "change") == wanted
