"""`aios demo`: a fleet of real agent processes shares one real local model; what it shows is computed from the event log."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

import aios
from aios.abi.account import SetLimit
from aios.abi.errors import Failed
from aios.abi.event import (
    AccountChanged,
    AnyEvent,
    CallEnded,
    CoreChanged,
    Dispatched,
    EventPage,
    Preempted,
    ProcessChanged,
    ReadEvents,
)
from aios.abi.manifest import Manifest
from aios.abi.process import Explain, ProcessInfo, SignalProcess, Spawn
from aios.abi.request import Request
from aios.abi.system import AddToken, ListCores
from aios.cli.command import Command
from aios.cli.facts import CLIENT, RUNAWAY, SLOTS, Fact, facts
from aios.cli.lanes import LiveLanes
from aios.cli.own import kernel_of_its_own
from aios.cli.running import Running
from aios.kernel.lanes.policies import POLICIES
from aios.sdk.agent import Agent
from aios.sdk.client import Client
from aios.userland import fleet, patient

T = TypeVar("T")

CEILING_S = 300.0
WAITING, WAITING_STILL, SPARE = 6, 2, 2
"""Batch calls that wait when the urgent one comes, and when the runaway is killed; and how many may end before all have come."""
QUESTIONS = tuple(
    f"In a word: what {verb} here?" for verb in ("calls", "waits", "holds", "decides", "ends", "stays", "asks", "acts")
)
HANDBOOK_CHARACTERS = 1600
ALLOWED, RAISED = 290, 100_000
"""Tokens that the runaway may spend a day: enough for its first call and not for its second, and then for all that it asks."""
MIDST_S = 0.6
"""After so long a generation is under way, and not near its end."""
SETTINGS = """\
[server]
port = 0
[local]
slots = {slots}
"""
BANNER = (
    "The control flow is code; the words are those of a model with 135 million parameters, on this machine, without a key.\n"
    "Its sentences are not what is shown here: the sharing, the order, the kills and the recoveries are."
)
VISITOR = """\
import openai
client = openai.OpenAI()
stream = client.chat.completions.create(
    model="default", stream=True, max_tokens=16,
    messages=[{"role": "user", "content": "Say hello to the other agents."}],
)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
"""


@click.command(cls=Command)
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="F", help="Write the report there; demo-report.json without a terminal."
)
@click.option(
    "--from", "log", type=click.Path(exists=True, path_type=Path), metavar="F", help="Ask the facts of a saved event log."
)
@click.option("--policy", type=click.Choice(tuple(POLICIES)), hidden=True, help="Who is next: with `fifo`, not the urgent one.")
def demo(report: Path | None, log: Path | None, policy: str | None) -> None:
    """Show a fleet of agents sharing one local model.

    Starts a kernel of its own in a temporary home, with 4 slots on the embedded model. Each line of the scorecard is a question
    to the event log, which is saved beside the report: `aios demo --from FILE` asks it again, and so does anybody with
    `aios events --json`. Exits 1 if a fact does not hold.
    """
    if log is not None:
        found = facts(msgspec.json.decode(log.read_bytes(), type=EventPage).events)
        raise click.exceptions.Exit(0 if show_scorecard(found) else 1)
    headless = not sys.stdout.isatty() or bool(os.environ.get("CI"))
    target = report or (Path("demo-report.json") if headless else None)
    began = time.monotonic()
    with kernel_of_its_own(settings(policy)) as kernel, Stage(headless) as stage:
        click.echo(f"kernel up after {time.monotonic() - began:.1f} s at {kernel.http}, process {kernel.os_pid}\n{BANNER}")
        play(stage, kernel)
        stage.catch_up()
        events, seconds = stage.events, time.monotonic() - began
    found = facts(events)
    if target is not None:
        write_report(target, found, events, seconds)
    if not show_scorecard(found):
        raise click.exceptions.Exit(1)


def settings(policy: str | None) -> str:
    """The kernel's; without a policy it has the one that all have."""
    return SETTINGS.format(slots=SLOTS) + (f'[lanes.cores]\npolicy = "{policy}"\n' if policy else "")


