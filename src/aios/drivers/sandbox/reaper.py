"""The reaper: outlives the kernel by a moment, and ends what the kernel's children have left behind.

A child is told by Linux when the kernel dies; its own children are not, and elsewhere nobody is told. One small process holds
a pipe from the kernel and a list of process groups; when the pipe ends, the groups are killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys


class Reaper:
    """The kernel's end. The process starts with the first child, and again when somebody has killed it."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, group: int) -> None:
        """Kill this process group when the kernel has died."""
        self._groups.add(group)
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = _started()
            self._tell("".join(f"+{each}\n" for each in self._groups))
        else:
            self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """It has ended by itself."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the reaper, and with it the groups that are left."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
        self._process = None

    def _tell(self, lines: str) -> None:
        """Lost if somebody has killed the reaper: the next one is told of all groups."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(lines.encode())


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__],
        env={},
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main() -> None:
    """Read groups until the kernel's end of the pipe is gone, then kill those that are left."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
