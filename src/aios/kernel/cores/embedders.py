"""What embeds: which embedders there are behind the lane `index`, and the row `llm.embed`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from aios.abi.errors import Invalid, NoCore, NotFound
from aios.abi.event import CoreChanged
from aios.abi.ids import UniqueIds
from aios.abi.label import FIRST_PARTY
from aios.abi.llm import Embed, Embeddings, Model, Usage
from aios.abi.system import EmbedderState
from aios.abi.wire import nearest
from aios.kernel.amounts import Amount, Bound
from aios.kernel.cores.pool import DEFAULT
from aios.kernel.events import EventLog
from aios.kernel.lanes.lane import Lane, Server
from aios.kernel.ledger.bounds import bound_of_embedding
from aios.kernel.process import Call
from aios.kernel.syscall import Syscall
from aios.ports.core import CoreEvent
from aios.ports.embedder import Embedder

FEATURE = "embed"


class EmbedPlan(msgspec.Struct, frozen=True):
    """All that an embedding depends on beside its request: `id` of the answer, and the model."""

    id: str
    model: str


class Embedders:
    """The embedders, each with its own model. `aliases`: names that stand for models, the first that is there."""

    def __init__(self, lane: Lane, embedders: Sequence[Embedder], events: EventLog, aliases: dict[str, tuple[str, ...]]) -> None:
        self._events = events
        self._lane = lane
        self._infos = {embedder.info().model: embedder.info() for embedder in embedders}
        self._embedders = {embedder.info().model: embedder for embedder in embedders}
        self._tokens = dict.fromkeys(self._infos, 0)
        self._aliases = {name: models for name, models in aliases.items() if not self._infos.keys().isdisjoint(models)}
        self._ids = UniqueIds("embd")
        for info in self._infos.values():
            lane.add_server(Server(info.name, info.slots))
            self._embedders[info.model].watch(self._changed)

    def _changed(self, event: CoreEvent) -> None:
        self._events.add(CoreChanged, core=event.core, change=event.change, detail=event.detail, os_pid=event.pid)

    def syscalls(self) -> dict[str, Syscall]:
        costless = frozenset(info.name for info in self._infos.values())
        return {"llm.embed": Syscall(self._embed, self._resources, self._bind, self._plan, self._bound, costless)}

    @property
    def models(self) -> frozenset[str]:
        """The names of the models that embed."""
        return frozenset(self._infos)

    def list_models(self, allowed: Callable[[str], bool]) -> tuple[Model, ...]:
        """The models whose name, or an alias for them, is allowed."""
        found = []
        for model, info in self._infos.items():
            aliases = tuple(name for name, models in self._aliases.items() if model in models)
            if any(map(allowed, (model, *aliases))):
                found.append(Model(model, (info.name,), info.window, (FEATURE,), aliases))
        return tuple(found)

    def list_states(self) -> tuple[EmbedderState, ...]:
        """The embedders with their state and load."""
        states = []
        for model, info in self._infos.items():
            health, server = self._embedders[model].health(), self._lane.server(info.name)
            states.append(
                EmbedderState(
                    name=info.name, driver=info.driver, model=model, dimensions=info.dimensions, window=info.window, up=health.up,
                    slots=info.slots, running=server.running, restarts=health.restarts, os_pid=health.pid, detail=health.detail,
                    tokens=self._tokens[model],
                )
            )  # fmt: skip
        return tuple(states)

    async def close(self) -> None:
        """End all embedders."""
        for embedder in self._embedders.values():
            await embedder.close()

    def _model(self, asked: str) -> str:
        """The model that a name stands for. Raises `NotFound` with what there is, `NoCore` if there is nothing."""
        if not self._infos:
            raise NoCore("this kernel has nothing that embeds: `aios doctor` says why", field="model")
        if asked == DEFAULT:
            return next(iter(self._infos))
        standing = next((model for model in self._aliases.get(asked, (asked,)) if model in self._infos), None)
        if standing is None:
            known = ", ".join(f"`{name}`" for name in (*self._infos, DEFAULT, *self._aliases))
            raise NotFound(
                f"there is no model `{asked[:80]}` that embeds, but {known}{nearest(asked, self._infos)}: name that one, or let"
                " your name stand for it in `[aliases]`",
                field="model",
            )
        return standing

    def _resources(self, call: Call) -> tuple[str, ...]:
        """The asked name, and the model that it stands for: a grant on either will do."""
        assert isinstance(call.request, Embed)
        asked = call.request.model
        return tuple(f"/llm/{name}" for name in dict.fromkeys((asked, self._model(asked))))

    def _bind(self, call: Call) -> frozenset[str]:
        assert isinstance(call.request, Embed)
        info = self._infos[self._model(call.request.model)]
        if call.request.dimensions not in (None, info.dimensions):
            raise Invalid(
                f"vectors of `{info.model}` have {info.dimensions} dimensions: leave `dimensions` out", field="dimensions"
            )
        return frozenset((info.name,))

    def _bound(self, call: Call, server: str) -> Bound:
        assert isinstance(call.request, Embed)
        model = self._model(call.request.model)
        return bound_of_embedding(call.request, self._infos[model].window, model)

    def _plan(self, call: Call) -> EmbedPlan:
        """A further attempt is the same call, under the same id."""
        assert isinstance(call.request, Embed)
        return call.plan if isinstance(call.plan, EmbedPlan) else EmbedPlan(self._ids(), self._model(call.request.model))

    async def _embed(self, call: Call) -> Embeddings:
        request, plan = call.request, call.plan
        assert isinstance(request, Embed) and isinstance(plan, EmbedPlan)
        info = self._infos[plan.model]
        found = await self._embedders[plan.model].embed(request.texts, request.kind)
        self._tokens[plan.model] += found.tokens
        call.process.tokens += found.tokens
        call.input_tokens = found.tokens
        call.came_to = Amount(0, found.tokens, 1)
        call.label = call.process.label.join(FIRST_PARTY)
        return Embeddings(
            id=plan.id, model=plan.model, core=info.name, dimensions=info.dimensions, vectors=found.vectors, cut=found.cut,
            usage=Usage(found.tokens),
        )  # fmt: skip