class Stage:
    """The fleet as its operator sees it: spawns, signals, and follows the event log."""

    def __init__(self, headless: bool) -> None:
        self.events: list[AnyEvent] = []
        self._client = Client()
        self._cursor = 0
        self._began = time.monotonic()
        self._lanes = LiveLanes(headless)

    def __enter__(self) -> Stage:
        self._lanes.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._lanes.stop()
        self._client.close()

    def say(self, text: str) -> None:
        """A line of the log, with the seconds since the start."""
        self._lanes.say(f"{time.monotonic() - self._began:5.1f} s  {text}")

    def spawn(self, program: Agent[..., Any], *arguments: Any) -> ProcessInfo:
        """Start an agent; the demo itself is the person who accepts what it asks for."""
        manifest: Manifest = program.manifest()
        return self._client.call(Spawn(manifest=manifest, arguments=arguments, accepted=manifest.hash()))

    def call(self, request: Request[T]) -> T:
        return self._client.call(request)

    def wait(self, condition: Callable[[], T | None], what: str) -> T:
        """Follow the log until a condition holds. Raises `Failed` when the demo's time is over."""
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() - self._began > CEILING_S:
                raise Failed(f"{CEILING_S:.0f} s are over, and still {what} has not happened")
            self.catch_up(wait_s=0.25)

    def look_on(self, seconds: float) -> None:
        """Follow the log for a while."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.catch_up(wait_s=max(0.0, ends - time.monotonic()))

    def catch_up(self, wait_s: float = 0.0) -> None:
        """Read what has happened since."""
        page = self._client.call(ReadEvents(after=self._cursor, limit=5000, wait_s=wait_s))
        self._cursor = page.next
        for event in page.events:
            self.events.append(event)
            self._lanes.show(event)
            line = story(event)
            if line:
                self.say(line)

    def ended(self, process: ProcessInfo) -> ProcessChanged | None:
        return next(
            (e for e in self.events if isinstance(e, ProcessChanged) and e.pid == process.pid and e.state == "ended"), None
        )

    def parked(self, process: ProcessInfo) -> bool:
        """Whether a call of the process was parked, as its budget is spent."""
        return any(isinstance(e, AccountChanged) and e.change == "parked" and e.name == process.name for e in self.events)

    def acting(self, process: ProcessInfo) -> bool:
        """Whether a call of the process has its slot now."""
        acts: set[str] = set()
        for event in self.events:
            if isinstance(event, CallEnded | Preempted):
                acts.discard(event.call)
            if isinstance(event, Dispatched | Preempted) and getattr(event, "change", "resumed") == "resumed":
                acts |= {event.call} if event.pid == process.pid else set()
        return bool(acts)


def story(event: AnyEvent) -> str:
    """What an event says to somebody who watches; "" for what only the log needs."""
    if isinstance(event, ProcessChanged) and event.state == "ended":
        return f"{event.name} {'done' if event.outcome == 'result' else event.outcome}  {event.detail}".rstrip()
    if isinstance(event, ProcessChanged) and event.restart and event.state == "running":
        return f"{event.name} started again from the beginning (restart {event.restart})"
    if isinstance(event, Preempted) and event.change == "frozen":
        said = f", after {event.tokens} tokens" if event.tokens else ""
        whom = f"{event.by} calls" if event.by is not None else "one that waits, its quantum is over"
        return f"{event.name} stands back for {whom}{said}"
    if isinstance(event, Preempted):
        return f"{event.name} goes on"
    if isinstance(event, CoreChanged):
        return f"core {event.core} {event.change}  {event.detail}".rstrip()
    return ""


def play(stage: Stage, kernel: Running) -> None:
    """The acts, each beginning when the fact of the one before it holds."""
    texts = own_texts()
    the_fleet(stage, texts)
    a_common_prompt(stage, "\n".join(texts)[:HANDBOOK_CHARACTERS])
    crowd = a_full_house(stage, texts, WAITING)
    an_urgent_one(stage)
    crowd += a_runaway(stage, texts)
    a_killed_agent(stage)
    a_killed_model_host(stage)
    a_visitor(stage, kernel)
    for process in crowd:
        stage.wait(lambda process=process: stage.ended(process), f"the end of {process.name}")  # type: ignore[misc]  # bound now


def the_fleet(stage: Stage, texts: Sequence[str]) -> None:
    stage.say("12 agents in 3 classes, each a coroutine in a confined child process; one model, 4 slots")
    kinds = (fleet.reply, fleet.explain, fleet.digest)
    agents = [stage.spawn(kinds[i % 3], texts[i % len(texts)]) for i in range(12)]
    for process in agents:
        stage.wait(lambda process=process: stage.ended(process), f"the end of {process.name}")  # type: ignore[misc]  # bound now


def a_common_prompt(stage: Stage, handbook: str) -> None:
    clerks = [stage.spawn(fleet.clerk, handbook, question) for question in QUESTIONS]
    stage.say(f"{len(clerks)} agents with the same long prompt and different questions")
    for process in clerks:
        stage.wait(lambda process=process: stage.ended(process), f"the end of {process.name}")  # type: ignore[misc]  # bound now


def a_full_house(stage: Stage, texts: Sequence[str], waiting: int) -> list[ProcessInfo]:
    """Batch calls have all slots, and at least so many wait for one; those that were missing for it."""

    def wait() -> int:
        return stage.call(ListCores()).waiting.get("batch", 0)

    missing = waiting - wait()
    crowd = [stage.spawn(fleet.digest, text) for text in texts[: missing + SLOTS + SPARE]] if missing > 0 else []
    stage.wait(lambda: wait() >= waiting, "a full house")
    return crowd


def an_urgent_one(stage: Stage) -> None:
    process = stage.spawn(fleet.urgent, "In one word: what colour is the sky?")
    stage.say(f"batch calls have all {SLOTS} slots, and others wait for them: {process.name} comes, interactive")
    stage.wait(lambda: stage.ended(process), "the urgent answer")


def a_runaway(stage: Stage, texts: Sequence[str]) -> list[ProcessInfo]:
    limit = partial(SetLimit, account=RUNAWAY, unit="tokens", window="day")
    stage.call(limit(amount=ALLOWED))
    process = stage.spawn(fleet.runaway)
    stage.say(f"{process.name} comes, which asks for ever; `{RUNAWAY}` may spend {ALLOWED} tokens a day")
    stage.wait(lambda: stage.parked(process), "the end of the runaway's budget")
    stage.say(f"`aios why {process.name}`: {stage.call(Explain(pid=process.pid)).reason}")
    stage.say(f"the operator raises it: `aios budget {RUNAWAY} --tokens {RAISED} --per day`")
    stage.call(limit(amount=RAISED))
    stage.wait(lambda: stage.acting(process), "the runaway's parked call going on")
    crowd = a_full_house(stage, texts, WAITING_STILL)
    stage.wait(lambda: stage.acting(process), "the runaway's slot")
    stage.say(f"{process.name} asks for ever: {stage.call(Explain(pid=process.pid)).reason}; the operator kills it")
    stage.call(SignalProcess(pid=process.pid, signal="kill"))
    stage.wait(lambda: stage.ended(process), "the runaway's end")
    return crowd


def a_killed_agent(stage: Stage) -> None:
    process = stage.spawn(patient.patient, ["What is a kernel?", "What is a process?"])
    stage.wait(lambda: stage.acting(process), "the patient's first slot")
    host = stage.call(Explain(pid=process.pid)).process.host_pid
    assert host is not None
    stage.say(f"kill -9 {host}: the child that {process.name} runs in")
    os.kill(host, signal.SIGKILL)
    stage.wait(lambda: stage.ended(process), "the patient's end")


def a_killed_model_host(stage: Stage) -> None:
    story = "A ship that lost its way"
    first = stage.spawn(fleet.twin, story)
    stage.wait(lambda: stage.ended(first), "the undisturbed twin's end")
    second = stage.spawn(fleet.twin, story)
    crowd = [second, *(stage.spawn(fleet.digest, text) for text in ("Once upon a time", "The sea is", "In the beginning"))]
    stage.wait(lambda: stage.acting(second), "the second twin's turn")
    stage.look_on(MIDST_S)
    host = stage.call(ListCores()).cores[0].os_pid
    assert host is not None
    stage.say(f"kill -9 {host}: the model's host, in mid-generation")
    os.kill(host, signal.SIGKILL)
    for process in crowd:
        stage.wait(lambda process=process: stage.ended(process), f"the end of {process.name}")  # type: ignore[misc]  # bound now


def a_visitor(stage: Stage, kernel: Running) -> None:
    token = stage.call(AddToken(agent=CLIENT)).value
    environment = {**os.environ, "OPENAI_BASE_URL": f"{kernel.http}/v1", "OPENAI_API_KEY": token}
    stage.say("an unmodified `openai` client joins, with a token of its own")
    client = subprocess.Popen([sys.executable, "-c", VISITOR], env=environment, stdout=subprocess.PIPE, text=True)
    stage.wait(lambda: client.poll() is not None, "the visitor's answer")
    said = client.communicate()[0].strip()
    stage.say(
        f"the client got: {said[:60]!r}" if client.returncode == 0 else f"the client failed with exit code {client.returncode}"
    )


def own_texts() -> list[str]:
    """Texts that are here on every machine: what the modules of this package say of themselves."""
    modules = sorted(Path(aios.__file__).parent.rglob("*.py"))
    docs = [ast.get_docstring(ast.parse(module.read_text())) or "" for module in modules]
    return [doc[:300] for doc in docs if len(doc) > 120]


def write_report(target: Path, found: Sequence[Fact], events: Sequence[AnyEvent], seconds: float) -> None:
    """The report, and beside it the event log that it was computed from."""
    tokens = sum(event.output_tokens for event in events if isinstance(event, CallEnded))
    report = {"facts": found, "seconds": round(seconds, 1), "tokens": tokens}
    target.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    log = target.with_name(target.stem.removesuffix("-report") + "-events.json")
    log.write_bytes(msgspec.json.encode(EventPage(events=tuple(events), next=len(events))))
    click.echo(f"report {target}, event log {log} (`aios demo --from {log}` asks it again)", err=True)


def show_scorecard(found: Sequence[Fact]) -> bool:
    """One line for each fact; whether all hold."""
    click.echo()
    for fact in found:
        mark = click.style("ok  ", fg="green") if fact.ok else click.style("FAIL", fg="red")
        click.echo(f"{mark}  {fact.name}\n      {fact.detail}")
    return all(fact.ok for fact in found)
