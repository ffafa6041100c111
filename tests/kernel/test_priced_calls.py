"""A call is reserved at the worst price of its model, and settled at the price that it came to."""

import asyncio
from decimal import Decimal
from typing import Any, Literal

import pytest
from msgspec.structs import replace
from price_tables import price, written

from aios.abi.account import AccountState, SetLimit, ShowAccounts
from aios.abi.errors import NoCore, OverBudget
from aios.abi.llm import Generate, Message, Part, Usage
from aios.drivers.core.scripted import Answers
from aios.drivers.price.book import PriceBook, PriceConfig, PricesConfig
from aios.drivers.price.table import Table
from aios.ports.core import CoreCall, CoreInfo, Emit, Feature
from aios.ports.prices import LOCAL
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import RunningKernel, VirtualClock, kernel_for_tests

WORST = 512 + 5
"""Tokens of `hello`, at most."""
hello = Generate(prompt="hello", max_tokens=4)
CAN: frozenset[Feature] = frozenset({"chat", "completion", "seed", "json", "vision"})
USAGE = Usage(input_uncached=100, cache_read=20, output_visible=3, reasoning=1)
LATER_NS = 1_796_083_200 * 10**9  # 2026-12-01T00:00Z


def row(model: str, of: dict[str, object], **more: object) -> dict[str, object]:
    return {"provider": "acme", "model": model, "match": [f"={model}"], "price": of, **more}


TABLE = written(
    row("plain", price(2.5, 10, cached=1_250_000_000)),
    row("quick", price(1, 1, variants={"service_tier=priority": price(2, 2)}, fees={"web_searches": 10_000_000})),
    row("hears", price(0.3, 2.5, media=1_000_000_000)),
    row("keeps", price(3, 15, cache_write=3_750_000_000, cache_write_long=6_000_000_000)),
    row("rises", price(1, 1), later=[{"since": "2026-12-01", "price": price(2, 2)}]),
)


class Remote(ScriptedCore):
    """A model of a provider, that tells whatever usage it is given."""

    def __init__(self, provider: str, model: str, usage: Usage = USAGE, name: str = "remote", answers: Answers = "one") -> None:
        super().__init__(answers, name=name, models=(model,), price=None, features=CAN)
        self.provider, self.usage = provider, usage

    def info(self) -> CoreInfo:
        return replace(super().info(), local=False, provider=self.provider, driver="openai_chat")

    async def generate(self, call: CoreCall, emit: Emit) -> Any:
        return replace(await super().generate(call, emit), usage=self.usage)


def prices(**config: Any) -> PriceBook:
    return PriceBook(PricesConfig(**config), VirtualClock(), Table(TABLE))


async def limit(k: RunningKernel, amount: int) -> None:
    await k.operator.call(SetLimit(account="/local/client", unit="money", amount=amount))


async def spent(k: RunningKernel) -> int:
    found: AccountState = (await k.operator.call(ShowAccounts(account="/local/client"))).accounts[0]
    assert found.reserved["money"] == 0 and found.overbilled == 0
    return found.spent["lifetime"]["money"]


async def test_a_call_comes_to_what_the_table_says_of_its_model() -> None:
    async with kernel_for_tests([Remote("acme", "plain")], prices=prices()) as k:
        gate = await k.session()
        await limit(k, 10**9)
        await gate.call(hello)
        assert await spent(k) == 100 * 2500 + 20 * 1250 + 4 * 10_000


async def test_a_bill_above_the_tables_price_is_what_it_came_to_and_one_below_is_not() -> None:
    table = 100 * 2500 + 20 * 1250 + 4 * 10_000
    for billed, cost in ((table + 7, table + 7), (table - 7, table), (1, table)):
        async with kernel_for_tests([Remote("acme", "plain", replace(USAGE, billed=billed))], prices=prices()) as k:
            gate = await k.session()
            await limit(k, 10**9)
            await gate.call(hello)
            assert await spent(k) == cost


