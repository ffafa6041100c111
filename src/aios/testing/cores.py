"""The examination of the port `Core`: what every driver must do, one function per promise.

A driver's tests run each of `EXAMINATION` on a `Candidate` of its own:

    @pytest.mark.parametrize("case", EXAMINATION, ids=lambda case: case.__name__)
    async def test_it_keeps_the_promises_of_the_port(case):
        async with my_candidate() as candidate:
            await case(candidate)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import msgspec

from aios.abi.errors import AiosError, ContextFull, NoCore
from aios.abi.ids import UniqueIds
from aios.abi.llm import Completion, Count, Delta, Generate, Message, Score, ToolSpec
from aios.ports.core import FEATURES, Core, CoreCall, CoreEvent, PreemptibleCore, ScoreCall, ScoringCore

LONG = 16
"""Tokens that a long answer has, so that it can be cut in the middle."""

SETTLE_S = 10.0
_new_id = UniqueIds("call")
E = TypeVar("E", bound=BaseException)


@dataclass(slots=True)
class Candidate:
    """A core under examination, started. `running`: generations that its host is at now. `question`: answered at length.

    `events` is what its `start` was given to tell changes to.
    """

    core: Core
    running: Callable[[], int]
    question: str = "Tell me a long story about the sea."
    events: list[CoreEvent] = field(default_factory=list)

    def call(self, question: str | None = None, *, seed: int = 1, **fields: Any) -> CoreCall:
        """A call with an answer of `LONG` tokens at temperature 0, unless `fields` of the request say something else."""
        fields = {"max_tokens": LONG, "temperature": 0.0, **fields}
        request = Generate(messages=(Message("user", question or self.question),), **fields)
        return CoreCall(id=_new_id(), model=self.core.info().models[0], request=request, seed=seed)

    async def settled(self) -> None:
        """Wait until its host is at nothing any more."""
        async with asyncio.timeout(SETTLE_S):
            while self.running():  # noqa: ASYNC110  # a host tells nobody of this
                await asyncio.sleep(0.001)


class Heard:
    """An `emit` that keeps all it is told, and says when there are so many pieces."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self._more = asyncio.Event()

    def __call__(self, delta: Delta) -> None:
        self.deltas.append(delta)
        self._more.set()

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    async def wait_for(self, pieces: int) -> None:
        async with asyncio.timeout(SETTLE_S):
            while len(self.deltas) < pieces:
                self._more.clear()
                await self._more.wait()


def ignore(_delta: Delta) -> None:
    """An `emit` for those who want the whole only."""


async def the_pieces_joined_are_the_answer(candidate: Candidate) -> None:
    call, heard = candidate.call(), Heard()
    done = await candidate.core.generate(call, heard)
    assert heard.text == done.text != ""
    assert (done.id, done.model, done.core) == (call.id, call.model, candidate.core.info().name)
    assert [delta.finish for delta in heard.deltas if delta.finish] == [done.choices[0].finish]
    assert heard.deltas[-1].finish


async def usage_counts_question_and_answer(candidate: Candidate) -> None:
    heard = Heard()
    short = await candidate.core.generate(candidate.call("Hi", max_tokens=5), heard)
    long = await candidate.core.generate(candidate.call("Hi there, " * 20, max_tokens=5), ignore)
    assert 0 < short.usage.input_tokens < long.usage.input_tokens
    assert short.usage.output_tokens == sum(delta.tokens for delta in heard.deltas) or not any(d.tokens for d in heard.deltas)


async def max_tokens_ends_the_answer(candidate: Candidate) -> None:
    done = await candidate.core.generate(candidate.call(max_tokens=5), ignore)
    assert done.usage.output_tokens == 5
    assert done.choices[0].finish == "length"


async def a_stop_text_ends_the_answer_and_is_never_shown(candidate: Candidate) -> None:
    whole = (await candidate.core.generate(candidate.call(), ignore)).text
    middle = len(whole) // 2
    for stop in (whole[middle : middle + 9], whole[middle]):
        heard = Heard()
        done = await candidate.core.generate(candidate.call(stop=(stop, "never said")), heard)
        assert done.text == heard.text == whole[: whole.index(stop)]
        assert done.choices[0].finish == "stop"


