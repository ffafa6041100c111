"""Printed text as lines that are safe to show: cut, capped, without control sequences.

What an agent prints is untrusted: it may move the reader's cursor, change the title of a window, or turn text around.
"""

from __future__ import annotations

import codecs
import re

MAX_LINE_CHARS = 8 * 1024

_sequences = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\x9c|$)"  # OSC, DCS, SOS, PM, APC: up to their end
    r"|\x9b[0-?]*[ -/]*[@-~]"  # CSI as one character
    r"|\x1b[ -/]*[0-~]?"
)
_controls = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_plain = re.compile(r"[\t -~]*")


def clean_line(text: str) -> str:
    """One line of at most 8,192 characters without control sequences, control characters and changes of direction."""
    if len(text) > MAX_LINE_CHARS:
        text = text[:MAX_LINE_CHARS] + " ..."
    if _plain.fullmatch(text):
        return text
    return _controls.sub("", _sequences.sub("", text))


class LineCutter:
    """Cuts text or bytes into clean lines; what has no end yet is kept, up to the cap."""

    def __init__(self) -> None:
        self._rest = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._overlong = False

    def feed(self, data: bytes | str) -> list[str]:
        """The lines that `data` completes. A line above the cap comes once, cut; its remainder is dropped."""
        text = data if isinstance(data, str) else self._decoder.decode(data)
        *whole, self._rest = (self._rest + text).split("\n")
        lines = [self._line(line) for line in whole[self._overlong :]]
        if whole:
            self._overlong = False
        if len(self._rest) > MAX_LINE_CHARS:
            if not self._overlong:
                lines.append(self._line(self._rest))
            self._rest, self._overlong = "", True
        return lines

    def end(self) -> list[str]:
        """What is left when no more comes."""
        rest, self._rest = self._rest, ""
        return [self._line(rest)] if rest and not self._overlong else []

    def _line(self, text: str) -> str:
        """A carriage return starts the line anew, as a progress bar means it."""
        return clean_line(text.rstrip("\r").rpartition("\r")[2])
