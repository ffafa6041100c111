"""Printed text as lines: what a terminal would obey is gone, what a person reads is there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.abi.lines import MAX_LINE_CHARS, LineCutter, clean_line, visible


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2Jgone", "␛[2Jgone"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("over\rwritten\x08", "over␍written␈"),
        ("\x9b31m", "<U+009B>31m"),
        ("abc\u202edef", "abc<U+202E>def"),
        ("\udc80 half", "<U+DC80> half"),
        ("tag\U000e0041", "tag<U+E0041>"),
        ("zero\u200bwidth\ufeff", "zero<U+200B>width<U+FEFF>"),
        ("two\u2028lines", "two<U+2028>lines"),
        ("Ελλάδα\n\t日本 می\u200cخواهم 👩\u200d🚀", "Ελλάδα\n\t日本 می\u200cخواهم 👩\u200d🚀"),
    ],
)
def test_what_could_steer_a_terminal_is_made_visible(hostile: str, shown: str) -> None:
    assert visible(hostile) == shown


@given(st.text())
def test_a_visible_text_can_be_printed_and_is_left_alone_the_second_time(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    assert not any(ord(character) < 32 and character not in "\n\t" for character in shown)
    shown.encode()


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
        ("hid\u200bden\U000e0041", "hidden"),
    ],
)
def test_a_clean_line_obeys_nobody(said: str, shown: str) -> None:
    assert clean_line(said) == shown


@given(st.text())
def test_a_clean_line_has_nothing_left_to_show(text: str) -> None:
    assert visible(clean_line(text)) == clean_line(text)


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
