"""What is asked of an upstream: how long it takes and what it says, written into the model's name.

A model's name goes through any kernel unchanged, so that the direct and the mediated call ask for the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

SYSTEM = "You are one of many agents that share a model. Answer briefly, in plain words, and say so when you do not know."
QUESTION = "A customer asks why an order that was paid on Monday has not left the warehouse by Thursday. What do you check first?"
MESSAGES = ({"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION})

_encoder = msgspec.json.Encoder()


class Work(msgspec.Struct, frozen=True):
    """One generation: its slots' name, milliseconds until its first piece, pieces, milliseconds between them, bytes of each."""

    slots: str = "eight"
    delay_ms: int = 0
    pieces: int = 1
    gap_ms: int = 0
    size_bytes: int = 24

    @property
    def model(self) -> str:
        return f"{self.slots}-{self.delay_ms}-{self.pieces}-{self.gap_ms}-{self.size_bytes}"

    @classmethod
    def of(cls, model: str) -> Work:
        """The work that a model's name stands for. Raises ValueError."""
        slots, *numbers = model.split("-")
        delay_ms, pieces, gap_ms, size_bytes = map(int, numbers)
        return cls(slots, delay_ms, pieces, gap_ms, size_bytes)


def chat_body(work: Work, stream: bool) -> bytes:
    """The body of an agent's chat request."""
    return _encoder.encode({"model": work.model, "messages": MESSAGES, "stream": stream, "max_tokens": 4096})


def messages_body(work: Work, stream: bool) -> bytes:
    """The same question on Anthropic's wire."""
    asked = {"model": work.model, "max_tokens": 4096, "system": SYSTEM, "messages": MESSAGES[1:], "stream": stream}
    return _encoder.encode(asked)


def response_body(work: Work, stream: bool) -> bytes:
    """The same question on OpenAI's newer wire."""
    asked = {"model": work.model, "instructions": SYSTEM, "input": QUESTION, "stream": stream, "max_output_tokens": 4096}
    return _encoder.encode(asked)


BODIES: Mapping[str, Callable[[Work, bool], bytes]] = {
    "/v1/chat/completions": chat_body,
    "/v1/messages": messages_body,
    "/v1/responses": response_body,
}
"""What an agent asks at each door, by the door's path."""


def upstream_body(work: Work) -> bytes:
    """The body that a kernel sends upstream for it: always a stream with its usage."""
    asked = {"model": work.model, "stream": True, "stream_options": {"include_usage": True}, "messages": MESSAGES}
    return _encoder.encode(asked | {"max_tokens": 4096, "seed": 1234567890})


def http_request(path: str, body: bytes, token: str = "") -> bytes:
    """A POST on a kept connection."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: aios-benchmarks\r\nAccept: */*\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
