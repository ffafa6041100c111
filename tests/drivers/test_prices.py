"""The price table that comes with AIOS is what it says it is, and the operator's word comes before it."""

import datetime
import hashlib
import json
from decimal import Decimal

import msgspec
import pytest
from price_tables import entry, price, written

from aios.abi.errors import Unavailable
from aios.abi.llm import Usage
from aios.abi.price import MOST_FEE, MOST_RATE, Price, Rates
from aios.drivers.price.book import PriceBook, PriceConfig, PricesConfig
from aios.drivers.price.table import TABLE, Entry, Table, day_of, shipped
from aios.ports.prices import LOCAL

NOVEMBER_NS = 1_795_000_000 * 10**9
"""The 18th of November 2026."""


class Fixed:
    """A clock that stands."""

    def __init__(self, at_ns: int = NOVEMBER_NS) -> None:
        self.at_ns = at_ns

    def now_ns(self) -> int:
        return self.at_ns

    def monotonic(self) -> float:
        return 0.0


def book(table: bytes, at_ns: int = NOVEMBER_NS, **said: PriceConfig) -> PriceBook:
    return PriceBook(PricesConfig(models=said), Fixed(at_ns), Table(table))


# the table that ships


def test_the_table_has_the_hash_that_it_names() -> None:
    first, _, lines = TABLE.read_bytes().partition(b"\n")
    assert json.loads(first)["sha256"] == hashlib.sha256(lines).hexdigest() == shipped().info.sha256
    assert len(lines.splitlines()) == shipped().info.entries > 1500


def numbers_in(value: object) -> list[object]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers_in(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers_in(inner)]
    return [] if isinstance(value, str) else [value]


def test_every_number_in_the_table_is_a_sane_integer() -> None:
    numbers = [number for line in TABLE.read_text().splitlines()[1:] for number in numbers_in(json.loads(line))]
    assert {type(number) for number in numbers} == {int} and all(0 <= number <= MOST_RATE for number in numbers)  # type: ignore[operator]
    assert len(numbers) > 5000


def prices_of(found: Entry) -> list[Price]:
    prices = [found.price, *(later.price for later in found.later)]
    return [*prices, *(variant for each in prices for variant in each.variants.values())]


def test_every_entry_is_found_and_counts() -> None:
    for entries in shipped().entries.values():
        for found in entries:
            assert (
                found.match
                and all(map(len, found.match))
                and [day.since for day in found.later] == sorted(day.since for day in found.later)
            )
            for each in prices_of(found):
                worst = each.worst(10**6, media=True, words=each.variants)
                assert each.cost(Usage(1000, 1000, 1000, 1000)) <= worst.of(2000, 2000) and worst.fixed <= MOST_FEE


def test_a_pattern_that_no_name_fits_or_every_name_does_is_not_there() -> None:
    assert [
        found.model for entries in shipped().entries.values() for found in entries if found.fits("no-such-model-of-anybody")
    ] == []


def test_known_models_cost_what_their_providers_say() -> None:
    """From the providers' own pages, and not from where the table is from: GPT-4o and Claude Sonnet 4.5, dollars per million."""
    gpt, claude = shipped().find("openai", "gpt-4o-2024-08-06"), shipped().find("anthropic", "claude-sonnet-4-5-20250929")
    assert gpt is not None and claude is not None
    assert (gpt.price.rates.input, gpt.price.rates.cached, gpt.price.rates.output) == (
        2_500_000_000,
        1_250_000_000,
        10_000_000_000,
    )
    assert (claude.price.at(200_000).input, claude.price.at(200_001).input) == (3_000_000_000, 6_000_000_000)
    assert (claude.price.rates.cached, claude.price.rates.cache_write) == (300_000_000, 3_750_000_000)


def test_who_sells_models_of_others_has_their_prices() -> None:
    azure, openai = shipped().find("azure", "gpt-4o"), shipped().find("openai", "gpt-4o")
    assert azure is not None and openai is not None and azure.price == openai.price


# reading a table