async def test_the_operators_price_comes_before_the_tables_and_has_parts_of_nano_dollars() -> None:
    said = {"Acme/plain": PriceConfig(input=Decimal("0.0028"), output=Decimal(1), request=Decimal("0.001"))}
    async with kernel_for_tests([Remote("acme", "plain")], prices=prices(models=said)) as k:
        gate = await k.session()
        await limit(k, 10**9)
        await gate.call(hello)
        assert await spent(k) == 336 + 4 * 1000 + 10**6, "120 tokens of 2.8 nano-dollars"


def asking(name: str, model: str, default: Literal["first", "last", "never"], *more: str) -> Remote:
    """A core elsewhere, with as much of `default` as that."""
    core = Remote("acme", model, name=name)
    info = replace(core.info(), default=default, models=(model, *more))
    core.info = lambda: info  # type: ignore[method-assign]
    return core


async def test_what_costs_money_is_not_the_default_where_there_is_another() -> None:
    here = ScriptedCore("one", name="here", models=("tiny",), slots=1)
    cores = [here, asking("named", "plain", "last"), asking("listed", "quick", "never", "tiny", "default")]
    async with kernel_for_tests(cores, prices=prices()) as k:
        gate = await k.session()
        await limit(k, 10**9)
        for model in ("default", "tiny"):
            done = await asyncio.gather(*(gate.call(replace(hello, model=model)) for _ in range(6)))
            assert {(each.core, each.model) for each in done} == {("here", "tiny")}
        assert await spent(k) == 0
        assert (await gate.call(replace(hello, model="quick"))).core == "listed"


async def test_where_all_cost_money_the_default_is_what_the_operator_named() -> None:
    listed = asking("listed", "quick", "never")
    async with kernel_for_tests([listed, asking("named", "plain", "last")], prices=prices()) as k:
        gate = await k.session()
        assert {(await gate.call(hello)).model for _ in range(3)} == {"plain"}
    async with kernel_for_tests([asking("listed", "quick", "never")], prices=prices()) as k:
        gate = await k.session()
        with pytest.raises(NoCore, match="`default` stands for: nothing; name a model, or say one in `.aliases.`"):
            await gate.call(hello)
        assert (await gate.call(replace(hello, model="quick"))).model == "quick"


async def test_an_operators_alias_is_not_taken_by_whoever_lists_a_model_of_its_name() -> None:
    cores = [asking("named", "plain", "last"), asking("listed", "quick", "never", "fast")]
    async with kernel_for_tests(cores, prices=prices(), aliases={"fast": ("plain",)}) as k:
        gate = await k.session()
        assert (await gate.call(replace(hello, model="fast"))).model == "plain"


async def test_what_is_made_here_costs_what_the_operator_says_and_else_nothing() -> None:
    paid = prices(local=PriceConfig(input=Decimal(1), output=Decimal(2)))
    for book, cost in ((prices(), 0), (paid, 120 * 1000 + 4 * 2000)):
        async with kernel_for_tests([Remote(LOCAL, "any")], prices=book) as k:
            gate = await k.session()
            await limit(k, 10**9)
            await gate.call(hello)
            assert await spent(k) == cost


@pytest.mark.parametrize(("provider", "model"), [("acme", "other"), ("nobody", "plain"), ("", "plain")])
async def test_an_unknown_price_is_refused_under_a_limit_of_money_and_no_other(provider: str, model: str) -> None:
    async with kernel_for_tests([Remote(provider, model)], prices=prices()) as k:
        gate = await k.session()
        await gate.call(hello)
        await limit(k, 10**15)
        with pytest.raises(OverBudget, match="nobody knows what this call of .* costs"):
            await gate.call(hello)


async def test_who_asks_for_priority_pays_for_it_also_if_the_words_are_the_providers_own() -> None:
    """A client's `service_tier` rides along unread: it must not buy at twice the price what was reserved at once."""
    asks = replace(hello, wire="openai_chat", extra={"service_tier": "priority"})
    async with kernel_for_tests([Remote("acme", "quick")], prices=prices()) as k:
        gate = await k.session()
        await limit(k, 10**9)
        await gate.call(hello)
        once = await spent(k)
        await gate.call(asks)
        assert await spent(k) == 3 * once
        await gate.call(replace(asks, wire="anthropic_messages"))
        assert await spent(k) == 4 * once, "another wire's words do not reach it"


