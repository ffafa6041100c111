"""Exact sizes: what a question comes to is counted where its bytes do not fit, and never in the step that gives a turn."""

import asyncio
import random
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from aios.abi.account import AccountState, SetLimit, ShowAccounts, Unit, Window
from aios.abi.errors import CoreFailed, OverBudget
from aios.abi.event import ReadEvents
from aios.abi.llm import Count, Generate, Message, Tokens, ToolSpec
from aios.abi.process import Explain
from aios.abi.record import Reserved, Settled
from aios.kernel.ledger import sizes
from aios.ports.core import CoreCall, CoreInfo, Price
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests

PRICE = Price(10, 1, 100)
WORDS = 1000
LONG = " ".join(["lengthy"] * WORDS)
"""8,000 bytes, and with a seventh of a token for each of these 1,000 tokens."""
long = Generate(prompt=LONG, max_tokens=4)
BYTES = 512 + len(LONG)


class Counting(ScriptedCore):
    """A core whose tokenizer is in reach; `counts_s`: how long it takes, for ever if it is None."""

    def __init__(self, answers: Any = "one", counts_s: float | None = 0.01, **fields: Any) -> None:
        super().__init__(answers, **{"counts": True, "price": PRICE, "slots": 8, **fields})
        self.counted: list[Count] = []
        self.counts_s = counts_s
        self.counting = self.most_counting = 0

    async def count(self, request: Count, model: str) -> Tokens:
        self.counted.append(request)
        self.counting += 1
        self.most_counting = max(self.most_counting, self.counting)
        try:
            await (asyncio.Event().wait() if self.counts_s is None else asyncio.sleep(self.counts_s))
        finally:
            self.counting -= 1
        return await super().count(request, model)


class Elsewhere(ScriptedCore):
    """A core on another machine, whose tokens nobody here can count."""

    def __init__(self, answers: Any = "one", estimated: bool = False, **fields: Any) -> None:
        super().__init__(answers, **{"price": PRICE, "window": 100_000, **fields})
        self._estimated = estimated

    def info(self) -> CoreInfo:
        return replace(super().info(), local=False)

    async def generate(self, call: CoreCall, emit: Any) -> Any:
        found = await super().generate(call, emit)
        return replace(found, usage=replace(found.usage, estimated=self._estimated))

    async def count(self, request: Count, model: str) -> Tokens:
        raise AssertionError("it would be a guess")


async def limit(
    k: RunningKernel, amount: int | None, unit: Unit = "tokens", window: Window = "lifetime", account: str = "/local"
) -> AccountState:
    return await k.operator.call(SetLimit(account=account, unit=unit, amount=amount, window=window))


async def state(k: RunningKernel, account: str = "/local") -> AccountState:
    return (await k.operator.call(ShowAccounts(account=account))).accounts[0]


@pytest.mark.parametrize(("unit", "amount"), [("tokens", WORDS + 4), ("money", WORDS * 10 + 4 * 100)])
@pytest.mark.parametrize("window", ["call", "minute", "day", "lifetime"])
async def test_what_does_not_fit_by_its_bytes_is_counted_before_it_is_refused(unit: Unit, amount: int, window: Window) -> None:
    for counts in (True, False):
        core = Counting(counts=counts)
        async with kernel_for_tests([core]) as k:
            gate = await k.session()
            await limit(k, amount, unit, window)
            if counts:
                assert (await gate.call(long)).text == "one"
                assert [asked.text for asked in core.counted] == [LONG]
            else:
                with pytest.raises(OverBudget, match="this call alone may come to"):
                    await gate.call(long)
                assert not core.counted
            await limit(k, amount - 1, unit, window)
            with pytest.raises(OverBudget):
                await gate.call(long)
            assert (await state(k)).overbilled == 0


async def test_where_nothing_is_short_nobody_is_asked() -> None:
    core = Counting(slots=1)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await gate.call(long)
        await limit(k, 100 * BYTES)
        await limit(k, 10**9, "money", "day")
        await asyncio.gather(*(gate.call(long) for _ in range(3)))
        await limit(k, 2, "calls", "now")
        await asyncio.gather(*(gate.call(long) for _ in range(5)))
        await limit(k, 0, "calls")
        with pytest.raises(OverBudget):
            await gate.call(long)
        assert not core.counted


async def test_where_the_answer_is_what_is_long_nobody_is_asked() -> None:
    core = Counting(window=100_000)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k, 100, "tokens")
        with pytest.raises(OverBudget):
            await gate.call(Generate(prompt="hello", max_tokens=50_000, n=9))
        assert not core.counted


