"""The simulator: what it makes of recorded work, and what comes about under each policy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from aios.kernel.lanes.policies import Fifo
from aios.kernel.lanes.policy import Ticket
from benchmarks.rig.child import Failed
from benchmarks.rig.mixes import Mix, Program, azure
from benchmarks.rig.report import Findings
from benchmarks.rig.rivals import BatchBarrier
from benchmarks.rig.simulator import LaneCore, Simulation
from benchmarks.rig.traces import CHAT, CODE, found
from benchmarks.rig.turnaround import Turnaround, jain, turnaround
from benchmarks.scheduling import CASES, explained, hint, kernels, measure, options, reference_off

SMALL = Mix(slots=8, duration_s=400.0, tenants=5)
CASE = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces like the recorded ones: chats that come every two seconds, requests for code every four."""
    folder = tmp_path_factory.mktemp("traces")
    for name, every_s, output in ((CHAT, 2.0, 200), (CODE, 4.0, 20)):
        lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
        for number in range(int(400 / every_s)):
            minute, second = divmod(number * every_s, 60)
            lines.append(f"2023-11-16 18:{int(minute):02}:{second:010.7f},{500 + number % 7 * 300},{output + number % 5 * 50}")
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def came_of(case: str, data: Path, seed: int = 1) -> Turnaround:
    return turnaround(CASE[case].run(azure(data, SMALL, seed), SMALL.slots))


def one(number: int, takes_s: float, arrives_s: float = 0.0) -> Program:
    """A program of one call."""
    program = Program(number, "tenant", "kind", "standard", arrives_s)
    program.call(0, round((takes_s - 1.2) * 50))
    return program


def ends_s(programs: list[Program], core: LaneCore | BatchBarrier) -> list[float | None]:
    seen = Simulation(programs).run(core, core.run() if isinstance(core, BatchBarrier) else None)
    return [progress.ended_s and round(progress.ended_s, 6) for progress in seen.progress]


def fifo(slots: int) -> LaneCore:
    return LaneCore(kernels("fifo")(Simulation([])), slots)


def test_a_slot_serves_one_call_after_the_other() -> None:
    assert ends_s([one(0, 5.2), one(1, 3.2, 1.0), one(2, 2.2, 20.0)], fifo(1)) == [5.2, 8.4, 22.2]
    assert ends_s([one(0, 5.2), one(1, 3.2, 1.0)], fifo(2)) == [5.2, 4.2]


def test_batches_give_no_result_before_their_slowest_and_begin_after_a_nap() -> None:
    programs = [one(0, 5.2), one(1, 3.2, 0.5), one(2, 2.2, 2.0)]
    assert ends_s(programs, BatchBarrier(2)) == [6.3, 6.3, 9.6]


def test_calls_side_by_side_have_one_critical_path() -> None:
    program = Program(0, "tenant", "kind", "standard", 0.0)
    first = program.call(0, 90)  # 3 s each
    left, right = (first.before(program.call(0, 90)) for _ in range(2))
    joined = left.before(program.call(0, 90, gap_s=2.0))
    right.before(joined)
    simulation = Simulation([program])
    simulation.run(fifo(2))
    progress = simulation.progress[program]
    assert progress.ended_s == pytest.approx(3 + 3 + 2 + 3)
    assert (progress.live.attained_s, progress.served_s) == pytest.approx((9.0, 12.0))
    assert (progress.left_s, progress.left_calls) == (pytest.approx(0.0), 0)


def test_a_mix_has_the_load_that_was_asked_for_and_is_the_same_again(data: Path) -> None:
    programs, again = azure(data, SMALL, 1), azure(data, SMALL, 1)
    work_s = sum(program.work_s for program in programs)
    assert work_s >= SMALL.load * SMALL.slots * SMALL.duration_s
    assert [(p.tenant, p.kind, p.arrives_s, len(p.calls)) for p in programs] == [
        (p.tenant, p.kind, p.arrives_s, len(p.calls)) for p in again
    ]
    assert {program.tenant for program in programs if program.cls == "batch"} == {"tenant 0"}
    assert azure(data, SMALL, 2)[0].arrives_s != programs[0].arrives_s or len(azure(data, SMALL, 2)) != len(programs)


