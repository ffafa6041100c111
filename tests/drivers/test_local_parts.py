"""The parts of the local core that need no model: tails of text, the sampler, frames, the binding's self-test."""

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.drivers.core.local.llama import ABI, EngineUnavailable, Layout, Llama
from aios.drivers.core.local.protocol import (
    MAX_FRAME_BYTES,
    Abort,
    Frames,
    Open,
    Piece,
    Prompt,
    ProtocolError,
    Step,
    Turn,
    frame,
    read_command,
    read_report,
)
from aios.drivers.core.local.sampler import choose, uniform
from aios.drivers.core.text import Tail

TEXTS = st.text("abé漢😀", max_size=20)


def shown(text: str, stop: tuple[str, ...]) -> str:
    """The model of a tail: of the stop texts the one that ends first, of those the longest."""
    ends = [(text.index(one) + len(one), text.index(one)) for one in stop if one in text]
    return text[: min(ends)[1]] if ends else text


@given(text=TEXTS, stop=st.lists(st.text("abé漢", min_size=1, max_size=4), max_size=3), cuts=st.lists(st.integers(0, 60)))
def test_what_is_shown_does_not_depend_on_how_tokens_cut_it(text: str, stop: list[str], cuts: list[int]) -> None:
    data = text.encode()
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    tail, pieces = Tail(tuple(stop)), []
    for start, end in zip(edges, edges[1:], strict=False):
        pieces.append(tail.push(data[start:end]))
        if tail.stopped_by:
            break
    pieces.append(tail.flush())
    assert "".join(pieces) == shown(text, tuple(stop))


def test_an_unfinished_character_waits_and_is_left_out_at_the_end() -> None:
    tail = Tail(())
    assert tail.push("é".encode()[:1]) == ""
    assert tail.push("é".encode()[1:]) == "é"
    assert tail.push("😀".encode()[:3]) + tail.flush() == ""


def test_bytes_that_are_no_text_do_not_stop_it() -> None:
    tail = Tail(())
    assert tail.push(b"a\xffb") == "a\ufffdb"


LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=30).map(lambda row: np.array(row, np.float32))
CHANCES = st.floats(0, 1, exclude_max=True)


@given(row=LOGITS, chance=CHANCES)
def test_without_temperature_the_likeliest_is_chosen(row: np.ndarray, chance: float) -> None:
    assert choose(row, 0.0, 0.5, chance) == int(row.argmax())


@given(row=LOGITS, chance=CHANCES, temperature=st.floats(0.01, 5), top_p=st.floats(0.01, 1))
def test_only_tokens_of_the_nucleus_are_chosen(row: np.ndarray, chance: float, temperature: float, top_p: float) -> None:
    weights = np.exp((row.astype(np.float64) - row.max()) / temperature)
    chosen = weights[choose(row, temperature, top_p, chance)]
    likelier = weights[weights > chosen * (1 + 1e-4)].sum()  # single precision tells no finer
    assert likelier <= top_p * weights.sum() * (1 + 1e-4)


def test_chances_follow_the_probabilities() -> None:
    row = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    found = [choose(row, 1.0, 1.0, uniform(1, position)) for position in range(3000)]
    assert np.bincount(found) / 3000 == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_the_random_numbers_depend_on_seed_and_position_only() -> None:
    assert uniform(1, 2) == uniform(1, 2) != uniform(2, 1)
    assert all(0 <= uniform(seed, 0) < 1 for seed in range(100))


@given(st.lists(st.integers(1, 50)), st.integers(1, 50))
def test_frames_arrive_whole_however_the_stream_is_cut(calls: list[int], cut: int) -> None:
    data, frames, heard = b"".join(frame(Abort(call)) for call in calls), Frames(), []
    for start in range(0, len(data), cut):
        heard += [read_command(body) for body in frames.feed(data[start : start + cut])]
    assert heard == [Abort(call) for call in calls]


def test_a_frame_that_is_too_long_is_refused_on_both_sides() -> None:
    with pytest.raises(ProtocolError):
        frame(Open(1, Prompt("x" * MAX_FRAME_BYTES), 0, 0.0, 1.0))
    with pytest.raises(ProtocolError):
        Frames().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))


def test_messages_come_back_as_they_went() -> None:
    opening = Open(3, Prompt("", (Turn("user", "é"),)), 2**64 - 1, 0.5, 0.9, ("x",), 7, (1, 2), 1)
    assert read_command(frame(opening)[4:]) == opening
    step = Step(0.1, (Piece(3, (5,), "t", "stop", 9),))
    assert read_report(frame(step)[4:]) == step


@pytest.mark.parametrize("body", [b"", b"\xc1", msgspec.msgpack.encode({"type": "Nonsense"}), frame(Abort(1))[4:]])
def test_what_is_no_report_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_report(body)


def without(layout: Layout, struct: str, field: str) -> Layout:
    fields = tuple(one for one in getattr(layout, struct) if one[0] != field)
    return dataclasses.replace(layout, **{struct: fields})


@pytest.mark.parametrize(("struct", "field"), [("context", "moe_cache_size"), ("context", "n_rs_seq"), ("model", "lazy_mode")])
def test_a_shifted_struct_is_refused(struct: str, field: str) -> None:
    (layout,) = ABI.values()
    with pytest.raises(EngineUnavailable, match="structs"):
        Llama(without(layout, struct, field))
