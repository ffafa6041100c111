"""Model files of strangers: each flaw has its own sentence, and none is more than a sentence."""

import json
import math
import os
import random
import struct
from pathlib import Path

import pytest
from gguf_files import Value, gguf, keys, tensors, written
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.errors import Conflict, Invalid, NotFound, Unavailable
from aios.drivers.core.local.examine import examine
from aios.drivers.core.local.gguf import Flawed, read_header
from aios.drivers.core.local.shelf import Added, Shelf, check_name, name_of

WHOLE = gguf()
HEAD = len(WHOLE) - 4 * sum(map(math.prod, tensors().values()))


def test_a_small_model_made_by_hand_is_one(tmp_path: Path) -> None:
    assert examine(written(tmp_path / "small.gguf", WHOLE)).flaw is None


@pytest.mark.parametrize("size", [0, 1, 3, 4, 23, 24, 25, 100, HEAD // 2, HEAD - 200, HEAD, len(WHOLE) // 2, len(WHOLE) - 40])
def test_a_truncated_file_is_told_as_one(tmp_path: Path, size: int) -> None:
    flaw = "truncated" if size else "no model"
    assert examine(written(tmp_path / "cut.gguf", WHOLE[:size])).flaw == flaw


def without(name: str) -> dict[str, tuple[int, ...]]:
    return {key: size for key, size in tensors().items() if key != name}


BIG_ENDIAN = WHOLE[:4] + struct.pack(">IQQ", *struct.unpack_from("<IQQ", WHOLE, 4)) + WHOLE[24:]


@pytest.mark.parametrize(
    ("data", "flaw", "said"),
    [
        (b"hello " * 100, "no model", "is not a GGUF model file"),
        (b"<!doctype html><p>not found", "no model", "is not a GGUF model file"),
        (BIG_ENDIAN, "byte order", "big-endian"),
        (WHOLE[:4] + struct.pack("<I", 9) + WHOLE[8:], "version", "GGUF version 9"),
        (WHOLE[:8] + bytes(16) + WHOLE[24:], "damaged", "damaged GGUF header"),
        (WHOLE[:24] + b"\xff" * 8 + WHOLE[32:], "damaged", "a text of 18446744073709551615 bytes"),
        (WHOLE.replace(b"general.architecture", b"general.architectura"), "damaged", "of which architecture"),
        (gguf(keys("nobody-knows")), "unknown", "(`nobody-knows`)"),
        (gguf(keys("evil\x1b[2J")), "unknown", "does not know"),
        (gguf(keys(split__count=3)), "unfit", "one of 3 parts"),
        (gguf(keys(llama__attention__causal=False)), "unfit", "for embeddings"),
        (gguf(sizes=without("blk.0.ffn_up.weight")), "damaged", "'blk.0.ffn_up.weight' not found"),
        (gguf(keys(llama__block_count=2)), "damaged", "not found"),
    ],
)  # fmt: skip
def test_each_flaw_has_its_own_sentence(tmp_path: Path, data: bytes, flaw: str, said: str) -> None:
    found = examine(written(tmp_path / "flawed.gguf", data))
    assert (found.flaw, said in found.said) == (flaw, True), found


def test_the_same_key_twice_is_damage(tmp_path: Path) -> None:
    said: dict[str, Value] = keys()
    twice = gguf(said | {"llama.context_lengtx": 3}).replace(b"llama.context_lengtx", b"llama.context_length")
    with pytest.raises(Flawed, match="stands there twice"):
        read_header(written(tmp_path / "twice.gguf", twice))


@pytest.mark.parametrize("seed", range(12))
def test_damage_anywhere_in_the_header_is_a_verdict_of_the_child(tmp_path: Path, seed: int) -> None:
    """Numbers that steer how much is taken from memory are among what is changed."""
    dice, data = random.Random(seed), bytearray(WHOLE)
    for _ in range(3):
        data[dice.randrange(4, HEAD)] = dice.choice((0, 1, 127, 255))
    found = examine(written(tmp_path / "damaged.gguf", bytes(data)))
    assert (found.flaw is None) == (found.said == "") and "\n" not in found.said and "Traceback" not in found.said


@settings(deadline=None)
@given(cut=st.integers(0, HEAD), changes=st.lists(st.tuples(st.integers(0, HEAD - 1), st.integers(0, 255)), max_size=6))
def test_no_header_is_read_otherwise_than_to_its_end_or_as_flawed(
    tmp_path_factory: pytest.TempPathFactory, cut: int, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(WHOLE[:HEAD])
    for at, byte in changes:
        data[at] = byte
    path = written(tmp_path_factory.getbasetemp() / "fuzzed.gguf", bytes(data[:cut] or data))
    try:
        read_header(path)
    except Flawed as flawed:
        assert len(flawed.said) < 300 and flawed.said.isprintable()


def added(name: str) -> Added:
    return Added(name, 1, "0" * 64, "here", "llama", 0)


def put(shelf: Shelf, name: str) -> None:
    with shelf.adding(name) as part:
        shelf.keep(added(name), written(part, b"x"))


def test_the_shelf_keeps_what_was_added_for_its_owner_alone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    put(shelf, "b")
    put(shelf, "a")
    assert [model.name for model in Shelf(tmp_path).list()] == ["a", "b"] and shelf.path("a").read_bytes() == b"x"
    assert (tmp_path / "models").stat().st_mode & 0o777 == 0o700
    assert {path.name for path in shelf.folder.iterdir()} == {"a.gguf", "b.gguf", "models.json", "lock"}


def test_the_chosen_one_is_not_removed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    put(shelf, "a")
    shelf.choose("a")
    with pytest.raises(Conflict, match="aios models use embedded"):
        shelf.remove("a")
    shelf.choose(None)
    shelf.remove("a")
    assert shelf.list() == () and shelf.chosen() is None and not shelf.path("a").exists()


def test_a_name_that_nobody_added_is_not_found(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    put(shelf, "smol")
    for act in (shelf.choose, shelf.remove):
        with pytest.raises(NotFound, match="did you mean `smol`"):
            act("smoll")


def test_two_do_not_add_the_same_at_once_and_the_second_hears_of_it(tmp_path: Path) -> None:
    shelf, other = Shelf(tmp_path), Shelf(tmp_path)
    with shelf.adding("a"), pytest.raises(Conflict, match="being added by another"), other.adding("a"):
        pass
    with shelf.adding("a"), other.adding("b"):
        pass
    put(shelf, "a")
    with pytest.raises(Conflict, match="already"), other.adding("a"):
        pass


def test_a_damaged_record_is_one_sentence(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    put(shelf, "a")
    record = shelf.folder / "models.json"
    assert json.loads(record.read_bytes())["models"]["a"]["name"] == "a"
    os.truncate(record, 10)
    with pytest.raises(Unavailable, match="record .*models.json is damaged"):
        shelf.list()


@given(st.text())
def test_what_a_name_is_made_of_cannot_leave_the_folder(text: str) -> None:
    name = name_of(text)
    assert name == name_of(name) and "/" not in name and not name.startswith(".") and 0 < len(name) <= 100


@pytest.mark.parametrize("name", ["", "..", "a/b", "embedded", "default", "smollm2-135m-instruct", "a b", "x.gguf", "\x1b"])
def test_some_names_are_refused(name: str) -> None:
    with pytest.raises(Invalid):
        check_name(name)