def test_one_altered_digit_in_the_table_and_no_price_is_taken_from_it() -> None:
    table = written(entry("one", "=one"))
    assert Table(table).find("acme", "one") is not None, "the control"
    with pytest.raises(Unavailable, match="altered"):
        Table(table.replace(b"1000000000", b"1000000001", 1))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]\n", b'{"date": 3}\n', b"\xff\xfe"])
def test_what_is_no_table_is_said_to_be_none(damage: bytes) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        Table(damage)


def test_entries_that_are_none_are_refused_also_under_a_right_hash() -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        Table(written({**entry("one", "=one"), "price": {"rates": {"input": 0.5, "output": 1}}}))


@pytest.mark.parametrize(
    ("match", "fits", "fits_not"),
    [
        (["=gpt"], ["gpt", "GPT"], ["gpt-4", "a-gpt"]),
        (["^gpt"], ["gpt-4"], ["my-gpt"]),
        (["$-mini"], ["gpt-mini"], ["mini", "gpt-mini-2"]),
        (["*son"], ["claude-sonnet"], ["claude-haiku"]),
        (["~^m-\\d+$"], ["m-12"], ["m-x", "am-12"]),
        (["=a", "=b"], ["a", "b"], ["ab"]),
        ([["^a", "$z"]], ["abcz", "az"], ["a", "z", "za"]),
    ],
)
def test_a_pattern_fits_what_it_is_for(match: list[object], fits: list[str], fits_not: list[str]) -> None:
    table = Table(written(entry("m", *match)))
    assert all(table.find("acme", name) for name in fits) and not any(table.find("acme", name) for name in fits_not)


def test_the_first_entry_that_fits_counts_and_a_provider_has_only_its_own() -> None:
    table = Table(
        written(entry("mini", "^x-mini"), entry("x", "^x", dollars=9), entry("y", "=y", provider="other"), acme2=["acme"])
    )
    found = [table.find(provider, name) for provider, name in [("acme", "x-mini-1"), ("acme", "x-1"), ("acme2", "x-1")]]
    assert [one and one.model for one in found] == ["mini", "x", "x"]
    assert table.find("acme", "y") is None and table.find("nobody", "x") is None and table.find("acme", "x" * 201) is None


def test_a_price_that_begins_later_holds_from_its_day_on() -> None:
    later = [{"since": "2026-12-01", "price": price(2)}, {"since": "2027-01-01", "price": price(4)}]
    day_ns = 86_400 * 10**9
    first = 1_796_083_200 * 10**9  # 2026-12-01T00:00Z
    assert day_of(first) == "2026-12-01" and day_of(first - 1) == "2026-11-30"
    table = written(entry("one", "=one", later=later))
    costs = []
    for at_ns in (first - 1, first, first + 31 * day_ns, 10**30, -(10**30)):
        found = book(table, at_ns).price("acme", "one")
        assert found is not None
        costs.append(found.price.cost(Usage(1)))
    assert costs == [1000, 2000, 4000, 4000, 4000], "a clock out of all bounds is taken for the last day"


# the operator's word


def test_the_operators_price_comes_before_the_table_and_others_stay() -> None:
    prices = book(written(entry("one", "^one")), **{"Acme/One": PriceConfig(input=Decimal("0.0028"), output=Decimal(3))})
    said, table = prices.price("acme", "one"), prices.price("acme", "one-2")
    assert said is not None and table is not None
    assert (said.source, said.entry, said.price.rates) == ("operator", "Acme/One", Rates(input=2_800_000, output=3 * 10**9))
    assert (table.source, table.entry) == ("table", "acme/one")


def test_an_unknown_price_is_none_and_not_nothing() -> None:
    assert book(written(entry("one", "=one"))).price("acme", "two") is None


