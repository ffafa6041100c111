"""`k.embed`: vectors as numbers, of one text or of several."""

from aios.sdk.kernel import Kernel
from aios.testing import ScriptedEmbedder
from aios.testing.kernel import kernel_for_tests


async def test_texts_become_numbers_that_tell_which_are_alike() -> None:
    embedder = ScriptedEmbedder()
    async with kernel_for_tests(embedders=[embedder]) as k:
        agent = Kernel(await k.session())
        passages = await agent.embed(["the wide sea", "a tax form"])
        (question,) = await agent.embed("the sea", kind="query")
    near, far = (sum(a * b for a, b in zip(question, passage, strict=True)) for passage in passages)
    assert near > far and len(question) == 8
    assert embedder.calls == [("the wide sea", "a tax form"), ("the sea",)]
