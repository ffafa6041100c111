"""One host process of a local model, seen from the kernel: its start, its socket, its silence, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from aios.drivers.core.local.protocol import (
    Command,
    Frames,
    Hello,
    Ping,
    ProtocolError,
    Ready,
    Report,
    Unfit,
    frame,
    read_report,
)

PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""The environment that a host gets. Nothing else: keys and tokens live there."""

SET = {
    "PYTHONPATH": str(Path(__file__).parents[4]),
    "PYTHONSAFEPATH": "1",
    "PYTHONNOUSERSITE": "1",
    "GGML_NO_BACKTRACE": "1",  # or a failed assertion starts a debugger
}

ABORT_GRACE_S = 0.5
END_GRACE_S = 2.0
TICKS = 4
"""A host is frozen when it was silent for so many ticks of the watchdog in a row, the last of which asked it."""

WORDS_BYTES = 600


class HostFailed(Exception):
    """The host did not come up, with what it said."""


class Host(asyncio.Protocol):
    """A process that holds a model. `hear` gets all it reports after `Ready`; `ended` says in the end why it ended."""

    def __init__(self, hear: Callable[[Report], None]) -> None:
        loop = asyncio.get_running_loop()
        self._hear = hear
        self._frames = Frames()
        self._process: asyncio.subprocess.Process
        self._transport: asyncio.Transport
        self._words: IO[bytes]
        self._greeting: asyncio.Future[Ready] = loop.create_future()
        self._tick: asyncio.TimerHandle | None = None
        self._silent_ticks = 0
        self._fault = ""
        self.ended: asyncio.Future[str] = loop.create_future()

    @classmethod
    async def start(cls, hello: Hello, hear: Callable[[Report], None], timeout_s: float) -> tuple[Host, Ready]:
        """A host with the model loaded. Raises `HostFailed`."""
        host = cls(hear)
        await host._launch()
        ready: Ready | None = None
        try:
            host.say(hello)
            async with asyncio.timeout(timeout_s):
                ready = await host._greeting
        except TimeoutError:
            raise HostFailed(f"the model's host did not come up within {timeout_s:g} s") from None
        finally:
            if ready is None:
                await host.end(grace_s=0)
        return host, ready

    @property
    def pid(self) -> int:
        return self._process.pid

    def say(self, *commands: Command) -> None:
        """Tell it something, at once; nothing happens if it is dead. Raises `ProtocolError` if that is too long."""
        data = b"".join(map(frame, commands))
        if not self.ended.done():
            self._transport.write(data)

    def watch(self, limit_s: Callable[[], float], busy: Callable[[], bool]) -> None:
        """From now until it is not `busy`: if it is silent for `limit_s`, end it."""
        if self._tick is None and not self.ended.done():
            self._silent_ticks = 0
            self._wait_a_tick(limit_s, busy)

    def dismiss(self, fault: str) -> None:
        """End it because of a fault: ask for a trace of where it is, also where it was stopped, then kill it."""
        if self._fault or self.ended.done():
            return
        self._fault = fault
        self._signal(signal.SIGABRT)
        self._signal(signal.SIGCONT)
        self._killing = asyncio.get_running_loop().call_later(ABORT_GRACE_S, self._signal, signal.SIGKILL)

    async def end(self, *, grace_s: float) -> None:
        """Close the socket, by which it ends; kill it after `grace_s` and wait until it is gone."""
        self._transport.close()
        self._signal(signal.SIGCONT)  # one that is stopped does not see that
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
        finally:
            self._signal(signal.SIGKILL)  # where this wait itself was cancelled
            self._words.close()

    def last_words(self) -> str:
        """The end of what it printed, as one line."""
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - WORDS_BYTES))
        return " | ".join(self._words.read(WORDS_BYTES).decode(errors="replace").split("\n")).strip(" |")

    def data_received(self, data: bytes) -> None:
        self._silent_ticks = 0
        try:
            for body in self._frames.feed(data):
                self._take(read_report(body))
        except ProtocolError as problem:
            self.dismiss(f"it said something that is no message: {problem}")

    def connection_lost(self, problem: Exception | None) -> None:
        if self._tick is not None:
            self._tick.cancel()
        if not self._greeting.done():
            self._greeting.set_exception(HostFailed(f"the model's host ended while it started: {self.last_words() or 'no word'}"))
        if not self.ended.done():
            self.ended.set_result(self._fault or "it died")

    def _take(self, report: Report) -> None:
        if self._greeting.done():
            self._hear(report)
        elif isinstance(report, Ready):
            self._greeting.set_result(report)
        elif isinstance(report, Unfit):
            self._greeting.set_exception(HostFailed(report.message))
        else:
            raise ProtocolError(f"{type(report).__name__} before `ready`")

    def _wait_a_tick(self, limit_s: Callable[[], float], busy: Callable[[], bool]) -> None:
        self._tick = asyncio.get_running_loop().call_later(limit_s() / TICKS, self._on_tick, limit_s, busy)

    def _on_tick(self, limit_s: Callable[[], float], busy: Callable[[], bool]) -> None:
        """Ticks are counted, not seconds: if the kernel itself stood still, that is one tick, not a frozen host."""
        self._tick = None
        self._silent_ticks += 1
        if not busy() or self.ended.done():
            return
        if self._silent_ticks >= TICKS:
            self.dismiss(f"it was silent for {limit_s():.1f} s")
            return
        self.say(Ping())
        self._wait_a_tick(limit_s, busy)

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)  # not `send_signal`: that reaps the process behind the loop's back

    async def _launch(self) -> None:
        loop = asyncio.get_running_loop()
        ours, its = socket.socketpair()
        ours.setblocking(False)
        self._words = tempfile.TemporaryFile()  # closed by `end`
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "aios.drivers.core.local.child", str(its.fileno()), str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=self._words,
                pass_fds=(its.fileno(),),
                start_new_session=True,
                env={**{name: os.environ[name] for name in PASSED_ON if name in os.environ}, **SET},
            )
        except OSError as problem:
            ours.close()
            raise HostFailed(f"no process can be started for the model ({problem.strerror}): free memory or processes") from None
        finally:
            its.close()
        self._transport, _ = await loop.create_unix_connection(lambda: self, sock=ours)
