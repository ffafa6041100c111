"""The tool that makes the table of prices: what it reads out of a source text, and what it leaves out."""

import importlib.util
from datetime import date
from pathlib import Path
from typing import Any

import pytest

SPEC = importlib.util.spec_from_file_location("price_tool", Path(__file__).parents[1] / "tools/prices.py")
assert SPEC is not None and SPEC.loader is not None
prices = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(prices)

TODAY = date(2026, 11, 21)


def entry(model: str) -> dict[str, Any]:
    """What the table gets of the source text of a model."""
    source = f"from x import *\nproviders: list[Provider] = [Provider(id='acme', models=[ModelInfo(id='m', {model})])]"
    [provider] = prices.providers_in(source)
    return prices.entry_of(provider["id"], provider["models"][0], TODAY)


def price(of: str, match: str = "ClauseEquals(equals='M')") -> dict[str, Any]:
    return entry(f"match={match}, prices={of}")["price"]


def test_dollars_become_nano_dollars_and_what_is_the_same_is_said_once() -> None:
    found = entry(
        "match=ClauseOr(or_=[ClauseEquals(equals='M'), ClauseStartsWith(starts_with='m-')]), prices=ModelPrice("
        "input_mtok=Decimal('0.0028'), cache_write_mtok=Decimal('0.0028'), cache_read_mtok=Decimal('0'),"
        "output_mtok=Decimal('10'), requests_kcount=Decimal('12'), web_searches_kcount=Decimal('10'))"
    )
    assert found == {
        "provider": "acme",
        "model": "m",
        "match": ["=m", "^m-"],
        "price": {
            "rates": {"input": 2_800_000, "cached": 0, "output": 10**10},
            "request": 12_000_000,
            "fees": {"web_searches": 10_000_000},
        },
    }


def test_less_than_the_smallest_unit_is_rounded_up() -> None:
    assert price("ModelPrice(input_mtok=Decimal('0.0000000001'), output_mtok=Decimal('1'))")["rates"]["input"] == 1


def test_a_tier_has_all_its_rates() -> None:
    tiered = "TieredPrices(base=Decimal('1'), tiers=[Tier(start=200, price=Decimal('2'))])"
    found = price(f"ModelPrice(input_mtok={tiered}, output_mtok=Decimal('4'))")
    assert found["tiers"] == [{"above": 200, "rates": {"input": 2 * 10**9, "output": 4 * 10**9}}]


def test_the_dearest_hour_counts_and_a_later_day_is_kept() -> None:
    def cost(dollars: int) -> str:
        return f"prices=ModelPrice(input_mtok=Decimal('{dollars}'), output_mtok=Decimal('1'))"

    hour = "TimeOfDateConstraint(start_time=datetime.time(1, 0, tzinfo=datetime.timezone.utc), end_time=datetime.time(4))"
    days = [f"StartDateConstraint(start_date=datetime.date({day}))" for day in ("2026, 1, 1", "2026, 12, 1")]
    conditional = [cost(1), f"constraint={days[0]}, {cost(2)}", f"constraint={days[1]}, {cost(3)}"]
    listed = ", ".join(f"ConditionalPrice({each})" for each in conditional)
    found = entry(f"match=ClauseEquals(equals='m'), prices=[{listed}]")
    assert found["price"]["rates"]["input"] == 2 * 10**9
    assert [(later["since"], later["price"]["rates"]["input"]) for later in found["later"]] == [("2026-12-01", 3 * 10**9)]
    hourly = f"{listed}, ConditionalPrice(constraint={hour}, {cost(5)})"
    assert entry(f"match=ClauseEquals(equals='m'), prices=[{hourly}]")["price"]["rates"]["input"] == 5 * 10**9


