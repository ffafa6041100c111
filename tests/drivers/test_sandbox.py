"""Children in the sandbox: what they may not do, each with its control, in which nothing confines them and they can."""

import asyncio
import marshal
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.abi.errors import Unavailable
from aios.drivers.sandbox import enter, seccomp
from aios.drivers.sandbox.landlock import LandlockSandbox, interpreter_paths
from aios.drivers.sandbox.reaper import Reaper
from aios.ports.sandbox import Network, Rules

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(enter.landlock_abi() < 6, reason="needs a Linux with Landlock version 6 (6.12 or later)"),
]
SYSTEM_PYTHON = "/usr/bin/python3"
FREE = 0
"""The version of Landlock that confines nothing: the control."""
DIES_WITHIN_MS = 2000
ATTEMPT = """
import os, socket, sys
def attempt(act):
    try:
        act()
        print("done")
    except OSError as error:
        print(type(error).__name__)
"""


@contextmanager
def sandbox(abi: int | None = None, filtered: bool = True) -> Iterator[LandlockSandbox]:
    box = LandlockSandbox(abi, filtered)
    try:
        yield box
    finally:
        box.close()


async def said(
    code: str, folder: Path, abi: int | None = None, rules: Rules | None = None, env: dict[str, str] | None = None,
    filtered: bool | None = None,
) -> list[str]:  # fmt: skip
    """The lines that a Python child prints. With `FREE`, nothing is filtered either, unless `filtered` says so."""
    lines: list[str] = []
    rules = rules or Rules(read=interpreter_paths(), write=(str(folder),))
    with sandbox(abi, abi != FREE if filtered is None else filtered) as box:
        argv = (sys.executable, "-I", "-c", ATTEMPT + textwrap.dedent(code))
        child = await box.start(argv, env or {}, (), rules, str(folder), lambda stream, line: lines.append(line))
        assert await child.wait_ended() == "exit 0", lines
    return lines


async def confined_and_free(code: str, folder: Path) -> tuple[list[str], list[str]]:
    """What comes of it under Landlock alone, and with nothing."""
    return await said(code, folder, filtered=False), await said(code, folder, FREE)


async def filtered_and_free(code: str, folder: Path) -> tuple[list[str], list[str]]:
    """What comes of it under the filter of system calls alone, and with nothing."""
    return await said(code, folder, FREE, filtered=True), await said(code, folder, FREE)


async def test_a_child_reads_only_what_it_is_told(tmp_path: Path) -> None:
    secret, own = tmp_path / "home", tmp_path / "own"
    secret.mkdir()
    own.mkdir()
    (secret / "tokens.json").write_text("secret")
    code = f"attempt(lambda: open({str(secret / 'tokens.json')!r}).read()); attempt(lambda: os.listdir({str(secret)!r}))"
    assert await confined_and_free(code, own) == (["PermissionError"] * 2, ["done"] * 2)


async def test_a_child_does_not_read_the_persons_home(tmp_path: Path) -> None:
    code = f"attempt(lambda: os.listdir({str(Path.home())!r}))"
    assert await confined_and_free(code, tmp_path) == (["PermissionError"], ["done"])


async def test_a_child_does_not_read_the_kernels_environment(tmp_path: Path) -> None:
    code = f"attempt(lambda: open('/proc/{os.getpid()}/environ').read())"
    assert await confined_and_free(code, tmp_path) == (["PermissionError"], ["done"])


