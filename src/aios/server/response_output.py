"""Items of an answer as OpenAI's Responses have them: as JSON, and what their events say of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from aios.abi.llm import TokenLogprob
from aios.server.openai_words import logprob_of

_encode = msgspec.json.Encoder().encode


class OutputItem(ABC):
    """An item of an answer. `mark`: what its id begins with; `place`: what all events of it say.

    `kind`, `what`: the events of its text, and its name in them. `part`: whether its text is a part of its content.
    """

    __slots__ = ("id", "index", "place", "status", "texts")
    mark, kind, what, part = b"", b"", b"text", True

    def __init__(self, id: bytes, index: int) -> None:
        self.id = id
        self.index = index
        self.place = b'"item_id":"%b","output_index":%d,"content_index":0' % (id, index)
        self.texts: list[str] = []
        self.status = b"in_progress"

    @abstractmethod
    def json(self) -> bytes:
        """The item as JSON; its content comes with its end."""

    def part_json(self) -> bytes:
        """Its text as a part of its content."""
        return b'{"type":"reasoning_text","text":%b}' % _encode("".join(self.texts))

    def beside(self) -> bytes:
        """What the event of its whole text says beside the text."""
        return b""

    def ended(self) -> bool:
        return self.status != b"in_progress"


class OutputMessage(OutputItem):
    __slots__ = ("begins", "logprobs")
    mark, kind = b"msg", b"output_text"

    def __init__(self, id: bytes, index: int) -> None:
        super().__init__(id, index)
        self.logprobs: tuple[TokenLogprob, ...] = ()
        self.begins = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",%b,"delta":' % self.place

    def json(self) -> bytes:
        content = self.part_json() if self.ended() else b""
        return b'{"id":"%b","type":"message","status":"%b","role":"assistant","content":[%b]}' % (self.id, self.status, content)

    def part_json(self) -> bytes:
        text, logprobs = _encode("".join(self.texts)), _encode([logprob_of(token) for token in self.logprobs])
        return b'{"type":"output_text","annotations":[],"logprobs":%b,"text":%b}' % (logprobs, text)

    def beside(self) -> bytes:
        return b',"logprobs":%b' % _encode([logprob_of(token) for token in self.logprobs])


class OutputReasoning(OutputItem):
    __slots__ = ()
    mark, kind = b"rs", b"reasoning_text"

    def json(self) -> bytes:
        content = self.part_json() if self.ended() else b""
        return b'{"id":"%b","type":"reasoning","status":"%b","summary":[],"content":[%b]}' % (self.id, self.status, content)


class OutputCall(OutputItem):
    __slots__ = ("call_id", "name")
    mark, kind, what, part = b"fc", b"function_call_arguments", b"arguments", False

    def __init__(self, id: bytes, index: int) -> None:
        super().__init__(id, index)
        self.place = b'"item_id":"%b","output_index":%d' % (id, index)
        self.call_id = self.name = ""

    def json(self) -> bytes:
        arguments = _encode("".join(self.texts)) if self.ended() else b'""'
        return b'{"id":"%b","type":"function_call","status":"%b","call_id":%b,"name":%b,"arguments":%b}' % (
            self.id, self.status, _encode(self.call_id), _encode(self.name), arguments
        )  # fmt: skip

    def beside(self) -> bytes:
        return b',"name":%b' % _encode(self.name)
