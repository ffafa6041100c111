"""Keys of providers: which are there, where each goes, and what the operator lets them spend together.

A key is off until there is a limit, and until the operator was told where it goes. Both stand in the kernel's home, which no
agent reads, and not in `aios.toml`, which may have come with somebody else's project.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from aios.abi.account import MOST_AMOUNT, Window
from aios.abi.errors import Invalid, Unavailable
from aios.config import Config
from aios.drivers.core.key import Key
from aios.drivers.core.openai_chat import OpenAIChatConfig
from aios.drivers.core.providers import BY_ORIGIN, BY_VARIABLE, COMING, PROVIDERS, core_of
from aios.drivers.price.book import PricesConfig
from aios.drivers.store.document import FileDocument
from aios.kernel.access.tokens import PREFIX
from aios.ports.prices import LOCAL

FILE_NAME = "keys.json"
FILE_SAYS = "aios.toml,"
"""How prices begin that the configuration says; a hash of them follows."""
OWN_TOKEN = re.compile(rf"{PREFIX}[\w-]{{43}}", re.ASCII)
"""As `aios token add` makes them: the prefix and 256 bits."""


class Use(msgspec.Struct, frozen=True, order=True):
    """A key that goes somewhere: the variable that holds it ("": none is wanted there), to where, and who vouches for that.

    `prices`: who says what it costs there, if it is not the table for the provider that is there: a limit holds as far as its
    prices are true, and a file that calls everything free would do away with it.
    """

    variable: str
    origin: str
    ca_file: str = ""
    prices: str = ""

    @property
    def usual(self) -> bool:
        """Whether it is where the key of a known provider is meant to go."""
        provider = BY_VARIABLE.get(self.variable)
        return provider is not None and not self.ca_file and not self.prices and self.origin == core_of(provider).origin

    @property
    def command(self) -> str:
        """What switches it on."""
        return "aios up --budget USD --per month" + ("" if self.usual else f" --to {self.origin}")

    def __str__(self) -> str:
        vouched = f", vouched for by {self.ca_file}" if self.ca_file else ""
        priced = f", at prices of {self.prices}" if self.prices else ""
        return f"{self.variable or 'no key'} to {self.origin}{vouched}{priced}"


class Allowance(msgspec.Struct, frozen=True):
    """What the operator lets all keys spend together: nano-dollars in a window (None: nothing, so that all are off).

    `accepted`: what may be used within that; `declined`: what is not asked about any more.
    """

    amount: int | None = None
    window: Window = "month"
    accepted: tuple[Use, ...] = ()
    declined: tuple[Use, ...] = ()

    def allows(self, use: Use) -> bool:
        """Whether a key may be used so."""
        return self.amount is not None and use in self.accepted

    def accepting(self, uses: list[Use], amount: int, window: Window) -> Allowance:
        """The same with another limit, within which these may be used too."""
        accepted = tuple(sorted({*self.accepted, *uses}))
        return Allowance(amount, window, accepted, tuple(use for use in self.declined if use not in accepted))

    def declining(self, uses: list[Use]) -> Allowance:
        """The same without these."""
        kept = tuple(use for use in self.accepted if use not in uses)
        return msgspec.structs.replace(self, accepted=kept, declined=tuple(sorted({*self.declined, *uses})))

    def off(self, uses: list[Use]) -> Allowance:
        """Nothing is allowed any more: neither these nor what was accepted when other keys were there."""
        return Allowance(None, self.window, (), tuple(sorted({*self.declined, *self.accepted, *uses})))


def read_allowance(home: Path) -> Allowance:
    """What the operator has said. Raises `Unavailable` for a file that is damaged, or that others may read."""
    path = home / FILE_NAME
    found = FileDocument(path).load()
    if found is None:
        return Allowance()
    try:
        read = msgspec.json.decode(found, type=Allowance)
    except msgspec.DecodeError as problem:
        raise Unavailable(f"{path} is damaged ({problem}): remove it, and every key is off") from None
    if read.amount is not None and not 0 <= read.amount <= MOST_AMOUNT:
        raise Unavailable(f"{path} is damaged (an amount that none can be): remove it, and every key is off")
    return read


def write_allowance(home: Path, allowance: Allowance) -> None:
    """Note what the operator has said."""
    FileDocument(home / FILE_NAME).save(msgspec.json.encode(allowance))


@dataclass(frozen=True, slots=True)
class Paid:
    """A core that may cost money. `present`: its key is there, if it wants one. `named`: in the configuration.

    `prices`: who says what it costs, see `Use`.
    """

    core: OpenAIChatConfig
    present: bool
    named: bool
    prices: str = ""

    @property
    def use(self) -> Use:
        """Where its key goes."""
        vouching = self.core.ca_file
        return Use(self.core.key_env, self.core.origin, str(vouching.absolute()) if vouching else "", self.prices)


def is_key(value: str | None) -> bool:
    """Whether a variable holds a key of a provider. A kernel's own token is none, and goes by the name of one."""
    return bool(value) and not OWN_TOKEN.fullmatch(value or "")


