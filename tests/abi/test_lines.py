"""Printed text as lines: what a terminal would obey is gone, what a person reads is there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.abi.lines import MAX_LINE_CHARS, LineCutter, clean_line


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain\ttext", "plain\ttext"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;never ended", ""),
        ("\x1bP1$r0m\x1b\\x", "x"),
        ("\x9b31mred", "red"),
        ("bell\x07 back\x08 null\x00", "bell back null"),
        ("abc\u202egnp.exe", "abcgnp.exe"),
        ("naïve Ελλάδα 日本", "naïve Ελλάδα 日本"),
        ("\ud800", ""),
    ],
)
def test_a_clean_line_obeys_nobody(said: str, shown: str) -> None:
    assert clean_line(said) == shown


def test_a_long_line_is_cut_once_and_the_next_one_is_whole() -> None:
    cutter = LineCutter()
    lines = [line for _ in range(5) for line in cutter.feed("x" * MAX_LINE_CHARS)] + cutter.feed("end of it\nnext\n")
    assert [len(line) > MAX_LINE_CHARS for line in lines] == [True, False] and lines[1] == "next"


def test_a_progress_bar_shows_its_last_state() -> None:
    assert LineCutter().feed("10%\r50%\r100%\r\ndone\r\n") == ["100%", "done"]


def test_a_line_without_an_end_comes_at_the_end() -> None:
    cutter = LineCutter()
    assert (cutter.feed("a\nb"), cutter.end(), cutter.end()) == (["a"], ["b"], [])


@given(st.text(), st.lists(st.integers(0, 400)))
def test_how_the_bytes_are_cut_changes_nothing(text: str, cuts: list[int]) -> None:
    data = text.encode("utf-8", "replace")
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    whole, pieces = LineCutter(), LineCutter()
    expected = whole.feed(data) + whole.end()
    got = [line for a, b in zip(edges, edges[1:], strict=False) for line in pieces.feed(data[a:b])] + pieces.end()
    assert got == expected
