"""`ScriptedCore`: a core whose answers are written down beforehand, for tests and benchmarks of what stands above a core.

It does for real all that a core does around the model: slots, streaming, stop texts, token limits, cancelling, failing. Its
tokens are words with the space before them, and its delays are the loop's, so in virtual time they cost nothing.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from aios.abi.errors import AiosError, ContextFull, CoreFailed, Unavailable
from aios.abi.llm import (
    Choice,
    Completion,
    Count,
    Delta,
    Finish,
    Generate,
    LabelScore,
    Message,
    Scores,
    Tokens,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from aios.drivers.core.text import Tail
from aios.ports.core import CoreCall, CoreEvent, CoreInfo, Emit, Feature, Health, Price, ScoreCall, refuse_what_it_cannot

_TOKEN = re.compile(r"\s*\S+|\s+\Z")
WORDS = ("the", "sea", "is", "wide", "and", "every", "ship", "that", "sails", "it", "comes", "home", "by", "its", "own", "star")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one generation does. `reasoning`: told before the text. `cached`: tokens of the question that count as read before.

    `first_s`, `token_s`: seconds before the first token and before each other one. `fail_after`: tokens after which it raises
    `failure` (0: before the first). `hang`: after its text it goes on for ever, without a word, until it is cancelled.
    """

    text: str = "a scripted answer"
    finish: Finish = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    cached: int = 0
    first_s: float = 0.0
    token_s: float = 0.0
    fail_after: int | None = None
    failure: AiosError = CoreFailed("the script says so")
    hang: bool = False


