"""What tokens cost: whole numbers, rounded up, and never more than was said beforehand."""

import ast
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aios.abi.price
from aios.abi.llm import Usage
from aios.abi.price import FREE, MOST_FEE, MOST_RATE, Price, Rates, Tier

GPT = Price(rates=Rates(input=1_250_000_000, cached=125_000_000, output=10_000_000_000), request=7)

rate = st.integers(0, MOST_RATE)
some = st.none() | rate
rates = st.builds(
    Rates, input=rate, output=rate, cached=some, cache_write=some, cache_write_long=some, media=some, reasoning=some
)
tiers = st.dictionaries(st.integers(0, 500), rates, max_size=3).map(
    lambda found: tuple(Tier(above=above, rates=found[above]) for above in sorted(found))
)
plain = st.builds(Price, rates=rates, request=st.integers(0, MOST_FEE), tiers=tiers)
words = st.sampled_from(["service_tier=priority", "speed=fast"])
prices = st.builds(
    lambda price, variants: msgspec.structs.replace(price, variants=variants), plain, st.dictionaries(words, plain, max_size=2)
)
tokens = st.integers(0, 300)
usages = st.builds(Usage, tokens, tokens, tokens, tokens, tokens)


def test_a_call_costs_what_its_tokens_and_the_call_itself_cost() -> None:
    usage = Usage(input_uncached=1000, cache_read=200, output_visible=30, reasoning=4)
    assert GPT.cost(usage) == 1000 * 1250 + 200 * 125 + 34 * 10_000 + 7


def test_a_part_of_a_nano_dollar_is_rounded_up_once_for_the_call() -> None:
    price = Price(rates=Rates(input=2_800_000, output=0))  # 2.8 nano-dollars
    assert price.cost(Usage(input_uncached=1)) == 3 and price.cost(Usage(input_uncached=10)) == 28
    assert price.worst(10).of(10, 0) == 30, "what may come is rounded up for each token"


def test_a_long_question_changes_the_price_of_all_its_tokens() -> None:
    price = Price(rates=Rates(input=10**9, output=10**9), tiers=(Tier(above=100, rates=Rates(input=2 * 10**9, output=10**9)),))
    assert price.cost(Usage(100)) == 100_000 and price.cost(Usage(101)) == 202_000
    assert price.cost(Usage(input_uncached=1, cache_read=99, cache_write=1)) == 202_000, "what was cached counts for the length"
    assert price.worst(100).input == 1000 and price.worst(101).input == 2000


def test_the_worst_is_the_dearest_way_to_bill_a_token() -> None:
    dear = Price(rates=Rates(input=10**9, output=10**9, cache_write_long=2 * 10**9, media=5 * 10**9, reasoning=3 * 10**9))
    assert (dear.worst(1).input, dear.worst(1).output) == (2000, 3000)
    assert dear.worst(1, media=True).input == 5000 and dear.cost(Usage(1), media=True) == 5000


def test_who_asks_for_a_dearer_service_is_charged_for_it() -> None:
    price = Price(rates=GPT.rates, variants={"service_tier=priority": Price(rates=Rates(input=MOST_RATE, output=MOST_RATE))})
    asked = {"service_tier=priority"}
    assert price.cost(Usage(1), words=asked) == MOST_RATE // 10**6 and price.cost(Usage(1), words={"speed=fast"}) == 1250
    assert price.worst(1, words=asked).output == MOST_RATE // 10**6 and price.worst(1).output == 10_000


@given(price=prices, usage=usages, media=st.booleans(), asked=st.sets(words), more=st.integers(0, 50))
def test_no_call_costs_more_than_was_said_for_at_most_so_many_tokens(
    price: Price, usage: Usage, media: bool, asked: set[str], more: int
) -> None:
    most_in, most_out = usage.input_tokens + more, usage.output_tokens + more
    cost = price.cost(usage, media=media, words=asked)
    assert type(cost) is int and 0 <= cost <= price.worst(most_in, media=media, words=asked).of(most_in, most_out)


@given(price=prices, tokens=tokens, asked=st.sets(words))
def test_to_ask_for_less_never_has_a_greater_worst(price: Price, tokens: int, asked: set[str]) -> None:
    less, more = price.worst(tokens), price.worst(tokens + 1, media=True, words=asked)
    assert less.input <= more.input and less.output <= more.output and less.fixed <= more.fixed


@given(price=prices, usage=usages)
def test_a_price_survives_its_own_encoding(price: Price, usage: Usage) -> None:
    again = msgspec.json.decode(msgspec.json.encode(price), type=Price)
    assert again == price and again.cost(usage) == price.cost(usage)


def test_nothing_costs_nothing_and_less_than_nothing_is_refused() -> None:
    assert FREE.cost(Usage(10**12, 10**12, 10**12, 10**12, 10**12)) == 0 == GPT.cost(Usage()) - GPT.request
    for usage in (Usage(-1), Usage(0, -1), Usage(0, 0, -1), Usage(0, 0, 0, -1), Usage(0, 0, 0, 0, -1)):
        with pytest.raises(ValueError, match="less than no tokens"):
            FREE.cost(usage)


@pytest.mark.parametrize(
    "text",
    [
        '{"rates":{"input":-1,"output":0}}',
        '{"rates":{"input":1.5,"output":0}}',
        f'{{"rates":{{"input":{MOST_RATE + 1},"output":0}}}}',
        '{"rates":{"input":0}}',
        '{"rates":{"input":0,"output":0},"request":-1}',
        '{"rates":{"input":0,"output":0},"fees":{"web_searches":-1}}',
        '{"rates":{"input":0,"output":0},"outpt":1}',
        '{"rates":{"input":0,"output":0},"tiers":[{"above":-1,"rates":{"input":0,"output":0}}]}',
        '{"rates":{"input":0,"output":0},"tiers":[{"above":9,"rates":{"input":0,"output":0}},{"above":9,"rates":{"input":0,"output":0}}]}',
    ],
)
def test_what_is_no_price_is_not_read_as_one(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Price)


def test_the_arithmetic_of_money_has_no_division_but_the_one_that_rounds_and_no_float() -> None:
    tree = ast.parse(Path(aios.abi.price.__file__).read_text())
    assert not [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Div) or (isinstance(node, ast.Constant) and type(node.value) is float)
    ]
    assert len([node for node in ast.walk(tree) if isinstance(node, ast.FloorDiv)]) == 1, "the control: it divides somewhere"
