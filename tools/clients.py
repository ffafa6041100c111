"""Environments of unmodified clients, for tests: a folder each under `.clients`, filled from its own lock and nothing else.

    python3 tools/clients.py            those that `make test` needs
    python3 tools/clients.py all        all of them (about 2 GB)
    python3 tools/clients.py NAME ...

What one client needs may contradict what another does, and none of it may reach `.venv`. An environment is taken as it is when
its lock has not changed since; anything else is made anew.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import environment
from environment import LOCKED, LOCKS, LOG, PYTHON, ROOT, digest, run
from machine import Stop
from progress import say

CLIENTS = ROOT / ".clients"
TESTED = ("openai-3", "openai-2", "anthropic", "openai-agents", "langgraph")
"""Those of `make test`."""
PYTHON_CLIENTS = tuple(sorted(path.stem for path in (LOCKS / "clients").glob("*.txt")))
NODE_CLIENTS = tuple(sorted(path.parent.name for path in (LOCKS / "clients").glob("*/package-lock.json")))
DONE = "lock.sha256"


def main(arguments: list[str]) -> None:
    known = (*PYTHON_CLIENTS, *NODE_CLIENTS)
    names = known if arguments == ["all"] else tuple(arguments) or TESTED
    if unknown := set(names) - set(known):
        sys.exit(f"clients: no such client: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if not PYTHON.exists():
        sys.exit("clients: `python3 tools/setup.py test` comes first")
    try:
        with LOG.open("a", buffering=1) as log:
            environment.wait_for_others(log)
            set_up(names, log)
    except Stop as stop:
        sys.exit(f"clients: {stop}")
    except KeyboardInterrupt:
        sys.exit("\nclients: interrupted; the same command goes on from here")


def set_up(names: Iterable[str], log: TextIO) -> None:
    """Makes the environments that are not there or not of their present lock."""
    for name in names:
        folder = CLIENTS / name
        lock = lock_of(name)
        made_of = f"{digest(lock)} {os.path.realpath(PYTHON) if lock.suffix == '.txt' else ''}".strip()
        if made(folder) == made_of:
            continue
        begun = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (install_python if lock.suffix == ".txt" else install_node)(folder, lock, log)
        (folder / DONE).write_text(made_of)
        say(f"client    {name}  {time.monotonic() - begun:.1f} s")


def made(folder: Path) -> str:
    """What an environment was made of; "" for half of one."""
    try:
        return (folder / DONE).read_text()
    except OSError:
        return ""


def lock_of(name: str) -> Path:
    node = LOCKS / "clients" / name / "package-lock.json"
    return node if node.exists() else LOCKS / "clients" / f"{name}.txt"


def install_python(folder: Path, lock: Path, log: TextIO) -> None:
    """By the locked pip of `.venv`: the client's own environment has none."""
    run([str(PYTHON), "-I", "-m", "venv", "--without-pip", str(folder)], log)
    pip = [str(PYTHON), "-I", "-m", "pip", "--python", str(folder / "bin/python"), "--retries", "5", "--timeout", "60"]
    run([*pip, "install", "-q", *LOCKED, "-r", str(lock)], log)


def install_node(folder: Path, lock: Path, log: TextIO) -> None:
    """By the npm that is there; no script of a package runs."""
    npm = shutil.which("npm")
    if npm is None:
        raise Stop(f"`{folder.name}` needs Node and npm, which are not here")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock.with_name(name), folder)
    run([npm, "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"], log)


if __name__ == "__main__":
    main(sys.argv[1:])
