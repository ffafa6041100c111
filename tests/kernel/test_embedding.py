"""`llm.embed`: who may, with which model, and how it waits."""

import asyncio

import pytest

from aios.abi.errors import AiosError, CoreFailed, Denied, Invalid, NoCore, NotFound, QueueFull
from aios.abi.event import CallEnded, CoreChanged, ReadEvents
from aios.abi.llm import Embed, Generate, Models
from aios.abi.process import Explain, Self
from aios.kernel.lanes.lane import LaneConfig
from aios.ports.core import CoreEvent
from aios.testing import ScriptedCore, ScriptedEmbedder, time
from aios.testing.kernel import kernel_for_tests

TEXT = Embed(texts=("one two",))


async def test_a_grant_on_the_model_or_on_an_alias_of_it_will_do() -> None:
    async with kernel_for_tests(embedders=[ScriptedEmbedder()], aliases={"foreign": ("words-1",)}) as k:
        for grant, asked in (("words-1", "words-1"), ("words-1", "default"), ("words-1", "foreign"), ("foreign", "foreign")):
            gate = await k.session(grants=(f"use /llm/{grant}",))
            assert (await gate.call(Embed(model=asked, texts=("x",)))).model == "words-1"
        for grant, asked in (("foreign", "words-1"), ("scripted-1", "default"), ("default", "words-1")):
            gate = await k.session(grants=(f"use /llm/{grant}",))
            with pytest.raises(Denied):
                await gate.call(Embed(model=asked, texts=("x",)))


async def test_models_that_embed_are_listed_for_who_may_use_them() -> None:
    async with kernel_for_tests([ScriptedCore()], embedders=[ScriptedEmbedder()], aliases={"foreign": ("words-1",)}) as k:
        chat, embeds = (await (await k.session()).call(Models())).models
        assert (embeds.name, embeds.cores, embeds.features, embeds.aliases) == ("words-1", ("words",), ("embed",), ("foreign",))
        assert "embed" not in chat.features and chat.aliases == ("default",)
        (only,) = (await (await k.session(grants=("use /llm/words-1",))).call(Models())).models
        assert only.name == "words-1"


async def test_models_that_embed_and_models_that_answer_are_not_taken_for_each_other() -> None:
    async with kernel_for_tests([ScriptedCore()], embedders=[ScriptedEmbedder()]) as k:
        gate = await k.session()
        with pytest.raises(NotFound, match="no model `scripted-1` that embeds, but `words-1`"):
            await gate.call(Embed(model="scripted-1", texts=("x",)))
        with pytest.raises(NotFound, match="scripted-1"):
            await gate.call(Generate(model="words-1", prompt="x"))


async def test_a_kernel_that_has_nothing_that_embeds_says_so() -> None:
    async with kernel_for_tests([ScriptedCore()]) as k:
        with pytest.raises(NoCore, match="aios doctor"):
            await (await k.session()).call(TEXT)


@pytest.mark.parametrize("texts", [(), ("",), ("x", ""), ("x" * 32_769,), ("x",) * 2049, ("x" * 30_000,) * 40], ids=range(6))
def test_texts_have_bounds(texts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="^`texts` must"):
        Embed(texts=texts)


async def test_other_dimensions_than_the_models_are_refused_before_anything_is_done() -> None:
    embedder = ScriptedEmbedder()
    async with kernel_for_tests(embedders=[embedder]) as k:
        gate = await k.session()
        assert (await gate.call(Embed(texts=("x",), dimensions=8))).dimensions == 8
        with pytest.raises(Invalid, match="8 dimensions") as refused:
            await gate.call(Embed(texts=("x",), dimensions=256))
        assert refused.value.field == "dimensions" and len(embedder.calls) == 1


async def test_it_waits_in_a_lane_of_its_own_and_why_is_told() -> None:
    embedder = ScriptedEmbedder(slots=1, takes_s=10)
    async with kernel_for_tests([ScriptedCore()], embedders=[embedder]) as k:
        gate, other = await k.session(), await k.session()
        first = asyncio.ensure_future(gate.call(TEXT))
        await asyncio.sleep(1)
        second = asyncio.ensure_future(other.call(TEXT))
        await asyncio.sleep(1)
        info = await other.call(Self())
        (call, *_) = (await k.operator.call(Explain(pid=info.pid))).calls
        assert call.wait is not None and (call.wait.code, call.wait.on) == ("S", "words")
        assert (await gate.call(Generate(prompt="x"))).text and time() == 2, "models are not in its way"
        second.cancel()
        await asyncio.wait({second})
        await first
        assert time() == 10 and len(embedder.calls) == 1
        await gate.call(TEXT)
        assert time() == 20


async def test_its_queue_is_bounded() -> None:
    async with kernel_for_tests(embedders=[ScriptedEmbedder(slots=1, takes_s=10)], index=LaneConfig(queue=1)) as k:
        gate = await k.session()
        calls = [asyncio.ensure_future(gate.call(TEXT)) for _ in range(2)]
        await asyncio.sleep(1)
        with pytest.raises(QueueFull):
            await gate.call(TEXT)
        await asyncio.gather(*calls)


async def test_a_failed_embedder_is_asked_once_more_and_tokens_are_counted_once() -> None:
    async with kernel_for_tests(embedders=[ScriptedEmbedder(fails=[CoreFailed("it died")])]) as k:
        gate = await k.session()
        assert (await gate.call(TEXT)).usage.input_tokens == 2
        (ended,) = [e for e in (await k.operator.call(ReadEvents())).events if isinstance(e, CallEnded) and e.core]
        assert (ended.row, ended.attempts, ended.input_tokens, ended.core) == ("llm.embed", 2, 2, "words")
        assert (await gate.call(Self())).tokens == 2


async def test_an_error_of_the_embedder_reaches_its_caller() -> None:
    async with kernel_for_tests(embedders=[ScriptedEmbedder(fails=[CoreFailed("it died")] * 2)]) as k:
        with pytest.raises(AiosError, match="it died"):
            await (await k.session()).call(TEXT)


async def test_its_ups_and_downs_are_events() -> None:
    embedder = ScriptedEmbedder()
    async with kernel_for_tests(embedders=[embedder]) as k:
        assert embedder.changed is not None
        embedder.changed(CoreEvent(core="words", change="down", detail="killed"))
        (event,) = [e for e in (await k.operator.call(ReadEvents())).events if isinstance(e, CoreChanged)]
        assert (event.core, event.change, event.detail) == ("words", "down", "killed")
