"""The kernel as an agent sees it: all that leaves the process is a method of `k`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, cast

import msgspec

from aios.abi.errors import Cancelled, Fault, Invalid, Killed, error_of
from aios.abi.llm import Delta, Generate, LabelScore, Message, Score
from aios.abi.manifest import Manifest
from aios.abi.process import Exit, ProcessInfo, Self, Signal, SignalProcess, Spawn, WaitFor
from aios.abi.request import NO_OPTIONS, CallOptions, Class, Request
from aios.abi.system import Now, RandomBytes, Sleep
from aios.ports.gate import Gate
from aios.sdk.agent import Agent

R = TypeVar("R")
Prompt = str | Iterable[Message | Mapping[str, Any]]


class Kernel:
    """A process's handle. `model`: what `default` means for it."""

    def __init__(self, gate: Gate, model: str = "default") -> None:
        self._gate = gate
        self._model = model

    async def ask(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        cls: Class | None = None,
        deadline_s: float | None = None,
    ) -> str:
        """Ask a model and return its answer. `prompt`: a text, or the messages of a conversation.

        The other arguments are those of `Generate` and `CallOptions`. Raises `AiosError`.
        """
        request = self._generate(prompt, model, system, max_tokens, temperature, stop, seed)
        return (await self._gate.call(request, _options(cls, deadline_s))).text

    async def stream(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        cls: Class | None = None,
        deadline_s: float | None = None,
    ) -> AsyncIterator[str]:
        """The same, piece by piece. Closing the iterator cancels the call."""
        request = self._generate(prompt, model, system, max_tokens, temperature, stop, seed)
        events = cast(Any, self._gate.stream(request, _options(cls, deadline_s)))
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Delta) and event.text:
                    yield event.text

    async def score(
        self, prompt: str, labels: Sequence[str], *, model: str | None = None, baseline: str | None = None,
        cls: Class | None = None,
    ) -> tuple[LabelScore, ...]:  # fmt: skip
        """How likely a model holds each of these continuations of a text, see `Score`. Raises `AiosError`."""
        request = Score(model=model or self._model, prompt=prompt, labels=tuple(labels), baseline=baseline)
        return (await self._gate.call(request, _options(cls, None))).labels

    async def choose(
        self, prompt: str, labels: Sequence[str], *, model: str | None = None, baseline: str | None = None, sure: float = 0.0,
        cls: Class | None = None,
    ) -> str | None:  # fmt: skip
        """The likeliest label; None if it has less than the probability `sure` (0 to 1) among them. Raises `AiosError`."""
        scores = await self.score(prompt, labels, model=model, baseline=baseline, cls=cls)
        best = max(scores, key=lambda score: score.probability)
        return best.label if best.probability >= sure else None

    async def spawn(self, agent: Agent[..., Any] | Manifest, *args: Any) -> Process:
        """Start an agent as a child of this one. `args`: what its function is called with after `k`; JSON values."""
        return Process(self._gate, await self._gate.call(spawning(agent, args)))

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._gate.call(Sleep(seconds=seconds))

    async def now(self) -> int:
        """The time in nanoseconds UTC, recorded."""
        return (await self._gate.call(Now())).at_ns

    async def random(self, size: int = 32) -> bytes:
        """`size` random bytes, recorded."""
        return (await self._gate.call(RandomBytes(size=size))).data

    async def self(self) -> ProcessInfo:
        """What the kernel knows of this process."""
        return await self._gate.call(Self())

    async def call(self, request: Request[R], options: CallOptions = NO_OPTIONS) -> R:
        """Make any system call. Raises `AiosError`."""
        return await self._gate.call(request, options)

    def log(self, text: str) -> None:
        """Write a line to this process's log, as `print` does."""
        print(text)

    def _generate(
        self,
        prompt: Prompt,
        model: str | None,
        system: str | None,
        max_tokens: int | None,
        temperature: float | None,
        stop: Sequence[str],
        seed: int | None,
    ) -> Generate:
        said = [Message("user", prompt)] if isinstance(prompt, str) else [_message(message) for message in prompt]
        if system is not None:
            said.insert(0, Message("system", system))
        return Generate(
            model=model or self._model,
            messages=tuple(said),
            max_tokens=max_tokens,
            temperature=temperature,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            seed=seed,
        )


