"""`aios prices`: what models cost, and who says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from os.path import commonprefix

import click

from aios.abi.errors import NotFound
from aios.abi.price import NANO, ModelPrice, Price, PriceList, PriceTable, Rates
from aios.abi.wire import nearest
from aios.cli.command import Command, as_json
from aios.cli.show import put_json, say, table
from aios.config import Config, read_config
from aios.drivers.clock import SystemClock
from aios.drivers.price.book import PriceBook
from aios.ports.core import Price as CorePrice
from aios.ports.prices import LOCAL

HEADERS = ("MODEL", "INPUT", "CACHED", "CACHE WRITE", "OUTPUT", "PER CALL", "FROM", "ALSO")
SOURCES = {"operator": "aios.toml", "default": "this machine", "table": "table"}


@click.command(cls=Command)
@click.argument("model", required=False)
@as_json
def prices(model: str | None, as_json: bool) -> None:
    """Say what models cost, and who says so.

    MODEL is `PROVIDER/MODEL`, or a model's name at any provider. Without one: the models that aios.toml names. Prices are dollars
    per million tokens; JSON has nano-dollars. Needs no kernel: what it says holds from the next start on.
    """
    config = read_config()
    book = PriceBook(config.prices, SystemClock())
    asked = tuple(configured(config, book)) if model is None else ()
    found = (
        tuple(book.search(model))
        if model is not None
        else tuple(once((*(each.price for each in asked if each.price), *book.said())))
    )
    nameless = tuple(each for each in asked if each.price is None)
    if model is not None and not found:
        raise NotFound(unknown(book, model), field="model")
    if as_json:
        put_json(PriceList(book.info(), found, tuple(each.name for each in nameless)))
        return
    if found:
        table(HEADERS, map(cells, found))
    for each in nameless:
        say(f"nobody knows the price of {each.name}: where money is limited it is refused, until aios.toml says {each.way_out}")
    say(about(book.info()))
    if old := book.age():
        say(old)


@dataclass(frozen=True)
class Configured:
    """A model of aios.toml. `name`: as `MODEL on CORE`; `price`: None if nobody knows it; `way_out`: what would say it."""

    name: str
    price: ModelPrice | None
    way_out: str


def configured(config: Config, book: PriceBook) -> Iterator[Configured]:
    """The models of aios.toml by core. Those that a provider lists by itself are not known here, and each has its own price."""
    cores: list[tuple[str, tuple[str, ...], str, CorePrice | None]] = []
    if config.local is not None:
        cores.append((config.local.name, (config.local.model,), LOCAL, config.local.price))
    for each in config.cores:
        any_model = () if each.provider and each.provider != LOCAL and each.price is None else ("any model",)
        cores.append((each.name, each.models or any_model, each.provider, each.price))
    for core, models, provider, own in cores:
        for model in models:
            price = book.price(provider, model) if own is None else ModelPrice(provider, model, "operator", core, own.exact())
            way_out = f'it in `[prices.models."{provider}/{model}"]`' if provider else f"`price` or `provider` of `{core}`"
            yield Configured(f"`{model}` on `{core}`", price, way_out)


def once(prices: Iterable[ModelPrice]) -> Iterator[ModelPrice]:
    """Each price, the first time that it comes."""
    told: list[ModelPrice] = []
    for price in prices:
        if price not in told:
            told.append(price)
            yield price


def unknown(book: PriceBook, model: str) -> str:
    """Nobody knows the price of a model: what that means, and what to do."""
    named = [entry for entries in book.table.entries.values() for entry in entries]
    names = {f"{entry.provider}/{entry.model}" for entry in named} | {entry.model for entry in named}
    near = nearest(model, sorted(names, key=lambda name: (-len(commonprefix((name, model))), name)))
    return (
        f"nobody knows the price of `{model[:80]}`{near or '.'} Where money is limited it is refused, until aios.toml says the"
        ' price in `[prices.models."PROVIDER/MODEL"]`, which `aios prices` then shows'
    )


def cells(found: ModelPrice) -> tuple[str, ...]:
    """A price as a row of the table."""
    rates = found.price.rates
    known = (rates.input, rates.cached, rates.cache_write, rates.output)
    source = SOURCES[found.source] + (f": {found.entry}" if found.entry != f"{found.provider}/{found.model}" else "")
    return (
        f"{found.provider}/{found.model}".lstrip("/"),
        *("" if rate is None else dollars(rate) for rate in known),
        dollars(found.price.request) if found.price.request else "",
        source,
        "; ".join(also(found.price)),
    )


def also(price: Price) -> Iterator[str]:
    """What else decides what a call costs."""
    if price.rates.cache_write_long is not None:
        yield f"cache write for an hour {dollars(price.rates.cache_write_long)}"
    if price.rates.reasoning is not None:
        yield f"reasoning {dollars(price.rates.reasoning)}"
    if price.rates.media is not None:
        yield f"pictures and sounds up to {dollars(price.rates.media)}"
    for tier in price.tiers:
        yield f"above {tier.above:,} tokens {both(tier.rates)}"
    for words, variant in price.variants.items():
        yield f"{words} {both(variant.rates)}"
    for name, fee in price.fees.items():
        yield f"{name.replace('_', ' ')} {dollars(fee)} each"


def both(rates: Rates) -> str:
    """Input and output in short."""
    return f"{dollars(rates.input)} / {dollars(rates.output)}"


def dollars(nano: int) -> str:
    """Nano-dollars as dollars, exactly."""
    return f"{(Decimal(nano) / NANO).normalize():f}"


def about(info: PriceTable) -> str:
    """What the table is, in a line."""
    return (
        f"dollars per million tokens; the table is of {info.date}, from {info.made_from}: {info.entries:,} models, "
        f"SHA-256 {info.sha256[:16]}…"
    )
