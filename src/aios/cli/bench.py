"""`aios bench`: what a kernel adds to a call on this machine, and what its local model does, measured in less than a minute.

`benchmarks/` in the repository measures the same and much more against baselines; this is what everybody has at hand.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import click
import msgspec
import uvloop

from aios.abi.event import AnyEvent, CallEnded, Dispatched, EventPage, ReadEvents
from aios.abi.llm import Generate
from aios.abi.request import CLASSES, Class
from aios.abi.system import AddToken, CoreState, ListCores
from aios.cli.callers import Caller
from aios.cli.command import Command
from aios.cli.measured import Result, put, result, table, to_file
from aios.cli.own import kernel_of_its_own
from aios.cli.phases import Phases
from aios.cli.running import Running
from aios.cli.show import say
from aios.cli.upstream import MODEL, upstream
from aios.config import read_config
from aios.drivers.core.local.driver import LocalCoreConfig
from aios.sdk.client import Client

SETTINGS = """\
embedder = false
[server]
port = 0
[[core]]
name = "{model}"
base_url = "http://127.0.0.1:{port}/v1"
models = ["{model}"]
slots = 64
"""
AGENT, GRANTS = "bench", ("use /llm/*", "read /events")
WAIT_S = 20.0
WARM, ALONE = 50, 500
CALLERS, EACH = 32, 50
LONG, SHORT = 150, 20
"""Words of a prompt, about as many tokens."""
WORDS = ("the", "sea", "is", "wide", "and", "every", "ship", "that", "sails", "it", "comes", "home", "by", "its", "own", "star")
TURNS, FEW = 3, 16
"""Calls to the model one after the other, and what they may say."""
LEAST, MOST, TOGETHER_S = 8, 48, 8.0
"""Tokens of the calls that fill all slots; as many as take about so long."""
MEANINGS = {
    "start_s": "a new kernel answers after, its model proved, s",
    "direct_ms": "a call to a server that answers at once, median, ms",
    "added_ms": "what the kernel adds to it, median, ms",
    "calls_per_s": f"calls per second through the kernel, {CALLERS} callers",
    "ttft_s": f"the local model's first token, of a prompt of {LONG} words, s",
    "prompt_tokens_per_s": "tokens that it reads per second",
    "tokens_per_s": "tokens that it says per second, to one caller",
    "tokens_per_s_together": "the same to all slots together",
    "short_ttft_s": f"the first token of an interactive call, of a prompt of {SHORT} words, alone, s",
    "urgent_ttft_s": "the same while batch calls have all slots, s",
}


@click.command(cls=Command)
@to_file
@click.option("--no-local", is_flag=True, help="Without the model on this machine.")
def bench(file: IO[bytes] | None, no_local: bool) -> None:
    """Measure what a kernel adds, and what its model does here.

    Takes less than a minute, on a kernel of its own with the local model that `aios.toml` and `aios models use` name. Other work
    on this machine shows in the figures; `load_1m` says how much there was.
    """
    local = None if no_local else read_config().local
    found = measure(local)
    put(found, text(found), file)
    if local is None:
        say("no local model was measured")


def measure(local: LocalCoreConfig | None) -> Result:
    """Measure it. Raises `Failed` for a call that is not answered, and what a kernel raises that does not start."""
    with Phases() as phases, upstream(slots=1000, takes_ms=0) as port:
        phases.begin("a kernel of its own" + (f", with `{local.name}`" if local else ""))
        settings = SETTINGS.format(model=MODEL, port=port) + (table_of(local) if local else "")
        began = time.monotonic()
        with kernel_of_its_own(settings) as kernel, Client() as operator:
            figures = {"start_s": time.monotonic() - began}
            token = operator.call(AddToken(agent=AGENT, cls="interactive", grants=GRANTS)).value
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                phases.begin("calls to a server that answers at once")
                figures |= runner.run(overhead(f"http://127.0.0.1:{port}", kernel, token))
                core = next((core for core in operator.call(ListCores()).cores if core.name != MODEL), None)
                if core is not None:
                    figures |= runner.run(Model(phases, core, kernel, token).play())
    return result("bench", True, figures, [])


def table_of(local: LocalCoreConfig) -> str:
    """The settings of a local core as they would stand in a file, where they are not the defaults."""
    standard = LocalCoreConfig(home=local.home)
    lines = ["[local]"]
    for field in dataclasses.fields(local):
        value = getattr(local, field.name)
        if value != getattr(standard, field.name):
            lines.append(f"{field.name} = {msgspec.json.encode(value, enc_hook=as_text).decode()}")
    return "\n".join(lines) + "\n"


def as_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value.absolute())
    raise TypeError(f"no setting is a {type(value).__name__}")


async def overhead(upstream_url: str, kernel: Running, token: str) -> dict[str, float]:
    """What calls take that nothing is done for: directly and through the kernel."""
    with Caller(AGENT, upstream_url) as direct, Caller(AGENT, kernel.http, token) as mediated:
        seconds = []
        for caller in (direct, mediated):
            await caller.chats(WARM)
            seconds.append(statistics.median(await caller.chats(ALONE)))
        began = time.perf_counter()
        await asyncio.gather(*(mediated.chats(EACH) for _ in range(CALLERS)))
        per_s = CALLERS * EACH / (time.perf_counter() - began)
    return {"direct_ms": seconds[0] * 1000, "added_ms": (seconds[1] - seconds[0]) * 1000, "calls_per_s": per_s}


class Model:
    """The local model, and callers of each class. What calls took is read from the kernel's events."""

    def __init__(self, phases: Phases, core: CoreState, kernel: Running, token: str) -> None:
        self._phases = phases
        self._core = core
        self._callers = {cls: Caller(AGENT, kernel.http, token, cls) for cls in CLASSES}
        self._numbers = itertools.count()
        self._cursor = 0

    async def play(self) -> dict[str, float]:
        """One call after the other; then one in each slot; then an interactive one while batch calls have all slots."""
        slots = self._core.slots
        with ExitStack() as stack:
            for caller in self._callers.values():
                stack.enter_context(caller)
            self._phases.begin("the local model, one call after the other")
            await self._events()
            alone = [await self._alone() for _ in range(TURNS)]
            tokens_per_s = statistics.median(map(said_per_s, alone))
            tokens = max(LEAST, min(MOST, int(tokens_per_s * TOGETHER_S / slots)))
            self._phases.begin(f"the local model, {slots} calls at once")
            together = await self._together(slots, tokens)
            self._phases.begin("an interactive call while batch calls have all slots")
            short = await self._interactive()
            urgent = await self._urgent(2 * slots, tokens)
        return {
            "ttft_s": statistics.median(map(first_s, alone)),
            "prompt_tokens_per_s": statistics.median((call.input_tokens - call.cached_tokens) / first_s(call) for call in alone),
            "tokens_per_s": tokens_per_s,
            "tokens_per_s_together": said_per_s_by(together),
            "short_ttft_s": first_s(short),
            "urgent_ttft_s": first_s(urgent),
        }

    async def _alone(self) -> CallEnded:
        await self._generate("standard", LONG, FEW)
        (ended,) = await self._ended("standard")
        return ended

    async def _together(self, calls: int, tokens: int) -> list[CallEnded]:
        await asyncio.gather(*(self._generate("standard", SHORT, tokens) for _ in range(calls)))
        return await self._ended("standard")

    async def _urgent(self, calls: int, tokens: int) -> CallEnded:
        """Those of the batch calls that have not ended then are given up."""
        batch = [asyncio.ensure_future(self._generate("batch", SHORT, tokens)) for _ in range(calls)]
        try:
            begun = 0
            while begun < self._core.slots:
                begun += sum(isinstance(event, Dispatched) and event.cls == "batch" for event in await self._events(WAIT_S))
            return await self._interactive()
        finally:
            for call in batch:
                call.cancel()
            await asyncio.wait(batch)

    async def _interactive(self) -> CallEnded:
        await self._generate("interactive", SHORT, LEAST)
        (ended,) = await self._ended("interactive")
        return ended

    async def _generate(self, cls: Class, words: int, tokens: int) -> None:
        """A call with a beginning of its own, so that nothing is shared."""
        request = Generate(model=self._core.models[0], prompt=prompt(next(self._numbers), words), max_tokens=tokens)
        await self._callers[cls].ask("POST", "/v1/call/llm.generate", msgspec.json.encode(request))

    async def _ended(self, cls: Class) -> list[CallEnded]:
        """The calls of a class that have ended since events were read last."""
        return [event for event in await self._events() if isinstance(event, CallEnded) and event.core and event.cls == cls]

    async def _events(self, wait_s: float = 0.0) -> list[AnyEvent]:
        """What has happened since, waiting so long for the first."""
        found: list[AnyEvent] = []
        while True:
            request = ReadEvents(after=self._cursor, wait_s=0.0 if found else wait_s, kinds=("call", "dispatch"))
            said = await self._callers["standard"].ask("POST", "/v1/call/event.read", msgspec.json.encode(request))
            page = msgspec.json.decode(said, type=EventPage)
            self._cursor = page.next
            found += page.events
            if len(page.events) < request.limit:
                return found


def prompt(number: int, words: int) -> str:
    """A text that begins as no other."""
    return f"{number} " + " ".join(random.Random(number).choices(WORDS, k=words))


def first_s(call: CallEnded) -> float:
    """Seconds until its first token."""
    assert call.first_ns is not None, "it was answered"
    return (call.first_ns - call.asked_ns) / 1e9


def said_per_s(call: CallEnded) -> float:
    """Tokens per second after its first."""
    assert call.first_ns is not None
    return (call.output_tokens - 1) / ((call.at_ns - call.first_ns) / 1e9)


def said_per_s_by(calls: Sequence[CallEnded]) -> float:
    """Tokens per second of calls together, from the moment at which the first of them says something."""
    began_ns = min(call.first_ns or call.at_ns for call in calls)
    return sum(call.output_tokens for call in calls) / ((max(call.at_ns for call in calls) - began_ns) / 1e9)


def text(found: Result) -> str:
    """The figures for people."""
    return table([{"": MEANINGS[name], "measured": value} for name, value in found.figures.items()])
