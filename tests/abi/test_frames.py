"""Frames: what was said is heard, however it was cut; what is garbage is refused, and refused in words."""

import random
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.errors import AiosError, Fault, Invalid, TooLarge
from aios.abi.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Answer,
    Ask,
    Call,
    Cancel,
    Event,
    FromChild,
    FromKernel,
    Hello,
    Print,
    Reply,
    RunTool,
    Tell,
    Welcome,
    encode_frame,
    pack,
    reader_of_child,
    reader_of_kernel,
)
from aios.abi.label import UNTRUSTED
from aios.abi.llm import Delta, Generate
from aios.abi.request import CallOptions
from aios.abi.wire import decode_request, row_named

CHILD = [
    Hello(1),
    Call(1, "42", "llm.generate", pack(Generate(prompt="hé")), CallOptions(deadline_s=2.5, key="k"), stream=True),
    Cancel(2**40),
    Answer(3, b'{"a": [1, null, 2.5]}'),
    Answer(4, fault=Fault("ChildFailed", "it raised")),
    Print("42", "err", "a\nb"),
]
KERNEL = [
    Welcome(1),
    Event(1, pack(Delta(text="x"))),
    Reply(1, pack({"a": 1}), label=UNTRUSTED),
    Reply(2, fault=Fault("Denied", "no", field="model", retry_after_s=1.5)),
    Ask(1, "42", "main", ("x", {"y": 1}), "default"),
    RunTool(2, "42", "add", {"left": 1}),
    Cancel(2),
    Tell("42", "kill"),
]
ENDS = [(CHILD, reader_of_child), (KERNEL, reader_of_kernel)]


def plain(frame: Any) -> Any:
    """A frame without the wrapper of raw bodies, which compare by identity."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(frame))


def test_every_frame_is_among_the_examples() -> None:
    assert {type(frame) for frame in CHILD} == set(get_args(FromChild))
    assert {type(frame) for frame in KERNEL} == set(get_args(FromKernel))


@pytest.mark.parametrize(("frames", "reader"), ENDS)
def test_what_was_said_is_heard(frames: list[Any], reader: Any) -> None:
    heard = reader().feed(b"".join(map(encode_frame, frames)))
    assert [plain(frame) for frame in heard] == [plain(frame) for frame in frames]
    assert [type(frame) for frame in heard] == [type(frame) for frame in frames]


@pytest.mark.parametrize(("frames", "reader"), ENDS)
def test_a_stream_may_be_cut_at_every_byte(frames: list[Any], reader: Any) -> None:
    whole = b"".join(map(encode_frame, frames))
    expected = [plain(frame) for frame in frames]
    for cut in range(len(whole) + 1):
        end = reader()
        assert [plain(frame) for frame in end.feed(whole[:cut]) + end.feed(whole[cut:])] == expected
    end = reader()
    assert [plain(frame) for byte in whole for frame in end.feed(bytes([byte]))] == expected


def test_a_request_in_a_frame_is_the_request() -> None:
    (call,) = reader_of_child().feed(encode_frame(CHILD[1]))
    assert decode_request(row_named(call.name), call.body, "msgpack") == Generate(prompt="hé")


def test_a_frame_above_the_limit_is_neither_written_nor_read() -> None:
    with pytest.raises(TooLarge, match=str(MAX_FRAME_BYTES)):
        encode_frame(Print("1", "out", "x" * MAX_FRAME_BYTES))
    for size in (MAX_FRAME_BYTES + 1, 2**32 - 1):
        with pytest.raises(TooLarge):
            reader_of_child().feed(size.to_bytes(HEADER_BYTES, "big"))
    largest = Print("1", "out", "x" * (MAX_FRAME_BYTES - 40))
    assert reader_of_child().feed(encode_frame(largest)) == [largest]


def test_the_size_is_refused_before_the_body_is_collected() -> None:
    reader = reader_of_child()
    with pytest.raises(TooLarge):
        reader.feed((MAX_FRAME_BYTES + 1).to_bytes(HEADER_BYTES, "big") + b"x")
    assert len(reader._buffer) < 10


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(HEADER_BYTES, "big") + body


packed = msgspec.msgpack.encode
CALL = {"type": "call", "id": 1, "pid": "1", "name": "x", "body": 1}
HOSTILE = {
    "nothing": b"",
    "no map": b"\x01",
    "an unknown kind": packed({"type": "root"}),
    "a frame of the other side": packed(Welcome(1)),
    "half": packed(Hello(1))[:-1],
    "a name that is no text": packed({"type": "answer", "id": 1, "result": "AA"}).replace(b"AA", b"\xff\xfe"),
    "a key that is a map": b"\x83\xa4type\xa6answer\xa2id\x01\xa6result\x81\x80\x01",
    "nesting without end": b"\x83\xa4type\xa6answer\xa2id\x01\xa6result" + b"\x91" * 100_000 + b"\x01",
    "a list of four billion": b"\x83\xa4type\xa6answer\xa2id\x01\xa6result\xdd\xff\xff\xff\xff",
    "an option that is wrong": packed({**CALL, "options": {"deadline_s": -1}}),
    "an unknown option": packed({**CALL, "options": {"operator": True}}),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_garbage_is_refused_in_words(what: str) -> None:
    with pytest.raises(Invalid, match="cannot be understood"):
        reader_of_child().feed(framed(HOSTILE[what]))


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_noise_raises_nothing_but_errors_of_ours(noise: bytes) -> None:
    for stream in (noise, framed(noise)):
        try:
            reader_of_child().feed(stream)
        except AiosError:
            pass


def test_a_frame_with_changed_bytes_raises_nothing_but_errors_of_ours() -> None:
    chance = random.Random(3)
    bodies = [encode_frame(frame)[HEADER_BYTES:] for frame in CHILD]
    for _ in range(20_000):
        body = bytearray(chance.choice(bodies))
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        try:
            reader_of_child().feed(framed(bytes(body)))
        except AiosError:
            pass


@pytest.mark.parametrize("value", [1 << 70, "\ud800", object(), {(1, 2): object()}])
def test_what_has_no_place_in_a_frame_is_refused_in_words(value: Any) -> None:
    with pytest.raises(Invalid, match="cannot be sent"):
        pack({"value": value})
