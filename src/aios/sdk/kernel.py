"""The kernel as an agent sees it: all that leaves the process is a method of `k`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

import msgspec

from aios.abi.errors import Invalid
from aios.abi.llm import Delta, Embed, EmbedKind, Generate, LabelScore, Message, Score
from aios.abi.manifest import Manifest
from aios.abi.process import ProcessInfo, Self
from aios.abi.request import NO_OPTIONS, CallOptions, Class, Request
from aios.abi.system import Now, RandomBytes, Sleep
from aios.abi.tool import ExecuteTool
from aios.ports.gate import Gate
from aios.sdk.agent import Agent
from aios.sdk.asking import Bounds, Conversation, Form
from aios.sdk.boards import Board
from aios.sdk.group import MOST_WIDTH, Group, OnError
from aios.sdk.leases import Lease
from aios.sdk.mail import Addressee, Received, receive, request, send
from aios.sdk.process import Process, spawning
from aios.sdk.tool import Tool, Toolbox, tools_of

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Prompt = str | Iterable[Message | Mapping[str, Any]]


class Saying(TypedDict, total=False):
    """How a model is asked, see `Generate` and `CallOptions`."""

    model: str | None
    system: str | None
    max_tokens: int | None
    temperature: float | None
    stop: Sequence[str]
    seed: int | None
    cls: Class | None
    deadline_s: float | None


class Asking(Saying, total=False):
    """How a model is asked until it has answered, see `Kernel.ask`."""

    tools: Sequence[Tool[..., Any] | Callable[..., Any]] | None
    tool_choice: str | dict[str, Any] | None
    max_steps: int
    repairs: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The same with its defaults. Raises TypeError for a name that is none of them."""

    model: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    stop: Sequence[str] = ()
    seed: int | None = None
    cls: Class | None = None
    deadline_s: float | None = None
    tools: Sequence[Tool[..., Any] | Callable[..., Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    max_steps: int = 8
    repairs: int = 2


class Kernel:
    """A process's handle. `model`: what `default` means for it. `tools`: those of its agent."""

    def __init__(self, gate: Gate, model: str = "default", tools: Iterable[Tool[..., Any]] = ()) -> None:
        self._gate = gate
        self._model = model
        self.tools = Toolbox(gate, tools)
        self._groups = 0

    @overload
    async def ask(self, prompt: Prompt, *, out: type[T], **how: Unpack[Asking]) -> T: ...

    @overload
    async def ask(self, prompt: Prompt, *, out: None = None, **how: Unpack[Asking]) -> str: ...

    async def ask(self, prompt: Prompt, *, out: type[T] | None = None, **how: Unpack[Asking]) -> T | str:
        """Ask a model and return its answer. `prompt`: a text, or the messages of a conversation.

        `out`: the type of the answer, of which JSON can speak (a `msgspec.Struct`, dataclass, `TypedDict` or builtin); an answer
        that does not fit is shown to the model with what is wrong, `repairs` times (2), then `OutputInvalid` is raised.
        `tools`: functions that the model may have run, instead of the agent's; `max_steps`: how many answers it has (8), in the
        last of which it may ask for none; `tool_choice`: of the first, see `Generate`. The others are those of `Generate` and
        `CallOptions`; `deadline_s` is of the whole question. Raises `AiosError`.
        """
        asked = Asked(**how)
        conversation = Conversation(
            self._gate,
            self.tools,
            self._generate(prompt, asked),
            Bounds.of(asked.max_steps, asked.repairs, asked.cls, asked.deadline_s),
        )
        tools = self.tools.own if asked.tools is None else tools_of(asked.tools)
        if out is not None:
            return await conversation.typed(Form(out), tools, asked.tool_choice)
        return await conversation.text(tools, asked.tool_choice)

    async def stream(self, prompt: Prompt, **how: Unpack[Saying]) -> AsyncIterator[str]:
        """The same, piece by piece, without tools. Closing the iterator cancels the call."""
        asked = Asked(**how)
        events = cast(Any, self._gate.stream(self._generate(prompt, asked), _options(asked.cls, asked.deadline_s)))
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Delta) and event.text:
                    yield event.text

    @overload
    async def do(self, tool: Tool[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    async def do(self, tool: Tool[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...

    async def do(self, tool: Tool[P, Any], *args: P.args, **kwargs: P.kwargs) -> Any:
        """Have a tool run by the kernel, as a model can: bounded, recorded, and known to whoever asks why. Raises `AiosError`."""
        await self.tools.ready((tool,))
        arguments = tool.said(args, kwargs)
        return tool.result((await self._gate.call(ExecuteTool(tool=tool.name, arguments=arguments))).value)

    async def embed(
        self, texts: str | Sequence[str], *, kind: EmbedKind = "passage", model: str = "default", cls: Class | None = None
    ) -> tuple[tuple[float, ...], ...]:
        """A vector of length one for each text, see `Embed`: the nearer in meaning, the greater the dot product.

        `kind`: `query` for what others are to be found with. Raises `AiosError`.
        """
        wanted = (texts,) if isinstance(texts, str) else tuple(texts)
        return (await self._gate.call(Embed(model=model, texts=wanted, kind=kind), _options(cls, None))).floats()

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

    def group(self, *, width: int = MOST_WIDTH, on_error: OnError = "cancel", key: str | None = None) -> Group:
        """A block of children that none of them outlives: `async with k.group() as g`, see `Group`.

        `width`: how many there are at once, at most 200; those that wait for others (`after`) count when nobody else wants the
        place. `on_error`: what the first error of a child does. `cancel` ends the others and leaves the block with an
        `ExceptionGroup` of all errors; `collect` lets them go on, and lists the children that failed in `g.failed`.
        `key`: the group's name in the ids of its calls, unique in its process (a number).
        """
        self._groups += 1
        return Group(self._gate, f"g{self._groups}" if key is None else key, width, on_error)

    async def map(
        self, agent: Agent[..., Any], items: Iterable[Any], *, width: int = MOST_WIDTH, cls: Class | None = None,
        key: Callable[[Any], object] | None = None,
    ) -> list[Any]:  # fmt: skip
        """What an agent returns for each item, in their order: a group of its own. Raises `ExceptionGroup`."""
        async with self.group(width=width) as group:
            children = group.map(agent, items, cls=cls, key=key)
        return [child.result for child in children]

    async def send(self, to: Addressee, value: Any) -> str:
        """Send a JSON value to a process of one's family, or one that `write /mail/AGENT` grants; the mail's id.

        `to`: a pid, a name, the word `parent`, a process that was started, or mail whose sender is meant.
        """
        return await send(self._gate, to, value)

    async def receive(self, *, sender: Addressee | None = None, timeout_s: float | None = None) -> Received:
        """The oldest mail, or the oldest of one sender; waits for it. Raises `DeadlineExceeded` after `timeout_s`."""
        return await receive(self._gate, sender, timeout_s)

    async def request(self, to: Addressee, value: Any, *, timeout_s: float | None = None) -> Any:
        """Send a value and wait for the reply. Raises `DeadlineExceeded`, `Conflict` if the other ends, `Deadlock`."""
        return await request(self._gate, to, value, timeout_s)

    def board(self, name: str) -> Board:
        """A board: versioned values that all read and watch who are granted `read /boards/NAME`."""
        return Board(self._gate, name)

    def lease(self, name: str, *, ttl_s: float = 30.0, timeout_s: float | None = None) -> Lease:
        """A lease, to be held in a block: `async with k.lease("printer") as lease:`. Waits for it at most `timeout_s`.

        With no time to wait, one that another holds is a `Conflict` that names the holder.
        """
        return Lease(self._gate, name, ttl_s, timeout_s)

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

    def _generate(self, prompt: Prompt, asked: Asked) -> Generate:
        said = [Message("user", prompt)] if isinstance(prompt, str) else [_message(message) for message in prompt]
        if asked.system is not None:
            said.insert(0, Message("system", asked.system))
        return Generate(
            model=asked.model or self._model,
            messages=tuple(said),
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop),
            seed=asked.seed,
        )


def _message(message: Message | Mapping[str, Any]) -> Message:
    if isinstance(message, Message):
        return message
    try:
        return msgspec.convert(message, Message)
    except msgspec.ValidationError as error:
        raise Invalid(f"a message is wrong: {error}", field="messages") from error


def _options(cls: Class | None, deadline_s: float | None) -> CallOptions:
    return NO_OPTIONS if cls is None and deadline_s is None else CallOptions(cls=cls, deadline_s=deadline_s)
