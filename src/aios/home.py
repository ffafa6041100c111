"""The kernel's own folder: where it is, and that nobody else may enter it."""

from __future__ import annotations

import os
from pathlib import Path

from aios.abi.errors import Unavailable

PROJECT_MARKS = (".git", "aios.toml", "pyproject.toml")


def home_path() -> Path:
    """The kernel's folder: $AIOS_HOME, else ~/.local/share/aios."""
    return Path(os.environ.get("AIOS_HOME") or "~/.local/share/aios").expanduser().absolute()


def open_home() -> Path:
    """The kernel's folder, made for its owner alone if it does not exist.

    Raises `Unavailable` if others may enter it, or if it lies in the project folder, which agents may read.
    """
    home = home_path()
    project = project_folder(Path.cwd())
    if project and home.resolve().is_relative_to(project):
        raise Unavailable(f"the kernel's home {home} is inside {project}, which agents may read: set AIOS_HOME to another place")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = home.stat()
    except OSError as error:
        raise Unavailable(f"the kernel's home {home} cannot be used: {error.strerror}; set AIOS_HOME to another place") from None
    if state.st_uid != os.getuid():
        raise Unavailable(f"the kernel's home {home} belongs to another user: set AIOS_HOME to another place")
    if state.st_mode & 0o077:
        raise Unavailable(f"others may enter the kernel's home {home}: run `chmod 700 {home}`")
    return home


def project_folder(here: Path) -> Path | None:
    """The project that a folder belongs to: the nearest folder upwards with a mark of one, else the folder itself.

    A person's home folder and what is above it is nobody's project.
    """
    here, person = here.resolve(), Path.home().resolve()
    marked = next((folder for folder in (here, *here.parents) if any((folder / mark).exists() for mark in PROJECT_MARKS)), here)
    return None if person.is_relative_to(marked) else marked
