"""One answer from the host's pieces: the deltas that are told, and the whole."""

from __future__ import annotations

from aios.abi.llm import Choice, Delta, Finish, TokenLogprob, ToolCallDelta
from aios.drivers.core.local.protocol import Likelihood, Piece
from aios.drivers.core.local.tools import CallReader


class Answer:
    """Answer `index` of a call; `reader`: takes it apart where it may be a call of a function. `tokens`: that came."""

    def __init__(self, index: int = 0, reader: CallReader | None = None) -> None:
        self._index = index
        self._reader = reader
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._finish: Finish | None = None
        self._stopped_by = ""
        self._told = self._told_logprobs = 0
        self.tokens = 0

    def take(self, piece: Piece) -> Delta | None:
        """What of it can be told now. Tokens and their likelihoods wait for the text that they are part of."""
        text = piece.text
        calls: tuple[ToolCallDelta, ...] = ()
        finish: Finish | None = piece.finish
        if self._reader is not None:
            text, calls = self._reader.push(text, over=finish is not None)
            finish = "tool_calls" if finish and self._reader.whole else finish
        self.tokens += len(piece.ids)
        self._logprobs += map(told_likelihood, piece.logprobs)
        if not (text or calls or finish):
            return None
        self._texts.append(text)
        self._finish, self._stopped_by = finish, piece.stopped_by
        tokens, self._told = self.tokens - self._told, self.tokens
        logprobs, self._told_logprobs = tuple(self._logprobs[self._told_logprobs :]), len(self._logprobs)
        return Delta(index=self._index, text=text, tokens=tokens, tool_calls=calls, logprobs=logprobs, finish=finish)

    def choice(self) -> Choice:
        """The whole, when it is over."""
        calls = self._reader.calls if self._reader is not None else ()
        text, finish = "".join(self._texts), self._finish or "stop"
        return Choice(text, finish, calls, logprobs=tuple(self._logprobs), stopped_by=self._stopped_by)


def told_likelihood(found: Likelihood) -> TokenLogprob:
    """A token's likelihood as people read it; one that is no whole text comes with its bytes."""
    top = tuple(_told(piece, logprob) for piece, logprob in found.top)
    return _told(found.piece, found.logprob, top)


def _told(piece: bytes, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    text = piece.decode(errors="replace")
    return TokenLogprob(text, logprob, top, () if text.encode() == piece else tuple(piece))
