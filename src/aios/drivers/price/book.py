"""What a model costs here: what the operator says, else the table that comes with AIOS; else nobody knows.

Nothing is guessed: a price that is not known is told as unknown, and it is the ledger that refuses it where money is limited.
"""

from __future__ import annotations

import datetime
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal

from aios.abi.price import FREE, MOST_FEE, MOST_RATE, NANO, ModelPrice, Price, PriceTable, Rates
from aios.drivers.price.table import MAX_NAME_CHARACTERS, Entry, Table, day_of, shipped
from aios.ports.clock import Clock
from aios.ports.prices import LOCAL

MAX_PRICES = 10_000
OLD_DAYS = 45
"""A table that is older is said to be: providers change their prices now and then."""
SMALLEST = Decimal(1) / NANO


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceConfig:
    """What a model costs, in dollars per million tokens, as providers say it; at most nine decimals.

    `cached`: of its cache; `cache_write`: written there, at the dearest. Not given, both are as `input`, and `reasoning` is as
    `output`. `request`: dollars per call besides. Where long questions are dearer, or some hours, say the dearest price.
    """

    input: Decimal
    output: Decimal
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    request: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        for name in RATES:
            _check(name, getattr(self, name), MOST_RATE)
        _check("request", self.request, MOST_FEE)

    def price(self) -> Price:
        """In nano-dollars."""
        rates = {name: _nano(value) for name in RATES if (value := getattr(self, name)) is not None}
        return Price(rates=Rates(**rates), request=_nano(self.request))


RATES = ("input", "output", "cached", "cache_write", "reasoning")


def _check(name: str, dollars: Decimal | None, most_nano: int) -> None:
    """Raise ValueError for what is no price. Compared before anything is computed: `1e999999999` is short to write."""
    if dollars is None:
        return
    most = most_nano // NANO
    if not dollars.is_finite() or not 0 <= dollars <= most:
        raise ValueError(f"`{name}` must be 0 to {most}, in dollars")
    if dollars != dollars.quantize(SMALLEST):
        raise ValueError(f"`{name}` must have at most nine decimals")


def _nano(dollars: Decimal) -> int:
    return int((dollars * NANO).to_integral_value(ROUND_CEILING))


@dataclass(frozen=True, slots=True)
class PricesConfig:
    """What the operator says of prices, which comes before the table that AIOS brings.

    `local`: of tokens that are made on this machine; not given, they cost nothing. `models`: of others, by `PROVIDER/MODEL`, in
    small or capital letters.
    """

    local: PriceConfig | None = None
    models: dict[str, PriceConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.models) > MAX_PRICES:
            raise ValueError(f"`models` must hold at most {MAX_PRICES} prices")
        said: dict[str, str] = {}
        for name in self.models:
            provider, _, model = name.partition("/")
            if not provider or not model or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
                raise ValueError(f"`models` must hold prices by `PROVIDER/MODEL`, and not by `{name[:80]}`")
            if unicodedata.normalize("NFKC", name) != name:
                raise ValueError(
                    f"`models` holds `{name[:80]}`, which only looks like `{unicodedata.normalize('NFKC', name)[:80]}`"
                )
            if provider.lower() == LOCAL:
                raise ValueError(f"`models` holds `{name[:80]}`: what is made on this machine is priced by `local`")
            if said.setdefault(name.lower(), name) != name:
                raise ValueError(f"`models` must hold each model once, and not as `{said[name.lower()][:80]}` and `{name[:80]}`")


class PriceBook:
    """The port `Prices` on the operator's configuration and the table. `table`: None for the one that comes with AIOS.

    To read that takes some 20 ms, when it is first needed: a kernel asks while it boots, and with local models alone never.
    """

    def __init__(self, config: PricesConfig, clock: Clock, table: Table | None = None) -> None:
        self._clock = clock
        self._table = table
        self._found: dict[tuple[str, str], Entry | None] = {}
        self._local = config.local.price() if config.local else FREE
        self._said = {name.lower(): (name, price.price()) for name, price in config.models.items()}

    @property
    def table(self) -> Table:
        """The table; raises `Unavailable` if it was altered."""
        self._table = self._table or shipped()
        return self._table

    def price(self, provider: str, model: str) -> ModelPrice | None:
        """The price that holds now; None if nobody knows it."""
        if not provider:
            return None
        if provider == LOCAL:
            return ModelPrice(provider, model, "operator" if self._local is not FREE else "default", LOCAL, self._local)
        said = self._said.get(f"{provider}/{model}".lower())
        if said is not None:
            return ModelPrice(provider, model, "operator", said[0], said[1])
        entry = self._entry(provider, model)
        if entry is None:
            return None
        price = entry.on(day_of(self._clock.now_ns())) if entry.later else entry.price
        return ModelPrice(provider, model, "table", f"{entry.provider}/{entry.model}", price)

    def _entry(self, provider: str, model: str) -> Entry | None:
        """What the table has of it. A search goes through all that a provider has, and a call cannot wait for one."""
        if (provider, model) not in self._found:
            if len(self._found) >= MAX_PRICES:
                self._found.clear()
            self._found[provider, model] = self.table.find(provider, model)
        return self._found[provider, model]

    def search(self, model: str) -> Iterator[ModelPrice]:
        """The prices of a model, named as `PROVIDER/MODEL` or as it is called by whoever has it."""
        among = dict.fromkeys((*(name.partition("/")[0] for name in self._said), *self.table.entries))
        provider, _, rest = model.partition("/")
        if rest and provider.lower() in (*among, LOCAL):
            found = self.price(provider.lower(), rest)
            if found is not None:
                yield found
            return
        for each in among:
            found = self.price(each, model)
            if found is not None:
                yield found

    def said(self) -> Iterator[ModelPrice]:
        """What the operator says."""
        for name, price in self._said.values():
            provider, _, model = name.partition("/")
            yield ModelPrice(provider, model, "operator", name, price)

    def info(self) -> PriceTable:
        """What the table is."""
        return self.table.info

    def age(self) -> str:
        """A sentence on a table that is old; "" for one that is not, or is of a day to come."""
        days = (datetime.date.fromisoformat(day_of(self._clock.now_ns())) - self.table.made).days
        if days <= OLD_DAYS:
            return ""
        return f"the table of prices is {days} days old: see whether there is a newer AIOS, or say newer prices in `[prices]`"
