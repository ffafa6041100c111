"""What people see: nothing that others wrote steers the terminal, and times are read at a glance."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.abi.errors import Unavailable
from aios.abi.waits import Wait
from aios.cli.command import Ended, Said
from aios.cli.show import duration, json_text, one_line, say, size, table, wait_of


class Terminal(io.StringIO):
    """Takes what is printed and says that a person reads it."""

    def isatty(self) -> bool:
        return True


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_says_the_same_after_it_was_made_harmless(text: str) -> None:
    assert json.loads(json_text({"text": text})) == {"text": text}
    assert "\u202e" not in json_text({"text": text})


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1


STEERS = "no\x1b[2J\u202e way\x07"


def test_words_of_others_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"off: {STEERS}")
    Ended(Unavailable(STEERS)).show()
    Said(STEERS, 1).show()
    said = capsys.readouterr().err
    assert said.count("way") == 3 and not {"\x1b", "\u202e", "\x07"} & set(said)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 ms"),
        (0.04, "40 ms"),
        (0.8, "0.8 s"),
        (12.3, "12 s"),
        (59.6, "1 m 0 s"),
        (130, "2 m 10 s"),
        (11040, "3 h 4 m"),
        (439200, "5 d 2 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_sizes_are_decimal() -> None:
    assert [size(n) for n in (0, 999, 94_000_000, 5e12)] == ["0 B", "999 B", "94 MB", "5.0 TB"]


def test_a_wait_names_what_who_and_how_long_still() -> None:
    wait = Wait(code="S", on="cores", since_ns=0, holder="triage-4", eta_s=1.4)
    assert wait_of(wait) == "cores, held by triage-4, about 1.4 s left (S)"
    assert wait_of(None) == ""


def test_a_table_in_a_pipe_is_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    table(("NAME", "CLASS"), [("a-1", "batch"), ("x" * 300, "standard\x1b[0m")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "CLASS"] and lines[2] == f"{'x' * 300}  standard␛[0m" and "\x1b" not in "".join(lines)


def test_a_table_on_a_terminal_fits_it_and_colours_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.delenv("NO_COLOR", raising=False)
    table(("NAME", "CLASS"), [("a-1", "batch"), ("x" * 300, "standard")])
    head, first, second = screen.getvalue().splitlines()
    assert len(second) == 20 and second.endswith("…") and len(head) <= 20 and "x" not in first


def test_a_narrow_terminal_does_without_columns_to_spare_and_a_pipe_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(out: io.StringIO) -> list[str]:
        monkeypatch.setattr(sys, "stdout", out)
        table(("NAME", "SPENT", "LEFT"), [("a" * 10, "1" * 10, "2" * 10)], spare=("SPENT", "LEFT"))
        return out.getvalue().splitlines()

    monkeypatch.setenv("COLUMNS", "25")
    assert shown(Terminal()) == ["NAME        LEFT", "aaaaaaaaaa  2222222222"]
    assert shown(io.StringIO())[0].split() == ["NAME", "SPENT", "LEFT"]
    monkeypatch.setenv("COLUMNS", "40")
    assert shown(Terminal())[0].split() == ["NAME", "SPENT", "LEFT"]


def test_a_wait_that_says_its_reason_names_its_holder_once() -> None:
    said = "`/a` has spent 2 calls of 2 calls per minute"
    assert wait_of(Wait(code="R", on=said, since_ns=0, holder="/a", eta_s=6.4)) == f"{said}, about 6.4 s left (R)"
    assert wait_of(Wait(code="B", on="room in `/a`", since_ns=0, holder="/a")) == "room in `/a`, held by /a (B)"
