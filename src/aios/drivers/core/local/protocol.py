"""What the kernel and the host of a local model say to each other: length-prefixed msgpack over an inherited socketpair.

A generation is known here by a number of the driver's own. The kernel's side keeps everything that a new host needs to go on
where a dead one stopped, so a host holds no state that could be lost.
"""

from __future__ import annotations

import struct
from typing import Literal, TypeVar

import msgspec

VERSION = 3
MAX_FRAME_BYTES = 8 << 20
MOST_FORCED = 64
"""Tokens of one call in one piece: those that must follow another come with it."""

T = TypeVar("T")
_LENGTH = struct.Struct(">I")


class ProtocolError(Exception):
    """What came is not a message of this protocol."""


class ToHost(msgspec.Struct, frozen=True, tag=True):
    """Base of what the kernel says."""


class FromHost(msgspec.Struct, frozen=True, tag=True):
    """Base of what the host says."""


class Hello(ToHost, frozen=True):
    """The first message: what to load. `window`: tokens per slot. `chunk`: prompt tokens per step, over all calls.

    `backlog`: tokens of one call that may be unacknowledged before that call, and only that one, stands still. `home`: folder
    for what is remembered about model files. `sha256`: what the file must have. `probe_s`: most that proving exactness may take.
    `store_bytes`: for what calls have read, when their slots are needed. `public`: texts with which calls of different tenants
    may begin and share that. `share` false: every call reads everything itself.
    """

    version: int
    model: str
    slots: int
    window: int
    threads: int
    chunk: int
    backlog: int
    home: str
    probe_s: float
    store_bytes: int
    public: tuple[str, ...]
    share: bool
    sha256: str | None = None


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """One message of a conversation, as the model's chat template takes it."""

    role: str
    content: str


class Prompt(msgspec.Struct, frozen=True, array_like=True):
    """What the model reads: a conversation, or, with `turns` empty, a text to go on with."""

    text: str = ""
    turns: tuple[Turn, ...] = ()

    def size(self) -> int:
        """Characters of all that it says."""
        return len(self.text) + sum(len(turn.content) for turn in self.turns)


class Constraint(msgspec.Struct, frozen=True, array_like=True):
    """What an answer must be. `text`: a JSON schema, the choices as a JSON list, a regular expression, or the functions that
    may be called as a JSON list of [name, schema]; with `call_or_text`, any text that does not begin with a brace is one too.
    """

    kind: Literal["schema", "choice", "regex", "call", "call_or_text"]
    text: str


class Open(ToHost, frozen=True):
    """Generate. `delivered`: tokens that an earlier host made already, of which `acked` reached the caller.

    `max_tokens` None: as many as there is room for. `logprobs`: tell how likely each token was, and so many of the likeliest.
    """

    call: int
    prompt: Prompt
    seed: int
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    delivered: tuple[int, ...] = ()
    acked: int = 0
    constraint: Constraint | None = None
    logprobs: int | None = None
    tenant: str = ""


class Weigh(ToHost, frozen=True):
    """How likely are these continuations? Answered by `Weighed`, or refused like an `Open`."""

    call: int
    prompt: Prompt
    labels: tuple[str, ...]
    tenant: str = ""


class Ack(ToHost, frozen=True):
    """So many tokens of this call have reached the caller, in all."""

    call: int
    tokens: int


class Abort(ToHost, frozen=True):
    """End this call now; answered by `Gone`, also where the call is not known any more."""

    call: int


class Freeze(ToHost, frozen=True):
    """Let this call wait, without a slot; nothing of it comes until it is thawed, but what is under way."""

    call: int


class Thaw(ToHost, frozen=True):
    """Let this call go on."""

    call: int


class Measure(ToHost, frozen=True):
    """How many tokens is this? Answered by `Measured`."""

    ask: int
    prompt: Prompt


class Ping(ToHost, frozen=True):
    """Are you there? Answered by `Pong`, within one pass."""


class Ready(FromHost, frozen=True):
    """The model is loaded; `sha256`: of its file. `window`: tokens per slot. `chat`: it has a template that the engine can apply.

    `exact`: a generation does not depend on what happens around it; `inexact`: the circumstance on which it does, or `time` if
    that was not found out. `probe_s`: what finding out took, ~0 if it was known. `golden`: whether a known model says what it is
    known to say.
    """

    version: int
    library: str
    window: int
    chat: bool
    load_s: float
    sha256: str
    exact: bool
    inexact: str
    probe_s: float
    golden: Literal["same", "near", "unknown"]


class Unfit(FromHost, frozen=True):
    """The host cannot start, and says in one sentence what to do."""

    message: str


class Likelihood(msgspec.Struct, frozen=True, array_like=True):
    """A token's bytes and the natural logarithm of its probability; `top`: the likeliest at its place."""

    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """What one step brought for one call. `text` may lag behind `ids`: it never ends within a character or a stop text.

    `prompt_tokens`, and those of them that were read for others, `cached_tokens`, are set with `finish`; `stopped_by`: the stop
    text that was the end.
    """

    call: int
    ids: tuple[int, ...]
    text: str = ""
    finish: Literal["stop", "length"] | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    logprobs: tuple[Likelihood, ...] = ()
    stopped_by: str = ""


class Step(FromHost, frozen=True):
    """What one pass of the model brought; nothing while it only reads prompts."""

    seconds: float
    pieces: tuple[Piece, ...] = ()
    refused: tuple[Refused, ...] = ()
    weighed: tuple[Weighed, ...] = ()


class TooLong(FromHost, frozen=True):
    """The call's prompt does not leave room for one new token."""

    call: int
    tokens: int
    window: int


class Refused(FromHost, frozen=True):
    """The call's constraint cannot be kept; the call is ended."""

    call: int
    message: str


class Weighed(FromHost, frozen=True):
    """For each label the natural logarithm of its likelihood, and its tokens. The rest as in a `Piece`."""

    call: int
    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int


class Gone(FromHost, frozen=True):
    """The call is ended and its slot is free."""

    call: int


class Measured(FromHost, frozen=True):
    """The answer to `Measure`."""

    ask: int
    tokens: int


class Pong(FromHost, frozen=True):
    """The answer to `Ping`."""


Command = Hello | Open | Weigh | Ack | Abort | Freeze | Thaw | Measure | Ping
Report = Ready | Unfit | Step | TooLong | Refused | Gone | Measured | Pong

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def frame(message: Command | Report) -> bytes:
    """The message's bytes. Raises `ProtocolError` if it is over 8 MB."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"{type(message).__name__} has {len(body)} bytes, the most is {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def read_command(body: bytes) -> Command:
    """The message in a frame. Raises `ProtocolError`."""
    return _read(_commands, body)


def read_report(body: bytes) -> Report:
    """The message in a frame. Raises `ProtocolError`."""
    return _read(_reports, body)


def _read(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as problem:
        raise ProtocolError(str(problem)) from None


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete now. Raises `ProtocolError` on one that is too long."""
        self._pending += data
        frames, start = [], 0
        while len(self._pending) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._pending, start)
            if size > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame of {size} bytes, the most is {MAX_FRAME_BYTES}")
            end = start + _LENGTH.size + size
            if len(self._pending) < end:
                break
            frames.append(bytes(self._pending[start + _LENGTH.size : end]))
            start = end
        del self._pending[:start]
        return frames
