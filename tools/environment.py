"""`.venv`, made in steps that a second run need not repeat.

Each lock is one step, and a finished step is written down at once: an interrupted set-up goes on at the step it was in. pip is
the only installer, because it alone knows how this machine reaches its packages (mirror, proxy, certificates); no file here names
an address. The first step brings a locked pip that resumes a broken download; the one that Python carries may be years old.
`--no-deps` everywhere: the locks are complete, and two wheels declare far more than they need.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import TextIO

import machine
from machine import Stop
from progress import Progress, say

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin/python"
STATE = VENV / "setup.json"
SCRATCH = VENV / "tmp"  # a killed pip leaves its half files here, where the next run finds them, and not in /tmp
LOG = ROOT / ".setup.log"  # all that pip said; it is locked while somebody sets up

RUN = ("installer", "core", "engine", "model", "demo")
LEVELS = {"run": RUN, "test": (*RUN, "embedder", "dev")}
FREE_BYTES = {"run": 800_000_000, "test": 1_300_000_000}
LOCKED = ("--no-deps", "--require-hashes", "--only-binary", ":all:")
# What of a caller's environment would send packages elsewhere, or bring others in.
UNWANTED = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_CONSTRAINT", "PIP_NO_BINARY", "PIP_REQUIREMENT"}
UNWANTED |= {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}


@dataclass
class State:
    """What is finished in `.venv`."""

    root: str
    python: str  # where its interpreter really stands
    level: str
    done: dict[str, str] = field(default_factory=dict)  # step to the SHA-256 of what it was made from
    installed: list[str] | None = None  # once all steps were done

    @classmethod
    def read(cls) -> "State | None":
        """None if there is nothing to go on from: no `.venv`, a moved one, or one whose Python was replaced."""
        try:
            state = cls(**json.loads(STATE.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return state if (state.root, state.python) == (str(ROOT), os.path.realpath(PYTHON)) and PYTHON.exists() else None

    def write(self) -> None:
        part = STATE.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1))
        part.replace(STATE)


def main(arguments: list[str]) -> None:
    level = arguments[0] if arguments else "test"
    if len(arguments) > 1 or level not in LEVELS:
        sys.exit("usage: setup.py [run | test]")
    begun = time.monotonic()
    try:
        with LOG.open("a", buffering=1) as log:
            wait_for_others(log)
            if set_up(level, log):
                say(f"set up in {time.monotonic() - begun:.1f} s")
    except Stop as stop:
        sys.exit(f"set-up: {stop}")
    except KeyboardInterrupt:
        sys.exit("\nset-up: interrupted; the same command goes on from here")


def wait_for_others(log: TextIO) -> None:
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("set-up: another one is at work here: waiting for it")
        fcntl.flock(log, fcntl.LOCK_EX)


def set_up(level: str, log: TextIO) -> bool:
    """Brings `.venv` to the level, and says whether there was anything to do."""
    state = State.read()
    if state and state.level == "test":
        level = "test"  # what was once installed stays, and stays current
    wanted = {step: digest(LOCKS / f"{step}.txt") for step in LEVELS[level]} | {"project": digest(ROOT / "pyproject.toml")}
    if state and state.installed not in (None, installed()):
        state.done = {}  # somebody added or took something by hand
    if state and wanted.items() <= state.done.items():
        refuse_hooks()
        return False

    log.truncate(0)
    machine.check_system(ROOT, FREE_BYTES[level])
    machine.check_needs(log)
    if state is None:
        make_venv(log)
        state = State(str(ROOT), os.path.realpath(PYTHON), level, done={"installer": wanted["installer"]})
        state.write()
    refuse_hooks()
    state.level, state.installed = level, None
    install_steps([step for step in LEVELS[level] if state.done.get(step) != wanted[step]], state, log)
    remove_strays(level, log)
    if state.done.get("project") != wanted["project"]:
        pip(["install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-e", str(ROOT)], log)
        refuse_hooks()
    state.done, state.installed = wanted, installed()
    state.write()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    return True


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_venv(log: TextIO) -> None:
    """A fresh `.venv` with the locked pip in it, by the first of three ways that this machine offers."""
    begun = time.monotonic()
    shutil.rmtree(VENV, ignore_errors=True)
    lock = ["-r", str(LOCKS / "installer.txt")]
    if find_spec("ensurepip"):
        run([sys.executable, "-m", "venv", str(VENV)], log)
        pip(["install", *LOCKED, *lock], log)
    else:
        run([sys.executable, "-m", "venv", "--without-pip", str(VENV)], log)
        if find_spec("pip"):
            run([sys.executable, "-m", "pip", "--python", str(PYTHON), "install", *LOCKED, *lock], log)
        else:
            run(["uv", "pip", "install", "--python", str(PYTHON), *LOCKED, *lock], log)
    if any(site_packages("setuptools")):  # Python 3.11 brings it, and with it a start-up hook
        pip(["uninstall", "-q", "-y", "setuptools"], log)
    say(f"venv      {locked_bytes('installer') / 1e6:6.1f} MB {time.monotonic() - begun:6.1f} s")


def install_steps(steps: list[str], state: State, log: TextIO) -> None:
    remove_halves()
    progress = Progress(sum(map(locked_bytes, steps)))
    for step in steps:
        progress.begin(step, locked_bytes(step))
        lock = str(LOCKS / f"{step}.txt")
        pip(["--retries", "5", "--timeout", "60", "install", *LOCKED, "--progress-bar", "raw", "-r", lock], log, progress.follow)
        refuse_hooks()  # before Python starts there again
        state.done[step] = digest(LOCKS / f"{step}.txt")
        state.write()
        progress.end()


def locked_bytes(step: str) -> int:
    weighed = re.match(r"# (\d+) bytes", (LOCKS / f"{step}.txt").read_text())
    return int(weighed[1]) if weighed else 0


def remove_halves() -> None:
    """What a killed pip had half unpacked: it writes INSTALLER when all is in place, and moves what it replaces to `~` names."""
    halves = [folder for folder in site_packages("*.dist-info") if not (folder / "INSTALLER").exists()]
    for folder in [*halves, *site_packages("~*")]:
        shutil.rmtree(folder)


def remove_strays(level: str, log: TextIO) -> None:
    """What an older lock or a hand brought and no lock names."""
    locked = {"aios"}
    for step in LEVELS[level]:
        locked |= set(re.findall(r"^([a-z0-9-]+)==", (LOCKS / f"{step}.txt").read_text(), re.M))
    if strays := sorted({re.sub(r"[-_.]+", "-", name.split("-")[0]).lower() for name in installed()} - locked):
        say(f"removed, not in the locks: {', '.join(strays)}")
        pip(["uninstall", "-q", "-y", *strays], log)


def installed() -> list[str]:
    return sorted(folder.name for folder in site_packages("*.dist-info"))


def site_packages(pattern: str) -> list[Path]:
    return list(VENV.glob(f"lib/python3*/site-packages/{pattern}"))


def refuse_hooks() -> None:
    """Stops at any file that Python would run by itself at its start, but the one line that finds our sources.

    It runs on the system's Python: the one in `.venv` would have obeyed the hook before it could look for it.
    """
    for pattern in ("*.pth", "sitecustomize*", "usercustomize*"):
        for path in site_packages(pattern):
            text = path.read_text(errors="replace").strip() if path.is_file() else "a package"
            if (path.name, text) != ("aios.pth", str(ROOT / "src")):
                raise Stop(
                    f"{path.relative_to(ROOT)} runs at every start of Python and is not ours:\n    {text[:200]}\n"
                    f"Do not use this environment; find the package that brought it."
                )


def pip(arguments: list[str], log: TextIO, watch: Callable[[str], None] | None = None) -> None:
    run([str(PYTHON), "-I", "-m", "pip", *arguments], log, watch)  # -I: no PYTHONPATH, no packages of the user


def run(command: list[str], log: TextIO, watch: Callable[[str], None] | None = None) -> None:
    """Runs to the end, all of it into the log but the counting. The child holds the log's lock too: one whose set-up was killed
    keeps the next set-up waiting instead of working beside it."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    env = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    env |= {"TMPDIR": str(SCRATCH), "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    last: deque[str] = deque(maxlen=8)
    with Popen(command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, text=True, errors="replace",
                          pass_fds=[log.fileno()]) as child:  # fmt: skip
        try:
            for line in child.stdout or ():
                if watch:
                    watch(line)
                if not line.startswith("Progress "):
                    log.write(line)
                    last.append(line)
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        said = "".join(last)
        raise Stop(f"`{' '.join(command)}` failed:\n{said}{unreachable(said)}The same command goes on from here.")


def unreachable(text: str) -> str:
    """pip says "no matching version" when it found no index."""
    lost = r"from versions: none|NewConnectionError|name resolution|ConnectTimeout|ProxyError|SSLError"
    sentence = "No package index gave an answer: see the network, and `python3 -m pip config list`.\n"
    return sentence if re.search(lost, text) else ""