async def test_a_child_writes_only_where_it_is_told(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    code = f"""
        attempt(lambda: open("mine", "w").write("x"))
        attempt(lambda: open({str(other / "theirs")!r}, "w").write("x"))
        attempt(lambda: os.rename("mine", {str(other / "moved")!r}))
    """
    assert await said(code, own) == ["done", "PermissionError", "PermissionError"]
    assert await said(code, own, FREE) == ["done"] * 3


async def test_a_child_uses_the_devices_that_programs_need(tmp_path: Path) -> None:
    code = """
        attempt(lambda: open("/dev/null", "w").write("x"))
        attempt(lambda: open("/dev/urandom", "rb").read(1))
        attempt(lambda: open("/dev/zero", "rb").read(1))
    """
    assert await said(code, tmp_path) == ["done"] * 3


async def test_a_child_reaches_nobody_over_tcp(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"""
            attempt(lambda: socket.create_connection(("127.0.0.1", {port})).close())
            attempt(lambda: socket.create_server(("127.0.0.1", 0)).close())
        """
        assert await confined_and_free(code, tmp_path) == (["PermissionError"] * 2, ["done"] * 2)


async def test_a_child_cannot_signal_the_kernel(tmp_path: Path) -> None:
    code = f"attempt(lambda: os.kill({os.getpid()}, 0))"
    assert await confined_and_free(code, tmp_path) == (["PermissionError"], ["done"])


async def test_a_child_reaches_no_abstract_socket(tmp_path: Path) -> None:
    name = f"\0aios-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = f"attempt(lambda: socket.socket(socket.AF_UNIX).connect({name!r}))"
        assert await confined_and_free(code, tmp_path) == (["PermissionError"], ["done"])


async def test_a_child_cannot_make_a_device(tmp_path: Path) -> None:
    """Which is for root alone to try; in its own folder it may make everything else."""
    code = """
        import stat
        attempt(lambda: os.mknod("null", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
        attempt(lambda: os.mkfifo("fifo"))
    """
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    assert await said(code, one) == ["PermissionError", "done"]
    assert await said(code, two, FREE) == ["PermissionError" if os.getuid() else "done", "done"]


# What the filter of system calls is for, each under it alone, without Landlock.
ON_OTHERS = {
    "limits": "resource.prlimit({pid}, resource.RLIMIT_CORE, (0, 0))",
    "limits, by high bits": "raw('prlimit64', {pid} | 1 << 40, resource.RLIMIT_CORE, None, None)",
    "priority": "os.setpriority(os.PRIO_PROCESS, {pid}, os.getpriority(os.PRIO_PROCESS, {pid}))",
    "priority of all of the user's": "os.setpriority(os.PRIO_USER, 0, os.getpriority(os.PRIO_PROCESS, 0))",
    "input and output": "raw('ioprio_set', 1, {pid}, 0)",
    "processors": "os.sched_setaffinity({pid}, os.sched_getaffinity({pid}))",
    "scheduling": "os.sched_setscheduler({pid}, os.SCHED_OTHER, os.sched_param(0))",
    "signals": "os.kill({pid}, 0)",
    "signals to all": "raw('kill', -{pid}, 0)",
    "memory": "raw('process_vm_readv', {pid}, None, 0, None, 0, 0)",
    "tracing": "raw('ptrace', 0x4206, {pid}, 0, 0)",
    "mode": "os.chmod({file!r}, 0o640)",
    "mode by descriptor": "os.fchmod(os.open({file!r}, os.O_RDONLY), 0o640)",
    "owner": "os.chown({file!r}, -1, -1)",
    "times": "os.utime({file!r})",
    "times by descriptor": "os.utime(os.open({file!r}, os.O_RDONLY))",
    "attributes": "os.setxattr({file!r}, 'user.aios', b'x')",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a unix socket by path": "socket.socket(socket.AF_UNIX).connect({unix!r})",
    "datagrams from a pair": "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', {unix!r} + '.datagram')",
    "datagrams from a raw pair": "socket.socketpair(type=socket.SOCK_RAW)[0].sendto(b'x', {unix!r} + '.datagram')",
    "a session": "subprocess.run([sys.executable, '-c', ''], start_new_session=True, check=True)",
    "a process group": "subprocess.run([sys.executable, '-c', ''], process_group=0, check=True)",
    "a child of the parent's": "os._exit(0) if raw('clone', 0x8000 | 17, 0, 0, 0, 0) == 0 else None",
    "keys": "raw('keyctl', 0, -3, 1)",
    "shared memory": "raw('shmctl', raw('shmget', 0, 4096, 0o1600), 0, 0)",
}
RAW = """
import ctypes, resource, subprocess
from aios.drivers.sandbox.seccomp import MACHINES, NUMBERS
def raw(name, *arguments):
    number = NUMBERS[name][MACHINES[os.uname().machine][1]]
    arguments = [None if each is None else ctypes.c_long(each) for each in arguments]
    result = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result
"""


@pytest.mark.skipif(not seccomp.filtering(), reason="needs a Linux that filters system calls")
@pytest.mark.parametrize("what", ON_OTHERS)
async def test_a_child_does_nothing_to_others(tmp_path: Path, what: str) -> None:
    file, unix = tmp_path / "file", tmp_path / "unix"
    file.write_text("")
    other = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    with (
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        server.bind(str(unix))
        server.listen()
        datagrams.bind(str(unix) + ".datagram")
        act = ON_OTHERS[what].format(pid=other.pid, file=str(file), unix=str(unix))
        code = RAW + f"def act(): {act}\nattempt(act)\n"
        try:
            results = await filtered_and_free(code, tmp_path)
        finally:
            other.kill()
            await other.wait()
    assert results == (["PermissionError"], ["done"])


ON_ITSELF = """
import asyncio, threading, uvloop, resource, subprocess, multiprocessing
attempt(lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
attempt(lambda: os.nice(1))
attempt(lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)))
attempt(lambda: socket.socketpair())
attempt(lambda: threading.Thread(target=int).start())
attempt(lambda: subprocess.run([sys.executable, "-c", ""], check=True, timeout=60))
attempt(lambda: os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}), 0))
async def run():
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=asyncio.subprocess.PIPE)
    assert (await child.communicate())[0].split() == [b"1"]
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(600)")
    child.kill()
    assert await child.wait() == -9
attempt(lambda: uvloop.run(run()))
attempt(lambda: asyncio.run(run()))
attempt(lambda: print(open("made", "w").write("x"), os.replace("made", "moved"), os.unlink("moved")))
"""


async def test_a_child_does_to_itself_what_it_likes(tmp_path: Path) -> None:
    assert [line for line in await said(ON_ITSELF, tmp_path) if not line.startswith("1 None")] == ["done"] * 10


async def test_other_tables_of_calls_are_closed(tmp_path: Path) -> None:
    """x32 numbers, which name the same calls, and calls that are newer than the table."""
    code = (
        RAW
        + """
for number in (0x40000000 | 41, 0x40000000 | 39, 463, 1000):
    print(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), -1, 0, 0), ctypes.get_errno())
"""
    )
    assert await said(code, tmp_path) == ["-1 38"] * 4


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86")
async def test_the_door_for_32_bit_programs_is_closed(tmp_path: Path) -> None:
    """`int 0x80` counts calls otherwise: 20 is `getpid` there."""
    code = """
        import ctypes, mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("b8 14 00 00 00 cd 80 c3"))
        call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        print(call() in (os.getpid(), -38), call() == -38)
    """
    assert await filtered_and_free(code, tmp_path) == (["True True"], ["True False"])


async def test_where_landlock_does_not_confine_signals_the_filter_does(tmp_path: Path) -> None:
    code = f"attempt(lambda: os.kill({os.getpid()}, 0)); attempt(lambda: os.kill(0, 0)); attempt(lambda: os.kill(os.getpid(), 0))"
    assert await said(code, tmp_path, 5) == ["PermissionError", "done", "done"]
    assert await said(code, tmp_path, 5, filtered=False) == ["done"] * 3


# Networks of foreign programs.
NETWORK = """
import errno
def attempt(act):
    try:
        print(act() or "done")
    except OSError as error:
        print(errno.errorcode.get(error.errno, type(error).__name__))
def tcp(port, host="127.0.0.1"):
    with socket.create_connection((host, port), timeout=5) as end:
        return end.recv(5).decode()
def serve():
    server = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(server.getsockname()), server:
        return "served"
def say(kind, protocol=0):
    socket.socket(socket.AF_INET, kind, protocol).close()
"""


async def say_at(door: socket.socket, text: bytes) -> None:
    """Answer whoever comes to a door, once."""
    door.setblocking(False)
    end, _ = await asyncio.get_running_loop().sock_accept(door)
    with end:
        await asyncio.get_running_loop().sock_sendall(end, text)


async def networked(code: str, folder: Path, rules: Rules, answer: bytes = b"", **box: Any) -> list[str]:
    """The lines of a child with a network; what is at its door says the answer."""
    lines: list[str] = []
    with sandbox(**box) as made:
        argv = (sys.executable, "-I", "-c", ATTEMPT + NETWORK + textwrap.dedent(code))
        child = await made.start(argv, {}, (), rules, str(folder), lambda stream, line: lines.append(line))
        if child.door >= 0:
            with socket.socket(fileno=child.door) as door:
                await say_at(door, answer)
        assert await child.wait_ended() == "exit 0" and child.code == 0, lines
    return lines


def network(folder: Path, kind: Network, port: int = 0) -> Rules:
    return Rules(read=(*interpreter_paths(), "/etc"), write=(str(folder),), network=kind, port=port)


async def test_in_a_network_of_its_own_a_program_reaches_its_door_and_nothing_else(tmp_path: Path) -> None:
    """Neither what listens on this machine's loopback, nor any other machine, by any protocol."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        others = server.getsockname()[1]
        code = f"""
            attempt(lambda: tcp(8642))
            attempt(lambda: tcp({others}))
            attempt(lambda: tcp(80, "192.0.2.1"))
            attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)))
            attempt(serve)
            attempt(lambda: say(socket.SOCK_RAW))
            attempt(lambda: say(socket.SOCK_STREAM, 262))
            attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
            attempt(lambda: socket.socket(socket.AF_UNIX))
        """
        lines = await networked(code, tmp_path, network(tmp_path, "own", 8642), b"hello")
        assert lines == ["hello", "ECONNREFUSED", "ENETUNREACH", "ENETUNREACH", "served", "EACCES", "EACCES", "EACCES", "EACCES"]
    with socket.create_server(("127.0.0.1", 0)) as server:  # the control: in the machine's network it is reached
        others = server.getsockname()[1]
        code = f"attempt(lambda: tcp({others}))"
        free = asyncio.create_task(networked(code, tmp_path, network(tmp_path, "none"), abi=FREE, filtered=False))
        await say_at(server, b"free!")
        assert await free == ["free!"]


CHANGES = """
    import multiprocessing, pathlib, shutil
    own, other = pathlib.Path("own"), pathlib.Path({other!r})
    own.write_text("x")
    for file in (own, other):
        attempt(lambda: os.chmod(file, 0o700))
        attempt(lambda: os.fchmod(os.open(file, os.O_RDONLY), 0o700))
        attempt(lambda: os.utime(file, (1, 1)))
        attempt(lambda: os.chown(file, os.getuid(), -1))
        attempt(lambda: os.setxattr(file, "user.aios", b"x"))
    attempt(lambda: shutil.copy(own, "copy") and None)
    attempt(lambda: multiprocessing.Lock() and None)
    attempt(lambda: open("/dev/null", "w").write("x") and None)
    attempt(lambda: open("/dev/shm/aios-test", "w").write("x") and None)
