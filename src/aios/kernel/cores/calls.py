"""The calls that use cores: generate, score, count, models, and the list of cores."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import lru_cache
from hashlib import blake2b
from typing import cast

import msgspec
from msgspec.structs import replace

from aios.abi.errors import AiosError, DeadlineExceeded
from aios.abi.ids import UniqueIds
from aios.abi.label import FIRST_PARTY
from aios.abi.llm import (
    Choice,
    Completion,
    Count,
    Delta,
    Generate,
    LabelScore,
    ModelList,
    Score,
    Scores,
    Started,
    Tokens,
    Usage,
)
from aios.abi.price import CorePrices
from aios.abi.system import CoreList
from aios.abi.waits import Wait
from aios.kernel.access.grants import Grants
from aios.kernel.amounts import Amount, Bound
from aios.kernel.cores.affinity import Affinity
from aios.kernel.cores.conversations import LEAST_BYTES, Conversations, Heard
from aios.kernel.cores.drains import Drains
from aios.kernel.cores.embedders import Embedders
from aios.kernel.cores.pool import DEFAULT, Pool
from aios.kernel.cores.standing_back import StandingBack
from aios.kernel.events import EventLog
from aios.kernel.lanes.lane import Turn
from aios.kernel.ledger.bounds import asked_bound, bound_of, can_be_true, money_of
from aios.kernel.process import Call
from aios.kernel.syscall import Syscall
from aios.ports.clock import Clock
from aios.ports.core import CoreCall, Emit, ScoreCall, ScoringCore

_answers = msgspec.msgpack.Encoder()

QUANTUM_TOKENS = 16
"""After so many tokens of a call its lane may give the turn to another, where the core can let calls stand back."""

READER_PATIENCE_S = 15.0
"""How long a reader that does not read may keep the slot of a core that has no queue of its own, or room in a budget."""


class CoreCalls:
    """The rows `llm.*`, `core.*` and `account.prices`, but what embeds."""

    def __init__(
        self, pool: Pool, embedders: Embedders, grants: Grants, clock: Clock, events: EventLog, drains: Drains,
        conversations: Conversations,
    ) -> None:  # fmt: skip
        self._pool = pool
        self._drains = drains
        self._events = events
        self._embedders = embedders
        self._grants = grants
        self._clock = clock
        self._affinity = Affinity()
        self._conversations = conversations
        self._ids = UniqueIds("cmpl")

    def syscalls(self) -> dict[str, Syscall]:
        return {
            "llm.generate": Syscall(
                self._generate, self._resources, self._bind, self._plan, self._bound, self._pool.costless, self._measure
            ),
            "llm.score": Syscall(self._score, self._resources, self._bind, self._plan_score, self._bound, self._pool.costless),
            "llm.count": Syscall(self._count, self._resources),
            "llm.models": Syscall(self._models),
            "account.prices": Syscall(self._prices),
            "core.list": Syscall(self._cores),
        }

    def _resources(self, call: Call) -> tuple[str, ...]:
        """The asked name, and the models that it stands for: a grant on any of them will do."""
        asked = asked_model(call)
        return _paths_of(asked, self._pool.names(asked))

    def _usable(self, call: Call) -> tuple[str, ...]:
        """The models that access has left: all that an allowed alias stands for, or those that are allowed by name."""
        asked = asked_model(call)
        models = self._pool.names(asked)
        if f"/llm/{asked}" in call.allowed:
            return models
        return tuple([model for model in models if f"/llm/{model}" in call.allowed])

    def _bind(self, call: Call) -> frozenset[str]:
        call.models = self._usable(call)
        feasible = self._pool.feasible(cast("Generate | Score", call.request), call.models)
        if len(feasible) > 1:
            call.near = self._affinity.near(call)
        return feasible

    def _bound(self, call: Call, core: str) -> Bound:
        assert isinstance(call.request, Generate | Score)
        model = self._pool.model_on(core, self._usable(call))
        return bound_of(call.request, self._pool.info(core), self._pool.price(core, model), model)

    async def _measure(self, call: Call, core: str) -> Bound | None:
        """The bound by what the core counts, or else by what it said of the conversation so far; None if neither is known."""
        request, info = call.request, self._pool.info(core)
        assert isinstance(request, Generate)
        model = self._pool.model_on(core, self._usable(call))
        if not info.counts:
            counted = self._conversations.bound(call.process, core, model, request)
        else:
            asked = Count(model=model, text=request.prompt or "", messages=request.messages, tools=request.tools)
            try:
                tokens = await self._pool.core(core).count(asked, model)
            except AiosError:
                return None
            counted = tokens.tokens if tokens.exact else None
        return None if counted is None else bound_of(request, info, self._pool.price(core, model), model, counted)

    def _plan(self, call: Call) -> CoreCall:
        """The call as its core gets it. A further attempt is the same call: same id, same seed."""
        request = call.request
        assert isinstance(request, Generate)
        model = self._pool.model_on(call.core, call.models)
        self._remember(call)
        if isinstance(call.plan, CoreCall):
            return replace(call.plan, model=model, request=granted(request, call.granted))
        seed = random.getrandbits(63) if request.seed is None else request.seed
        if call.granted is not None:
            request = granted(request, call.granted)
        return CoreCall(id=self._ids(), model=model, request=request, seed=seed, tenant=call.process.tenant)

    def _remember(self, call: Call) -> None:
        """Where a call runs, if it could have run elsewhere."""
        if len(call.feasible) > 1:
            self._affinity.note(call)

    async def _generate(self, call: Call) -> Completion:
        plan: CoreCall = call.plan
        self._tell_start(call, plan)
        self._may_stand_back(call, plan)
        answering = self._pool.core(call.core).generate(plan, self._emitter(call))
        if call.payment is not None and call.payment.limited and not self._pool.info(call.core).local:
            completion = await self._drains.heard(call, answering, self._note_answer)
        else:
            completion = await answering
        return self._note_answer(call, completion)

    def _note_answer(self, call: Call, completion: Completion) -> Completion:
        """An answer with a usage that can be true."""
        usage = self._note(call, completion.usage, fingerprint(completion.choices))
        return completion if usage is completion.usage else replace(completion, usage=usage)

    def _plan_score(self, call: Call) -> ScoreCall:
        """See `_plan`; nothing is drawn."""
        request = call.request
        assert isinstance(request, Score)
        id = call.plan.id if isinstance(call.plan, ScoreCall) else self._ids()
        model = self._pool.model_on(call.core, call.models)
        self._remember(call)
        return ScoreCall(id=id, model=model, request=request, tenant=call.process.tenant)

    async def _score(self, call: Call) -> Scores:
        plan: ScoreCall = call.plan
        self._tell_start(call, plan)
        self._may_stand_back(call, plan)
        core = cast(ScoringCore, self._pool.core(call.core))  # it has the feature, or it would not be feasible
        scores = await core.score(plan)
        self._note(call, scores.usage, fingerprint(scores.labels))
        return scores

    def _tell_start(self, call: Call, plan: CoreCall | ScoreCall) -> None:
        if not call.started and call.tell is not None:
            driver = self._pool.driver(call.core)
            call.tell(Started(call.id, plan.id, plan.model, call.core, call.wait_s, driver, call.quota))
        call.started = True

    def _may_stand_back(self, call: Call, plan: CoreCall | ScoreCall) -> None:
        """Its turn may be given to others from now on, if its core can do that."""
        core = self._pool.preemptible(call.core)
        if core is not None and isinstance(call.turn, Turn):
            call.turn.may_freeze(StandingBack(call, plan.id, core, self._pool.lane, self._clock, self._events))

    def _note(self, call: Call, usage: Usage, answer: str) -> Usage:
        """What a call came to, where it is counted. One that cannot be true counts as what was heard of it."""
        if not can_be_true(usage):
            usage = Usage(output_visible=call.said_tokens, estimated=True)
        given, made = usage.input_tokens, usage.output_tokens
        call.input_tokens, call.cached_tokens, call.output_tokens = given, usage.cache_read, made
        call.answer = answer
        money, payment = usage.billed, call.payment
        if payment is not None:
            assert isinstance(call.request, Generate | Score)
            price = self._pool.price(call.core, call.plan.model)
            money = money_of(usage, price, call.request, self._pool.info(call.core))
        call.came_to = None if usage.estimated else Amount(money, given + made, 1)
        self._pool.add_tokens(call.core, given, usage.cache_read, made)
        if payment is not None and payment.measure is not None and not usage.estimated:
            self._remember_size(call, usage)
        call.process.tokens += given + made
        call.label = call.process.label.join(FIRST_PARTY)
        return usage

    def _remember_size(self, call: Call, usage: Usage) -> None:
        """What a conversation came to, for calls to come whose limits are short."""
        request, info, size = call.request, self._pool.info(call.core), call.payment.bounds[call.core].fixed.tokens
        if isinstance(request, Generate) and request.messages and not info.counts:
            if call.core in call.payment.counted:
                size = asked_bound(request, info, call.plan.model)
            if size >= LEAST_BYTES:
                self._conversations.note(call.process, Heard(call.core, call.plan.model, request, usage.input_tokens, size))

    def _emitter(self, call: Call) -> Emit:
        """Passes deltas on, and waits for a reader whose buffer is full."""
        tell, now_ns = call.tell, self._clock.now_ns

        def emit(delta: Delta) -> Awaitable[None] | None:
            if call.first_ns is None:
                call.first_ns = now_ns()
            before = call.said_tokens
            call.said_tokens += delta.tokens or 1
            if call.said_tokens // QUANTUM_TOKENS > before // QUANTUM_TOKENS and isinstance(call.turn, Turn):
                call.turn.quantum_over()
            full = tell(delta) if tell is not None and call.hear_out is None else None
            return self._reader(call, full) if full is not None else None

        return emit

    async def _reader(self, call: Call, full: Awaitable[None]) -> None:
        """Wait for a slow reader: without the turn where the core queues by itself, and not for ever where others wait for what
        it holds.

        A local core's slot stays taken until the call ends, so the turn is kept too, or more calls would start than it has
        slots. What is reserved under a limit stays reserved. Raises `DeadlineExceeded`.
        """
        wait = Wait(code="X", on="its reader", since_ns=self._clock.now_ns(), holder=call.process.name)
        call.waits = lambda: wait
        queues = self._pool.queues(call.core) and call.turn is not None
        if queues and call.turn is not None:
            call.turn.release()
        holds = "room in a budget" if call.payment is not None and call.payment.limited else "" if queues else "a slot"
        try:
            async with asyncio.timeout(READER_PATIENCE_S if holds else None):
                await full
        except TimeoutError:
            raise DeadlineExceeded(f"its reader has not read for {READER_PATIENCE_S:g} s, and it holds {holds}") from None
        finally:
            call.waits = None

    async def _count(self, call: Call) -> Tokens:
        request = call.request
        assert isinstance(request, Count)
        model = self._usable(call)[0]
        core = next(state for state in self._pool.list_cores() if model in state.models)
        return await self._pool.core(core.name).count(request, model)

    async def _models(self, call: Call) -> ModelList:
        allowed = self._allowed(call)
        return ModelList(models=(*self._pool.list_models(allowed), *self._embedders.list_models(allowed)))

    async def _prices(self, call: Call) -> CorePrices:
        return CorePrices(prices=self._pool.list_prices(self._allowed(call)), at_ns=self._clock.now_ns())

    def _allowed(self, call: Call) -> Callable[[str], bool]:
        """Whether a call's process may use what has a name."""
        table = self._grants.of(call.process)
        return lambda name: table.allows("use", f"/llm/{name}")

    async def _cores(self, call: Call) -> CoreList:
        return CoreList(
            cores=self._pool.list_cores(), waiting=self._pool.lane.waiting_by_class(), embedders=self._embedders.list_states()
        )


@lru_cache(maxsize=1000)
def _paths_of(asked: str, models: tuple[str, ...]) -> tuple[str, ...]:
    """The resources that a name and the models are that it stands for."""
    return tuple(f"/llm/{name}" for name in dict.fromkeys((asked, *models)))


def fingerprint(choices: tuple[Choice | LabelScore, ...]) -> str:
    """A hash of what a model answered, 16 hexadecimal digits: equal for equal answers."""
    return blake2b(_answers.encode(choices), digest_size=8).hexdigest()


def granted(request: Generate, tokens: int | None) -> Generate:
    """A request for no more tokens than were reserved for its answers (None: as many as it likes)."""
    return request if tokens is None else replace(request, max_tokens=tokens // request.n)


def asked_model(call: Call) -> str:
    """The model that a call asks for; `default` is what its process's manifest says."""
    request = cast("Generate | Score | Count", call.request)
    manifest = call.process.manifest
    return manifest.model if request.model == DEFAULT and manifest is not None else request.model