def test_what_is_made_here_costs_nothing_unless_the_operator_says_what() -> None:
    free = PriceBook(PricesConfig(), Fixed()).price(LOCAL, "any")
    paid = PriceBook(PricesConfig(local=PriceConfig(input=Decimal("0.05"), output=Decimal("0.2"))), Fixed()).price(LOCAL, "any")
    assert free is not None and (free.source, free.price.cost(Usage(10**9))) == ("default", 0)
    assert paid is not None and (paid.source, paid.price.cost(Usage(10**6, output_visible=10**6))) == ("operator", 250_000_000)


def test_a_model_is_sought_at_all_who_have_it_or_at_one() -> None:
    table = written(entry("one", "=one"), entry("one", "=one", provider="other"), entry("a/b", "=a/b", provider="third"))
    prices = book(table, **{"mine/one": PriceConfig(input=Decimal(1), output=Decimal(1))})

    def found(name: str) -> list[str]:
        return [f"{one.provider}/{one.model}" for one in prices.search(name)]

    assert found("one") == ["mine/one", "acme/one", "other/one"] and found("other/one") == ["other/one"]
    assert found("a/b") == ["third/a/b"] and found("other/a/b") == [] and found("local/x") == ["local/x"]
    assert [one.entry for one in prices.said()] == ["mine/one"]


GOOD = {"input": Decimal(1), "output": Decimal(2)}


@pytest.mark.parametrize("field", ["input", "output", "cached", "cache_write", "reasoning", "request"])
@pytest.mark.parametrize(
    "value", ["-1", "-0.000000001", "nan", "-nan", "snan", "inf", "-inf", "1e999999", "10001", "0.1234567891", "1e-999999"]
)
def test_what_is_no_price_is_refused_by_its_name(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"`{field}` must"):
        PriceConfig(**{**GOOD, field: Decimal(value)})


def test_the_edges_are_prices() -> None:
    config = PriceConfig(input=Decimal("0.000000001"), output=Decimal(10_000), request=Decimal("100.000000000000"))
    assert config.price() == Price(rates=Rates(input=1, output=MOST_RATE), request=MOST_FEE)


@pytest.mark.parametrize("name", ["gpt-5", "/gpt-5", "openai/", "", "a/\x1b[2J", "a/" + "x" * 200, "local/x", "Local/x"])
def test_a_price_belongs_to_a_provider_and_a_model(name: str) -> None:
    with pytest.raises(ValueError, match="`models` hold|`models` must hold"):
        PricesConfig(models={name: PriceConfig(**GOOD)})


def test_two_names_of_one_model_are_refused() -> None:
    with pytest.raises(ValueError, match="once"):
        PricesConfig(models={"a/x": PriceConfig(**GOOD), "A/X": PriceConfig(**GOOD)})
    with pytest.raises(ValueError, match="at most"):
        PricesConfig(models={f"a/{number}": PriceConfig(**GOOD) for number in range(10_001)})


def test_a_price_in_the_contract_has_no_float() -> None:
    found = book(written(entry("one", "=one")), **{"a/b": PriceConfig(input=Decimal("1.1"), output=Decimal("2.2"))}).price(
        "a", "b"
    )
    assert {type(number) for number in numbers_in(json.loads(msgspec.json.encode(found)))} == {int}


DAY_NS = 86_400 * 10**9


def test_a_table_says_when_it_is_old() -> None:
    made = int(datetime.datetime.fromisoformat(f"{shipped().info.date}T12:00Z").timestamp()) * 10**9
    for days, old in ((0, False), (45, False), (46, True), (400, True), (-400, False)):
        said = PriceBook(PricesConfig(), Fixed(made + days * DAY_NS)).age()
        assert (f"{days} days old" in said) is old and bool(said) is old
    assert PriceBook(PricesConfig(), Fixed(2**63 * 1000)).age()


@pytest.mark.parametrize("date", ["", "2026-13-01", "yesterday", "2026-11-21T00:00"])
def test_a_table_without_a_day_is_none(date: str) -> None:
    first, _, lines = written(entry("m")).partition(b"\n")
    head = json.dumps({**json.loads(first), "date": date}).encode()
    with pytest.raises(Unavailable, match="cannot be read"):
        Table(head + b"\n" + lines)
