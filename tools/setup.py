#!/usr/bin/env python3
"""Makes `.venv`: hash-checked, resumable, and nothing to do when nothing changed.

    python3 tools/setup.py run      what `make demo` needs
    python3 tools/setup.py test     also what development, tests and benchmarks need, and some foreign clients in `.clients`

This file finds a Python that will do and hands over to `environment.py`, which is written for that one; so this one keeps to
what Python 3.6 can read. All of set-up uses the standard library alone.
"""

import os
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 14)


def usable_python():  # type: () -> str
    """This Python if it will do, else one that will, else one that uv has or fetches; exits with a sentence if there is none."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        # Not the one of an activated `.venv`: it would obey the hooks in there, and cannot be replaced while it runs.
        return sys.executable if sys.prefix == sys.base_prefix else sys._base_executable  # type: ignore[attr-defined]  # not in typeshed
    for minor in (13, 14, 12, 11):
        other = shutil.which("python3.%d" % minor)
        if other and subprocess.call([other, "-c", ""], stderr=subprocess.DEVNULL) == 0:  # pyenv has names that do not run
            return other
    span = ">=%d.%d,<%d.%d" % (OLDEST + (NEWEST[0], NEWEST[1] + 1))
    if shutil.which("uv") and subprocess.call(["uv", "python", "install", "-q", span]) == 0:
        return subprocess.check_output(["uv", "python", "find", span], universal_newlines=True).strip()
    return sys.exit(
        "set-up: Python %d.%d to %d.%d is needed, this is %d.%d: install one, or name one: `make PYTHON=/path/to/python3.13`"
        % (OLDEST + NEWEST + tuple(sys.version_info[:2]))
    )


if __name__ == "__main__":
    if os.name != "posix":
        sys.exit("set-up: Linux or macOS is needed (on Windows: WSL2)")
    python = usable_python()
    if python != sys.executable:
        os.execv(python, [python] + sys.argv)
    import environment  # not at the top: an older Python could not read it

    environment.main(sys.argv[1:])
    if sys.argv[1:] != ["run"]:
        import clients

        clients.main([])