def paid_cores(config: Config, variables: Mapping[str, object]) -> Iterator[Paid]:
    """The cores that may cost money: those of the configuration, and one for each provider whose key is among `variables`."""
    named = set()
    for core in config.cores:
        if core.needs_limit:
            named.add(core.key_env)
            yield Paid(core, not core.key_env or core.key_env in variables, True, prices_of(core, config.prices))
    names = {core.name for core in config.cores}
    for provider in PROVIDERS:
        if provider.variable in variables and provider.variable not in named:
            core = core_of(provider)
            said = prices_of(core, config.prices)
            yield Paid(core if core.name not in names else replace(core, name=f"{core.name}-key"), True, False, said)


def prices_of(core: OpenAIChatConfig, prices: PricesConfig) -> str:
    """Who says what a core costs: the table for the provider that is there, or nobody (""); the table for another; or the file.

    What the file says is told with a hash of it, so that other prices are not those that were accepted.
    """
    said: list[object] = [core.price] if core.price is not None else []
    if core.provider == LOCAL:
        said.append((LOCAL, prices.local))
    own = f"{core.provider}/".lower()
    said += sorted((name.lower(), price) for name, price in prices.models.items() if name.lower().startswith(own))
    if said:
        return f"{FILE_SAYS} {hashlib.sha256(msgspec.json.encode(said, order='sorted')).hexdigest()[:16]}"
    there = BY_ORIGIN.get(core.origin)
    return "" if core.provider in ("", there and there.name) else f"`{core.provider}`"


def keys_in(environment: Mapping[str, str], config: Config | None) -> list[str]:
    """The variables that hold keys: those of known providers, and those that the configuration names."""
    named = [core.key_env for core in config.cores if core.key_env] if config is not None else []
    known = [*(provider.variable for provider in PROVIDERS), *COMING, *named]
    return [name for name in dict.fromkeys(known) if is_key(environment.get(name))]


def coming(there: list[str], config: Config) -> Iterator[tuple[str, str]]:
    """The variables among these that nothing uses yet, with the provider's name: a configuration may use one in another way."""
    named = {core.key_env for core in config.cores}
    return ((name, COMING[name]) for name in there if name in COMING and name not in named)


@dataclass(frozen=True, slots=True)
class Held:
    """The keys that a kernel holds, and what is wrong with those that it does not."""

    keys: Mapping[str, Key]
    wrong: Mapping[str, str]


NONE_HELD = Held({}, {})


def take_keys(environment: MutableMapping[str, str], config: Config) -> Held:
    """Take the keys out of an environment, so that no child inherits them."""
    keys, wrong = {}, {}
    for variable in keys_in(environment, config):
        try:
            keys[variable] = Key(variable, environment.pop(variable))
        except Invalid as problem:
            wrong[variable] = problem.message
    return Held(keys, wrong)
