"""The examination of the port `Embedder`, which every driver sits; and how the index child is replaced."""

import asyncio
import math
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.abi.errors import CoreFailed, Unavailable
from aios.drivers.embed.driver import (
    BATCH_CHARACTERS,
    BATCH_TEXTS,
    DIMENSIONS,
    WEIGHTS,
    WINDOW,
    EmbedderConfig,
    MiniLMEmbedder,
    batches,
    find,
    fits,
)  # fmt: skip
from aios.drivers.embed.protocol import Vectors
from aios.drivers.sandbox.landlock import LandlockSandbox, interpreter_paths
from aios.ports.core import CoreEvent
from aios.ports.embedder import Embedder
from aios.testing import ScriptedEmbedder

pytestmark = pytest.mark.real


@asynccontextmanager
async def minilm(
    changed: Callable[[CoreEvent], None] = lambda event: None, folder: Path | None = None, **config: Any
) -> AsyncIterator[MiniLMEmbedder]:
    sandbox = LandlockSandbox()
    embedder = MiniLMEmbedder(folder or find(), EmbedderConfig(**{"threads": 1, **config}), sandbox, interpreter_paths())
    embedder.watch(changed)
    try:
        yield embedder
    finally:
        await embedder.close()
        sandbox.close()


@asynccontextmanager
async def scripted() -> AsyncIterator[ScriptedEmbedder]:
    yield ScriptedEmbedder()


every = pytest.mark.parametrize("opened", [scripted, minilm], ids=["scripted", "minilm"])


def numbers(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def likeness(one: bytes, other: bytes) -> float:
    return math.sumprod(numbers(one), numbers(other)) if hasattr(math, "sumprod") else sum(
        a * b for a, b in zip(numbers(one), numbers(other), strict=True)
    )  # fmt: skip


@every
async def test_each_text_has_a_vector_of_length_one_in_its_place(opened: Any) -> None:
    async with opened() as embedder:
        info = embedder.info()
        texts = [f"text number {number}" for number in range(100)]
        found = await embedder.embed(texts, "passage")
        assert len(found.vectors) == 100 and found.cut == 0 and found.tokens >= 300
        assert {len(vector) for vector in found.vectors} == {4 * info.dimensions}
        assert all(abs(likeness(vector, vector) - 1) < 1e-5 for vector in found.vectors)
        again = await embedder.embed([texts[57]], "passage")
        assert likeness(again.vectors[0], found.vectors[57]) > 0.99999


@every
async def test_what_is_longer_than_the_window_counts_by_its_beginning(opened: Any) -> None:
    async with opened() as embedder:
        window = embedder.info().window
        long = " ".join(["word"] * window)
        found = await embedder.embed([long, long + " and more", "short"], "query")
        assert found.cut >= 1 and found.tokens <= 2 * window + 8
        longer = await embedder.embed([long + " more" * window], "query")
        assert longer.cut == 1 and longer.tokens == window


@every
async def test_calls_at_the_same_time_each_get_their_own(opened: Any) -> None:
    async with opened() as embedder:
        alone = [(await embedder.embed([f"question {number}"], "query")).vectors[0] for number in range(8)]
        together = await asyncio.gather(*(embedder.embed([f"question {number}"], "query") for number in range(8)))
        assert all(likeness(one, other.vectors[0]) > 0.99999 for one, other in zip(alone, together, strict=True))


async def test_a_short_call_does_not_wait_for_a_long_one() -> None:
    ended: list[str] = []

    async def embed(embedder: Embedder, name: str, texts: list[str]) -> None:
        await embedder.embed(texts, "passage")
        ended.append(name)

    async with minilm() as embedder, asyncio.TaskGroup() as group:
        group.create_task(embed(embedder, "long", [f"a sentence with the number {number}" for number in range(400)]))
        group.create_task(embed(embedder, "short", ["x"]))
    assert ended == ["short", "long"]


async def test_who_gives_up_leaves_nothing_in_line() -> None:
    async with minilm() as embedder:
        calls = [asyncio.ensure_future(embedder.embed(["x"] * 200, "passage")) for _ in range(3)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert not embedder._waiting
        assert (await embedder.embed(["still there"], "query")).cut == 0


async def test_a_child_that_dies_is_replaced_and_no_caller_sees_it() -> None:
    heard: list[CoreEvent] = []

    def changed(event: CoreEvent) -> None:
        heard.append(event)
        if event.pid is not None and len(heard) == 1:
            os.kill(event.pid, signal.SIGKILL)

    async with minilm(changed) as embedder:
        assert len((await embedder.embed(["x"], "query")).vectors) == 1
        assert [event.change for event in heard] == ["up", "down", "up"]
        assert embedder.health().restarts == 1 and embedder.health().up


async def test_a_frozen_child_is_replaced() -> None:
    heard: list[CoreEvent] = []

    def changed(event: CoreEvent) -> None:
        heard.append(event)
        if event.pid is not None and len(heard) == 1:
            os.kill(event.pid, signal.SIGSTOP)

    async with minilm(changed, freeze_s=2.0) as embedder:
        assert len((await embedder.embed(["x"], "query")).vectors) == 1
        assert "silent" in heard[1].detail


async def test_texts_that_children_die_of_are_given_up_and_others_go_on() -> None:
    deadly = True

    def changed(event: CoreEvent) -> None:
        if event.pid is not None and deadly:
            os.kill(event.pid, signal.SIGKILL)

    async with minilm(changed) as embedder:
        with pytest.raises(CoreFailed, match="2 times"):
            await embedder.embed(["x"], "query")
        deadly = False
        assert len((await embedder.embed(["x"], "query")).vectors) == 1


async def test_damaged_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"\0" * 1000)
    (tmp_path / "vocab.txt").write_text("[UNK]\n")
    async with minilm(folder=find(tmp_path)) as embedder:
        with pytest.raises(Unavailable, match=r"damaged.*pip install"):
            await embedder.embed(["x"], "query")
        assert not embedder.health().up and "damaged" in embedder.health().detail


def test_a_folder_without_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no model.safetensors"):
        find(tmp_path)


def status_of(pid: int | None) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc: Linux alone tells this")
async def test_the_child_is_confined() -> None:
    async with minilm() as embedder:
        await embedder.embed(["x"], "query")
        status = status_of(embedder.health().pid)
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status


def test_the_kernels_side_imports_no_numpy() -> None:
    program = "import sys, aios.boot; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "aios.drivers.embed.driver" in loaded and not {"numpy", "aios.drivers.embed.minilm"} & set(loaded)


def test_batches_are_small_and_in_order() -> None:
    texts = ["x" * size for size in (1, BATCH_CHARACTERS, 5000, 1, *[1] * 100)]
    cut = list(batches(texts))
    assert [text for batch in cut for text in batch] == texts
    assert all(len(batch) <= BATCH_TEXTS for batch in cut)
    assert all(len(batch) == 1 or sum(map(len, batch)) <= BATCH_CHARACTERS for batch in cut)


def test_an_answer_that_is_none_is_not_believed() -> None:
    vector = b"\0" * 4 * DIMENSIONS
    assert fits(Vectors((vector,), 3, 0), ("x",))
    for wrong in (
        Vectors((), 3, 0), Vectors((vector, vector), 3, 0), Vectors((vector[1:],), 3, 0), Vectors((vector,), WINDOW + 1, 0),
        Vectors((vector,), 0, 0), Vectors((vector,), 3, 2), Vectors((vector,), 3, -1),
    ):  # fmt: skip
        assert not fits(wrong, ("x",))