async def test_a_call_that_waits_for_room_is_counted_meanwhile_and_goes_on_where_it_fits() -> None:
    for counts in (True, False):
        core = Counting(Script(text="one", first_s=10), counts=counts, slots=8)
        async with kernel_for_tests([core]) as k:
            gate = await k.session()
            await limit(k, 3 * 4096)  # of a local core nothing comes to more than its window
            calls = [asyncio.ensure_future(gate.call(long)) for _ in range(8)]
            await asyncio.sleep(1)
            now = await state(k)
            fitting = 2 + (3 * 4096 - 2 * 4100) // (WORDS + 4) if counts else 2
            assert (len(core.calls), now.reserved["calls"], now.waiting) == (fitting, fitting, 8 - fitting)
            await asyncio.gather(*calls)
            assert (await state(k)).overbilled == 0 and core.most_counting <= sizes.MOST_AT_ONCE
            assert bool(core.counted) == counts


async def test_a_call_that_waits_for_its_turn_where_little_is_free_is_counted_and_its_answer_not_cut_short() -> None:
    for counts in (True, False):
        core = Counting(Script(text="one", first_s=1), counts=counts, slots=1)
        async with kernel_for_tests([core]) as k:
            gate, asked = await k.session(), replace(long, max_tokens=3000)
            await limit(k, 7000)
            first = asyncio.ensure_future(gate.call(Generate(prompt="hello", max_tokens=4)))
            await asyncio.sleep(0)
            await asyncio.gather(first, gate.call(asked))
            spent = 1 + 1
            assert core.calls[1].request.max_tokens == (3000 if counts else 7000 - spent - 4096)
            assert len(core.counted) == counts


async def test_who_counts_for_ever_keeps_nobody_from_a_turn() -> None:
    core = Counting(Script(text="one", first_s=1), counts_s=None, slots=2)
    async with kernel_for_tests([core]) as k:
        gate, other = await k.session(), await k.session("other")
        await limit(k, 4100, window="now", account="/local/client")
        calls = [asyncio.ensure_future(gate.call(long)) for _ in range(8)]
        await asyncio.sleep(0.5)
        assert core.counting == sizes.MOST_AT_ONCE and (await state(k, "/local/client")).waiting == 7
        began = time()
        await asyncio.gather(*(other.call(Generate(prompt="hello", max_tokens=4)) for _ in range(2)))
        assert time() - began < 3
        calls[7].cancel()
        await asyncio.wait(calls)
        assert time() == pytest.approx(7, abs=0.5), "by their bytes they come one after the other"
        await asyncio.sleep(0)
        assert (core.counting, len(core.calls)) == (0, 9)


async def test_at_its_arrival_a_call_waits_a_while_for_its_size_and_then_its_bytes_have_to_do() -> None:
    core = Counting(counts_s=None)
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k, WORDS + 4)
        call = asyncio.ensure_future(gate.call(long))
        await asyncio.sleep(1)
        explained = await k.operator.call(Explain(pid=gate.process.name))
        assert explained.calls[0].wait is not None and "its tokens are counted" in explained.calls[0].wait.on
        with pytest.raises(OverBudget):
            await call
        assert time() == sizes.PATIENCE_S and core.counting == 0
        given_up = asyncio.ensure_future(gate.call(long))
        await asyncio.sleep(1)
        given_up.cancel()
        await asyncio.wait((given_up,))
        assert core.counting == 0


async def test_a_core_that_cannot_count_now_leaves_a_call_its_bytes() -> None:
    class Failing(Counting):
        async def count(self, request: Count, model: str) -> Tokens:
            raise CoreFailed("its host died")

    class Guessing(Counting):
        async def count(self, request: Count, model: str) -> Tokens:
            return Tokens(tokens=1, exact=False)

    for core in (Failing(), Guessing()):
        async with kernel_for_tests([core]) as k:
            gate = await k.session()
            await limit(k, WORDS + 4)
            with pytest.raises(OverBudget):
                await gate.call(long)


async def test_a_count_is_of_the_core_that_it_is_for() -> None:
    fine, other = Counting(name="a", slots=1), Elsewhere(name="b", models=("other",))
    async with kernel_for_tests([fine, other]) as k:
        gate = await k.session()
        await limit(k, WORDS + 4)
        await gate.call(long)
        assert len(fine.calls) == 1 and not other.calls
        assert (await state(k)).spent["lifetime"]["tokens"] == WORDS + 1


def talk(*texts: str, **fields: Any) -> Generate:
    roles: Any = ("user", "assistant")
    messages = tuple(Message(roles[at % 2], text) for at, text in enumerate(texts))
    return Generate(messages=messages, **{"max_tokens": 4, "model": "scripted-1", **fields})


