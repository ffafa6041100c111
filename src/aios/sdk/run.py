"""`aios.run`: an agent from a script of your own, with one call that waits for its result."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Any

import msgspec

from aios.abi.errors import Conflict, NeedsApproval, Unavailable
from aios.abi.lines import clean_line
from aios.abi.manifest import Manifest
from aios.abi.process import Exit, Logs, ProcessInfo, Signal, SignalProcess, Spawn, WaitFor
from aios.abi.request import Class
from aios.abi.system import Now
from aios.sdk.agent import Agent
from aios.sdk.client import Client
from aios.sdk.process import result_of, spawning

LOGS_WAIT_S = 30.0


def run(agent: Agent[..., Any] | Manifest, *args: Any, cls: Class | None = None, yes: bool = False) -> Any:
    """Run an agent as a process of the kernel and return its result; what it prints is shown meanwhile.

    Starts a kernel if none runs. The first time, and whenever the agent asks for something else, shows what it asks for and
    asks once; `yes` accepts it unseen. `cls`: the highest class of its calls, instead of the agent's. Ctrl-C stops the agent,
    a second one kills it. Raises the error that the agent ended in.
    """
    request = spawning(agent, args, cls=cls)
    client = connected()
    return result_of(attended(client, spawned(client, request, yes)))


def connected() -> Client:
    """The running kernel; where there is none, one is started. Raises `Unavailable`."""
    client = Client()
    try:
        client.call(Now())
    except Unavailable:
        started = subprocess.run([sys.executable, "-m", "aios", "up", "--detach"], stdout=subprocess.DEVNULL)
        if started.returncode:
            raise Unavailable("no kernel runs, and none could be started: `aios up` says more") from None
        client.call(Now())
    return client


def spawned(client: Client, request: Spawn, yes: bool) -> ProcessInfo:
    """Start the agent, after the person has accepted what it asks for. Raises `NeedsApproval`."""
    manifest = request.manifest
    accepting = msgspec.structs.replace(request, accepted=manifest.hash())
    if yes:
        return client.call(accepting)
    try:
        return client.call(request)
    except NeedsApproval:
        if not sys.stdin.isatty():
            how = f"`aios run --yes {what_runs(manifest)}` accepts it once, and so does `aios.run(..., yes=True)`"
            wants = ", ".join(f"`{grant}`" for grant in manifest.grants) or "nothing"
            text = f"`{manifest.agent}` asks for {wants}, was not accepted yet, and nobody is here to ask: {how}"
            raise NeedsApproval(clean_line(text)) from None
        print(asks(manifest), file=sys.stderr)
        print("Accept? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise NeedsApproval(f"`{manifest.agent}` was not accepted, and not started") from None
    return client.call(accepting)


def asks(manifest: Manifest) -> str:
    """What an agent asks for, as a person reads it."""
    lines = [f"agent {manifest.agent}  ({what_runs(manifest)})"]
    lines += [f"  may  {grant}" for grant in manifest.grants] or ["  may nothing"]
    lines.append(f"  class {manifest.cls} at most, model {manifest.model}")
    if manifest.command:
        lines.append(f"  in {manifest.folder}: it reads this folder, its script's, and the files that it names")
    if manifest.restart != ("temporary" if manifest.command else "transient"):
        lines.append(f"  restart {manifest.restart}")
    return "\n".join(map(clean_line, lines))


def what_runs(manifest: Manifest) -> str:
    """What a manifest names, as `aios run` takes it."""
    return f"-- {shlex.join(manifest.command)}" if manifest.command else f"{manifest.program}:{manifest.entry}"


def attended(client: Client, process: ProcessInfo) -> Exit:
    """Show what a process prints until it ends; how it did."""
    signals: list[Signal] = ["kill", "stop"]
    cursor, more = 0, True
    while more:
        try:
            page = client.call(Logs(pid=process.pid, after=cursor, wait_s=LOGS_WAIT_S))
            cursor, more = page.next, bool(page.lines) or not page.ended
            for line in page.lines:
                print(clean_line(line.text), file=sys.stdout if line.stream == "out" else sys.stderr, flush=True)
        except KeyboardInterrupt:
            if not signals:
                raise
            try:
                client.call(SignalProcess(pid=process.pid, signal=signals.pop()))
            except Conflict as error:  # it is suspended: the next Ctrl-C kills it
                print(clean_line(error.message), file=sys.stderr, flush=True)
    return client.call(WaitFor(pid=process.pid))