FILE = Message("user", (Part("text", "sum it up"), Part("other", extra={"type": "file", "file": {"file_id": "f-1"}})))
HEARD = Message("assistant", "", extra={"audio": {"id": "audio_1"}})
BUYING = [
    *({"extra": {name: value}} for name, value in (
        ("web_search_options", {}), ("plugins", [{"id": "web"}]), ("models", ["acme/dear"]), ("provider", {"order": ["dear"]}),
        ("search_parameters", {"mode": "on"}), ("tools", [{"type": "live_search"}]), ("tools", [7]), ("tools", "web"),
        ("data_sources", [{"type": "search"}]), ("extra_body", {"google": {"cached_content": "c"}}), ("enable_search", True),
        ("prediction", {"type": "content", "content": "x"}),
    )),
    {"prompt": None, "messages": (FILE,)},
    {"prompt": None, "messages": (HEARD, Message("user", "and?"))},
]  # fmt: skip


@pytest.mark.parametrize("fields", BUYING)
async def test_what_nobody_can_count_beforehand_is_refused_under_a_limit_of_money(fields: dict[str, Any]) -> None:
    """Searches are paid by their uses, another model or seller has prices of its own, and a file has as many pages as it has."""
    async with kernel_for_tests([Remote("acme", "plain")], prices=prices()) as k:
        gate = await k.session()
        asks = replace(hello, wire="openai_chat", **fields)
        await gate.call(asks)
        await limit(k, 10**12)
        (named,) = fields.get("extra", {"files": None})
        with pytest.raises(OverBudget, match=f"nobody knows what this call of .* costs: leave out `{named}`"):
            await gate.call(asks)
        await gate.call(hello)


@pytest.mark.parametrize("fields", [*BUYING[:8], *BUYING[-2:]])
async def test_what_nobody_knows_the_size_of_is_refused_under_a_limit_of_tokens_and_blocks_nobody(fields: dict[str, Any]) -> None:
    """Else a few bytes that stand for a million tokens are billed beyond what was reserved, and block whoever else is there."""
    core = Remote("acme", "plain", Usage(input_uncached=10**6, output_visible=1))
    async with kernel_for_tests([core], prices=prices()) as k:
        gate, other = await k.session(), await k.session("other")
        await k.operator.call(SetLimit(account="/", unit="tokens", amount=10**8, window="day"))
        with pytest.raises(OverBudget, match="nobody knows how many this call comes to"):
            await gate.call(replace(hello, wire="openai_chat", **fields))
        core.usage = USAGE
        await other.call(hello)


@pytest.mark.parametrize("extra", [{"top_k": 4}, {"chat_template_kwargs": {}}, {"store": True, "user": "ann"}])
async def test_words_of_a_wire_that_change_what_is_said_alone_are_no_purchase(extra: dict[str, Any]) -> None:
    async with kernel_for_tests([Remote("acme", "plain")], prices=prices()) as k:
        gate = await k.session()
        await limit(k, 10**12)
        await gate.call(replace(hello, wire="openai_chat", extra=extra))


SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"description": "x" * 30_000}}}
LONG: list[dict[str, Any]] = [
    {"response_format": SCHEMA},
    {"wire": "openai_chat", "extra": {"tools": [{"type": "custom", "custom": {"name": "t", "description": "x" * 30_000}}]}},
    {"wire": "openai_chat", "extra": {"chat_template_kwargs": {"notes": "x" * 30_000}}},
]


