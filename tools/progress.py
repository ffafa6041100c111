"""What set-up shows while pip works: bytes and seconds left, on one line of a terminal or as a line now and then elsewhere."""

import os
import re
import sys
import time

FETCHED = re.compile(r"\s*(?:Downloading|Using cached) (\S+) \(([\d.]+) (bytes|kB|MB|GB)\)")
UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
UNCOUNTED_BYTES = 512 * 1024  # pip counts nothing for smaller files
HEARTBEAT_S = 15.0  # between two lines where they cannot be rewritten (a log)
REFRESH_S = 0.2


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Counts the bytes of all steps. pip's own bars know neither the total of a step nor of all of them."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.live = sys.stderr.isatty() and "CI" not in os.environ and os.environ.get("TERM") != "dumb"
        self._begun = time.monotonic()
        self._shown = 0.0 if self.live else self._begun
        self._before_bytes = 0.0  # of finished steps
        self._files_bytes = 0.0  # of this step's finished files
        self._file_bytes = 0.0
        self._doing = ""

    def begin(self, step: str, size_bytes: int) -> None:
        self._step, self._step_bytes, self._step_begun = step, size_bytes, time.monotonic()
        self._files_bytes = self._file_bytes = 0.0
        self._doing = "starting"

    def follow(self, line: str) -> None:
        """Takes one line of `pip install --progress-bar raw`."""
        if counted := re.match(r"Progress (\d+) of", line):
            self._file_bytes = float(counted[1])
        elif fetched := FETCHED.match(line):
            size_bytes = float(fetched[2]) * UNITS[fetched[3]]
            self._files_bytes += self._file_bytes
            self._file_bytes = size_bytes if "Using" in line or size_bytes < UNCOUNTED_BYTES else 0.0
            self._doing = fetched[1].split("-")[0]
        elif line.startswith("Installing collected"):
            self._doing = "unpacking"
        elif "Attempting to resume" in line:
            self._doing = "connection lost, going on where it stopped"
        self._show()

    def end(self) -> None:
        self._before_bytes += self._step_bytes
        self._clear()
        say(f"{self._step:<9} {self._step_bytes / 1e6:6.1f} MB {time.monotonic() - self._step_begun:6.1f} s")

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown < (REFRESH_S if self.live else HEARTBEAT_S):
            return
        self._shown = now
        have = min(self._before_bytes + self._files_bytes + self._file_bytes, self.total_bytes)
        text = f"{self._step:<9} {have / 1e6:5.0f} of {self.total_bytes / 1e6:.0f} MB"
        if have > 5e6:  # earlier the rate is a guess
            text += f"   about {(now - self._begun) * (self.total_bytes - have) / have + 1:.0f} s left"
        text = f"{text}   {self._doing}"[:100]
        self._clear()
        print(text, end="" if self.live else "\n", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self.live:
            print("\r\033[K", end="", file=sys.stderr)