Answer = str | Script
Answers = Answer | Sequence[Answer] | Callable[[CoreCall], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedStatistics:
    """Generations so far: `started` = finished + aborted + failed + running. `most_running`: at one time."""

    started: int
    finished: int
    aborted: int
    failed: int
    running: int
    most_running: int
    tokens: int


def words_by_seed(call: CoreCall) -> Answer:
    """48 words that depend on the request and, unless `temperature` is 0, on the seed."""
    seed = 0 if call.request.temperature == 0 else call.seed
    question = blake2b(msgspec.json.encode((call.request.messages, call.request.prompt)), digest_size=8).hexdigest()
    chosen = random.Random(f"{seed} {question}").choices(WORDS, k=48)
    return " ".join(chosen)


def tokens_of(text: str) -> list[str]:
    """The tokens of a scripted core: words, each with the space before it."""
    return _TOKEN.findall(text)


class ScriptedCore:
    """The port `Core` by script.

    `answers`: one for all calls, a sequence that is gone through again and again, or a function of the call. `queues` is
    only what it declares: calls beyond `slots` wait in order of arrival either way. Features whose effect a script decides
    (tools, json, …) are declared with `features`. With `suspend` calls can be frozen: they keep quiet between two tokens, and
    leave their slot.
    """

    def __init__(
        self,
        answers: Answers = words_by_seed,
        *,
        name: str = "scripted",
        models: tuple[str, ...] = ("scripted-1",),
        features: frozenset[Feature] = frozenset({"chat", "completion", "seed", "stop", "n", "score"}),
        slots: int = 4,
        window: int = 4096,
        queues: bool = False,
        reserved: int = 0,
        price: Price | None = Price(),  # noqa: B008  # frozen
        counts: bool = False,
    ) -> None:
        self._answers = answers
        self._info = CoreInfo(
            name=name, models=models, features=features, slots=slots, window=window, driver="scripted", queues=queues, local=True,
            reserved=reserved, price=price, counts=counts,
        )  # fmt: skip
        self._slots = asyncio.Semaphore(slots + reserved)
        self._places: dict[str, _Place] = {}
        self._changed: Callable[[CoreEvent], None] | None = None
        self._down = "it is not started"
        self._tasks: set[asyncio.Task[object]] = set()
        self._restarts = self._started = self._finished = self._failed = self._tokens = self._most_running = 0
        self.calls: list[CoreCall] = []
        """All calls, in the order in which they came."""

    def info(self) -> CoreInfo:
        """What it was said to be."""
        return self._info

    def health(self) -> Health:
        """Up between `start` and `close`, except after `go_down`."""
        return Health(up=not self._down, detail=self._down, restarts=self._restarts)

    def statistics(self) -> ScriptedStatistics:
        """Its counters."""
        return ScriptedStatistics(
            started=self._started,
            finished=self._finished,
            aborted=self._started - self._finished - self._failed - len(self._tasks),
            failed=self._failed,
            running=len(self._tasks),
            most_running=self._most_running,
            tokens=self._tokens,
        )

    async def start(self, changed: Callable[[CoreEvent], None]) -> None:
        """Come up at once."""
        self._changed = changed
        self._down = ""
        self._tell()

    def go_down(self, detail: str = "its host died") -> None:
        """As if the host had died: what runs fails, what comes is refused, until `come_up`."""
        self._down = detail
        self._tell()
        for task in self._tasks:
            task.cancel(_WENT_DOWN)

    def come_up(self) -> None:
        """As if the host had been replaced."""
        self._down = ""
        self._restarts += 1
        self._tell()

    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        """Do what the script says, as the port says."""
        refuse_what_it_cannot(self._info, call)
        self.calls.append(call)
        question = _tokens_in(call.request.messages, call.request.prompt or "")
        if question >= self._info.window:
            raise ContextFull(f"the question has {question} tokens, and the window is {self._info.window}")
        self._refuse_if_down()
        place = self._places[call.id] = _Place(self._slots)
        try:
            await place.enter()
            self._refuse_if_down()
            return await self._run(call, emit, question)
        finally:
            place.leave()
            del self._places[call.id]

    def freeze(self, call: str) -> None:
        """See `PreemptibleCore`; only with the feature `suspend`."""
        if place := self._places.get(call):
            place.freeze()

    def thaw(self, call: str) -> None:
        """See `PreemptibleCore`."""
        if place := self._places.get(call):
            place.thaw()

    async def count(self, request: Count, model: str) -> Tokens:
        """Its own tokens: words."""
        told = "\n".join([request.text, *(msgspec.json.encode(tool).decode() for tool in request.tools)])
        return Tokens(tokens=_tokens_in(request.messages, told), exact=True)

    async def score(self, call: ScoreCall) -> Scores:
        """The same for the same question: the longer a label, the less likely, and otherwise by chance."""
        refuse_what_it_cannot(self.info(), call)
        self._refuse_if_down()
        request = call.request
        asked = msgspec.json.encode((request.messages, request.prompt, request.baseline))
        sizes = [_tokens_in((), label) for label in request.labels]
        chances = [blake2b(asked + label.encode(errors="replace"), digest_size=2).digest() for label in request.labels]
        logprobs = [-size - int.from_bytes(chance, "big") / 2**16 for size, chance in zip(sizes, chances, strict=True)]
        whole = sum(math.exp(logprob) for logprob in logprobs)
        labels = zip(request.labels, logprobs, sizes, strict=True)
        return Scores(
            id=call.id,
            model=call.model,
            core=self.info().name,
            labels=tuple(LabelScore(label, logprob, size, math.exp(logprob) / whole) for label, logprob, size in labels),
            usage=Usage(input_uncached=_tokens_in(request.messages, request.prompt or "") + sum(sizes)),
        )

    async def close(self) -> None:
        """Fail what runs."""
        self.go_down("it is closed")

    async def _run(self, call: CoreCall, emit: Emit, question: int) -> Completion:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._started += 1
        self._most_running = max(self._most_running, len(self._tasks))
        try:
            choices = [await self._choice(call, index, emit) for index in range(call.request.n)]
            self._finished += 1
        except AiosError:
            self._failed += 1
            raise
        except asyncio.CancelledError as stop:
            if stop.args != (_WENT_DOWN,):
                raise
            task.uncancel()
            self._failed += 1
            raise CoreFailed(f"core `{self._info.name}` went down: {self._down}") from None
        finally:
            self._tasks.discard(task)
        return Completion(
            id=call.id,
            model=call.model,
            core=self._info.name,
            choices=tuple(choice for choice, *_ in choices),
            usage=Usage(
                input_uncached=question - min(cached := choices[0][2], question),
                cache_read=min(cached, question),
                output_visible=sum(tokens for _, tokens, _ in choices),
                reasoning=sum(len(tokens_of(choice.reasoning)) for choice, *_ in choices),
            ),
        )

    async def _choice(self, call: CoreCall, index: int, emit: Emit) -> tuple[Choice, int, int]:
        """One answer, how many tokens it took, and how many of the question were read before."""
        script = self._script(call)
        said = _Saying(call.request, emit, index)
        await said.think(script.reasoning)
        for number, token in enumerate(tokens_of(script.text)):
            await asyncio.sleep(script.token_s if number else script.first_s)
            await self._places[call.id].enter()
            if number == script.fail_after:
                raise script.failure
            self._tokens += 1
            await said.say(token)
            if said.finish:
                break
        if not said.finish and script.fail_after is not None:
            raise script.failure
        if script.hang:
            await asyncio.Event().wait()
        return await said.end(script), said.tokens, script.cached

    def _script(self, call: CoreCall) -> Script:
        answers = self._answers
        if callable(answers):
            answer = answers(call)
        elif isinstance(answers, str | Script):
            answer = answers
        else:
            answer = answers[(self._started - 1) % len(answers)]
        return Script(text=answer) if isinstance(answer, str) else answer

    def _refuse_if_down(self) -> None:
        if self._down:
            raise Unavailable(f"core `{self._info.name}` is down: {self._down}")

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed(CoreEvent(core=self._info.name, change="down" if self._down else "up", detail=self._down))


class _Place:
    """The slot of a call: it has one, or waits for one, or is frozen and does neither."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._has_slot = False
        self._may_run = asyncio.Event()
        self._may_run.set()

    async def enter(self) -> None:
        """Return when it has a slot."""
        while not self._has_slot:
            await self._may_run.wait()
            await self._slots.acquire()
            self._has_slot = True
            if not self._may_run.is_set():
                self.leave()

    def leave(self) -> None:
        """Give the slot back, if it has one."""
        if self._has_slot:
            self._has_slot = False
            self._slots.release()

    def freeze(self) -> None:
        self._may_run.clear()
        self.leave()

    def thaw(self) -> None:
        self._may_run.set()


class _Saying:
    """One answer while it is said: what was emitted, and why it ends."""

    def __init__(self, request: Generate, emit: Emit, index: int) -> None:
        self._emit = emit
        self._index = index
        self._limit = request.max_tokens
        self._tail = Tail(request.stop)
        self._texts: list[str] = []
        self._unsaid = 0
        self.tokens = 0
        self.finish: Finish | None = None

    async def think(self, reasoning: str) -> None:
        if reasoning:
            await self._tell(Delta(index=self._index, reasoning=reasoning))

    async def say(self, token: str) -> None:
        self.tokens += 1
        self._unsaid += 1
        text = self._tail.push(token.encode())
        if self._tail.stopped_by:
            self.finish = "stop"
        elif self.tokens == self._limit:
            self.finish = "length"
            text += self._tail.flush()
        if text:
            await self._tell(Delta(index=self._index, text=text, tokens=self._unsaid))

    async def end(self, script: Script) -> Choice:
        rest, calls = self._tail.flush(), () if self.finish else script.tool_calls
        finish = self.finish or ("tool_calls" if calls else script.finish)
        pieces = tuple(ToolCallDelta(at, tool.id, tool.name, tool.arguments) for at, tool in enumerate(calls))
        await self._tell(Delta(index=self._index, text=rest, tokens=self._unsaid, tool_calls=pieces, finish=finish))
        return Choice("".join(self._texts), finish, calls, script.reasoning, stopped_by=self._tail.stopped_by)

    async def _tell(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        self._unsaid = 0
        waiting = self._emit(delta)
        if waiting is not None:
            await waiting


_WENT_DOWN = "the scripted core went down"


def _tokens_in(messages: tuple[Message, ...], text: str) -> int:
    texts = [text]
    for message in messages:
        content = message.content
        texts.append(content if isinstance(content, str) else " ".join(part.text for part in content))
    return sum(len(tokens_of(part)) for part in texts)
