"""The reaper: outlives the kernel by a moment, and ends what the kernel's children have left behind.

A child is told by Linux when the kernel dies; its own children are not, and elsewhere nobody is told. One small process holds
a pipe from the kernel and a list of process groups; when the pipe ends, the groups are killed.
"""

from __future__ import annotations

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
        self._write(f"+{group}\n")

    def remove(self, group: int) -> None:
        """It has ended by itself."""
        self._groups.discard(group)
        self._write(f"-{group}\n")

    def _write(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
            line = "".join(f"+{group}\n" for group in self._groups)
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
        except BrokenPipeError:  # it was killed just now: the next line starts it again, with all groups
            pass

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            env={},
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        """End the reaper, and with it the groups that are left."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
        self._process = None


def main() -> None:
    """Read groups until the kernel's end of the pipe is gone, then kill those that are left."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            pass


if __name__ == "__main__":
    main()
