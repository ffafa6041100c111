"""From tokens to text that can be shown: whole characters, and nothing that may still turn out to be a stop text."""

from __future__ import annotations

import codecs


class Tail:
    """The end of an answer that is not shown yet.

    A token may end within a character, and a stop text may lie across tokens. What `push` returns never has to be taken back:
    joined, it is the answer, without the stop text and whatever follows it. It depends on the bytes only, not on how tokens
    cut them: of several stop texts the one that is complete first counts, of those that are complete at once the longest.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped_by = ""

    def push(self, piece: bytes) -> str:
        """Take a token's bytes; the text that can be shown now. `stopped_by` is the stop text that is complete."""
        self._held += self._decoder.decode(piece)
        matches = [(at + len(text), at) for text in self._stop if (at := self._held.find(text)) >= 0]
        if matches:
            end, at = min(matches)
            self.stopped_by = self._held[at:end]
            shown, self._held = self._held[:at], ""
            return shown
        keep = max((_overlap(self._held, text) for text in self._stop), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What is held at the end of the answer; an unfinished character is left out."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