"""


async def test_a_program_changes_its_own_files_alone_and_shares_no_memory(tmp_path: Path) -> None:
    """Of what it may read, it may change neither mode nor time; a child without a view of its own may change none at all."""
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.write_text("")
    mode = other.stat().st_mode
    rules = Rules(read=(*interpreter_paths(), str(other)), write=(str(own),), network="own", port=8642)
    code = textwrap.dedent(CHANGES.format(other=str(other)))
    lines = await networked("attempt(lambda: tcp(8642))\n" + code, own, rules, b"hello")
    assert lines == ["hello", *["done"] * 5, *["EROFS"] * 5, *["done"] * 4]
    assert other.stat().st_mode == mode and "aios-test" not in os.listdir("/dev/shm")
    lines = await networked(code, own, Rules(read=(*interpreter_paths(), str(other)), write=(str(own),)))
    assert lines[:10] == ["EPERM"] * 10


@pytest.mark.skipif(os.getuid() != 0 or not os.path.exists(SYSTEM_PYTHON), reason="needs root and a Python that others can run")
def test_who_is_not_root_has_a_network_of_its_own_too(tmp_path: Path) -> None:
    """The launcher alone, by the system's Python: ours may lie in a folder that others cannot read."""
    launcher = Path(tempfile.mkdtemp(dir="/tmp")) / "enter.py"
    launcher.parent.chmod(0o755)
    launcher.write_text(Path(enter.__file__).read_text())
    launcher.chmod(0o644)
    code = ATTEMPT + NETWORK + "attempt(lambda: tcp(8642)); attempt(lambda: tcp(8643)); print(os.geteuid())"
    order = {
        "parent": os.getpid(), "abi": enter.landlock_abi(), "calls": b"", "argv": [SYSTEM_PYTHON, "-I", "-c", code], "env": {},
        "fds": [], "read": ["/usr", "/lib", "/lib64", "/etc"], "write": [], "network": "own", "port": 8642, "folder": "/",
    }  # fmt: skip
    order["calls"] = seccomp.program(seccomp.filtering(), seccomp.RULES + seccomp.NETWORKS["own"])
    ours, theirs = socket.socketpair()
    with (
        ours,
        subprocess.Popen(
            [SYSTEM_PYTHON, "-I", "-S", str(launcher)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            user=65534,
            group=65534,
            extra_groups=(),
        ) as child,
    ):
        theirs.close()
        ours.sendall(marshal.dumps(order, 4))
        ours.shutdown(socket.SHUT_WR)
        said, (door,), _, _ = socket.recv_fds(ours, 100, 1)
        assert (said, ours.recv(1000)) == (b"+", b"")
        with socket.socket(fileno=door) as listening:
            end, _ = listening.accept()
            end.sendall(b"hello")
            end.close()
        assert child.stdout is not None
        assert child.stdout.read().split() == [b"hello", b"ECONNREFUSED", b"65534"]
    shutil.rmtree(launcher.parent)


async def test_without_a_network_of_its_own_a_program_reaches_one_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_server(("127.0.0.1", 0)) as other:
        code = f"""
            attempt(lambda: tcp({door.getsockname()[1]}))
            attempt(lambda: tcp({other.getsockname()[1]}))
            attempt(serve)
            attempt(lambda: say(socket.SOCK_DGRAM))
            attempt(lambda: say(socket.SOCK_STREAM, 262))
            attempt(lambda: socket.socket().sendto(b"x", 0x20000000, ("127.0.0.1", {other.getsockname()[1]})))
        """
        rules = network(tmp_path, "port", door.getsockname()[1])
        task = asyncio.create_task(networked(code, tmp_path, rules))
        await say_at(door, b"hello")
        assert await task == ["hello", "EACCES", "EACCES", "EACCES", "EACCES", "EPERM"]


def test_the_table_of_calls_is_that_of_the_systems_headers() -> None:
    places = ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm-generic/unistd.h")
    for column, place in enumerate(map(Path, places)):
        if not place.is_file():
            continue
        told = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", place.read_text())}
        ours = {name: numbers[column] for name, numbers in seccomp.NUMBERS.items()}
        assert {name: number for name, number in ours.items() if told.get(name, number) != number} == {}
    used = {
        call for rule in (*seccomp.RULES, *seccomp.signals_within(1), *sum(seccomp.NETWORKS.values(), ())) for call in rule.calls
    }
    assert used == set(seccomp.NUMBERS), "a call without a rule, or the other way round"


def test_a_machine_without_a_table_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seccomp.program("riscv64") == b"" and len(seccomp.program("aarch64")) % 8 == 0
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert LandlockSandbox().isolation().mechanism.startswith("landlock") and seccomp.filtering() == ""
    assert any("without a filter" in text for text in LandlockSandbox().isolation().missing)


async def test_a_child_gains_no_privileges_and_leaves_no_core(tmp_path: Path) -> None:
    code = """
        import resource
        print([line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")])
        print(resource.getrlimit(resource.RLIMIT_CORE))
    """
    rules = Rules(read=(*interpreter_paths(), "/proc"))
    assert await said(code, tmp_path, rules=rules) == ["['1']", "(0, 0)"]


async def test_the_environment_is_exactly_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOS_SECRET", "kernel")
    code = """print(sorted(open("/proc/self/environ").read().strip("\\0").split("\\0")))"""
    rules = Rules(read=(*interpreter_paths(), "/proc"))
    assert await said(code, tmp_path, rules=rules, env={"A": "1", "LC_ALL": "C.UTF-8"}) == ["['A=1', 'LC_ALL=C.UTF-8']"]


async def test_only_the_named_descriptors_are_inherited(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    stray = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(stray, True)
    lines: list[str] = []
    code = f"import os; os.write({writer}, b'hello'); print(sorted(map(int, os.listdir('/proc/self/fd'))))"
    rules = Rules(read=(*interpreter_paths(), "/proc"))
    with sandbox() as box:
        argv = (sys.executable, "-I", "-c", code)
        child = await box.start(argv, {}, (writer,), rules, str(tmp_path), lambda stream, line: lines.append(line))
        await child.wait_ended()
    assert os.read(reader, 10) == b"hello" and lines == [str([0, 1, 2, 3, writer])]  # 3 is the listing's own
    for fd in (reader, writer, stray):
        os.close(fd)


async def test_output_comes_as_clean_lines_with_a_cap(tmp_path: Path) -> None:
    code = r"""
        print("\x1b[31mred\x1b[0m \x1b]0;title\x07end")
        print("x" * 100_000)
        print("after", end="", flush=True)
    """
    red, long, after = await said(code, tmp_path)
    assert (red, len(long), after) == ("red end", 8192 + len(" ..."), "after")


async def test_a_flood_is_read_no_faster_than_the_limit(tmp_path: Path) -> None:
    """One and a half windows' worth of output takes into the second window; without the pause it takes no time at all."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    lines = await said("for _ in range(1600): print('x' * 1000)", tmp_path)
    assert len(lines) == 1600 and loop.time() - begun_s > 1.0


async def test_a_killed_child_takes_its_group_along(tmp_path: Path) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()
    code = """
        import subprocess, time
        print(subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(600)"]).pid, flush=True)
        time.sleep(600)
    """
    with sandbox() as box:
        argv = (sys.executable, "-I", "-c", ATTEMPT + textwrap.dedent(code))
        rules = Rules(read=interpreter_paths())
        child = await box.start(argv, {}, (), rules, str(tmp_path), lambda stream, line: seen.put_nowait(line))
        grandchild = os.pidfd_open(int(await seen.get()))
        child.kill()
        assert await child.wait_ended() == "killed by signal 9"
    assert ended(grandchild)


@pytest.mark.parametrize("guarded", ["none", "own", ""])
def test_when_the_kernel_is_killed_its_children_and_theirs_are_gone(tmp_path: Path, guarded: str) -> None:
    """The control starts the same children without the sandbox: they live on."""
    with subprocess.Popen([sys.executable, "-c", KERNEL, guarded, str(tmp_path)], stdout=subprocess.PIPE) as kernel:
        assert kernel.stdout is not None
        pids = [int(kernel.stdout.readline()) for _ in range(2)]
        children = [os.pidfd_open(pid) for pid in pids]
        kernel.kill()
        kernel.wait()
        if guarded:
            assert all(ended(child) for child in children)
        else:
            for pid, child in zip(pids, children, strict=True):
                os.kill(pid, signal.SIGKILL)  # which nobody has done before
                assert ended(child)


KERNEL = """
import asyncio, os, subprocess, sys
from aios.drivers.sandbox.landlock import LandlockSandbox, interpreter_paths
from aios.ports.sandbox import Rules

child = '''
import os, subprocess, sys, time
inner = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(600)"], stdout=subprocess.DEVNULL)
print(os.getpid(), flush=True)
print(inner.pid, flush=True)
time.sleep(600)
'''
argv = [sys.executable, "-I", "-c", child]

async def main():
    if sys.argv[1]:
        say = lambda stream, line: print(line, flush=True)
        rules = Rules(read=interpreter_paths(), network=sys.argv[1], port=8642)
        await LandlockSandbox().start(argv, {}, (), rules, sys.argv[2], say)
    else:
        subprocess.Popen(argv, start_new_session=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_program_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with sandbox() as box:
        with pytest.raises(Unavailable, match="cannot be started.*No such file"):
            await box.start([str(tmp_path / "nothing")], {}, (), Rules(read=()), str(tmp_path), lambda stream, line: None)


async def test_a_reaper_that_somebody_killed_is_started_again(tmp_path: Path) -> None:
    reaper = Reaper()
    reaper.add(1 << 22)  # no such group
    assert reaper._process is not None
    reaper._process.kill()
    reaper._process.wait()
    reaper.remove(1 << 22)
    reaper.add(1 << 22)
    assert reaper._process.poll() is None
    reaper.close()


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    full, old, none = (LandlockSandbox(abi, filtered=abi is None).isolation() for abi in (None, 3, FREE))
    assert full.mechanism.endswith(" + seccomp") and not any("unix sockets" in text for text in full.missing)
    assert any(text.startswith("UDP, raw and unix sockets: ") and "seccomp" in text for text in old.missing)
    filtered = LandlockSandbox(FREE).isolation()
    assert filtered.mechanism == "seccomp" and "TCP" in filtered.confined and "files" not in filtered.confined
    assert "TCP" in full.confined and not any("Landlock version" in text for text in full.missing)
    assert "files" in old.confined and any(text.startswith("TCP") for text in old.missing)
    assert "files" not in none.confined and any(text.startswith("files") for text in none.missing)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert any("no Landlock on darwin" in text for text in LandlockSandbox(FREE).isolation().missing)


def test_a_hardened_kernel_is_closed_to_others_of_its_user() -> None:
    code = """
import ctypes
from aios.drivers.sandbox.landlock import harden_kernel
dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
before = dumpable(); harden_kernel(); print(before, dumpable())
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["1", "0"]


def ended(pidfd: int) -> bool:
    """Whether a process ends within the limit; closes its descriptor."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    gone = bool(poll.poll(DIES_WITHIN_MS))
    os.close(pidfd)
    return gone