@pytest.mark.parametrize("case", CASE)
def test_the_same_work_comes_out_the_same_and_all_of_it_ends(case: str, data: Path) -> None:
    assert came_of(case, data) == came_of(case, data)


def test_people_do_not_wait_behind_a_hog_and_without_the_policy_they_do(data: Path) -> None:
    elas, control = came_of("elas", data), came_of("fifo", data)
    assert elas.interactive_p90_s * 5 < control.interactive_p90_s


def test_who_knows_the_future_is_fastest(data: Path) -> None:
    known = came_of("srpt", data).mean_s
    assert all(known <= came_of(case, data).mean_s for case in ("fifo", "fair", "vtc", "plas", "barrier"))


def test_a_hint_is_wrong_always_by_the_same_factor(data: Path) -> None:
    simulation = Simulation(azure(data, SMALL, 1))
    factors = [math.log(hint(progress) / progress.left_s) for progress in simulation.progress.values()]
    assert 0.5 < math.sqrt(sum(factor**2 for factor in factors) / len(factors)) < 1.5
    assert factors == [math.log(hint(progress) / progress.left_s) for progress in simulation.progress.values()]


class Recording(Fifo):
    """Remembers all that a ticket says when it comes to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[object, ...]] = []

    def add(self, ticket: Ticket) -> None:
        super().add(ticket)
        fields = [getattr(ticket, name) for name in ticket.__struct_fields__ if name not in ("program", "given")]
        self.said.append((*fields, ticket.program.kind, ticket.program.attained_s, ticket.program.expected_s()))


def test_what_a_policy_sees_tells_nothing_of_what_a_call_will_take() -> None:
    said = []
    for takes_s in (2.2, 222.2):
        policy = Recording()
        ends_s([one(0, 5.2), one(1, takes_s, 1.0)], LaneCore(policy, 1))
        said.append(policy.said)
    assert said[0] == said[1] and len(said[0]) == 1


def test_without_the_traces_it_says_where_they_come_from(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="Azure/AzurePublicDataset"):
        measure(tmp_path, SMALL, [1])


def test_a_mix_can_be_asked_for_in_words() -> None:
    words = "--slots 24 --hog 0.5 --tenants 8 --chat 0.4 --load 1.1 --seeds 11,12"
    asked = options().parse_args(words.split())
    assert (asked.slots, asked.hog, asked.tenants, asked.chat, asked.load, asked.seeds) == (24, 0.5, 8, 0.4, 1.1, (11, 12))


def test_a_figure_that_is_not_the_reference_is_seen() -> None:
    as_it_was = {"barrier": (574, 255), "fifo": (70.7, 40.2), "priority": (51.0, 0.5), "vtc": (65.8, 64.3), "plas": (50.3, 0.7)}
    as_it_was |= {"elas": (49.8, 0.5), "elas_hints": (45.7, 0.4), "srpt": (39.0, 0.5)}
    figures = {f"{case}_mean_s": mean for case, (mean, _) in as_it_was.items()}
    figures |= {f"{case}_interactive_p90_s": wait for case, (_, wait) in as_it_was.items()}
    assert reference_off(figures) == 0.0
    assert reference_off(figures | {"elas_mean_s": 49.8 * 1.03}) == pytest.approx(0.03)


def test_equal_shares_are_even_and_one_taker_is_not() -> None:
    assert jain([2.0, 2.0, 2.0]) == 1.0
    assert jain([6.0, 0.0, 0.0]) == pytest.approx(1 / 3)


def test_what_is_said_of_a_waiting_call_comes_true_and_of_another_call_would_not(data: Path) -> None:
    found = Findings()
    explained(data, SMALL, 1, found)
    assert found.figures["explain_asked"] > 300
    assert found.figures["explain_reason_right"] == 1.0 > found.figures["control_explain_reason_right"]
    assert found.figures["explain_eta_within_2x"] > max(0.5, found.figures["explain_eta_within_2x_live"])


def test_traces_are_found_also_below_the_folder_that_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "traces").symlink_to(data)
    assert found(tmp_path, CHAT).read_text() == found(data, CHAT).read_text()
