"""`aios.run` from a script: a kernel of its own, consent, what is printed, Ctrl-C; and agents in their sandbox."""

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from aios.abi.process import List
from aios.drivers.sandbox import enter
from aios.sdk.client import Client

pytestmark = [pytest.mark.real, pytest.mark.slow]

PROGRAM = """
import asyncio, os, sys
import aios

@aios.agent
async def add(k: aios.Kernel, a: int, b: int) -> int:
    print("adding", a, b)
    sys.stderr.write("carefully\\n")
    return a + b

@aios.agent(grants=("use /llm/*", "spawn /agents/add"))
async def total(k: aios.Kernel, numbers: list[int]) -> int:
    workers = [await k.spawn(add, number, 0) for number in numbers]
    return sum(await asyncio.gather(*(worker.wait() for worker in workers)))

@aios.agent
async def wait(k: aios.Kernel) -> str:
    try:
        print("waiting")
        await k.sleep(1000)
    except asyncio.CancelledError:
        return "stopped in order"

@aios.agent
async def spy(k: aios.Kernel, home: str, person: str) -> list[str]:
    found = []
    for path in (home, os.path.join(home, "run", "operator.token"), person, "/proc/1/environ"):
        try:
            os.listdir(path) if os.path.isdir(path) else open(path).read()
            found.append(path)
        except OSError as error:
            found.append(type(error).__name__)
    return found + sorted(name for name in os.environ if "AIOS" in name or "TOKEN" in name)

@aios.agent
async def fail(k: aios.Kernel) -> None:
    raise RuntimeError("no luck")

if __name__ == "__main__":
    %s
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home without a kernel, which by the end has none again."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(mode=0o700)
    work.mkdir()
    (work / "aios.toml").write_text("local = false\n[server]\nport = 0\n")
    yield home
    subprocess.run([sys.executable, "-m", "aios", "down"], cwd=work, env=environment(home), capture_output=True, check=True)


def environment(home: Path) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}, "AIOS_HOME": str(home)}


def script(home: Path, main: str) -> tuple[str, ...]:
    program = home.parent / "work" / "program.py"
    program.write_text(PROGRAM % textwrap.indent(textwrap.dedent(main), "    ").strip())
    return (sys.executable, str(program))


def run(home: Path, main: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        script(home, main),
        cwd=home.parent / "work",
        env=environment(home),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_a_script_runs_its_agents_on_a_kernel_that_it_starts(home: Path) -> None:
    done = run(home, 'print(aios.run(add, 1, 2, yes=True)); print(aios.run(total, [1, 2, 3], yes=True, cls="batch"))')
    assert (done.returncode, done.stdout.splitlines(), done.stderr.splitlines()) == (0, ["adding 1 2", "3", "6"], ["carefully"])
    again = run(home, "print(aios.run(add, 3, 4))")  # accepted before, and the kernel runs
    assert (again.returncode, again.stdout.splitlines()) == (0, ["adding 3 4", "7"])


def test_nobody_at_a_terminal_and_no_yes_is_the_error(home: Path) -> None:
    done = run(home, "aios.run(add, 1, 2)")
    assert done.returncode == 1 and "NeedsApproval" in done.stderr


def test_the_agents_error_is_raised_in_the_script(home: Path) -> None:
    main = """
        try:
            aios.run(fail, yes=True)
        except aios.ChildFailed as error:
            print(error)
    """
    done = run(home, main)
    assert done.stdout.startswith("RuntimeError: no luck (program.py, line ")


def test_ctrl_c_stops_the_agent_which_may_finish_in_order(home: Path) -> None:
    with subprocess.Popen(
        script(home, "print(aios.run(wait, yes=True))"),
        cwd=home.parent / "work", env=environment(home), stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None and running.stdout.readline() == "waiting\n"
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == "stopped in order\n"


@pytest.mark.skipif(enter.landlock_abi() < 1, reason="needs Landlock (Linux 5.13 or later)")
def test_an_agent_sees_nothing_of_the_kernels_home_nor_of_its_environment(home: Path) -> None:
    done = run(home, f"print(aios.run(spy, {str(home)!r}, {str(Path.home())!r}, yes=True))")
    assert done.stdout.strip() == str(["PermissionError"] * 4), done.stderr


def test_when_the_kernel_is_killed_its_hosts_are_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOS_HOME", str(home))
    with subprocess.Popen(
        script(home, "aios.run(wait, yes=True)"),
        cwd=home.parent / "work", env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.readline() == "waiting\n"
        (process,) = [process for process in Client().call(List()).processes if process.state != "ended"]
        host = os.pidfd_open(process.host_pid or 0)
        os.kill(json.loads((home / "run" / "kernel.json").read_text())["os_pid"], signal.SIGKILL)
        assert "Unavailable: the kernel went away" in running.stderr.read()
        with select.epoll() as poll:
            poll.register(host, select.EPOLLIN)
            assert poll.poll(timeout=2), "its host lives on"
        os.close(host)
