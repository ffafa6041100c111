"""What a child may touch that runs a program: as a host of its agents, or to learn what they ask for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence

from aios.ports.sandbox import Rules

PASSED = ("PATH", "LANG", "LANGUAGE", "TZ")
TEMPORARY = ("/tmp", "/var/tmp")


def program_rules(program: str, own: str, kept: str, readable: Sequence[str]) -> Rules:
    """It reads its program's folder, or its file alone if `stands_alone`, and what is `readable`; it writes `own`."""
    program = os.path.realpath(program)
    return Rules(read=(*readable, program if stands_alone(program, kept) else os.path.dirname(program)), write=(own,))


def stands_alone(program: str, kept: str) -> bool:
    """Whether a program's folder is none of its own: it holds a person's home, temporary files, or `kept`, or lies in that."""
    beside = os.path.dirname(os.path.realpath(program))
    kept = os.path.realpath(kept)
    others = map(os.path.realpath, (os.path.expanduser("~"), tempfile.gettempdir(), *TEMPORARY))
    return _within(beside, kept) or any(_within(place, beside) for place in (kept, *others))


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


def program_environment(own: str) -> Mapping[str, str]:
    """What the child knows of the machine: no secret of our environment is in it."""
    passed = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith("LC_")}
    return {**passed, "HOME": own, "TMPDIR": own}