async def a_beginning_of_a_stop_text_is_shown_when_it_comes_to_nothing(candidate: Candidate) -> None:
    whole = (await candidate.core.generate(candidate.call(), ignore)).text
    middle = len(whole) // 2
    almost = whole[middle : middle + 9] + "\x00"
    heard = Heard()
    assert (await candidate.core.generate(candidate.call(stop=(almost, whole[-3:] + "\x00")), heard)).text == whole == heard.text


async def the_seed_decides_the_answer(candidate: Candidate) -> None:
    async def answer(seed: int) -> str:
        call = candidate.call(seed=seed, temperature=1.0, top_p=1.0)
        return (await candidate.core.generate(call, ignore)).text

    first = await answer(1)
    assert await answer(1) == first
    assert {await answer(2), await answer(3)} != {first}


async def a_text_is_completed(candidate: Candidate) -> None:
    chat = candidate.call(max_tokens=5)
    request = Generate(prompt="Once upon a time", max_tokens=5, temperature=0.0)
    heard = Heard()
    done = await candidate.core.generate(msgspec.structs.replace(chat, request=request), heard)
    assert done.text == heard.text != ""


async def more_text_is_more_tokens(candidate: Candidate) -> None:
    model = candidate.core.info().models[0]
    short = await candidate.core.count(Count(text="one two three"), model)
    long = await candidate.core.count(Count(text="one two three " * 10), model)
    chat = await candidate.core.count(Count(messages=(Message("user", "one two three"),)), model)
    assert 0 < short.tokens < long.tokens
    assert chat.tokens >= short.tokens
    assert short.exact == long.exact == chat.exact


async def a_count_is_what_a_question_comes_to(candidate: Candidate) -> None:
    info = candidate.core.info()
    if not info.counts:
        return
    call = candidate.call(max_tokens=1)
    tool = ToolSpec("search", "Search for words.", {"type": "object", "properties": {"words": {"type": "string"}}})
    asked = [call.request, candidate.call("Hello there, 字 and é. " * 20, max_tokens=1).request]
    if "completion" in info.features:
        asked.append(Generate(prompt="Once upon a time", max_tokens=1))
    if "tools" in info.features:
        choices = ("auto", "required", "none")
        asked += [msgspec.structs.replace(call.request, tools=(tool,), tool_choice=choice) for choice in choices]
    for request in asked:
        count = Count(text=request.prompt or "", messages=request.messages, tools=request.tools)
        counted = await candidate.core.count(count, info.models[0])
        done = await candidate.core.generate(msgspec.structs.replace(call, id=_new_id(), request=request), ignore)
        assert counted.exact and counted.tokens >= done.usage.input_tokens
        assert counted.tokens == done.usage.input_tokens or request.tools


async def what_does_not_fit_is_refused(candidate: Candidate) -> None:
    heard = Heard()
    for words in (candidate.core.info().window, 20 * candidate.core.info().window):
        await _raises(ContextFull, candidate.core.generate(candidate.call("word " * words), heard))
    assert not heard.deltas
    assert (await candidate.core.generate(candidate.call(), ignore)).text


async def an_unknown_model_is_refused(candidate: Candidate) -> None:
    call = msgspec.structs.replace(candidate.call(), model="no-such-model")
    refused = await _raises(NoCore, candidate.core.generate(call, ignore))
    assert "no-such-model" in refused.message


async def what_it_cannot_do_is_refused(candidate: Candidate) -> None:
    wishes: dict[str, dict[str, Any]] = {
        "n": {"n": 2},
        "logprobs": {"logprobs": True},
        "penalties": {"presence_penalty": 1.0},
        "reasoning_effort": {"reasoning_effort": "low"},
        "grammar": {"response_format": {"type": "choice", "choices": ["yes", "no"]}},
    }
    for feature in sorted(set(FEATURES) - candidate.core.info().features):
        if feature in wishes:
            refused = await _raises(NoCore, candidate.core.generate(candidate.call(**wishes[feature]), ignore))
            assert feature in refused.message


