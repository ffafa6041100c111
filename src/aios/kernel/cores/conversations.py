"""What a provider said a conversation came to: what follows it comes to no more than that, and the bytes of what is new.

Only where nobody can count the tokens of a question before it is asked. What is kept are the last questions of each process, to
which its next ones are compared, message by message.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from aios.abi.llm import Generate, Message
from aios.kernel.ledger.bounds import PER_MESSAGE, message_bound
from aios.kernel.process import Process

MOST_OF_PROCESS = 8
LEAST_BYTES = 2048
"""Of a question that is kept: what is known of smaller ones helps nobody."""
MOST_BYTES = 64 * 1024 * 1024
"""Of all questions that are kept, about; those of the process go first that asked least lately."""


class Heard(NamedTuple):
    """A question, and how many tokens it was on a core. `size`: bytes, about."""

    core: str
    model: str
    request: Generate
    tokens: int
    size: int


class Conversations:
    """The last questions of processes."""

    def __init__(self) -> None:
        self._of: dict[Process, deque[Heard]] = {}
        self._bytes = 0

    def note(self, process: Process, heard: Heard) -> None:
        """A question of a process came to so many tokens. One of less than `LEAST_BYTES` is not worth it."""
        kept = self._of[process] = self._of.pop(process, deque())
        kept.append(heard)
        self._bytes += heard.size
        if len(kept) > MOST_OF_PROCESS:
            self._bytes -= kept.popleft().size
        while self._bytes > MOST_BYTES:
            self.forget(next(iter(self._of)))

    def forget(self, process: Process) -> None:
        """It asks no more."""
        self._bytes -= sum(each.size for each in self._of.pop(process, ()))

    def bound(self, process: Process, core: str, model: str, request: Generate) -> int | None:
        """Tokens of a question, at most; None for one that goes on with nothing that is known."""
        known = (each for each in reversed(self._of.get(process, ())) if (each.core, each.model) == (core, model))
        before = next((each for each in known if goes_on(request, each.request)), None)
        if before is None:
            return None
        new = request.messages[len(before.request.messages) :]
        if any(map(shows, new)) or any(map(refers, before.request.messages)):
            return None
        return before.tokens + PER_MESSAGE + sum(map(message_bound, new))


def shows(message: Message) -> bool:
    """Whether there is more than text in a message: of pictures and files bytes say little."""
    return type(message.content) is tuple and any(part.type != "text" for part in message.content)


def refers(message: Message) -> bool:
    """Whether there is something in a message that lies elsewhere, and may be another by now than it was when it was counted."""
    if type(message.content) is not tuple:
        return False
    there = [part for part in message.content if part.type != "text"]
    return any(part.type == "other" or not part.image.startswith("data:") for part in there)


def goes_on(request: Generate, before: Generate) -> bool:
    """Whether a question is one from before with more messages, and nothing else in it that a model is told."""
    count = len(before.messages)
    return bool(count) and request.messages[:count] == before.messages and told(request) == told(before)


def told(request: Generate) -> tuple[object, ...]:
    """What a model may be told beside the messages."""
    return (
        request.tools, request.tool_choice, request.parallel_tool_calls, request.response_format, request.reasoning_effort,
        request.wire, request.extra,
    )  # fmt: skip
