"""Text of others that is safe to show: whole with all that is hidden made visible, or as lines without control sequences.

What an agent says is untrusted: it may move the reader's cursor, change the title of a window, or turn text around.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable

MAX_LINE_CHARS = 8 * 1024

_sequences = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\x9c|$)"  # OSC, DCS, SOS, PM, APC: up to their end
    r"|\x9b[0-?]*[ -/]*[@-~]"  # CSI as one character
    r"|\x1b[ -/]*[0-~]?"
)
_plain = re.compile(r"[\t -~]*")
_suspect = re.compile(r"[^\t\n -~\u200c\u200d]")
"""What must be looked at. The two joiners are format characters too, but words of several languages are written with them."""

STEERING = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of characters that are obeyed instead of shown, or not at all: controls, formats (direction, tags), halves of
characters, and separators that terminals break lines at."""


def picture(character: str) -> str:
    """A character that cannot be seen, as one that can: `␛`, `<U+202E>`."""
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"<U+{code:04X}>"


def visible(text: str, shown: Callable[[str], str] = picture) -> str:
    """The text with every character that could steer a terminal or hide replaced by what `shown` gives; newline and tab stay."""
    if text.isprintable():
        return text

    def looked_at(found: re.Match[str]) -> str:
        character = found.group()
        return shown(character) if unicodedata.category(character) in STEERING else character

    return _suspect.sub(looked_at, text)


def clean_line(text: str) -> str:
    """One line of at most 8,192 characters, without control sequences and without what else `visible` would show."""
    if len(text) > MAX_LINE_CHARS:
        text = text[:MAX_LINE_CHARS] + " ..."
    if _plain.fullmatch(text):
        return text
    return visible(_sequences.sub("", text).replace("\n", ""), lambda _: "")


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