async def several_answers_are_told_apart(candidate: Candidate) -> None:
    """For a core with the feature `n`."""
    if "n" not in candidate.core.info().features:
        return
    call, heard = candidate.call(n=3, temperature=1.0), Heard()
    done = await candidate.core.generate(call, heard)
    told = ["".join(delta.text for delta in heard.deltas if delta.index == index) for index in range(3)]
    assert [choice.text for choice in done.choices] == told
    assert all(told)
    assert [sum(bool(d.finish) for d in heard.deltas if d.index == index) for index in range(3)] == [1, 1, 1]
    request = msgspec.structs.replace(call.request, n=1)
    alone = await candidate.core.generate(msgspec.structs.replace(call, request=request), ignore)
    assert alone.text == told[0], "the first answer is what there would be alone"
    await candidate.settled()


async def a_frozen_call_goes_on_as_if_nothing_had_been(candidate: Candidate) -> None:
    """For a core with the feature `suspend`."""
    core = candidate.core
    if "suspend" not in core.info().features:
        return
    preemptible = cast(PreemptibleCore, core)
    alone = (await core.generate(candidate.call(), ignore)).text
    calls = [candidate.call() for _ in range(core.info().slots)]
    heard = [Heard() for _ in calls]
    running = [asyncio.create_task(core.generate(call, one)) for call, one in zip(calls, heard, strict=True)]
    for call, one in zip(calls, heard, strict=True):
        await one.wait_for(3)
        preemptible.freeze(call.id)
    async with asyncio.timeout(SETTLE_S):
        others = await asyncio.gather(*(core.generate(candidate.call(), ignore) for _ in calls))
    assert not any(task.done() for task in running), "those that are frozen hold no slot and say nothing"
    for call in calls:
        preemptible.thaw(call.id)
    assert [(await task).text for task in running] == [alone] * len(calls) == [other.text for other in others]
    preemptible.freeze(calls[0].id)  # it is over: nothing happens
    await candidate.settled()


async def likely_continuations_are_told(candidate: Candidate) -> None:
    """For a core with the feature `score`."""
    core, info = candidate.core, candidate.core.info()
    if "score" not in info.features:
        return
    scoring = cast(ScoringCore, core)
    asked = Score(prompt="The capital of France is", labels=(" Paris", " Paris and London", " London", " a word"))
    call = ScoreCall(id=_new_id(), model=info.models[0], request=asked)
    busy = [asyncio.create_task(core.generate(candidate.call(f"Write about {n}."), ignore)) for n in range(info.slots)]
    beside = await scoring.score(call)
    await asyncio.wait(busy)
    alone = await scoring.score(call)
    assert beside.labels == alone.labels, "the same, whatever runs beside it"
    assert [score.label for score in alone.labels] == list(asked.labels)
    assert all(score.logprob < 0 and score.tokens > 0 for score in alone.labels)
    assert abs(sum(score.probability for score in alone.labels) - 1) < 1e-9
    assert alone.labels[1].logprob < alone.labels[0].logprob, "no end is counted"
    chat = msgspec.structs.replace(asked, prompt=None, messages=(Message("user", "Name a city."),))
    assert (await scoring.score(msgspec.structs.replace(call, request=chat))).usage.input_tokens > 0
    unknown = msgspec.structs.replace(call, model="no-such-model")
    await _raises(NoCore, scoring.score(unknown))
    await candidate.settled()


async def calls_run_side_by_side_up_to_the_slots(candidate: Candidate) -> None:
    core, slots = candidate.core, candidate.core.info().slots
    alone = [(await core.generate(candidate.call(f"Write about {n}."), ignore)).text for n in range(slots)]
    everybody = asyncio.Barrier(slots)  # each waits within its answer until all are there: one after the other would hang
    met: set[int] = set()

    async def one(number: int) -> Completion:
        async def meet(delta: Delta) -> None:
            if number not in met:
                met.add(number)
                async with asyncio.timeout(SETTLE_S):
                    await everybody.wait()

        return await core.generate(candidate.call(f"Write about {number}."), meet)

    together = await asyncio.gather(*(one(number) for number in range(slots)))
    assert [done.text for done in together] == alone


