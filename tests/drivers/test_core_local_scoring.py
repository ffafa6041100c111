"""The real model tells how likely given continuations are: the same whatever runs beside it and whatever happens to its host."""

import asyncio
import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.abi.errors import ContextFull, CoreFailed, Invalid
from aios.abi.llm import Completion, LabelScore, Message, Score
from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig
from aios.ports.core import CoreEvent, ScoreCall
from aios.testing.cores import SETTLE_S, Candidate, Heard, ignore

pytestmark = [pytest.mark.real, pytest.mark.slow]

CAPITAL = "The capital of France is"
CITIES = (" Paris", " Berlin", " a small village in Mecklenburg", " Parisian")
LONG = "Once upon a time there was a fisherman. " * 30


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for the module: the model file is read once."""
    return tmp_path_factory.mktemp("home")


@asynccontextmanager
async def local(home: Path, **settings: Any) -> AsyncIterator[LocalCore]:
    core = LocalCore(LocalCoreConfig(home=home, **{"slots": 2, "window": 512, "threads": 1, "probe_s": 0, **settings}))
    await core.start(lambda _event: None)
    try:
        yield core
    finally:
        await core.close()


def scoring(number: int = 0, prompt: str = CAPITAL, labels: tuple[str, ...] = CITIES, **fields: Any) -> ScoreCall:
    request = Score(labels=labels, **({"prompt": prompt, **fields}))
    return ScoreCall(id=f"score-{number}", model="smollm2-135m", request=request)


async def scores(core: LocalCore, call: ScoreCall) -> tuple[LabelScore, ...]:
    call = ScoreCall(id=call.id, model=core.info().models[0], request=call.request)
    return (await core.score(call)).labels


def candidate_of(core: LocalCore) -> Candidate:
    return Candidate(core, running=lambda: core.statistics().in_flight)


async def until_it_works(core: LocalCore) -> None:
    """Wait until the host has taken a call and made a pass since."""
    async with asyncio.timeout(SETTLE_S):
        passes = len(core._passes_s)
        while not (core._jobs and all(job.open for job in core._jobs.values()) and len(core._passes_s) > passes):
            await asyncio.sleep(0.001)


async def test_a_score_is_the_sum_of_what_a_generation_says_of_the_same_tokens(home: Path) -> None:
    async with local(home) as core:
        call = candidate_of(core).call(max_tokens=6, logprobs=True)
        done: Completion = await core.generate(call, ignore)
        likely = math.fsum(token.logprob for token in done.choices[0].logprobs)
        labels = (done.text, "No.")
        found = await scores(core, scoring(prompt="", messages=call.request.messages, labels=labels))
        assert found[0].tokens == done.usage.output_tokens
        assert found[0].logprob == pytest.approx(likely, abs=1e-9)
        assert math.fsum(score.probability for score in found) == pytest.approx(1)


async def test_scores_are_the_same_alone_and_beside_other_work(home: Path) -> None:
    async with local(home, slots=4) as core:
        alone = await scores(core, scoring())
        candidate = candidate_of(core)
        heard = Heard()
        beside = [asyncio.create_task(core.generate(candidate.call(seed=seed, temperature=1.0), heard)) for seed in range(2)]
        await heard.wait_for(2)
        crowd = await asyncio.gather(*(scores(core, scoring(number)) for number in range(6)), scores(core, scoring(7, LONG)))
        await asyncio.gather(*beside)
        assert crowd[:6] == [alone] * 6
        assert alone[0].logprob == max(score.logprob for score in alone) and alone[0].label == " Paris"
        assert crowd[6] != alone


async def test_a_scoring_leaves_nothing_behind_that_a_generation_would_see(home: Path) -> None:
    """Its labels were read in the slot of a prompt that others begin with."""
    async with local(home, slots=1) as core:
        candidate = candidate_of(core)
        request = candidate.call().request
        alone = await core.generate(candidate.call(), ignore)
        await scores(core, scoring(prompt="", messages=request.messages, labels=("Once there was a ship", "Once there was none")))
        again = await core.generate(candidate.call(), ignore)
        assert again.text == alone.text and again.usage.cache_read > 0


async def test_a_scoring_is_repeated_on_a_new_host_when_its_host_is_killed(home: Path) -> None:
    async with local(home, chunk=16, share=False) as core:
        undisturbed = await scores(core, scoring(prompt=LONG))
        running = asyncio.create_task(scores(core, scoring(prompt=LONG)))
        await until_it_works(core)
        pid = core.health().pid
        assert pid is not None and not running.done()
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(SETTLE_S):
            assert await running == undisturbed
        assert core.health().restarts == 1


async def test_a_cancelled_scoring_frees_its_slot(home: Path) -> None:
    async with local(home, slots=1, chunk=16, share=False) as core:
        running = asyncio.create_task(scores(core, scoring(prompt=LONG, baseline=LONG)))
        await until_it_works(core)
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled() and core.statistics().in_flight == 0
        async with asyncio.timeout(SETTLE_S):
            assert (await scores(core, scoring()))[0].label == " Paris"


async def test_a_scoring_that_three_hosts_die_of_is_poisoned(home: Path) -> None:
    core = LocalCore(LocalCoreConfig(home=home, slots=1, window=512, threads=1, probe_s=0))
    loop = asyncio.get_running_loop()

    def strike() -> None:
        pid = core.health().pid
        if pid is not None and any(job.open for job in core._jobs.values()):
            os.kill(pid, signal.SIGKILL)

    def changed(_event: CoreEvent) -> None:
        loop.call_soon(strike)

    await core.start(changed)
    try:
        culprit = asyncio.create_task(scores(core, scoring(prompt=LONG)))
        await until_it_works(core)
        strike()
        with pytest.raises(CoreFailed, match="poisoned"):
            await culprit
    finally:
        await core.close()


async def test_what_cannot_be_scored_is_refused_with_its_field_and_the_host_lives(home: Path) -> None:
    async with local(home, window=64) as core:
        pid = core.health().pid
        for field, call in (
            ("labels[1]", scoring(labels=("a", "\ud800"))),
            ("prompt", scoring(prompt="half \ud800")),
            ("baseline", scoring(baseline="\udfff")),
            ("messages[0].content", scoring(prompt="", messages=(Message("user", "\ud800"),))),
        ):
            with pytest.raises(Invalid) as refused:
                await scores(core, call)
            assert refused.value.field == field
        for call in (scoring(labels=("a", "word " * 190)), scoring(prompt=LONG), scoring(prompt="x" * (2 << 20))):
            with pytest.raises(ContextFull):
                await scores(core, call)
        assert (await scores(core, scoring()))[0].label == " Paris"
        assert core.health().pid == pid and core.statistics().in_flight == 0


@pytest.mark.parametrize(
    "labels",
    [(), ("one",), ("a", "a"), ("a", ""), tuple(map(str, range(10_000))), ("a", "b" * 1001)],
    ids=lambda labels: len(labels),
)
def test_lists_that_are_no_choice_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="`labels`"):
        Score(prompt="x", labels=labels)
