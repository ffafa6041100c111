"""Gate frames: what the kernel and a host child say to each other over their socketpair, as bytes and back.

A frame is a 4-byte big-endian length and a msgpack body of at most 8 MiB. Ids are the speaker's own: the kernel's
questions and the agents' calls do not share a counter. In a host child every frame of a process names its pid, and the
kernel takes only pids that it placed there.

    child → kernel   Hello · Call · Cancel · Answer · Print
    kernel → child   Welcome · Event · Reply · Ask · RunTool · Cancel · Tell
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from aios.abi.errors import Fault, Invalid, TooLarge
from aios.abi.label import KERNEL, Label
from aios.abi.process import Signal
from aios.abi.request import NO_OPTIONS, CallOptions

MAX_FRAME_BYTES = 8 * 1024 * 1024
HEADER_BYTES = 4


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first frame of a child: the version of the contract that it speaks."""

    abi: int


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The kernel's answer to `Hello`."""

    abi: int


class Call(msgspec.Struct, frozen=True, tag="call", omit_defaults=True):
    """A system call of process `pid`. `body`: the request in msgpack. `stream`: tell the events too."""

    id: int
    pid: str
    name: str
    body: msgspec.Raw
    options: CallOptions = NO_OPTIONS
    stream: bool = False


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """The caller gives up call `id`; its reply still comes, and says `Cancelled`. From the kernel: it gives up question `id`."""

    id: int


class Event(msgspec.Struct, frozen=True, tag="event"):
    """What streamed call `id` says before its reply."""

    id: int
    body: msgspec.Raw


NO_BODY = msgspec.Raw()


class Reply(msgspec.Struct, frozen=True, tag="reply", omit_defaults=True):
    """The end of call `id`: its reply in msgpack and its label, or a fault and no body."""

    id: int
    body: msgspec.Raw = NO_BODY
    fault: Fault | None = None
    label: Label = KERNEL


class Ask(msgspec.Struct, frozen=True, tag="ask", omit_defaults=True):
    """The kernel's question `id` to process `pid`'s host: run the agent function `entry` with `arguments`.

    The answer comes when the function has ended.
    """

    id: int
    pid: str
    entry: str
    arguments: tuple[Any, ...]
    model: str


class RunTool(msgspec.Struct, frozen=True, tag="tool", omit_defaults=True):
    """The kernel's question `id` to process `pid`'s host: run the function `tool` that the process has registered."""

    id: int
    pid: str
    tool: str
    arguments: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True, tag="answer", omit_defaults=True):
    """The answer to question `id`: what the function returned, as JSON text (`abi/answers.py`), or a fault."""

    id: int
    result: bytes = b"null"
    fault: Fault | None = None


class Tell(msgspec.Struct, frozen=True, tag="signal"):
    """A signal for process `pid`."""

    pid: str
    signal: Signal


class Print(msgspec.Struct, frozen=True, tag="print"):
    """Lines that process `pid` printed."""

    pid: str
    stream: Literal["out", "err"]
    text: str


FromChild = Hello | Call | Cancel | Answer | Print
FromKernel = Welcome | Event | Reply | Ask | RunTool | Cancel | Tell

_encoder = msgspec.msgpack.Encoder()
_from_child = msgspec.msgpack.Decoder(FromChild)
_from_kernel = msgspec.msgpack.Decoder(FromKernel)


def encode_frame(frame: msgspec.Struct) -> bytes:
    """One frame with its length. Raises `TooLarge` above 8 MiB."""
    body = _encoder.encode(frame)
    if len(body) > MAX_FRAME_BYTES:
        raise TooLarge(f"a frame of {len(body)} bytes is above the limit of {MAX_FRAME_BYTES}")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def pack(value: Any) -> msgspec.Raw:
    """A value as the body of a frame. Raises `Invalid` for what none holds: numbers above 64 bits, halves of characters."""
    try:
        return msgspec.Raw(_encoder.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Invalid(f"a `{type(value).__name__}` cannot be sent: {error}") from None


class FrameReader:
    """Cuts a byte stream into frames; `feed` what was read, and take what is whole."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Any]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The frames that `data` completes. Raises `TooLarge` or `Invalid`: the speaker is not to be trusted any more."""
        buffer = self._buffer
        buffer += data
        frames, start = [], 0
        while len(buffer) - start >= HEADER_BYTES:
            size = int.from_bytes(buffer[start : start + HEADER_BYTES], "big")
            if size > MAX_FRAME_BYTES:
                raise TooLarge(f"a frame of {size} bytes is above the limit of {MAX_FRAME_BYTES}")
            if len(buffer) - start - HEADER_BYTES < size:
                break
            body = bytes(buffer[start + HEADER_BYTES : start + HEADER_BYTES + size])
            start += HEADER_BYTES + size
            frames.append(self._decode(body))
        del buffer[:start]
        return frames

    def _decode(self, body: bytes) -> Any:
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise Invalid(f"a frame cannot be understood: {error}") from None


def reader_of_child() -> FrameReader:
    """The kernel's end."""
    return FrameReader(_from_child)


def reader_of_kernel() -> FrameReader:
    """The child's end."""
    return FrameReader(_from_kernel)
