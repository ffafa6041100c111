"""The port `Core`: something that generates.

A driver declares what it can do and refuses the rest; it emulates nothing. `aios.testing.cores` holds the examination
that every driver sits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from aios.abi.bounds import within
from aios.abi.errors import CoreFailed, NoCore
from aios.abi.llm import Completion, Count, Delta, Generate, Part, Score, Scores, Tokens
from aios.abi.price import MTOK, Rates
from aios.abi.price import Price as ExactPrice

Feature = Literal[
    "chat",
    "completion",
    "seed",
    "stop",
    "n",
    "penalties",
    "logit_bias",
    "logprobs",
    "tools",
    "json",
    "grammar",
    "suspend",
    "score",
    "vision",
    "reasoning_effort",
]
FEATURES: tuple[Feature, ...] = Feature.__args__  # type: ignore[attr-defined]  # the names, in their order

Emit = Callable[[Delta], Awaitable[None] | None]
"""Takes one delta; what it returns, if anything, is awaited before the next: that is the back-pressure."""


class NotAsked(CoreFailed):
    """A core that could not be asked at all: another may be, and nothing is owed."""

    @property
    def code(self) -> str:
        return CoreFailed.__name__


MOST_PRICE = 10**7


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-dollars per token: of the question, of what of it had been read before, and of the answer. $3 per million is 3,000.

    `cached`: None: as `input`.
    """

    input: int = 0
    cached: int | None = None
    output: int = 0

    def __post_init__(self) -> None:
        for field in ("input", "cached", "output"):
            within(field, getattr(self, field), 0, MOST_PRICE)

    def exact(self) -> ExactPrice:
        """The same as the ledger counts with it."""
        cached = None if self.cached is None else self.cached * MTOK
        return ExactPrice(rates=Rates(input=self.input * MTOK, cached=cached, output=self.output * MTOK))


class CoreInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a core is. `slots`: calls at once. `window`: tokens of question and answer together, per call.

    `queues`: it queues calls beyond its slots by itself (a remote server does): then the lane is one wider than its
    slots, which saves the idle gap between two calls. `exact`: a generation is the same, bit by bit, whatever runs beside it
    and however often it was begun again; said only where that was tried. `reserved`: of a core with the feature `suspend`, calls
    at once beside `slots` while others are frozen. `price`: of all its models, if it has one of its own; else the
    price that `provider` asks for a model: its name in the table of prices, or `local`. Without a price that somebody knows it is
    not used under a limit of money. `counts`: its tokenizer is in reach, so that `count` says exactly what a question comes to.
    `default`: whether `default` may stand for its models; `last`: where it stands for no others.
    """

    name: str
    models: tuple[str, ...]
    features: frozenset[Feature]
    slots: int
    window: int
    driver: str
    queues: bool = False
    local: bool = False
    exact: bool = False
    reserved: int = 0
    price: Price | None = None
    provider: str = ""
    counts: bool = False
    default: Literal["first", "last", "never"] = "first"

    @property
    def billed_by(self) -> str:
        """Whose account its calls are of: its provider's; one that names none has its own."""
        return self.provider or self.name


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`up`: takes calls. `detail`: a sentence for people, on why not or on what is lacking. `restarts`: of its host, so far."""

    up: bool
    detail: str = ""
    pid: int | None = None
    restarts: int = 0


class CoreCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call for a core: `id` is unique for ever, `model` is one of the core's own names, `request.model` may be an alias.

    `seed` is always set: the request's, or one that the kernel drew. `tenant`: whose it is: what a core keeps of a call is for
    this tenant's calls alone.
    """

    id: str
    model: str
    request: Generate
    seed: int
    tenant: str = ""


class ScoreCall(msgspec.Struct, frozen=True, kw_only=True):
    """One question of likelihood for a core; see `CoreCall`."""

    id: str
    model: str
    request: Score
    tenant: str = ""


class CoreEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a core's health: its host came up, went down, or was replaced."""

    core: str
    change: Literal["up", "down"]
    detail: str = ""
    pid: int | None = None


class Core(Protocol):
    """A core. Its methods are called on the kernel's loop and never block it."""

    def info(self) -> CoreInfo:
        """What it is; fixed after `start`."""
        ...

    def health(self) -> Health:
        """Its state now, without asking anybody."""
        ...

    async def start(self, changed: Callable[[CoreEvent], None]) -> None:
        """Bring it up; `changed` hears of every change after that. Raises `Unavailable` with what to do."""
        ...

    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        """Generate, telling each piece to `emit`, and return the whole, whose texts are the pieces joined.

        Cancelling the task aborts the generation at the core before this returns. Raises `CoreFailed` when the core
        failed, `ContextFull` when the call does not fit its window, `Invalid` for a request it cannot understand.
        """
        ...

    async def count(self, request: Count, model: str) -> Tokens:
        """How many tokens a text is."""
        ...

    async def close(self) -> None:
        """End it and all that belongs to it."""
        ...


class ScoringCore(Core, Protocol):
    """A core that can say how likely given continuations are: the feature `score`."""

    async def score(self, call: ScoreCall) -> Scores:
        """Score the labels. Cancelling the task ends the work at the core before this returns; raises as `generate` does."""
        ...


class PreemptibleCore(Core, Protocol):
    """A core that can let a call wait without its slot, and go on with it as if nothing had been: the feature `suspend`."""

    def freeze(self, call: str) -> None:
        """Give the slot of a call (by its `CoreCall.id`) to others until it is thawed; a call that is over stays over.

        A call is known from the first step of its `generate` or `score` on, before that waits for anything.
        """
        ...

    def thaw(self, call: str) -> None:
        """Let a frozen call go on, as soon as a slot is free."""
        ...


def wanted_features(request: Generate | Score) -> frozenset[Feature]:
    """What a core must be able to do for this request."""
    if isinstance(request, Score):
        return SCORE_CHAT if request.messages else SCORE
    plain = CHAT if request.messages else COMPLETION
    wants: list[Feature] = []
    if request.seed is not None:
        wants.append("seed")
    if request.stop:
        wants.append("stop")
    if request.n > 1:
        wants.append("n")
    if request.presence_penalty or request.frequency_penalty:
        wants.append("penalties")
    if request.logit_bias:
        wants.append("logit_bias")
    if request.logprobs:
        wants.append("logprobs")
    if request.tools:
        wants.append("tools")
    if request.response_format is not None and (kind := request.response_format.get("type")) != "text":
        wants.append("grammar" if kind in ("choice", "regex") else "json")
    if request.reasoning_effort is not None:
        wants.append("reasoning_effort")
    for message in request.messages:
        if type(message.content) is tuple and _has_image(message.content):
            wants.append("vision")
            break
    return plain.union(wants) if wants else plain


CHAT: frozenset[Feature] = frozenset({"chat"})
COMPLETION: frozenset[Feature] = frozenset({"completion"})
SCORE: frozenset[Feature] = frozenset({"score"})
SCORE_CHAT: frozenset[Feature] = frozenset({"score", "chat"})


def _has_image(parts: tuple[Part, ...]) -> bool:
    return any(part.type == "image" for part in parts)


def refuse_what_it_cannot(info: CoreInfo, call: CoreCall | ScoreCall) -> None:
    """What every driver asks first: raises `NoCore` if the core has not the model, or cannot do what the request wants."""
    if call.model not in info.models:
        raise NoCore(f"core `{info.name}` has no model `{call.model}`: it has {', '.join(info.models)}", field="model")
    if missing := wanted_features(call.request) - info.features:
        raise NoCore(f"core `{info.name}` cannot do {', '.join(sorted(missing))}: leave it out, or add a core that can")