def test_of_the_variants_the_dearer_are_kept() -> None:
    def variant(tier: str, dollars: str) -> str:
        return f"PriceVariant(when={{'service_tier': '{tier}'}}, prices=ModelPrice(input_mtok=Decimal('{dollars}')))"

    standard = "ModelPrice(input_mtok=Decimal('1'), output_mtok=Decimal('4'))"
    listed = f"{variant('flex', '0.5')}, {variant('priority', '2')}"
    found = entry(f"match=ClauseEquals(equals='m'), prices={standard}, price_variants=[{listed}]")["price"]["variants"]
    assert found == {"service_tier=priority": {"rates": {"input": 2 * 10**9, "output": 4 * 10**9}}}


@pytest.mark.parametrize(
    ("of", "why"),
    [
        ("ModelPrice(audio_hours=Decimal('1'))", "bills audio_hours"),
        (
            "ModelPrice(input_mtok=Decimal('1'), output_mtok=Decimal('1'), output_citation_mtok=Decimal('1'))",
            "bills output_citation",
        ),
        ("ModelPrice(input_mtok=Decimal('1'))", "no rate"),
        ("ModelPrice()", "no rate"),
        ("ModelPrice(input_mtok=Decimal('-1'), output_mtok=Decimal('1'))", "is no price"),
        ("ModelPrice(input_mtok=Decimal('NaN'), output_mtok=Decimal('1'))", "is no price"),
        ("ModelPrice(input_mtok=Decimal('1e9'), output_mtok=Decimal('1'))", "is no price"),
    ],
)
def test_what_cannot_be_billed_by_tokens_is_left_out(of: str, why: str) -> None:
    with pytest.raises(prices.Unfit, match=why):
        price(of)


@pytest.mark.parametrize(
    "source", ["providers: list = [__import__('os').system('false')]", "providers: list = [f'{1}']", "x = 1"]
)
def test_nothing_of_the_source_is_run_and_what_is_not_understood_ends_it(source: str) -> None:
    with pytest.raises(SystemExit, match="not understood|no `providers`"):
        prices.providers_in(source)


def test_a_field_that_is_new_ends_it_because_it_may_be_a_way_to_bill() -> None:
    with pytest.raises(SystemExit, match="not understood"):
        entry("match=ClauseEquals(equals='m'), prices=ModelPrice(), surcharge=Decimal('2')")
    with pytest.raises(prices.Unfit, match="bills input_smell_mtok"):
        price("ModelPrice(input_mtok=Decimal('1'), output_mtok=Decimal('1'), input_smell_mtok=Decimal('9'))")


TEXTS = "ModelPrice(input_mtok=Decimal('1'), output_mtok=Decimal('2'))"
SOUNDS = "ModelPrice(input_mtok=Decimal('1'), output_mtok=Decimal('2'), input_audio_mtok=Decimal('8'))"


def named(model: str, of: str) -> dict[str, Any]:
    listed = f"ModelInfo(id='{model}', match=ClauseEquals(equals='m'), prices={of})"
    source = f"providers: list[Provider] = [Provider(id='acme', models=[{listed}])]"
    [provider] = prices.providers_in(source)
    return prices.entry_of(provider["id"], provider["models"][0], TODAY)


@pytest.mark.parametrize("model", ["gpt-4o-search-preview", "perplexity/sonar-pro", "o3-deep-research", "acme/x:online"])
def test_a_model_that_searches_by_itself_has_no_price_that_a_limit_could_hold_with(model: str) -> None:
    with pytest.raises(prices.Unfit, match="searches by itself"):
        named(model, SOUNDS)


@pytest.mark.parametrize("model", ["gpt-4o-audio-preview", "gemini-2.5-flash-image", "qwen3-omni-flash"])
def test_a_model_that_makes_sounds_or_pictures_is_left_out_where_its_price_is_that_of_texts(model: str) -> None:
    with pytest.raises(prices.Unfit, match="makes sounds or pictures"):
        named(model, TEXTS)
    assert named(model, SOUNDS)["price"]["rates"]["media"] == 8 * 10**9


def test_a_name_that_only_looks_like_that_is_kept() -> None:
    for model in ("gpt-research-1", "imagen-chat", "audiophile", "sonarlike"):
        assert named(model, TEXTS)["model"] == model
