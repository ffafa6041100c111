"""What the machine itself must have before anything is downloaded, and how it gets what it lacks."""

import ctypes
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from progress import say


class Stop(Exception):
    """Set-up cannot go on: one sentence, and what to do."""


@dataclass(frozen=True, slots=True)
class Need:
    name: str
    package: str  # Debian's
    user: str
    here: Callable[[], bool]
    required: bool = True


def loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def can_fill_an_environment() -> bool:
    """Debian's python3 comes without ensurepip."""
    return any(map(importlib.util.find_spec, ("ensurepip", "pip"))) or shutil.which("uv") is not None


NEEDS = (
    Need("ensurepip", f"python3.{sys.version_info.minor}-venv", "the environment", can_fill_an_environment),
    # The engine's wheel links to it and does not carry it; on macOS it does.
    Need("libgomp.so.1", "libgomp1", "the local model's engine", lambda: sys.platform != "linux" or loads("libgomp.so.1")),
    Need("make", "make", "`make demo` and `make test`", lambda: shutil.which("make") is not None, required=False),
)


def check_system(folder: Path, free_bytes: int) -> None:
    """Stops where no wheel of the engine fits, or where they would not fit."""
    machine = platform.machine()
    if sys.platform == "linux" and platform.libc_ver()[0] != "glibc":
        system = "a Linux without glibc"
    elif machine not in ("x86_64", "aarch64", "arm64") or (sys.platform, machine) == ("darwin", "x86_64"):
        system = f"{sys.platform} on {machine}"
    else:
        system = ""
    if system:
        raise Stop(
            f"the local model's engine has no wheel for {system}: Linux with glibc (x86-64, arm64) and macOS on Apple silicon "
            f"are supported"
        )
    if shutil.disk_usage(folder).free < free_bytes:
        raise Stop(f"{free_bytes / 1e9:.1f} GB free are needed in {folder}")


def check_needs(log: TextIO) -> None:
    """Installs what the system lacks where that takes no question (root on Debian and its like); else says the one command."""
    missing = [need for need in NEEDS if not need.here()]
    if missing and is_debian() and os.geteuid() == 0:
        install_packages([need.package for need in missing], log)
        missing = [need for need in missing if not need.here()]
    if not missing:
        return
    names = ", ".join(f"{need.name} (for {need.user})" for need in missing)
    command = f"sudo apt-get install --no-install-recommends {' '.join(need.package for need in missing)}"
    sentence = f"missing: {names}. Debian and Ubuntu install it with\n    {command}"
    if any(need.required for need in missing):
        raise Stop(sentence)
    say(sentence)


def install_packages(packages: list[str], log: TextIO) -> None:
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=3"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        say(f"system    apt-get {' '.join(command)}")
        subprocess.run(apt + command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=900)
    importlib.invalidate_caches()


def is_debian() -> bool:
    release = Path("/etc/os-release")
    text = release.read_text() if release.exists() else ""
    return shutil.which("apt-get") is not None and re.search(r"^ID(_LIKE)?=.*\b(debian|ubuntu)\b", text, re.M) is not None
