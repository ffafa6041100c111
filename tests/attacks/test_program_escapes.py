"""Escapes of foreign programs, which have a network and a view of the files of their own: each with the control in which nothing
confines them."""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from aios.drivers.sandbox import enter, seccomp
from aios.drivers.sandbox.landlock import LandlockSandbox
from aios.server.rules import command_rules

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        enter.landlock_abi() < 6 or not seccomp.filtering(),
        reason="needs a Linux with Landlock version 6 (6.12 or later) and seccomp",
    ),
]

PROGRAM = """
import ctypes, json, os, resource, socket, subprocess, sys
tried = json.loads(sys.argv[1])
pid, home, port, person, own = tried["pid"], tried["home"], tried["port"], tried["person"], os.environ["HOME"]

def raw(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [each if isinstance(each, bytes) or each is None else ctypes.c_long(each) for each in arguments]
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

def attempt(act):
    try:
        exec(act)
    except OSError as error:
        return type(error).__name__
    return "done"

print(json.dumps([attempt(act) for act in tried["acts"]]))
"""

DENIED, FROZEN = "PermissionError", "OSError"
"""`OSError`: its view of the files is for reading alone."""
ESCAPES = {
    "limit another's processor time": ("resource.prlimit(pid, resource.RLIMIT_CPU, (1000, 1000))", DENIED),
    "end another": ("os.kill(pid, 0)", DENIED),
    "read another's environment": ("open(f'/proc/{pid}/environ', 'rb').read()", DENIED),
    "read the tokens": ("open(home + '/tokens.json').read()", DENIED),
    "open the tokens to all": ("os.chmod(home + '/tokens.json', 0o644)", FROZEN),
    "age the tokens": ("os.utime(home + '/tokens.json', (0, 0))", FROZEN),
    "call the kernel's unix socket": ("os.chdir(home); socket.socket(socket.AF_UNIX).connect('aios.sock')", DENIED),
    "call what listens on this machine": ("socket.create_connection(('127.0.0.1', port), timeout=5)", "ConnectionRefusedError"),
    "see the person's home": ("os.listdir(person)", DENIED),
    "change what it may read": ("os.chmod(tried['given'], 0o600)", FROZEN),
    "write beside it": ("open(tried['given'] + '.new', 'w').close()", FROZEN),
    "have another view": ("raw('unshare', 0x20000)", DENIED),
    "mount": ("raw('mount', b'none', own.encode(), b'tmpfs', 0, None); raw('umount', own.encode())", DENIED),
    "make a program with more rights": ("open(own + '/x', 'w').close(); os.chmod(own + '/x', 0o4755)", DENIED),
    "leave its group": ("subprocess.run(['true'], start_new_session=True, check=True)", DENIED),
    "look into another's memory in common": ("os.listdir(f'/proc/{pid}/root' + '/dev/shm')", DENIED),
    "listen to the machine's traffic": ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)", DENIED),
    "hear of the machine's network": ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", DENIED),
}
FOR_ROOT = ("have another view", "mount", "listen to the machine's traffic")
"""What nobody else can do, where nothing confines them either."""


async def come_of(acts: list[str], prey: dict[str, Any], folder: Path, confined: bool) -> list[str]:
    """What comes of the acts of a program that is started as the kernel does."""
    sandbox = LandlockSandbox() if confined else LandlockSandbox(0, filtered=False)
    own = Path(prey["home"]) / ("confined" if confined else "free")
    own.mkdir()
    command = (sys.executable, "-I", "-c", PROGRAM, json.dumps({**prey, "acts": acts}))
    rules = command_rules(command, str(folder), str(own), prey["home"], "own" if confined else "none", 8642)
    lines: list[str] = []
    env = {"HOME": str(own), "PATH": os.defpath}
    child = await sandbox.start(command, env, (), rules, str(folder), lambda _, line: lines.append(line))
    if child.door >= 0:
        os.close(child.door)
    assert await child.wait_ended() == "exit 0", lines
    sandbox.close()
    results: list[str] = json.loads(lines[-1])
    return results


async def test_a_program_escapes_in_no_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, folder = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    folder.mkdir()
    (home / "tokens.json").write_text("{}")
    (folder / "given").write_text("")
    monkeypatch.chdir(home)
    other = await asyncio.create_subprocess_exec("sleep", "600")
    with socket.socket(socket.AF_UNIX) as server, socket.create_server(("127.0.0.1", 0)) as listening:
        server.bind("aios.sock")
        server.listen()
        port = listening.getsockname()[1]
        prey = {"pid": other.pid, "home": str(home), "port": port, "person": str(Path.home()), "given": str(folder / "given")}
        acts = [act for act, _ in ESCAPES.values()]
        confined = await come_of(acts, prey, folder, True)
        free = await come_of(acts, prey, folder, False)
    other.kill()
    await other.wait()
    assert dict(zip(ESCAPES, confined, strict=True)) == {name: expected for name, (_, expected) in ESCAPES.items()}
    kept = {name for name, result in zip(ESCAPES, free, strict=True) if result != "done"}
    assert kept == (set() if os.getuid() == 0 else set(FOR_ROOT))
