"""A kernel of a command's own, in a temporary home: beside whatever runs on this machine, and gone at the end."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path

from aios.abi.errors import AiosError
from aios.abi.system import Drain
from aios.cli.running import Running, wait_gone
from aios.cli.show import say
from aios.cli.up import started
from aios.config import read_config
from aios.sdk.client import Client

GRACE_S = 0.5
END_S = 15.0


@contextmanager
def kernel_of_its_own(settings: str) -> Iterator[Running]:
    """A kernel with these settings, the text of an `aios.toml`; `Client()` means it for as long as the block runs.

    Raises `Unavailable` if it does not start, `Invalid` for settings that are none.
    """
    with tempfile.TemporaryDirectory(prefix="aios-own-") as folder:
        home, file = Path(folder, "home"), Path(folder, "settings", "aios.toml")
        file.parent.mkdir()
        file.write_text(settings)
        with environment(AIOS_HOME=str(home), AIOS_TOKEN=None), lifeline() as until:
            with chdir(file.parent):  # in whose project it is started is nothing to it
                kernel = started(read_config(file), ["up", "--config", str(file)], until)
            try:
                yield kernel
            finally:
                end_kernel(kernel)


@contextmanager
def lifeline() -> Iterator[int]:
    """A descriptor that ends with the block, and with this process however that ends."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        os.close(ours)
        os.close(theirs)


@contextmanager
def environment(**wanted: str | None) -> Iterator[None]:
    """Other values of environment variables, for as long as the block runs; None: not there."""
    before = {name: os.environ.get(name) for name in wanted}
    set_environment(wanted)
    try:
        yield
    finally:
        set_environment(before)


def set_environment(wanted: Mapping[str, str | None]) -> None:
    for name, value in wanted.items():
        if value is not None:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)


def end_kernel(kernel: Running) -> None:
    """In order, and if that takes too long, at once."""
    try:
        with Client() as client:
            client.call(Drain(grace_s=GRACE_S))
    except AiosError as error:
        say(f"the kernel did not take the order to go down: {error.message}")
    if not wait_gone(END_S):
        os.kill(kernel.os_pid, signal.SIGKILL)
