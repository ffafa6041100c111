"""Whether a kernel runs in a home, where it answers, and how to wait for its end.

A kernel holds a lock on `run/kernel.lock` for as long as it lives; the system lets go of it however the kernel ends, so
nothing that a killed kernel left behind is ever taken for a living one. `run/kernel.json` says where the holder answers.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from aios.abi.errors import Unavailable
from aios.sdk import client


class Running(msgspec.Struct, frozen=True):
    """A running kernel: its process id, the address of its doors, the path of its socket, and a line on each key, by its name."""

    os_pid: int
    http: str
    socket: str
    keys: tuple[str, ...] = ()


def record_path() -> Path:
    """The note that a kernel leaves of itself."""
    return client.home() / "run" / "kernel.json"


@contextmanager
def on_record(running: Running) -> Iterator[None]:
    """Leaves a note of where the kernel answers, for as long as the block runs."""
    part = record_path().with_suffix(".part")
    part.write_bytes(msgspec.json.encode(running))
    part.replace(record_path())
    try:
        yield
    finally:
        record_path().unlink(missing_ok=True)


def running() -> Running | None:
    """The kernel that answers in this home; None if there is none."""
    try:
        found = msgspec.json.decode(record_path().read_bytes(), type=Running)
        client.connected(found.socket).close()
    except (OSError, msgspec.DecodeError):
        return None
    return found


def the_running() -> Running:
    """The kernel that answers in this home. Raises `Unavailable` if there is none."""
    found = running()
    if found is None:
        raise Unavailable(f"no kernel answers at {client.home()}: start it with `aios up`")
    return found


def wait_gone(timeout_s: float) -> bool:
    """Wait until no kernel holds this home; False if one still does after `timeout_s` seconds (above 0)."""
    try:
        lock = os.open(client.home() / "run" / "kernel.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        with interrupted_after(timeout_s):
            fcntl.flock(lock, fcntl.LOCK_EX)
    except TimeoutError:
        return False
    finally:
        os.close(lock)
    return True


@contextmanager
def interrupted_after(timeout_s: float) -> Iterator[None]:
    """Raises `TimeoutError` in a block that waits in the system for longer than this."""

    def raise_timeout(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, raise_timeout)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
