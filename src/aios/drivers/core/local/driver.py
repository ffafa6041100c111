"""`LocalCore`: a model in a process of its own, which is replaced when it dies, and whose calls go on in the new one.

All that is needed to go on stays here: the prompt, the seed, the settings and the tokens that came. A new host reads prompt and
tokens again and continues with the next token, so no call is lost and no token comes twice.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aios.abi.bounds import above_zero, within
from aios.abi.errors import AiosError, ContextFull, CoreFailed, Invalid, TooLarge, Unavailable
from aios.abi.llm import Choice, Completion, Count, LabelScore, Scores, Tokens, Usage
from aios.drivers.core.local import models
from aios.drivers.core.local.answers import Answer
from aios.drivers.core.local.formats import constraint_of, functions_of, installed_version
from aios.drivers.core.local.host import END_GRACE_S, Host, HostFailed
from aios.drivers.core.local.jobs import Ask, Job
from aios.drivers.core.local.prompts import MOST_CHARACTERS, check, prompt_of, texts_of, whole
from aios.drivers.core.local.protocol import (
    MOST_FORCED,
    VERSION,
    Abort,
    Ack,
    Freeze,
    Gone,
    Hello,
    Measure,
    Measured,
    Open,
    Piece,
    Prompt,
    ProtocolError,
    Ready,
    Refused,
    Report,
    Step,
    Thaw,
    TooLong,
    Weigh,
    Weighed,
)
from aios.drivers.core.local.tools import CallReader, call_id, tell_functions
from aios.ports.core import (
    CoreCall,
    CoreEvent,
    CoreInfo,
    Emit,
    Feature,
    Health,
    Price,
    ScoreCall,
    refuse_what_it_cannot,
)
from aios.ports.prices import LOCAL

POISONED_AFTER = 3
"""Crashes in a row, without a new token in between, after which a call is given up. From the one before, it runs alone."""

GIVE_UP_AFTER = 3
"""Failed starts in a row after which the calls in flight are given up; further starts are tried all the same."""

BACK_OFF_S = (0.1, 5.0)
ABORT_S = 5.0
SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_SLOTS = 256
"""Sequences that the engine can tell apart."""

LEAST_WINDOW = 64
"""Tokens in which a question and an answer can be at all."""

SLOWEST_DISK = 50e6
"""Bytes per second that reading a model file takes at worst, twice: to hash it and to load it."""

DEPENDENCES = {
    "slot": "the slot they are made in",
    "recompute": "whether their host was replaced",
    "batch": "what runs beside them",
    "chunks": "the size of the chunks in which a prompt is read",
    "sharing": "whether their beginning was read for another call, or they were frozen",
}
"""What fails in the probe of exactness, for people."""


def _half_of_the_cores() -> int:
    return max(1, min(4, (os.cpu_count() or 2) // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCoreConfig:
    """Settings of a local core.

    `home`: folder for what it remembers about model files. `path`: the model file; None is the one that `aios models use`
    chose, or the embedded model. `sha256`: what that file must have; None: whatever it has. `window`: tokens
    per slot; each slot's memory is reserved. `temperature` and `top_p` are for calls that set none (the embedded model's
    authors advise these). `reserve`: slots beside `slots`, for urgent calls while others are frozen. `chunk`:
    prompt tokens per pass. `backlog`: tokens that a slow reader may leave lying. `freeze_s`:
    silence after which a busy host is replaced, or ten passes if that is longer. `start_s`: most
    that loading may take. `probe_s`: most that proving exactness may take, at the first start with these settings; where it
    is not enough, and with 0, the core is not exact. `share`: calls of one tenant that begin with the same tokens read them once;
    `store_bytes`: memory for what was read, when its slot is needed. `public`: files with texts, such as system prompts, with
    which calls of all tenants may begin and share that; how fast an answer comes then tells that somebody else asks so.
    `price`: nano-dollars per token that its calls are booked at; not given, it is that of `[prices.local]`.
    """

    home: Path
    name: str = models.EMBEDDED.name
    model: str = models.EMBEDDED.name
    path: Path | None = None
    sha256: str | None = None
    slots: int = 8
    reserve: int = 1
    window: int = 2048
    threads: int = field(default_factory=_half_of_the_cores)
    temperature: float = 0.2
    top_p: float = 0.9
    chunk: int = 64
    backlog: int = 256
    freeze_s: float = 5.0
    start_s: float = 30.0
    probe_s: float = 10.0
    store_bytes: int = 64 << 20
    public: tuple[Path, ...] = ()
    share: bool = True
    price: Price | None = None

    def __post_init__(self) -> None:
        if self.sha256 is not None and not SHA256.fullmatch(self.sha256):
            raise ValueError("`sha256` must be 64 hexadecimal digits in small letters")
        within("reserve", self.reserve, 0, MOST_SLOTS - 1)
        within("slots", self.slots, 1, MOST_SLOTS - self.reserve)
        within("window", self.window, LEAST_WINDOW, 1 << 20)
        within("threads", self.threads, 1, 1024)
        within("temperature", self.temperature, 0, 2)
        within("top_p", self.top_p, 0, 1)
        within("chunk", self.chunk, 1, 4096)
        within("backlog", self.backlog, 1, 1_000_000)
        above_zero("freeze_s", self.freeze_s, 3600)
        above_zero("start_s", self.start_s, 3600)
        within("probe_s", self.probe_s, 0, 3600)
        within("store_bytes", self.store_bytes, 0, 1 << 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCoreStatistics:
    """Counts since the start; of the `prompt_tokens`, `cached_tokens` had been read for other calls.

    `pass_s`: the median of the last passes; `load_s`: the last host's own time to load; `probe_s`: what proving exactness took at
    the start. `golden`: how the model says what it is known to say.
    """

    calls: int
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    restarts: int
    in_flight: int
    pass_s: float
    load_s: float
    probe_s: float
    golden: Literal["same", "near", "unknown"]


class LocalCore:
    """The port `Core` on a supervised host process.

    Beyond the port: more calls than slots wait in the host in order of arrival; a call while the host is being replaced waits
    for the new one, and is refused with `Unavailable` where several starts have failed.
    """

    def __init__(self, config: LocalCoreConfig) -> None:
        self.config = config
        self._features: frozenset[Feature] = frozenset(
            {"chat", "completion", "seed", "stop", "n", "suspend", "score", "logprobs", "tools", "json", "grammar"}
        )
        self._ready: Ready | None = None
        """The first host's: what is found out is found out then."""
        self._path: Path
        self._public: tuple[str, ...]
        self._changed: Callable[[CoreEvent], None] = _nobody
        self._host: Host | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._jobs: dict[int, Job] = {}
        self._asks: dict[int, Ask] = {}
        self._frozen: set[str] = set()
        """The calls that are frozen: their further answers begin so."""
        self._numbers = 0
        self._detail = "it is not started"
        self._given_up = True
        self._failed_starts = 0
        self._fruitless = 0
        self._restarts = self._calls = self._tokens = self._prompt_tokens = self._cached_tokens = 0
        self._passes_s: deque[float] = deque(maxlen=33)
        self._load_s = 0.0

    @property
    def _window(self) -> int:
        return self._ready.window if self._ready else self.config.window

    def info(self) -> CoreInfo:
        """What it is; `window`, `features` and `exact` are the model's own after `start`."""
        return CoreInfo(
            name=self.config.name,
            models=(self.config.model,),
            features=self._features,
            slots=self.config.slots,
            window=self._window,
            driver="local",
            local=True,
            exact=self._ready is not None and self._ready.exact,
            reserved=self.config.reserve,
            price=self.config.price,
            provider=LOCAL,
            counts=True,
        )

    def health(self) -> Health:
        """Whether its host is up now."""
        if self._host is None:
            return Health(up=False, detail=self._detail, restarts=self._restarts)
        return Health(up=True, detail=self._caveat(), pid=self._host.pid, restarts=self._restarts)

    def statistics(self) -> LocalCoreStatistics:
        """Its counters."""
        return LocalCoreStatistics(
            calls=self._calls,
            tokens=self._tokens,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            restarts=self._restarts,
            in_flight=len(self._jobs),
            pass_s=statistics.median(self._passes_s or (0.0,)),
            load_s=self._ready.load_s if self._ready else 0.0,
            probe_s=self._ready.probe_s if self._ready else 0.0,
            golden=self._ready.golden if self._ready else "unknown",
        )

    async def start(self, changed: Callable[[CoreEvent], None]) -> None:
        """Check the model file and bring up a host. Raises `Unavailable` with one sentence of what to do."""
        self._changed = changed
        self._path = self.config.path or models.find(models.EMBEDDED)
        installed_version()
        self._public = texts_of(self.config.public)
        try:
            await self._bring_up()
        except HostFailed as problem:
            raise Unavailable(str(problem)) from None
        self._supervisor = asyncio.create_task(self._supervise(), name=f"core {self.config.name}")
        self._supervisor.add_done_callback(self._unsupervised)

    async def generate(self, call: CoreCall, emit: Emit) -> Completion:
        """Generate, as the port says. `Invalid` names the field that this core does not understand."""
        refuse_what_it_cannot(self.info(), call)
        prompt = prompt_of(call.request.messages, call.request.prompt or "")
        check(call.request)
        constraint = constraint_of(call.request)
        prompt = tell_functions(prompt, *functions_of(call.request))
        self._refuse_too_long(call.model, [prompt])
        self._refuse_if_given_up()
        self._calls += 1
        jobs = [Job(self._number(), call, prompt, index, constraint=constraint) for index in range(call.request.n)]
        try:
            choices = [await self._answer(job, emit) for job in jobs]
        finally:
            self._frozen.discard(call.id)
        last = jobs[0].last
        return Completion(
            id=call.id,
            model=call.model,
            core=self.config.name,
            choices=tuple(choices),
            usage=Usage(last.prompt_tokens - last.cached_tokens, last.cached_tokens, sum(job.passed for job in jobs)),
        )

    async def _answer(self, job: Job, emit: Emit) -> Choice:
        """One answer. A call's answers come one after the other: it has one turn, so it takes one slot."""
        try:
            self._join(job)
            return await self._relay(job, emit)
        finally:
            await self._leave(job)

    async def score(self, call: ScoreCall) -> Scores:
        """See the port. The prompt and its baseline are read one after the other, in the one slot that the call has."""
        refuse_what_it_cannot(self.info(), call)
        request = call.request
        prompts = [prompt_of(request.messages, request.prompt or "")]
        if request.baseline is not None:
            prompts.append(Prompt(whole(request.baseline, "baseline")))
        labels = tuple(whole(label, f"labels[{at}]") for at, label in enumerate(request.labels))
        self._refuse_too_long(call.model, prompts)
        self._refuse_if_given_up()
        self._calls += 1
        try:
            return scores_of(call, self.config.name, [await self._weigh(call, prompt, labels) for prompt in prompts])
        finally:
            self._frozen.discard(call.id)

    async def _weigh(self, call: ScoreCall, prompt: Prompt, labels: tuple[str, ...]) -> Weighed:
        job = Job(self._number(), call, prompt, labels=labels)
        try:
            self._join(job)
            return await job.wait_weights()
        finally:
            await self._leave(job)

    def freeze(self, call: str) -> None:
        """See the port."""
        self._hold(call, True)

    def thaw(self, call: str) -> None:
        """See the port."""
        self._hold(call, False)

    def _hold(self, call: str, frozen: bool) -> None:
        jobs = [job for job in self._jobs.values() if job.call.id == call]
        if jobs and frozen:
            self._frozen.add(call)
        else:
            self._frozen.discard(call)
        for job in jobs:
            if not job.over:
                job.frozen = frozen
                if job.open and self._host is not None:
                    self._host.say(Freeze(job.number) if frozen else Thaw(job.number))
        self._open_waiting()

    async def count(self, request: Count, model: str) -> Tokens:
        """Ask the model's own tokenizer. Raises `TooLarge` over 1 M characters, `CoreFailed` if the host dies of it."""
        prompt = tell_functions(prompt_of(request.messages, request.text), request.tools, must=False)
        if (size := prompt.size()) > MOST_CHARACTERS:
            raise TooLarge(f"{size} characters are too many to count at once: send at most {MOST_CHARACTERS}")
        self._refuse_if_given_up()
        ask = Ask(Measure(self._number(), prompt), asyncio.get_running_loop().create_future())
        self._asks[ask.measure.ask] = ask
        try:
            self._open_waiting()
            return Tokens(tokens=await ask.answer, exact=True)
        finally:
            del self._asks[ask.measure.ask]
            self._open_waiting()

    async def close(self) -> None:
        """End the host and fail what is in flight."""
        self._detail, self._given_up = "it is closed", True
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait({supervisor})
        self._fail_all(CoreFailed(f"core `{self.config.name}` was closed"))
        host, self._host = self._host, None
        if host is not None:
            await host.end(grace_s=END_GRACE_S)
            self._tell("down", self._detail)

    # Calls.

    def _open_waiting(self) -> None:
        """Tell the host of what it does not know. What two hosts died of runs alone, to find out if it is the one."""
        if self._host is None:
            return
        waiting: list[Ask | Job] = [*self._asks.values(), *self._jobs.values()]
        for each in [each for each in waiting if self._suspected(each)][:1] or waiting:
            if each.open or each.over:
                continue
            each.open = True
            if isinstance(each, Ask):
                self._host.say(each.measure)
            else:
                self._open(self._host, each)
        self._watch()

    def _suspected(self, each: Ask | Job) -> bool:
        """Whether all else should wait to see if a host dies of this; not if it stands still by itself, which may be for ever."""
        if each.over or each.crashes < POISONED_AFTER - 1:
            return False
        return isinstance(each, Ask) or not (each.frozen or len(each.tokens) - each.passed >= self.config.backlog)

    def _open(self, host: Host, job: Job) -> None:
        opening = self._opening(job)
        if job.frozen:
            host.say(opening, Freeze(job.number))
        else:
            host.say(opening)
        job.acked = job.passed

    def _opening(self, job: Job) -> Open | Weigh:
        if isinstance(job.call, ScoreCall):
            return Weigh(job.number, job.prompt, job.labels, job.call.tenant)
        request, config = job.call.request, self.config
        return Open(
            call=job.number,
            prompt=job.prompt,
            seed=job.seed,
            temperature=config.temperature if request.temperature is None else request.temperature,
            top_p=config.top_p if request.top_p is None else request.top_p,
            stop=request.stop,
            max_tokens=request.max_tokens,
            delivered=tuple(job.tokens),
            acked=job.passed,
            tenant=job.call.tenant,
            constraint=job.constraint[0] if job.constraint else None,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        )

    async def _relay(self, job: Job, emit: Emit) -> Choice:
        """Pass on what comes for an answer until it is over."""
        calls = job.constraint is not None and job.constraint[0].kind in ("call", "call_or_text")
        answer = Answer(job.index, CallReader(call_id(job.seed, job.prompt)) if calls else None)
        while True:
            piece = await job.wait_piece()
            delta = answer.take(piece)
            if delta is not None and (waiting := emit(delta)) is not None:
                await waiting
            job.passed += len(piece.ids)
            if piece.finish:
                job.last = piece
                return answer.choice()
            self._acknowledge(job)

    def _acknowledge(self, job: Job) -> None:
        if job.passed - job.acked >= max(1, self.config.backlog // 8) and job.open and self._host is not None:
            self._host.say(Ack(job.number, job.passed))
            job.acked = job.passed

    async def _leave(self, job: Job) -> None:
        """Forget a call; if it is not over, only when the host has let go of it, or does not answer."""
        if job.open and not job.over and self._host is not None:
            job.gone = asyncio.get_running_loop().create_future()
            self._host.say(Abort(job.number))
            await asyncio.wait({job.gone}, timeout=ABORT_S)
        self._jobs.pop(job.number, None)
        self._open_waiting()

    def _join(self, job: Job) -> None:
        job.frozen = job.call.id in self._frozen
        self._jobs[job.number] = job
        self._open_waiting()

    def _refuse_too_long(self, model: str, prompts: list[Prompt]) -> None:
        for prompt in prompts:
            if (size := prompt.size()) > MOST_CHARACTERS:
                raise ContextFull(f"the prompt has {size} characters, far more than the {self._window} tokens of `{model}`")

    def _refuse_if_given_up(self) -> None:
        if self._given_up:
            raise Unavailable(f"core `{self.config.name}` is down: {self._detail}")

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    # What the host says.

    def _heard(self, report: Report) -> None:
        match report:
            case Step():
                self._passes_s.append(report.seconds)
                for piece in report.pieces:
                    self._take(piece)
                for refused in report.refused:
                    self._refuse(refused)
                for weighed in report.weighed:
                    self._take_weights(weighed)
            case TooLong(number, tokens, window):
                if job := self._jobs.get(number):
                    room = f"`{job.call.model}` has room for {window} of question and answer"
                    job.fail(ContextFull(f"the question has {tokens} tokens, and {room}"))
            case Refused():
                self._refuse(report)
            case Gone(number):
                if (job := self._jobs.get(number)) and job.gone and not job.gone.done():
                    job.gone.set_result(None)
            case Measured(number, tokens):
                if (ask := self._asks.get(number)) and not ask.answer.done():
                    ask.answer.set_result(tokens)

    def _take(self, piece: Piece) -> None:
        job = self._jobs.get(piece.call)
        if job is None or job.over:
            return
        if len(job.tokens) + len(piece.ids) - job.acked > self.config.backlog + MOST_FORCED:
            raise ProtocolError("more tokens than may lie unread")
        suspected = job.crashes >= POISONED_AFTER - 1
        self._tokens += len(piece.ids)
        self._prompt_tokens += piece.prompt_tokens
        self._cached_tokens += piece.cached_tokens
        self._fruitless = 0
        job.take(piece)
        if suspected:
            self._open_waiting()

    def _take_weights(self, weighed: Weighed) -> None:
        job = self._jobs.get(weighed.call)
        if job is None or job.over:
            return
        if not len(weighed.logprobs) == len(weighed.tokens) == len(job.labels) > 0:
            raise ProtocolError("other labels than were asked for")
        self._fruitless = 0
        self._prompt_tokens += weighed.prompt_tokens
        self._cached_tokens += weighed.cached_tokens
        job.take_weights(weighed)
        self._open_waiting()

    def _refuse(self, refused: Refused) -> None:
        job = self._jobs.get(refused.call)
        if job is not None and job.labels:
            job.fail(Invalid(refused.message, field="labels"))
        elif job is not None and job.constraint:
            field = job.constraint[1]
            job.fail(Invalid(f"no answer can be made to this `{field}`: {refused.message}", field=field))

    # The host's life.

    async def _bring_up(self) -> None:
        config = self.config
        hello = Hello(
            VERSION,
            str(self._path),
            slots=config.slots + config.reserve,
            window=config.window,
            threads=config.threads,
            chunk=config.chunk,
            backlog=config.backlog,
            home=str(config.home),
            probe_s=config.probe_s if self._ready is None else 0.0,
            store_bytes=config.store_bytes,
            public=self._public,
            share=config.share,
            sha256=self._sha256(),
        )
        self._host, ready = await Host.start(hello, self._heard, self._patience_s())
        self._ready = self._ready or ready
        self._load_s = ready.load_s
        self._given_up, self._failed_starts = False, 0
        self._restarts += self._supervisor is not None
        if not ready.chat:
            self._features -= {"chat"}
        self._tell("up", self._caveat())
        self._open_waiting()

    def _sha256(self) -> str | None:
        """What the model file must have: a new host goes on with answers of the old one, so it must not find another model."""
        if self._ready is not None:
            return self._ready.sha256
        return models.EMBEDDED.sha256 if self.config.path is None else self.config.sha256

    def _patience_s(self) -> float:
        """How long a host may take to come up; a big file is given the time to read it."""
        size = self._path.stat().st_size if self._path.exists() else 0
        return self.config.start_s + 2 * self.config.probe_s + size / SLOWEST_DISK

    def _caveat(self) -> str:
        """What people should know of a core that is up."""
        if self._ready is None or self._ready.exact:
            return ""
        if self._ready.inexact == "time":
            return f"not exact: that was not proved within `probe_s` = {self.config.probe_s:g}"
        return f"not exact: answers depend on {DEPENDENCES.get(self._ready.inexact, self._ready.inexact)}"

    async def _supervise(self) -> None:
        """Replace the host whenever it ends."""
        while True:
            if (host := self._host) is None:
                await self._try_again()
                continue
            why = await asyncio.shield(host.ended)
            self._host = None
            self._lose(f"{why}; a new one is being started", host.last_words())
            await host.end(grace_s=0)

    async def _try_again(self) -> None:
        least, most = BACK_OFF_S
        await asyncio.sleep(min(most, least * 2 ** min(self._fruitless, 10)))
        self._fruitless += 1
        try:
            await self._bring_up()
        except (HostFailed, Unavailable) as problem:
            self._failed_starts += 1
            self._detail = str(problem)
            if self._failed_starts >= GIVE_UP_AFTER:
                self._given_up = True
                self._fail_all(CoreFailed(f"core `{self.config.name}` went down and does not come up: {problem}"))

    def _lose(self, why: str, words: str) -> None:
        """The host is gone: note it, and give up the calls that too many hosts died of."""
        self._detail = f"the model's host is gone: {why}"
        for job in self._jobs.values():
            job.crashes += job.open and not job.over
            job.open = False
            if job.gone is not None and not job.gone.done():
                job.gone.set_result(None)
            if job.crashes >= POISONED_AFTER and not job.over:
                job.fail(CoreFailed(f"the model's host died {job.crashes} times of this call: it is poisoned"))
        for ask in self._asks.values():
            ask.crashes += ask.open and not ask.over
            ask.open = False
            if ask.crashes >= POISONED_AFTER and not ask.answer.done():
                ask.answer.set_exception(CoreFailed(f"the model's host died {ask.crashes} times of this text"))
        self._tell("down", f"{self._detail} {words}".strip())

    def _fail_all(self, failure: AiosError) -> None:
        for job in self._jobs.values():
            if not job.over:
                job.fail(failure)
        for ask in self._asks.values():
            if not ask.answer.done():
                ask.answer.set_exception(failure)

    def _unsupervised(self, task: asyncio.Task[None]) -> None:
        """The supervisor ends by being cancelled; where it ends by a bug of ours, no call may wait for ever."""
        if not task.cancelled() and (problem := task.exception()):
            self._detail, self._given_up = f"its supervisor ended: {problem!r}", True
            self._fail_all(CoreFailed(f"core `{self.config.name}`: {self._detail}"))
            self._tell("down", self._detail)

    def _watch(self) -> None:
        if self._host is not None and self._busy():
            self._host.watch(self._silence_s, self._busy)

    def _busy(self) -> bool:
        return bool(self._jobs or self._asks)

    def _silence_s(self) -> float:
        return max(self.config.freeze_s, 10 * statistics.median(self._passes_s or (0.0,)))

    def _tell(self, change: Literal["up", "down"], detail: str) -> None:
        pid = self._host.pid if self._host is not None else None
        event = CoreEvent(core=self.config.name, change=change, detail=detail[:1000], pid=pid)
        self._changed(event)


def scores_of(call: ScoreCall, core: str, weighed: list[Weighed]) -> Scores:
    """The labels' scores from what was weighed behind the prompt and, if there is one, behind the baseline."""
    prompt, *others = weighed
    baseline = others[0].logprobs if others else (0.0,) * len(prompt.logprobs)
    differences = [own - other for own, other in zip(prompt.logprobs, baseline, strict=True)]
    weights = [math.exp(difference - max(differences)) for difference in differences]
    shares = [weight / sum(weights) for weight in weights]
    found = zip(call.request.labels, prompt.logprobs, prompt.tokens, shares, baseline, strict=True)
    read = sum(each.prompt_tokens for each in weighed) + sum(sum(each.tokens) for each in weighed)
    cached = sum(each.cached_tokens for each in weighed)
    return Scores(
        id=call.id,
        model=call.model,
        core=core,
        labels=tuple(LabelScore(*each) for each in found),
        usage=Usage(input_uncached=read - cached, cache_read=cached),
    )


def _nobody(_event: CoreEvent) -> None:
    """Hears of changes before `start`."""
