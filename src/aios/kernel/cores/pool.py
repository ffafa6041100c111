"""The core pool: which cores there are, which of them can do a call, and the lane they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aios.abi.errors import NoCore, NotFound, Unavailable
from aios.abi.event import CoreChanged
from aios.abi.llm import Generate, Model, Score
from aios.abi.price import CorePrice, ModelPrice, Price
from aios.abi.system import CoreState
from aios.abi.wire import nearest
from aios.kernel.events import EventLog
from aios.kernel.lanes.lane import Lane, Server
from aios.ports.core import FEATURES, Core, CoreEvent, CoreInfo, Feature, PreemptibleCore, wanted_features
from aios.ports.prices import LOCAL, Prices

DEFAULT = "default"
MOST_KEPT = 1000
"""Answers about which cores can do what."""


class Pool:
    """All model cores behind one lane. `aliases`: names that stand for models, the first that can do the call first.

    `costless`: names of the cores for which nothing is paid, as far as anybody knows.
    """

    def __init__(self, lane: Lane, events: EventLog, aliases: dict[str, tuple[str, ...]], prices: Prices) -> None:
        self.lane = lane
        self._events = events
        self._prices = prices
        self._own_prices: dict[str, Price] = {}
        self.costless: set[str] = set()
        self._cores: dict[str, Core] = {}
        self._infos: dict[str, CoreInfo] = {}
        self._tokens: dict[str, tuple[int, int, int]] = {}
        self._having: dict[str, tuple[CoreInfo, ...]] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._able: dict[tuple[tuple[str, ...], frozenset[Feature]], frozenset[str]] = {}
        self._aliases = aliases

    async def add(self, core: Core) -> None:
        """Bring a core up and give it work. Raises `Unavailable` with what to do."""
        await core.start(self._changed)
        info = core.info()
        if info.name in self._cores:
            await core.close()
            raise Unavailable(f"two cores are named `{info.name}`: give one of them another name")
        self._cores[info.name] = core
        self._infos[info.name] = info
        if info.price is not None:
            self._own_prices[info.name] = info.price.exact()
        if info.price is not None or info.provider in ("", LOCAL):  # what others ask may be another price tomorrow
            prices = [self.price(info.name, model) for model in info.models]
            if all(price is None or price.is_nothing for price in prices):
                self.costless.add(info.name)
        self._tokens[info.name] = (0, 0, 0)
        for model in info.models:
            if info.default != "never" or model not in self._having:  # who lists names of others does not get their calls
                self._having[model] = (*self._having.get(model, ()), info)
        self._names.clear()
        self._able.clear()
        width = info.slots + 1 if info.queues else info.slots
        health = core.health()
        preemptible = "suspend" in info.features
        self.lane.add_server(Server(info.name, width, up=health.up, preemptible=preemptible, reserved=info.reserved))
        self._events.add(
            CoreChanged, core=info.name, change="up" if health.up else "down", detail=health.detail, os_pid=health.pid
        )

    def _changed(self, event: CoreEvent) -> None:
        if event.core in self._cores:
            self.lane.set_up(event.core, event.change == "up")
            self._events.add(CoreChanged, core=event.core, change=event.change, detail=event.detail, os_pid=event.pid)

    async def close(self) -> None:
        """End all cores."""
        await asyncio.gather(*(core.close() for core in self._cores.values()))

    def core(self, name: str) -> Core:
        return self._cores[name]

    def info(self, name: str) -> CoreInfo:
        """What a core is."""
        return self._infos[name]

    def price(self, name: str, model: str) -> Price | None:
        """What a model costs on a core now; None if nobody knows it."""
        own = self._own_prices.get(name)
        if own is not None:
            return own
        found = self._prices.price(self._infos[name].provider, model)
        return found.price if found is not None else None

    def list_prices(self, allowed: Callable[[str], bool]) -> tuple[CorePrice, ...]:
        """What the models cost whose name, or an alias for them, is allowed."""
        names = [model.name for model in self.list_models(allowed)]
        return tuple(CorePrice(info.name, name, self._listed(info, name)) for name in names for info in self._having[name])

    def _listed(self, info: CoreInfo, model: str) -> ModelPrice | None:
        own = self._own_prices.get(info.name)
        if own is not None:
            return ModelPrice(info.provider, model, "operator", info.name, own)
        return self._prices.price(info.provider, model)

    def add_tokens(self, name: str, given: int, cached: int, made: int) -> None:
        """A call on this core has ended well."""
        before = self._tokens[name]
        self._tokens[name] = (before[0] + given, before[1] + cached, before[2] + made)

    def queues(self, name: str) -> bool:
        """Whether a core queues calls beyond its slots by itself."""
        return self._infos[name].queues

    def preemptible(self, name: str) -> PreemptibleCore | None:
        """A core that can let calls stand back; None if it cannot."""
        return cast(PreemptibleCore, self._cores[name]) if "suspend" in self._infos[name].features else None

    def driver(self, name: str) -> str:
        """A core's kind."""
        return self._infos[name].driver

    def names(self, asked: str) -> tuple[str, ...]:
        """The models that a name stands for. Raises `NotFound` with what there is, `NoCore` if there is nothing."""
        known = self._names.get(asked)
        if known is None:
            known = self._names[asked] = self._find(asked)  # names that stand for nothing raise, and are not kept
        return known

    def _find(self, asked: str) -> tuple[str, ...]:
        models = self._having
        if not models:
            raise NoCore("this kernel has no core: `aios doctor` says why, `aios models` what is configured")
        if asked == DEFAULT or asked in self._aliases:
            standing = self._standing(asked)
            if not standing:
                means = ", ".join(self._aliases.get(asked, ())) or "nothing; name a model, or say one in `[aliases]`"
                raise NoCore(f"no core has what `{asked}` stands for: {means}", field="model")
            return standing
        if asked in models:
            return (asked,)
        known = ", ".join(f"`{name}`" for name in (*models, *self._alias_names()))
        raise NotFound(
            f"there is no model `{asked[:80]}`, but {known}{nearest(asked, models)}: name one of these, or"
            " let your name stand for one in `[aliases]`",
            field="model",
        )

    def _alias_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((DEFAULT, *self._aliases)))

    def _standing(self, alias: str) -> tuple[str, ...]:
        """The models that an alias stands for and that are there; see `CoreInfo` for what is the default's if nothing is said."""
        if alias in self._aliases:
            return tuple(model for model in self._aliases[alias] if model in self._having)
        ranks = {model: {info.default for info in infos} for model, infos in self._having.items()}
        first, last = (tuple(model for model, its in ranks.items() if rank in its) for rank in ("first", "last"))
        return first or last

    def lost_aliases(self) -> dict[str, tuple[str, ...]]:
        """The aliases that stand for nothing that is there, with what they should stand for."""
        return {alias: models for alias, models in self._aliases.items() if not self._standing(alias)}

    def feasible(self, request: Generate | Score, models: tuple[str, ...]) -> frozenset[str]:
        """The cores that can do a request with one of the models. Raises `NoCore` with what none can, and who else could."""
        wants = wanted_features(request)
        if isinstance(request, Generate) and request.essential:
            return self._find_able(request, models, wants)
        able = self._able.get((models, wants))
        if able is None:
            able = self._find_able(request, models, wants)
            if len(self._able) >= MOST_KEPT:
                self._able.clear()
            self._able[models, wants] = able
        return able

    def _find_able(self, request: Generate | Score, models: tuple[str, ...], wants: frozenset[Feature]) -> frozenset[str]:
        having = [info for model in models for info in self._having[model]]
        if isinstance(request, Generate) and request.essential:
            having = [info for info in having if info.driver == request.wire]
            if not having:
                message = f"no core of `{request.model}` has a word for `{request.essential}`: leave it out"
                raise NoCore(message, field=request.essential)
        able = frozenset([info.name for info in having if wants <= info.features])
        if able:
            return able
        missing = wants - frozenset().union(*(info.features for info in having)) or wants
        elsewhere = sorted({m for info in self._infos.values() if wants <= info.features for m in info.models})
        others = f"models that can: {', '.join(elsewhere)}" if elsewhere else "no core of this kernel can"
        lacking = ", ".join(f"`{name}`" for name in FEATURES if name in missing)
        raise NoCore(f"`{request.model}` cannot do {lacking}; {others}", field=field_of(missing))

    @property
    def models(self) -> frozenset[str]:
        """The names of the models that the cores have."""
        return frozenset(self._having)

    @property
    def providers(self) -> frozenset[str]:
        """Whose accounts calls of the cores are of."""
        return frozenset(info.billed_by for info in self._infos.values())

    def model_on(self, core: str, models: tuple[str, ...]) -> str:
        """The first of the models that a core has."""
        if len(models) == 1:
            return models[0]
        return next(model for model in models if model in self._infos[core].models)

    def list_models(self, allowed: Callable[[str], bool]) -> tuple[Model, ...]:
        """The models whose name, or an alias for them, is allowed."""
        found = []
        standing = {alias: self._standing(alias) for alias in self._alias_names()}
        for model, infos in self._having.items():
            aliases = tuple(alias for alias, models in standing.items() if model in models)
            if any(map(allowed, (model, *aliases))):
                features = frozenset().union(*(info.features for info in infos))
                found.append(
                    Model(
                        model,
                        tuple(i.name for i in infos),
                        max(i.window for i in infos),
                        tuple(f for f in FEATURES if f in features),
                        aliases,
                        all(i.exact for i in infos),
                    )
                )
        return tuple(found)

    def list_cores(self) -> tuple[CoreState, ...]:
        """The cores with their state and load."""
        states = []
        for name, info in self._infos.items():
            health, server = self._cores[name].health(), self.lane.server(name)
            features = tuple(f for f in FEATURES if f in info.features)
            states.append(
                CoreState(
                    name, info.driver, info.models, features, health.up, info.slots, info.window, server.running,
                    health.restarts, health.pid, health.detail, info.exact, *self._tokens[name], len(server.frozen),
                    server.preemptions,
                )
            )  # fmt: skip
        return tuple(states)


FIELD_OF: dict[Feature, str] = {
    "chat": "messages", "completion": "prompt", "penalties": "presence_penalty", "json": "response_format",
    "grammar": "response_format", "vision": "messages", "score": "labels",
}  # fmt: skip


def field_of(missing: frozenset[Feature]) -> str | None:
    """The request's field that asks for the first of the missing features."""
    for feature in FEATURES:
        if feature in missing:
            return FIELD_OF.get(feature, feature)
    return None