async def test_of_a_conversation_elsewhere_the_bound_is_what_it_came_to_and_the_bytes_of_what_is_new() -> None:
    core = Elsewhere()
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k, 20_000)
        await gate.call(talk(LONG))
        spent = (await state(k)).spent["lifetime"]["tokens"]
        assert spent == WORDS + 1
        most = spent + WORDS + 3 * 32 + len("one") + len("go on") + 4
        goes_on = talk(LONG, "one", "go on")
        await limit(k, most - 1)
        with pytest.raises(OverBudget):
            await gate.call(goes_on)
        await limit(k, most)
        assert (await gate.call(goes_on)).text == "one"
        now = await state(k)
        assert now.overbilled == 0 and now.spent["lifetime"]["tokens"] == spent + WORDS + 3 + 1
        told: Any = (await k.operator.call(ReadEvents(kinds=("account",)))).events
        assert "overbilled" not in {event.change for event in told}


@pytest.mark.parametrize(
    "asked",
    [
        talk(LONG + "!", "one", "go on"),
        talk(LONG, "one", "go on", tools=(ToolSpec("search", "x" * 4000),)),
        talk(LONG, "one", "go on", reasoning_effort=None, response_format={"type": "text", "more": "x" * 4000}),
        talk("go on"),
        talk(LONG, "one", "go on", model="other"),
        Generate(prompt=LONG, max_tokens=4, model="scripted-1"),
    ],
    ids=["another beginning", "tools", "a form", "its end", "another model", "no conversation"],
)
async def test_what_goes_on_with_nothing_known_is_bounded_by_its_bytes(asked: Generate) -> None:
    features = frozenset({"chat", "completion", "tools", "json"})
    core = Elsewhere(features=features, models=("scripted-1", "other"))
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k, 20_000)
        await gate.call(talk(LONG))
        small = asked.messages == talk("go on").messages
        await limit(k, WORDS + 1 + (500 if small else 7000))
        with pytest.raises(OverBudget):
            await gate.call(asked)


async def test_one_process_knows_nothing_of_anothers_conversation_and_a_guess_is_no_knowledge() -> None:
    for estimated in (True, False):
        core = Elsewhere(estimated=estimated)
        async with kernel_for_tests([core]) as k:
            gate, other = await k.session(), await k.session("other")
            await limit(k, 40_000)
            await gate.call(talk(LONG))
            await limit(k, (await state(k)).spent["lifetime"]["tokens"] + 4000)
            with pytest.raises(OverBudget):
                await (gate if estimated else other).call(talk(LONG, "one", "go on"))


async def test_a_form_of_an_answer_is_counted_with_its_question() -> None:
    core = Elsewhere(features=frozenset({"chat", "completion", "json"}))
    async with kernel_for_tests([core]) as k:
        gate = await k.session()
        await limit(k, 2000)
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": "y" * 3000}}}
        with pytest.raises(OverBudget):
            await gate.call(talk("hello", response_format=form))
        await gate.call(talk("hello"))


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_asked_nothing_is_billed_beyond_what_was_reserved(seed: int) -> None:
    chance = random.Random(seed)

    def answer(call: CoreCall) -> Script:
        return Script(text=" ".join(["word"] * chance.randint(1, 30)), first_s=chance.random(), cached=chance.choice((0, 500)))

    near, far = Counting(answer, name="near", models=("near",), slots=3), Elsewhere(answer, name="far", models=("far",))
    async with kernel_for_tests([near, far]) as k:
        await limit(k, 60_000, "tokens", "minute")
        await limit(k, 14_000, "tokens", "now")
        await limit(k, 250_000, "money", "now", account="/")

        async def caller(number: int) -> None:
            gate, said = await k.session(f"client{number}"), [" ".join(["lengthy"] * chance.randint(100, 900))]
            for _ in range(4):
                done = await gate.call(talk(*said, model=chance.choice(("near", "far")), max_tokens=chance.randint(1, 40)))
                said += [done.text, " ".join(["more"] * chance.randint(1, 100))]

        await asyncio.gather(*(caller(number) for number in range(8)))
        told: Any = (await k.operator.call(ReadEvents(kinds=("account",)))).events
        assert {event.change for event in told} <= {"limited"} and (await state(k)).spent["lifetime"]["calls"] == 32
        assert near.counted and near.most_counting <= sizes.MOST_AT_ONCE
        records = [record for each in k.kernel.processes.living() for record in k.store.tail(each.pid)]
        reserved = {(r.pid, r.path): msgspec.msgpack.decode(r.body, type=Reserved) for r in records if r.kind == "reservation"}
        settled = {(r.pid, r.path): msgspec.msgpack.decode(r.body, type=Settled) for r in records if r.kind == "settlement"}
        assert len(reserved) == len(settled) == 32
        for key, most in reserved.items():
            assert settled[key].tokens <= most.tokens and settled[key].money <= most.money
