"""What a model's tokens cost. Integers only: no float ever takes part in a sum of money.

Rates are nano-dollars per million tokens, because that says the published prices exactly: a cached token of $0.0028 per million
is 2.8 nano-dollars. What a call came to is rounded up once, for the call as a whole; what it may come to is rounded up for each
token, so the first is never above the second.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Literal

import msgspec

from aios.abi.llm import Usage
from aios.abi.request import Reply, Request

MTOK = 1_000_000
NANO = 10**9
MOST_RATE = 10_000 * NANO
"""Nano-dollars per million tokens: ten thousand dollars, some ten times the dearest that was ever asked."""
MOST_FEE = 100 * NANO
"""Nano-dollars per call: a hundred dollars."""
Rate = Annotated[int, msgspec.Meta(ge=0, le=MOST_RATE)]
Fee = Annotated[int, msgspec.Meta(ge=0, le=MOST_FEE)]
NO_WORDS: frozenset[str] = frozenset()

PriceSource = Literal["operator", "table", "default"]


class Rates(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Nano-dollars per million tokens. None: as `input`, or for `reasoning` as `output`.

    `cached`: read from the provider's cache; `cache_write`, `cache_write_long`: written there, for minutes or for an hour.
    `media`: of pictures, sound and film, at the dearest of the three. `output`: at the dearest of what the model makes.
    """

    input: Rate
    output: Rate
    cached: Rate | None = None
    cache_write: Rate | None = None
    cache_write_long: Rate | None = None
    media: Rate | None = None
    reasoning: Rate | None = None

    def worst_input(self, media: bool) -> int:
        """Of any token that may be in a question; with `media` among them, or texts alone."""
        most = max(self.input, self.cached or 0, self.cache_write or 0, self.cache_write_long or 0)
        return max(most, self.media or 0) if media else most

    def worst_output(self) -> int:
        """Of any token that may be in an answer."""
        return self.output if self.reasoning is None else max(self.output, self.reasoning)

    def sum(self, usage: Usage, media: bool) -> int:
        """What so many tokens come to, in nano-dollars times a million. With `media` in it all input is taken to be that."""
        plain = max(self.input, self.media or 0) if media else self.input
        cached = plain if self.cached is None or media else self.cached
        write = plain if self.cache_write is None else max(plain, self.cache_write) if media else self.cache_write
        reasoning = self.output if self.reasoning is None else self.reasoning
        given = usage.input_uncached * plain + usage.cache_read * cached + usage.cache_write * write
        return given + usage.output_visible * self.output + usage.reasoning * reasoning


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rates of all tokens of a call whose input is more than `above` tokens."""

    above: Annotated[int, msgspec.Meta(ge=0, le=10**9)]
    rates: Rates


class Worst(msgspec.Struct, frozen=True):
    """The most that a call can come to: nano-dollars per token of its `input` and its `output`, and `fixed` for the call."""

    input: int
    output: int
    fixed: int

    def of(self, input_tokens: int, output_tokens: int) -> int:
        """Nano-dollars for at most so many tokens."""
        return self.fixed + self.input * input_tokens + self.output * output_tokens


class Price(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a model costs. `request`: nano-dollars of each call, besides its tokens. `tiers`: rates of long questions, by length.

    `variants`: dearer prices for calls that ask for more with such words as `service_tier=priority`. `fees`: nano-dollars of each
    use of what the provider does besides, as `web_searches`; no call here comes to any, unless it asks for that in words of the
    provider's own.
    """

    rates: Rates
    request: Fee = 0
    tiers: tuple[Tier, ...] = ()
    variants: dict[str, Price] = {}
    fees: dict[str, Fee] = {}

    def __post_init__(self) -> None:
        if any(tier.above >= later.above for tier, later in zip(self.tiers, self.tiers[1:], strict=False)):
            raise ValueError("`tiers` must be in the order of `above`, each once")

    def at(self, input_tokens: int) -> Rates:
        """The rates of a call with so many tokens of input."""
        if not self.tiers:
            return self.rates
        return next((tier.rates for tier in reversed(self.tiers) if input_tokens > tier.above), self.rates)

    def worst(self, input_tokens: int, *, media: bool = False, words: Collection[str] = NO_WORDS) -> Worst:
        """The most that a call with at most so many tokens of input can come to, per token, rounded up.

        `media`: whether there are pictures or sounds in it. `words`: what it asks of the provider, as `service_tier=priority`.
        """
        if not words and (not self.tiers or input_tokens <= self.tiers[0].above):
            return Worst(_up(self.rates.worst_input(media)), _up(self.rates.worst_output()), self.request)
        rates = [rates for price in self._asked(words) for rates in price._up_to(input_tokens)]
        return Worst(
            _up(max(each.worst_input(media) for each in rates)),
            _up(max(each.worst_output() for each in rates)),
            max(price.request for price in self._asked(words)),
        )

    @property
    def is_nothing(self) -> bool:
        """Whether nothing costs anything."""
        return not (self.request or self.tiers or self.variants or self.fees) and not any(msgspec.structs.astuple(self.rates))

    def cost(self, usage: Usage, *, media: bool = False, words: Collection[str] = NO_WORDS) -> int:
        """What a call came to: nano-dollars, rounded up. Raises ValueError for tokens below nothing."""
        if min(usage.input_uncached, usage.cache_read, usage.output_visible, usage.reasoning, usage.cache_write) < 0:
            raise ValueError("a usage of less than no tokens")
        own = self.request + _up(self.at(usage.input_tokens).sum(usage, media))
        return max([own, *(variant.cost(usage, media=media) for variant in self._variants(words))]) if words else own

    def _asked(self, words: Collection[str]) -> Iterator[Price]:
        """The price, and those of the variants that a call asks for: it may be given either."""
        yield self
        yield from self._variants(words)

    def _variants(self, words: Collection[str]) -> Iterator[Price]:
        return (price for word, price in self.variants.items() if word in words)

    def _up_to(self, input_tokens: int) -> Iterator[Rates]:
        yield self.rates
        yield from (tier.rates for tier in self.tiers if input_tokens > tier.above)