async def a_slow_reader_delays_nobody_else(candidate: Candidate) -> None:
    others_done = asyncio.Event()
    slow_began = asyncio.Event()

    async def slow(_delta: Delta) -> None:
        slow_began.set()
        await others_done.wait()

    reading = asyncio.create_task(candidate.core.generate(candidate.call(), slow))
    await slow_began.wait()
    async with asyncio.timeout(SETTLE_S):
        quick = await candidate.core.generate(candidate.call(), ignore)
    others_done.set()
    assert (await reading).text == quick.text


async def cancelling_the_task_aborts_the_generation(candidate: Candidate) -> None:
    core, slots = candidate.core, candidate.core.info().slots
    heard = [Heard() for _ in range(slots)]
    calls = [asyncio.create_task(core.generate(candidate.call(max_tokens=10 * LONG), one)) for one in heard]
    for one in heard:
        await one.wait_for(2)
    for task in calls:
        task.cancel()
    await asyncio.wait(calls)
    assert all(task.cancelled() for task in calls)
    await candidate.settled()
    said = [len(one.deltas) for one in heard]
    async with asyncio.timeout(SETTLE_S):
        await core.generate(candidate.call(max_tokens=5), ignore)
    assert [len(one.deltas) for one in heard] == said


async def a_reader_that_raises_ends_its_own_call_only(candidate: Candidate) -> None:
    def raises(_delta: Delta) -> None:
        raise ZeroDivisionError

    other = asyncio.create_task(candidate.core.generate(candidate.call(), ignore))
    await _raises(ZeroDivisionError, candidate.core.generate(candidate.call(max_tokens=10 * LONG), raises))
    assert (await other).text
    await candidate.settled()


async def it_says_whether_it_is_up(candidate: Candidate) -> None:
    assert candidate.core.health().up
    assert [event.change for event in candidate.events] == ["up"]
    assert all(event.core == candidate.core.info().name for event in candidate.events)
    await candidate.core.close()
    assert not candidate.core.health().up
    assert candidate.core.health().detail
    assert [event.change for event in candidate.events] == ["up", "down"]


async def closing_it_ends_what_runs_and_refuses_what_comes(candidate: Candidate) -> None:
    heard = Heard()
    call = asyncio.create_task(candidate.core.generate(candidate.call(max_tokens=10 * LONG), heard))
    await heard.wait_for(2)
    async with asyncio.timeout(SETTLE_S):
        await candidate.core.close()
        await _raises(AiosError, call)
    await _raises(AiosError, candidate.core.generate(candidate.call(), ignore))
    await candidate.settled()


async def _raises(kind: type[E], doing: Awaitable[object]) -> E:
    try:
        await doing
    except kind as problem:
        return problem
    raise AssertionError(f"{kind.__name__} was not raised")


Case = Callable[[Candidate], Awaitable[None]]

EXAMINATION: tuple[Case, ...] = (
    the_pieces_joined_are_the_answer,
    usage_counts_question_and_answer,
    max_tokens_ends_the_answer,
    a_stop_text_ends_the_answer_and_is_never_shown,
    a_beginning_of_a_stop_text_is_shown_when_it_comes_to_nothing,
    the_seed_decides_the_answer,
    a_text_is_completed,
    more_text_is_more_tokens,
    a_count_is_what_a_question_comes_to,
    what_does_not_fit_is_refused,
    an_unknown_model_is_refused,
    what_it_cannot_do_is_refused,
    likely_continuations_are_told,
    several_answers_are_told_apart,
    a_frozen_call_goes_on_as_if_nothing_had_been,
    calls_run_side_by_side_up_to_the_slots,
    a_slow_reader_delays_nobody_else,
    cancelling_the_task_aborts_the_generation,
    a_reader_that_raises_ends_its_own_call_only,
    it_says_whether_it_is_up,
    closing_it_ends_what_runs_and_refuses_what_comes,
)
