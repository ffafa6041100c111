"""Real kills of real processes: nothing is left behind, nothing hangs, and what can go on does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from aios.abi.errors import AiosError, Killed
from aios.abi.event import CallEnded, HostChanged, ProcessChanged, ReadEvents
from aios.abi.llm import Completion, Generate, Message
from aios.abi.mail import SendMail
from aios.abi.manifest import Manifest
from aios.abi.process import Exit, Explain, ProcessInfo, SignalProcess, Spawn, WaitFor
from aios.abi.system import CoreState, ListCores
from aios.cli.running import Running
from aios.sdk.client import Client

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(180)]
T = TypeVar("T")

AGENTS = """\
import aios


@aios.agent(cls="batch")
async def talks(k: aios.Kernel, calls: int) -> int:
    for _ in range(calls):
        await k.ask("Tell a story.", max_tokens=40)
    return calls


@aios.agent(cls="batch")
async def spins(k: aios.Kernel) -> None:
    await k.ask("Hello.", max_tokens=4)
    while True:
        pass


@aios.agent
async def waits(k: aios.Kernel) -> str:
    return (await k.receive()).value
"""


class Node:
    """A kernel in a home of its own, with the embedded model on two slots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "agents.py").write_text(AGENTS)
        (folder / "aios.toml").write_text("[server]\nport = 0\n[local]\nslots = 2\nwindow = 512\n")
        self.environment = {**os.environ, "AIOS_HOME": str(folder.parent / "home")}
        self._aios("up", "--detach", "--config", str(folder / "aios.toml"))
        record = folder.parent / "home" / "run" / "kernel.json"
        self.running = msgspec.json.decode(record.read_bytes(), type=Running)
        self.token = (folder.parent / "home" / "run" / "operator.token").read_text()

    def _aios(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "aios", *arguments], env=self.environment, cwd=self.folder, check=True, timeout=90)

    def down(self) -> None:
        if alive(self.running.os_pid):
            self._aios("down", "--grace", "0")

    def client(self) -> Client:
        return Client(url=self.running.http, token=self.token)

    def spawn(self, entry: str, *arguments: object) -> ProcessInfo:
        manifest = Manifest(agent=entry, program=str(self.folder / "agents.py"), entry=entry, grants=("use /llm/*",), cls="batch")
        return self.client().call(Spawn(manifest=manifest, arguments=arguments, accepted=manifest.hash()))

    def exit_of(self, process: ProcessInfo) -> Exit:
        return self.client().call(WaitFor(pid=process.pid))

    def core(self) -> CoreState:
        return self.client().call(ListCores()).cores[0]

    def when(self, condition: Callable[[], T]) -> T:
        """Follow the events until a condition holds."""
        cursor, end = 0, time.monotonic() + 60
        while not (found := condition()):
            assert time.monotonic() < end, "it never came to that"
            cursor = self.client().call(ReadEvents(after=cursor, wait_s=0.1)).next
        return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    folder = tmp_path / "project"
    folder.mkdir()
    node = Node(folder)
    try:
        yield node
    finally:
        node.down()


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone_within(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(alive, pids)):
            return True
        threading.Event().wait(0.02)
    return False


def descendants(pid: int) -> list[int]:
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return children + [below for child in children for below in descendants(child)]


def test_a_killed_kernel_leaves_no_orphan(node: Node) -> None:
    process = node.spawn("talks", 50)
    node.when(lambda: node.client().call(Explain(pid=process.pid)).process.host_pid)
    family = descendants(node.running.os_pid)
    assert len(family) >= 2, "the model's host and the agents' host at least"
    os.kill(node.running.os_pid, signal.SIGKILL)
    assert gone_within(family, 3.0), [Path(f"/proc/{pid}/cmdline").read_text() for pid in family if alive(pid)]


def test_a_stuck_agent_is_killed_with_its_host_and_the_others_in_it_begin_again(node: Node) -> None:
    bystander = node.spawn("waits")
    node.when(lambda: runs(node, bystander) == [0])
    stuck = node.spawn("spins")
    node.when(lambda: any(isinstance(e, CallEnded) and e.pid == stuck.pid for e in events(node)))
    began = time.monotonic()
    node.client().call(SignalProcess(pid=stuck.pid, signal="kill"))
    assert node.exit_of(stuck).outcome == "killed"
    assert time.monotonic() - began < 8.0
    node.when(lambda: runs(node, bystander) == [0, 1])
    node.client().call(SendMail(to=bystander.pid, value="rested"))
    end = node.exit_of(bystander)
    assert (end.outcome, end.result) == ("result", "rested")
    assert runs(node, bystander) == [0, 1]
    assert any(isinstance(e, HostChanged) and e.change == "ended" for e in events(node))


def runs(node: Node, process: ProcessInfo) -> list[int]:
    """The restarts with which it has run so far."""
    changes = [e for e in events(node) if isinstance(e, ProcessChanged) and e.pid == process.pid]
    return [e.restart for e in changes if e.state == "running"]


def events(node: Node) -> tuple[object, ...]:
    return node.client().call(ReadEvents(limit=10_000)).events


def test_killing_any_child_at_any_time_leaves_no_call_stuck(node: Node) -> None:
    agents = [node.spawn("talks", 3) for _ in range(4)]
    answers: list[Completion | AiosError] = []

    def ask() -> None:
        try:
            answers.append(node.client().call(Generate(messages=(Message("user", "Tell a story."),), max_tokens=60)))
        except AiosError as error:
            answers.append(error)

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    for blow in range(3):
        hosts = {e.os_pid for e in events(node) if isinstance(e, HostChanged) and alive(e.os_pid)}
        core = node.when(lambda: node.core().os_pid)
        victims = [core] if blow % 2 == 0 else [*hosts]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        seen = len(events(node))
        node.when(lambda seen=seen: len(events(node)) > seen + 2)  # type: ignore[misc]  # bound now
    for caller in callers:
        caller.join(90)
        assert not caller.is_alive(), "a call hangs"
    assert all(isinstance(answer, Completion) for answer in answers), answers
    assert [node.exit_of(process).outcome for process in agents] == ["result"] * 4
    assert node.core().running == 0


def test_a_signal_ends_a_busy_kernel_in_bounded_time_and_tells_its_callers(node: Node) -> None:
    ends: list[object] = []

    def ask() -> None:
        try:
            ends.append(node.client().call(Generate(messages=(Message("user", "Tell a story."),), max_tokens=480)))
        except AiosError as error:
            ends.append(error)

    callers = [threading.Thread(target=ask) for _ in range(8)]
    for caller in callers:
        caller.start()
    node.when(lambda: node.core().running >= 2)
    family = descendants(node.running.os_pid)
    began = time.monotonic()
    os.kill(node.running.os_pid, signal.SIGTERM)
    assert gone_within([node.running.os_pid, *family], 20.0)
    assert time.monotonic() - began < 20.0
    for caller in callers:
        caller.join(10)
    assert len(ends) == 8 and any(isinstance(end, Killed | AiosError) for end in ends)
