"""What a child may touch that runs a program: as a host of its agents, to learn what they ask for, or as a foreign command."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from aios.ports.sandbox import Network, Rules

PASSED = ("PATH", "LANG", "LANGUAGE", "TZ")
TEMPORARY = ("/tmp", "/var/tmp")


def program_rules(program: str, own: str, kept: str, readable: Sequence[str]) -> Rules:
    """It reads its program's folder, or its file alone if `stands_alone`, and what is `readable`; it writes `own`."""
    program = os.path.realpath(program)
    return Rules(read=(*readable, program if stands_alone(program, kept) else os.path.dirname(program)), write=(own,))


def stands_alone(program: str, kept: str) -> bool:
    """Whether a program's folder is none of its own: it holds a person's home, temporary files, or `kept`, or lies in that."""
    return _is_shared(os.path.dirname(os.path.realpath(program)), kept)


def _is_shared(folder: str, kept: str) -> bool:
    kept = os.path.realpath(kept)
    others = map(os.path.realpath, (os.path.expanduser("~"), tempfile.gettempdir(), *TEMPORARY))
    return _within(folder, kept) or any(_within(place, folder) for place in (kept, *others))


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives", "/etc/gitconfig", "/etc/group", "/etc/host.conf",
    "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf",
    "/etc/os-release", "/etc/passwd", "/etc/resolv.conf", "/etc/services", "/etc/ssl/certs", "/etc/ssl/openssl.cnf",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/self", "/sys/devices/system/cpu", "/System", "/Library",
)  # fmt: skip
"""What a foreign program reads of the machine: what is installed, and how names and times are told."""


MOST_STEPS = 20
"""From a program to what really runs."""
READ_BYTES = 4096


def command_rules(command: Sequence[str], folder: str, own: str, kept: str, network: Network, port: int) -> Rules:
    """It reads what is installed on the system and where its own program is, the folder that it is started in, the files that its
    words name, and the folder of the first of them, which is its script; but no folder that others share. It writes `own`.
    """
    kept = os.path.realpath(kept)
    read = [place for place in SYSTEM if not _within(kept, place)]
    read += [place for program in _programs_of(command[0]) for place in _installed_at(program, kept)]
    files = [os.path.realpath(os.path.join(folder, word)) for word in command[1:]]
    files = [file for file in files if os.path.isfile(file) and not _within(file, kept)]
    folders = (os.path.realpath(folder), *map(os.path.dirname, files[:1]))
    read += [*files, *(place for place in folders if not _is_shared(place, kept))]
    return Rules(read=tuple(dict.fromkeys(read)), write=(own,), network=network, port=port)


def _programs_of(program: str) -> Iterator[str]:
    """The files that have to be run for a program: itself, what its links lead to, and the interpreter of a script."""
    for _ in range(MOST_STEPS):
        yield program
        if os.path.islink(program):
            program = os.path.normpath(os.path.join(os.path.dirname(program), os.readlink(program)))
        elif interpreter := _interpreter_of(program):
            program = interpreter
        else:
            return


def _interpreter_of(program: str) -> str | None:
    """What the first line of a script names; None for what is no script."""
    words = _beginning(program).partition("\n")[0].removeprefix("#!").split()
    if not _beginning(program).startswith("#!") or not words:
        return None
    if os.path.basename(words[0]) == "env" and len(words) > 1:
        return shutil.which(words[1], path=f"{os.path.dirname(program)}:{os.environ.get('PATH', os.defpath)}")
    return words[0]


def _beginning(file: str) -> str:
    """The first characters of a file; "" of what is none, or cannot be read."""
    if not os.path.isfile(file):
        return ""
    try:
        with open(file, "rb") as opened:
            return opened.read(READ_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _installed_at(program: str, kept: str) -> Iterator[str]:
    """The folder that a program is installed under, with its libraries: the one above its `bin`, the packages beside a package of
    Node's; or else the file alone.
    """
    folder = os.path.dirname(program)
    above = os.path.dirname(folder)
    root, packages, _ = program.partition("/node_modules/")
    if packages and not _is_shared(os.path.realpath(root), kept):
        yield f"{root}/node_modules"
    if os.path.basename(folder) == "bin" and above != "/" and not _is_shared(os.path.realpath(above), kept):
        yield above
        yield from _base_of(os.path.join(above, "pyvenv.cfg"), kept)
    yield program


def _base_of(settings: str, kept: str) -> Iterator[str]:
    """The Python that a virtual environment stands on."""
    for line in _beginning(settings).splitlines():
        name, _, value = line.partition("=")
        above = os.path.dirname(os.path.realpath(value.strip()))
        if name.strip() == "home" and above != "/" and not _is_shared(above, kept):
            yield above


def program_environment(own: str) -> Mapping[str, str]:
    """What the child knows of the machine: no secret of our environment is in it."""
    passed = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith("LC_")}
    return {**passed, "HOME": own, "TMPDIR": own}
