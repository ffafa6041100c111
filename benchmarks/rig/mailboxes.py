"""Many agents of the SDK that wait for mail, in host children of a real kernel: what each costs the kernel, and its host."""

from __future__ import annotations

import time

import msgspec

from aios.abi.manifest import Manifest
from benchmarks.rig.child import Failed
from benchmarks.rig.kernel import AGENTS, Kernel
from benchmarks.rig.usage import rss_bytes

WARM = 50
"""Agents that come and go before anything is measured: code, and what the allocator keeps."""
WAIT_S = 60.0
ENTRY = "reads_one_mail"


class Costs(msgspec.Struct, frozen=True):
    """Kilobytes of memory per agent that waits: of the kernel, and of its host, over a host with one agent. And the hosts."""

    kernel_kb: float
    host_kb: float
    hosts: int


def measure(kernel: Kernel, agents: int) -> Costs:
    """Start so many agents, look at them while they wait, and let each have its mail. Raises `Failed` if one does not get it."""
    one = started(kernel, 1)
    (alone,) = waiting(kernel, one)
    single = rss_bytes(alone)
    serve(kernel, one)
    serve(kernel, started(kernel, WARM))
    before = rss_bytes(kernel.pid)
    pids = started(kernel, agents)
    places = waiting(kernel, pids)
    in_kernel = rss_bytes(kernel.pid) - before
    in_hosts = sum(map(rss_bytes, places)) - len(places) * single
    serve(kernel, pids)
    return Costs(in_kernel / agents / 1000, in_hosts / (agents - len(places)) / 1000, len(places))


def started(kernel: Kernel, agents: int) -> list[str]:
    """Start so many agents that read one mail and return it."""
    manifest = Manifest(agent="reads", program=str(AGENTS), entry=ENTRY)
    return [kernel.call("process.spawn", manifest=manifest, accepted=manifest.hash())["pid"] for _ in range(agents)]


def waiting(kernel: Kernel, pids: list[str]) -> set[int]:
    """The pids of the hosts in which they wait, when they all do. Raises `Failed` if that takes too long."""
    mine, give_up = set(pids), time.monotonic() + WAIT_S
    while time.monotonic() < give_up:
        found = [process for process in kernel.call("process.list", ended=False)["processes"] if process["pid"] in mine]
        if [process.get("wait", {}).get("code") for process in found] == ["M"] * len(pids):
            return {process["host_pid"] for process in found}
        time.sleep(0.5)
    raise Failed(f"after {WAIT_S:g} s not all of {len(pids)} agents wait for mail")


def serve(kernel: Kernel, pids: list[str]) -> None:
    """Send each agent its mail, and hear from each what it got."""
    for number, pid in enumerate(pids):
        kernel.call("mail.send", to=pid, value=number)
    for number, pid in enumerate(pids):
        end = kernel.call("process.wait", pid=pid)
        if end.get("result") != number:
            raise Failed(f"an agent that was sent {number} ended by {end}")
