"""A real kernel: `aios up --no-local` as a child, in a home of its own, before an upstream."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from aios.abi.manifest import Manifest
from benchmarks.rig.child import Failed
from benchmarks.rig.work import Work

START_S = 30.0
END_S = 20.0
AGENTS = Path(__file__).with_name("agent.py")

CORE = """
[[core]]
name = "{name}"
base_url = "http://127.0.0.1:{port}/v1"
models = {models}
slots = {slots}
"""


class Core(msgspec.Struct, frozen=True):
    """A core of the kernel's before the upstream: its name, the slots that the kernel believes in, and its models."""

    name: str
    slots: int
    works: tuple[Work, ...]


class Kernel:
    """A kernel that runs. `start_s`: seconds from its start until it answered."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, start_s: float, home: Path) -> None:
        self.pid = process.pid
        self.port = port
        self.start_s = start_s
        self._home = home
        operator = (home / "run" / "operator.token").read_text().strip()
        self._operator = operator
        self.token: str = self.call("token.add", agent="load", grants=["use /llm/*"])["value"]

    def call(self, name: str, **request: Any) -> Any:
        """A system call as the operator, over HTTP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {self._operator}", "Content-Type": "application/json"}
        connection.request("POST", f"/v1/call/{name}", msgspec.json.encode(request), headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        if response.status != 200:
            raise Failed(f"`{name}` was refused: {body.decode(errors='replace')}")
        return msgspec.json.decode(body)

    def run_agent(self, entry: str, *arguments: Any) -> Any:
        """Run an agent of `agent.py` in a host child, and return its result."""
        manifest = Manifest(agent=entry, program=str(AGENTS), entry=entry)
        started = self.call("process.spawn", manifest=manifest, arguments=arguments, accepted=manifest.hash())
        end = self.call("process.wait", pid=started["pid"])
        if end["outcome"] != "result":
            raise Failed(f"the agent `{entry}` ended by {end}")
        return end["result"]


@contextmanager
def kernel(port: int = 0, cores: tuple[Core, ...] = (), source: Path | None = None) -> Iterator[Kernel]:
    """A kernel whose cores all lie before the upstream on `port`. Raises `Failed` if it does not start.

    `source`: the folder of another package `aios` than the one that is installed.
    """
    with tempfile.TemporaryDirectory(prefix="aios-benchmark-") as folder:
        home = Path(folder) / "home"
        file = Path(folder) / "kernel.toml"
        file.write_text("".join(described(core, port) for core in cores))
        home.mkdir(mode=0o700)
        argv = [sys.executable, "-m", "aios", "up", "--no-local", "--port", "0", "--config", str(file)]
        begun = time.perf_counter()
        said = Path(folder) / "said"
        with said.open("wb") as errors:
            places = {"AIOS_HOME": str(home)} | ({"PYTHONPATH": str(source)} if source is not None else {})
            process = subprocess.Popen(argv, env=os.environ | places, stdout=subprocess.PIPE, stderr=errors)
        try:
            bound = port_of(process, said)
            wait_until_it_answers(bound)
            yield Kernel(process, bound, time.perf_counter() - begun, home)
        finally:
            end(process)


def described(core: Core, port: int) -> str:
    """A core as it stands in a configuration."""
    models = msgspec.json.encode([work.model for work in core.works]).decode()
    return CORE.format(name=core.name, port=port, models=models, slots=core.slots)


def port_of(process: subprocess.Popen[bytes], said: Path) -> int:
    """The port that a kernel prints when it is up. Raises `Failed` with what it said instead."""
    assert process.stdout is not None
    for line in process.stdout:
        name, _, value = line.decode().partition(" ")
        if name == "http":
            return int(value.rpartition(":")[2])
    raise Failed(f"the kernel ended with exit {process.wait()} before it answered: {said.read_text().strip()}")


def wait_until_it_answers(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    connection.request("GET", "/health")
    if connection.getresponse().read() != b'{"status":"ok"}':
        raise Failed("the kernel does not say that it is well")
    connection.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a kernel to go down; make it, if it takes too long."""
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failed(f"the kernel did not go down within {END_S:g} s") from None
