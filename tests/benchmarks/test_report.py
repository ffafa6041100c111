"""The machinery of the benchmarks: percentiles, the form of a result, the README's figures."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from benchmarks import convoy, figures
from benchmarks.rig.child import Failed
from benchmarks.rig.client import Outcome
from benchmarks.rig.report import Bar, Result, percentile, result, rounded_to, table, tables, text
from benchmarks.rig.stage import check, plan
from benchmarks.rig.upstream import Counts
from benchmarks.rig.usage import cpu_s, rss_bytes
from benchmarks.rig.work import Work

FOUND = Result(
    name="convoy",
    machine={"cpu": "Some CPU", "cores": 2.0, "system": "Linux 6", "python": "CPython 3.11.7", "load_1m": 0.5, "load_5m": 0.5},
    versions={"aios": "0.1.0"},
    date="2026-11-21T00:00:00+00:00",
    quick=True,
    figures={"short_p50_vs_direct": 1.05},
    rows=[{"question": "how late", "case": "alone", "kernel": 1.5}],
)
README = "# AIOS\n\n<!-- figures -->\nold\n<!-- /figures -->\n\n## More\n"


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_one_of_the_values(percent: float, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_of_nothing_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_number_keeps_its_significant_digits() -> None:
    assert [rounded_to(value, 3) for value in (0.0012345, 12.345, 98765.0)] == [0.00123, 12.3, 98800.0]


def test_a_result_is_written_in_the_shape_that_the_issue_fixed() -> None:
    found = msgspec.json.decode(msgspec.json.encode(result("overhead", True, {"start_s": 0.35}, FOUND.rows)))
    assert list(found) == ["name", "machine", "versions", "date", "quick", "figures", "rows"]
    assert (found["name"], found["quick"], found["figures"]) == ("overhead", True, {"start_s": 0.35})
    assert {"cpu", "cores", "python", "load_1m"} <= found["machine"].keys()
    assert {"aios", "aiohttp", "uvicorn", "uvloop"} <= found["versions"].keys()


def test_a_result_says_which_bars_hold() -> None:
    said = text(FOUND, {"short_p50_vs_direct": Bar("at most", 1.0)})
    assert "MISSES: at most 1" in said
    assert "holds" in text(FOUND, convoy.BARS)


def test_a_table_leaves_empty_what_a_row_does_not_have() -> None:
    assert table([{"case": "a", "x": 1.0}, {"case": "b", "y": 2000.0}]).splitlines() == [
        "case  x      y",
        "a     1",
        "b        2,000",
    ]


def test_each_question_has_a_table_of_its_own() -> None:
    rows: list[dict[str, str | float]] = [{"question": "one", "case": "a"}, {"question": "two", "case": "b", "x": 1.0}]
    assert tables(rows).split("\n\n") == ["one\ncase\na", "two\ncase  x\nb     1"]


def test_figures_stand_between_their_marks_in_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    with pytest.raises(figures.Stale, match="other figures"):
        figures.update(readme, [FOUND], check=True)
    assert readme.read_text() == README
    figures.update(readme, [FOUND], check=False)
    figures.update(readme, [FOUND], check=True)
    written = readme.read_text()
    assert "| 1.05 | at most 1.1 |" in written
    assert "2026-11-21 on Some CPU, 2 cores" in written
    assert written.startswith("# AIOS\n\n<!-- figures -->\n") and written.endswith("<!-- /figures -->\n\n## More\n")


def test_a_readme_without_a_place_for_figures_is_told(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    assert "no README.md" in figures.update(readme, [FOUND], check=True)
    readme.write_text("# AIOS\n")
    with pytest.raises(figures.Stale, match="no place"):
        figures.update(readme, [FOUND], check=True)


def test_the_committed_results_have_every_figure_that_must_reach_something() -> None:
    for found in figures.committed():
        assert figures.BARS[found.name].keys() <= found.figures.keys()


def test_the_work_is_written_into_the_models_name() -> None:
    work = Work("wide", delay_ms=50, pieces=3, gap_ms=7, size_bytes=100)
    assert Work.of(work.model) == work


def outcome(calls: int) -> Outcome:
    return Outcome(calls, 1.0, [], 0, [], [])


def test_equal_counts_pass() -> None:
    check(Counts(started=5, finished=5), Counts(started=15, finished=15), outcome(10), plan(Work(), 4, 10))


@pytest.mark.parametrize(
    "after", [Counts(started=11, finished=11), Counts(started=9, finished=9), Counts(started=11, finished=10)]
)
def test_a_generation_too_many_or_too_few_fails_the_run(after: Counts) -> None:
    with pytest.raises(Failed, match="counts differ"):
        check(Counts(), after, outcome(10), plan(Work(), 4, 10))


def test_what_was_under_way_when_a_crowd_hung_up_may_be_finished_or_aborted() -> None:
    crowd = plan(Work(), 512, 10)
    check(Counts(), Counts(started=20, finished=12, aborted=8), outcome(10), crowd)
    with pytest.raises(Failed, match="counts differ"):
        check(Counts(), Counts(started=30, finished=30), outcome(10), crowd)


def test_an_abort_that_nobody_asked_for_fails_the_run() -> None:
    with pytest.raises(Failed, match="nobody gave up"):
        check(Counts(), Counts(started=11, finished=10, aborted=1), outcome(10), plan(Work(), 4, 10))


def test_the_cpu_of_a_process_is_what_it_says_itself() -> None:
    before = time.process_time()
    seen = cpu_s(os.getpid())
    assert before <= seen <= time.process_time()
    assert rss_bytes(os.getpid()) > 1e6
