"""How likely the local core says given continuations are: right by its own generations, and the same whatever happens."""

import asyncio
import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aios.abi.errors import AiosError, ContextFull, Invalid
from aios.abi.llm import Generate, Score, Scores
from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig
from aios.ports.core import CoreCall, ScoreCall

pytestmark = [pytest.mark.real, pytest.mark.slow]

PROMPT = "The harbour keeps a book of all ships: their names, their masters, what they carry, where they come from. " * 2
LABELS = (" A ship", " A ship is a boat", " Nothing", " The master of the first ship is called")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@asynccontextmanager
async def local(home: Path, **settings: Any) -> AsyncIterator[LocalCore]:
    core = LocalCore(LocalCoreConfig(home=home, threads=1, probe_s=0, **{"slots": 2, "reserve": 0, "window": 256, **settings}))
    await core.start(lambda _: None)
    try:
        yield core
    finally:
        await core.close()


def call(core: LocalCore, **fields: Any) -> ScoreCall:
    return ScoreCall(id="score", model=core.config.name, request=Score(**{"prompt": PROMPT, "labels": LABELS, **fields}))


async def test_a_label_is_as_likely_as_its_tokens_are_when_they_are_generated(home: Path) -> None:
    request = Generate(prompt=PROMPT, max_tokens=6, temperature=0.0, logprobs=True)
    async with local(home) as core:
        said = (await core.generate(CoreCall(id="g", model=core.config.name, request=request, seed=1), lambda _: None)).choices[0]
        scores = await core.score(call(core, labels=(said.text, " Nothing of the kind")))
    assert scores.labels[0].tokens == len(said.logprobs) == 6
    assert scores.labels[0].logprob == sum(token.logprob for token in said.logprobs)
    assert scores.best.label == said.text


async def test_a_baseline_decides_the_shares(home: Path) -> None:
    async with local(home, slots=1) as core:
        plain, empty = await core.score(call(core)), await core.score(call(core, prompt="-"))
        both = await core.score(call(core, baseline="-"))
    assert [score.logprob for score in both.labels] == [score.logprob for score in plain.labels]
    assert [score.baseline for score in both.labels] == [score.logprob for score in empty.labels]
    weights = [math.exp(score.logprob - score.baseline) for score in both.labels]
    assert [score.probability for score in both.labels] == pytest.approx([weight / sum(weights) for weight in weights])
    assert [score.probability for score in both.labels] != [score.probability for score in plain.labels]


async def test_the_same_with_what_others_have_read_and_in_a_new_host(home: Path) -> None:
    async with local(home, share=False) as core:
        alone = await core.score(call(core))
    async with local(home) as core:
        first, again = await core.score(call(core)), await core.score(call(core))
        scoring = asyncio.create_task(core.score(call(core, prompt=f"So: {PROMPT}")))
        await asyncio.sleep(0)
        pid = core.health().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        after = await scoring
        assert core.health().restarts == 1
        undisturbed = await core.score(call(core, prompt=f"So: {PROMPT}"))
    assert first.labels == again.labels == alone.labels
    assert after.labels == undisturbed.labels
    assert again.usage.cache_read > first.usage.cache_read == 0


async def test_a_cancelled_scoring_frees_its_slot(home: Path) -> None:
    many = tuple(f" {number} ships and a boat" for number in range(60))
    async with local(home, slots=1) as core:
        scoring = asyncio.create_task(core.score(call(core, labels=many)))
        done, _ = await asyncio.wait({scoring}, timeout=0.2)
        assert not done
        scoring.cancel()
        await asyncio.wait({scoring})
        assert scoring.cancelled() and core.statistics().in_flight == 0
        assert len((await core.score(call(core))).labels) == len(LABELS)


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"prompt": PROMPT * 30}, ContextFull, "tokens"),
        ({"labels": (" a", " b" * 450)}, ContextFull, "tokens"),
        ({"labels": (" a", "\ud800")}, Invalid, "labels[1]"),
        ({"baseline": "\ud800"}, Invalid, "baseline"),
        ({"prompt": "x" * (1 << 21)}, ContextFull, "characters"),
    ],
    ids=["a long prompt", "a long label", "half a character", "half a baseline", "a huge prompt"],
)
async def test_what_cannot_be_scored_is_one_error_and_the_host_lives(
    home: Path, fields: dict[str, Any], error: type[AiosError], says: str
) -> None:
    async with local(home) as core:
        with pytest.raises(error) as refused:
            await core.score(call(core, **fields))
        assert says in f"{refused.value.message} {refused.value.field}"
        assert (await core.score(call(core, labels=(" a", " b")))).labels and core.health().restarts == 0


WRONG: dict[str, dict[str, Any]] = {
    "no labels": {"labels": ()},
    "one label": {"labels": (" one",)},
    "equal labels": {"labels": (" a", " a")},
    "an empty label": {"labels": (" a", "")},
    "a huge label": {"labels": (" a", "b" * 1001)},
    "many labels": {"labels": tuple(f" {number}" for number in range(10_000))},
    "an empty prompt": {"prompt": ""},
    "no prompt": {"prompt": None},
    "an empty baseline": {"baseline": ""},
    "a baseline of a conversation": {"prompt": None, "messages": [{"role": "user", "content": "x"}], "baseline": "-"},
    "a label that is none": {"labels": (" a", None)},
    "a number": {"labels": (" a", float("nan"))},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_request_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    body: dict[str, Any] = {"prompt": "x", "labels": (" a", " b"), **wrong}
    with pytest.raises(msgspec.ValidationError, match="labels|prompt|baseline"):
        msgspec.convert(body, Score)
    assert msgspec.convert({"prompt": "x", "labels": [" a", " b"]}, Score).labels == (" a", " b")


def test_scores_tell_the_best() -> None:
    labels = [{"label": label, "logprob": -1.0, "tokens": 1, "probability": share} for label, share in (("a", 0.2), ("b", 0.8))]
    scores = msgspec.convert({"id": "s", "model": "m", "core": "c", "usage": {}, "labels": labels}, Scores)
    assert scores.best.label == "b"
