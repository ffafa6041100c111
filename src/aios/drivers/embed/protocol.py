"""What the kernel and the index child say to each other: frames as on a Gate, one question at a time.

kernel → child   Load · Texts
child → kernel   Loaded | Unfit · Vectors
"""

from __future__ import annotations

import msgspec

from aios.abi.frames import FrameReader


class Load(msgspec.Struct, frozen=True, tag="load"):
    """The first question: load the model in `folder`. `sha256`: of its file `weights`. `window`: tokens of a text that count."""

    folder: str
    weights: str
    sha256: str
    window: int


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is there; `load_s`: processor time that it took."""

    load_s: float


class Unfit(msgspec.Struct, frozen=True, tag="unfit"):
    """It cannot be loaded, with a sentence of what to do."""

    message: str


class Texts(msgspec.Struct, frozen=True, tag="texts"):
    """Embed these."""

    texts: tuple[str, ...]


class Vectors(msgspec.Struct, frozen=True, tag="vectors"):
    """What came of `Texts`, see `Embedded`."""

    vectors: tuple[bytes, ...]
    tokens: int
    cut: int


Question = Load | Texts
Reply = Loaded | Unfit | Vectors

_questions = msgspec.msgpack.Decoder(Question)
_replies = msgspec.msgpack.Decoder(Reply)


def reader_of_kernel() -> FrameReader:
    """The child's end."""
    return FrameReader(_questions)


def reader_of_child() -> FrameReader:
    """The kernel's end."""
    return FrameReader(_replies)