@pytest.mark.parametrize("fields", LONG)
async def test_all_that_a_model_may_read_is_reserved_for(fields: dict[str, Any]) -> None:
    async with kernel_for_tests([Remote("acme", "plain")], prices=prices()) as k:
        gate = await k.session()
        await limit(k, 30_000 * 2500)
        await gate.call(hello)
        with pytest.raises(OverBudget, match="may come to"):
            await gate.call(replace(hello, **fields))


async def test_a_picture_is_reserved_for_as_the_model_counts_it() -> None:
    picture = Generate(messages=(Message("user", (Part("image", image="https://example.com/a.png"),)),), max_tokens=4)
    table = written(row("gpt-4o-mini-2024-07-18", price(1, 1)), row("plain", price(1, 1)))
    book = PriceBook(PricesConfig(), VirtualClock(), Table(table))
    for model, tokens in (("plain", 20_000), ("gpt-4o-mini-2024-07-18", 48_169)):
        async with kernel_for_tests([Remote("acme", model)], prices=book) as k:
            gate = await k.session()
            await limit(k, tokens * 1000)
            with pytest.raises(OverBudget):
                await gate.call(picture)
            await limit(k, 55_000 * 1000)
            await gate.call(picture)


async def test_pictures_and_cache_writes_are_reserved_and_charged_at_their_own_rates() -> None:
    sound = Message("user", (Part("text", "what is it"), Part("other", extra={"type": "input_audio"})))
    hears = Remote("acme", "hears", Usage(input_uncached=10), name="hears")
    keeps = Remote("acme", "keeps", Usage(input_uncached=10, cache_write=100), name="keeps")
    async with kernel_for_tests([hears, keeps], prices=prices()) as k:
        gate = await k.session()
        await limit(k, 10**12)
        await gate.call(Generate(model="hears", messages=(sound,), max_tokens=4))
        assert await spent(k) == 10 * 1000, "$1 per million, and not the $0.30 of texts"
        await gate.call(Generate(model="keeps", prompt="hello", max_tokens=4))
        assert await spent(k) == 10 * 1000 + 10 * 3000 + 100 * 3750


async def test_while_a_question_with_sounds_runs_all_of_it_is_reserved_at_the_rate_of_sounds() -> None:
    sound = Message("user", (Part("text", "what is it"), Part("other", extra={"type": "input_audio"})))
    remote = Remote("acme", "hears", Usage(1), answers=Script(text="one", first_s=5))
    async with kernel_for_tests([remote], prices=prices()) as k:
        gate = await k.session()
        for question, each in (((sound,), 1000), ((Message("user", "what is it"),), 300)):
            call = asyncio.ensure_future(gate.call(Generate(messages=question, max_tokens=4)))
            await asyncio.sleep(1)
            reserved = (await k.operator.call(ShowAccounts(account="/local/client"))).accounts[0].reserved
            assert reserved["money"] == (reserved["tokens"] - 4) * each + 4 * 2500
            await call


async def test_a_later_price_holds_from_its_day_on_without_a_restart() -> None:
    class Clock(VirtualClock):
        at_ns = LATER_NS - 1

        def now_ns(self) -> int:
            return self.at_ns

    clock = Clock()
    async with kernel_for_tests([Remote("acme", "rises")], prices=PriceBook(PricesConfig(), clock, Table(TABLE))) as k:
        gate = await k.session()
        await gate.call(hello)
        once = await spent(k)
        clock.at_ns += 1
        await gate.call(hello)
        assert once == 124 * 1000 and await spent(k) == 3 * once


async def test_a_reservation_is_of_the_dearest_way_to_bill_it() -> None:
    """One token of room less than the worst, and the call is refused before it is made."""
    for model, each in (("plain", (2500, 10_000)), ("keeps", (6000, 15_000)), ("quick", (1000, 1000))):
        most = WORST * each[0] + 4 * each[1]
        for amount, fits in ((most, True), (most - each[1], False)):
            async with kernel_for_tests([Remote("acme", model)], prices=prices()) as k:
                gate = await k.session()
                await limit(k, amount)
                if fits:
                    await gate.call(hello)
                    continue
                with pytest.raises(OverBudget):
                    await gate.call(hello)