FREE = Price(rates=Rates(input=0, output=0))


class ModelPrice(msgspec.Struct, frozen=True, omit_defaults=True):
    """The price of a model now. `source`: who says so: the operator's configuration, the table that comes with AIOS, or nobody.

    Of nobody is the price of nothing, for what is made on this machine. `entry`: the name under which it is said.
    """

    provider: str
    model: str
    source: PriceSource
    entry: str
    price: Price


class CorePrice(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model costs on a core now. `price`: None where nobody knows it: where money is limited, it is refused."""

    core: str
    model: str
    price: ModelPrice | None = None


class CorePrices(Reply, frozen=True):
    """What models cost on the cores that have them. `at_ns`: when it was so, UTC."""

    prices: tuple[CorePrice, ...]
    at_ns: int


class ShowPrices(Request[CorePrices], frozen=True, kw_only=True):
    """What the models cost that this process may use, on each core, in nano-dollars per million tokens."""


class PriceTable(msgspec.Struct, frozen=True):
    """The table that comes with AIOS. `date`: of the day when it was made. `made_from`: what it was made from, and its version.

    `sha256`: of its entries, of which there are so many.
    """

    date: str
    made_from: str
    sha256: str
    entries: int


class PriceList(Reply, frozen=True):
    """Prices that hold now, and the table that comes with AIOS. `unknown`: configured models whose price nobody knows."""

    table: PriceTable
    prices: tuple[ModelPrice, ...]
    unknown: tuple[str, ...] = ()


def _up(of_million: int) -> int:
    """Nano-dollars, of nano-dollars times a million: rounded up."""
    return -(-of_million // MTOK)
