"""The host of a local model: `python -m aios.drivers.core.local.child FD PARENT`.

The driver starts it with one end of a socketpair and its own process id. Everything that could go wrong with a library or a file
is tried here, before it says that it is ready. Then one loop: take what the kernel says, do one pass, tell
what came of it. With nothing to do it waits in `recv`. It ends with its kernel: by the signal that Linux sends when a parent
dies, and everywhere by the end of the socket.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

from aios.abi.errors import Unavailable
from aios.drivers.core.local import golden, models
from aios.drivers.core.local.batching import Batcher
from aios.drivers.core.local.engine import EXACT, Engine, EngineFault
from aios.drivers.core.local.exactness import Proof, probe, remember, remembered
from aios.drivers.core.local.inbox import Inbox
from aios.drivers.core.local.llama import EngineUnavailable, Llama
from aios.drivers.core.local.protocol import (
    VERSION,
    Abort,
    Ack,
    Command,
    Frames,
    Freeze,
    Gone,
    Hello,
    Measure,
    Measured,
    Open,
    Ping,
    Pong,
    Prompt,
    ProtocolError,
    Ready,
    Report,
    Thaw,
    Turn,
    Unfit,
    Weigh,
    frame,
    read_command,
)
from aios.drivers.core.local.slots import Slots

PR_SET_PDEATHSIG = 1
READ_BYTES = 1 << 18


class KernelGone(Exception):
    """The other end of the socket is closed."""


class Wire:
    """The kernel at the other end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._frames = Frames()

    def hear(self, *, wait: bool) -> list[Command]:
        """What the kernel has said; with `wait`, not before it says something. Raises `KernelGone`, `ProtocolError`."""
        try:
            data = self._sock.recv(READ_BYTES, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError:
            raise KernelGone from None
        if not data:
            raise KernelGone
        return [read_command(body) for body in self._frames.feed(data)]

    def say(self, *reports: Report) -> None:
        """Tell the kernel, in one write. Raises `KernelGone`."""
        try:
            self._sock.sendall(b"".join(map(frame, reports)))
        except ConnectionError:
            raise KernelGone from None


def die_with_parent(parent: int) -> None:
    """Have the system kill this process when `parent` dies. Raises `KernelGone` if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise KernelGone


def load(hello: Hello) -> tuple[Engine, Ready]:
    """The engine that `hello` asks for, examined. Raises `EngineUnavailable`, `EngineFault`, `Unavailable`."""
    started = time.monotonic()
    if hello.version != VERSION:
        raise EngineUnavailable(f"the host speaks version {VERSION}, its kernel {hello.version}: start the kernel again")
    llama, path = Llama(), Path(hello.model)
    sha256 = models.check(path, hello.sha256, Path(hello.home) / "checked-models.json")
    engine = Engine(
        llama,
        path,
        slots=hello.slots,
        window=hello.window,
        threads=hello.threads,
        batch=hello.chunk + hello.slots,
    )
    likeness = golden.compare(engine, llama.version, sha256, llama.machine())
    loaded = time.monotonic()
    proof = prove(engine, hello, f"{llama.version} {sha256} {llama.machine()}")
    return engine, Ready(
        VERSION,
        llama.version,
        engine.window,
        engine.chat,
        load_s=loaded - started,
        sha256=sha256,
        exact=proof.exact,
        inexact=proof.failed,
        probe_s=time.monotonic() - loaded,
        golden=likeness,
    )


def prove(engine: Engine, hello: Hello, identity: str) -> Proof:
    """Whether the model is exact with these settings: as it was found before, or found now. No answer is not remembered."""
    cache = Path(hello.home) / "exactness.json"
    key = f"{identity} {EXACT} threads={hello.threads} slots={hello.slots} window={hello.window} chunk={hello.chunk}"
    if proof := remembered(cache, key):
        return proof
    proof = probe(engine, slots=hello.slots, chunk=hello.chunk, limit_s=hello.probe_s)
    if proof.failed != "time":
        remember(cache, key, proof)
    return proof


def beginnings(engine: Engine, text: str) -> list[list[int]]:
    """The tokens that a prompt begins with whose text begins so, or whose system turn does."""
    plain = engine.tokenize(Prompt(text))
    return [plain, engine.tokenize(Prompt(turns=(Turn("system", text),)))] if engine.chat else [plain]


def obey(command: Command, batcher: Batcher, engine: Engine) -> list[Report]:
    """Do one thing that the kernel says; what to answer."""
    match command:
        case Open():
            refusal = batcher.open(command)
            return [refusal] if refusal else []
        case Weigh():
            refusal = batcher.weigh(command)
            return [refusal] if refusal else []
        case Ack(call, tokens):
            batcher.acknowledge(call, tokens)
            return []
        case Abort(call):
            batcher.abort(call)
            return [Gone(call)]
        case Measure(ask, prompt):
            return [Measured(ask, len(engine.tokenize(prompt)))]
        case Freeze(call):
            batcher.freeze(call)
            return []
        case Thaw(call):
            batcher.thaw(call)
            return []
        case Ping():
            return [Pong()]
        case Hello():
            raise ProtocolError("`hello` comes once")


def serve(wire: Wire) -> None:
    """Greet, load, and generate until the kernel is gone."""
    greeting, *early = _first(wire)
    if not isinstance(greeting, Hello):
        raise ProtocolError("`hello` comes first")
    try:
        engine, ready = load(greeting)
    except (EngineUnavailable, EngineFault, Unavailable) as problem:
        wire.say(Unfit(str(problem)))
        return
    public = [tokens for text in greeting.public for tokens in beginnings(engine, text)]
    slots = Slots(engine, greeting.slots, greeting.store_bytes, public, greeting.share)
    batcher = Batcher(engine, slots, chunk=greeting.chunk, backlog=greeting.backlog)
    wire.say(ready)
    inbox = Inbox()
    inbox.add(early)

    def frozen_meanwhile() -> set[int]:
        """Asked in the midst of passes."""
        inbox.add(wire.hear(wait=False))
        return inbox.freezing()

    while True:
        while command := inbox.next(busy=batcher.has_work()):
            began = time.monotonic()
            if answers := obey(command, batcher, engine):
                wire.say(*answers)
            inbox.took(time.monotonic() - began)
        if batcher.has_work():
            step = batcher.step(frozen_meanwhile)
            inbox.passed(step.seconds)
            wire.say(step)
        inbox.add(wire.hear(wait=not (batcher.has_work() or inbox)))


def _first(wire: Wire) -> list[Command]:
    while True:
        if commands := wire.hear(wait=True):
            return commands


def main() -> int:
    """Run the host; its exit code."""
    fd, parent = map(int, sys.argv[1:3])
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the conversations of everybody
    try:
        die_with_parent(parent)
        serve(Wire(socket.socket(fileno=fd)))
    except KernelGone:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
