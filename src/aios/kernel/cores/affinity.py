"""Where a conversation was last: the core that has read its beginning need not read it again.

It is a wish: a call goes to that core if it has a turn to give, and to any other that can do it if it has none. What belongs
together is told by the name that a client gave its session, and where there is none by how a conversation begins, its system text
and the first thing said after it (docs/adr/0005).
"""

from __future__ import annotations

from itertools import takewhile

import msgspec

from aios.abi.llm import Generate, Score
from aios.kernel.process import Call

MOST_KEPT = 10_000
MOST_CHARACTERS = 4096
"""Of a beginning: those that differ later share what a core has read of them."""

_encode = msgspec.json.Encoder().encode
Key = tuple[str, str, str | int]


class Affinity:
    """The cores on which the last calls ran, by what they belong to; the oldest are forgotten."""

    def __init__(self) -> None:
        self._cores: dict[Key, str] = {}

    def near(self, call: Call) -> str:
        """The core that has read the most of a call, "" if none has."""
        return self._cores.get(_key(call), "")

    def note(self, call: Call) -> None:
        """A call has its core."""
        key = _key(call)
        self._cores.pop(key, None)
        self._cores[key] = call.core
        if len(self._cores) > MOST_KEPT:
            del self._cores[next(iter(self._cores))]


def _key(call: Call) -> Key:
    """The tenant leads: no call hears of another tenant's."""
    process, request = call.process, call.request
    assert isinstance(request, Generate | Score)
    if process.named:
        return process.tenant, request.model, process.pid
    return process.tenant, request.model, hash(_beginning(request))


def _beginning(request: Generate | Score) -> str:
    if not request.messages:
        return (request.prompt or "")[:MOST_CHARACTERS]
    before = list(takewhile(lambda message: message.role == "system", request.messages))
    first = request.messages[: len(before) + 1]
    return "\n".join([_text(message.content)[:MOST_CHARACTERS] for message in first])


def _text(content: object) -> str:
    return content if isinstance(content, str) else _encode(content).decode()