class Process:
    """A process that was started. `name`: what people type."""

    def __init__(self, gate: Gate, info: ProcessInfo) -> None:
        self._gate = gate
        self.pid = info.pid
        self.name = info.name

    def __repr__(self) -> str:
        return f"<process {self.name}>"

    async def wait(self) -> Any:
        """What its function returns. Raises the error that it ended in: `ChildFailed`, `Killed`, or another `AiosError`."""
        return result_of(await self._gate.call(WaitFor(pid=self.pid)))

    async def stop(self) -> None:
        """Ask it to end: its code sees a cancellation and may clean up."""
        await self._signal("stop")

    async def kill(self) -> None:
        """End it."""
        await self._signal("kill")

    async def _signal(self, signal: Signal) -> None:
        await self._gate.call(SignalProcess(pid=self.pid, signal=signal))


class BlockingKernel:
    """The handle of an agent that is a plain function, in a thread of its own: the same methods, and they block.

    `stream` gives a plain iterator, `spawn` a process whose methods block.
    """

    def __init__(self, target: Kernel | Process, calls: Calls) -> None:
        self._target, self._calls = target, calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if not callable(method):
            return method

        def block(*args: Any, **kwargs: Any) -> Any:
            made = method(*args, **kwargs)
            if isinstance(made, AsyncGenerator):
                return self._drain(made)
            if not asyncio.iscoroutine(made):
                return made
            value = self._calls.wait(made)
            return BlockingKernel(value, self._calls) if isinstance(value, Process) else value

        return block

    def _drain(self, pieces: AsyncGenerator[Any]) -> Iterator[Any]:
        end = object()
        try:
            while (piece := self._calls.wait(anext(pieces, end))) is not end:
                yield piece
        finally:
            self._calls.wait(pieces.aclose())


class Calls:
    """The calls that a thread waits for: made on the loop, cancelled all together."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: set[asyncio.Task[Any]] = set()
        self._stopped = False

    def wait(self, made: Awaitable[Any]) -> Any:
        """From the thread: the result of a call. Raises `concurrent.futures.CancelledError` once stopped."""
        return asyncio.run_coroutine_threadsafe(self._held(made), self._loop).result()

    def stop(self) -> None:
        """Cancel those that are open, and every later one."""
        self._stopped = True
        for task in self._open:
            task.cancel()

    async def _held(self, made: Awaitable[Any]) -> Any:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._open.add(task)
        if self._stopped:
            task.cancel()
        try:
            return await made
        finally:
            self._open.discard(task)


def spawning(agent: Agent[..., Any] | Manifest, args: tuple[Any, ...], accepted: str | None = None) -> Spawn:
    """The request that starts an agent. Raises `Invalid` for arguments that cannot be sent."""
    manifest = agent if isinstance(agent, Manifest) else agent.manifest()
    try:
        arguments = tuple(msgspec.to_builtins(args))
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"the arguments of `{manifest.agent}` cannot be sent: {error}", field="arguments") from error
    return Spawn(manifest=manifest, arguments=arguments, accepted=accepted)


def result_of(end: Exit) -> Any:
    """What a process returned. Raises the error that it ended in."""
    if end.outcome == "result":
        return end.result
    if end.outcome == "killed":
        raise Killed(end.message or "the process was killed")
    raise error_of(Fault(end.error or Cancelled.__name__, end.message))


def _message(message: Message | Mapping[str, Any]) -> Message:
    if isinstance(message, Message):
        return message
    try:
        return msgspec.convert(message, Message)
    except msgspec.ValidationError as error:
        raise Invalid(f"a message is wrong: {error}", field="messages") from error


def _options(cls: Class | None, deadline_s: float | None) -> CallOptions:
    return NO_OPTIONS if cls is None and deadline_s is None else CallOptions(cls=cls, deadline_s=deadline_s)
