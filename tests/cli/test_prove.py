"""`aios prove` as people type it: on a real kernel, over HTTP; and what makes a proof one."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aios.cli.hog import BARS, HOG, OTHER, figures, slot_seconds
from aios.cli.hog import Beside as BesideHog
from aios.cli.proof import proof, verdict
from aios.cli.upstream import Served

GOOD = {"other_p95_vs_unloaded": 1.4, "hog_share_of_spare": 0.99}
SLOW = {"other_p95_vs_unloaded": 12.6, "hog_share_of_spare": 0.99}
IDLE = {"other_p95_vs_unloaded": 1.0, "hog_share_of_spare": 0.4}


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
    return kept | {"AIOS_HOME": str(home / "home")}


def aios(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aios", *arguments],
        capture_output=True, text=True, timeout=110, cwd=home, env=environment(home),
    )  # fmt: skip


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary ones, with a path that is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("on", "off", "holds", "said"),
    [
        (GOOD, SLOW, True, "holds, and fails in the control: nothing"),
        (SLOW, SLOW, False, "does not hold"),
        (IDLE, SLOW, False, "does not hold"),
        (GOOD, GOOD, False, "proves nothing"),
    ],
)
def test_a_proof_holds_if_its_figures_do_and_those_of_the_control_do_not(
    on: dict[str, float], off: dict[str, float], holds: bool, said: str
) -> None:
    found = proof("hog", BARS, on, [], "nothing", off)
    assert found.holds is holds and said in verdict(found)
    assert found.control.figures == off and found.control.holds is (off is GOOD)


def test_what_counts_is_the_time_that_slots_were_held_while_the_one_called() -> None:
    served = [
        Served(HOG, 0.0, 2.0),
        Served(HOG, 1.5, 2.5),
        Served(HOG, 2.5, None),
        Served(OTHER, 1.0, 2.0),
        Served(HOG, 0.0, 0.9),
    ]
    assert slot_seconds(served, HOG, 1.0, 3.0) == pytest.approx(1.0 + 1.0 + 0.5)
    found = figures([0.5], BesideHog([1.0, 1.0], 1.0, 3.0), served)
    assert found["hog_share_of_spare"] == pytest.approx(2.5 / (8 * 2 - 1)) and found["other_p95_vs_unloaded"] == 2
    assert found["hog_per_s"] == 1.0


def test_without_a_name_the_proofs_are_listed(tmp_path: Path) -> None:
    done = aios("prove", home=tmp_path)
    assert done.returncode == 0 and "hog" in done.stdout


def test_a_file_that_cannot_be_written_is_said_before_the_proof_is_made(tmp_path: Path) -> None:
    done = aios("prove", "hog", "--json", str(tmp_path / "nowhere" / "f"), home=tmp_path)
    assert done.returncode == 2 and "nowhere" in done.stderr and "No such file" in done.stderr


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(("policy", "takes_ms"), [("elas", 50), ("fifo", 20)])
def test_hog_is_proved_over_http_with_its_control(tmp_path: Path, policy: str, takes_ms: int) -> None:
    """Many times as fast as the proof proper. On a machine that is busy with other tests its bars are not for this one to say."""
    file = tmp_path / "hog.json"
    done = aios("prove", "hog", "--ms", str(takes_ms), "--policy", policy, "--json", str(file), home=tmp_path)
    found: dict[str, Any] = json.loads(file.read_bytes())
    assert set(found) == {"name", "machine", "versions", "date", "quick", "figures", "rows", "holds", "control"}
    assert done.returncode == (0 if found["holds"] else 8), done.stderr
    alone, beside, off = (row["p50_s"] for row in found["rows"])
    assert off > 4 * alone, found
    if policy == "elas":
        assert beside < off / 2, found
        assert ("hog holds" in done.stdout) is found["holds"]
    else:
        assert beside > 4 * alone and not found["holds"] and "does not hold" in done.stdout
    assert not (tmp_path / "home").exists(), "its kernel has a home of its own"


@pytest.mark.slow
@pytest.mark.real
def test_overspend_is_proved_over_http_with_its_control(tmp_path: Path) -> None:
    file = tmp_path / "overspend.json"
    done = aios("prove", "overspend", "--callers", "600", "--json", str(file), home=tmp_path)
    found: dict[str, Any] = json.loads(file.read_bytes())
    assert done.returncode == 0 and found["holds"] and "overspend holds" in done.stdout, (done.stderr, found)
    assert found["figures"]["overshoot"] == 0 and found["figures"]["used"] >= 0.9
    assert found["control"]["figures"]["overshoot"] > 0 and not found["control"]["holds"]


@contextmanager
def under_way(temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """The proof, in a group of its own as a shell would have it, when its kernel has calls."""
    argv = [sys.executable, "-m", "aios", "prove", "hog", "--ms", "200"]
    surroundings = environment(temporary) | {"TMPDIR": str(temporary)}
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings, start_new_session=True
    ) as child:
        try:
            assert child.stderr is not None
            while "callers of another tenant come" not in child.stderr.readline():
                assert child.poll() is None
            yield child
        finally:
            child.kill()


@pytest.mark.slow
@pytest.mark.real
def test_ctrl_c_ends_a_proof_and_leaves_nothing(temporary: Path) -> None:
    with under_way(temporary) as child:
        os.killpg(child.pid, signal.SIGINT)
        said, words = child.communicate(timeout=60)
    assert (child.returncode, said, words) == (130, "", "aios: interrupted\n")
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.real
def test_a_proof_that_is_killed_takes_its_kernel_with_it(temporary: Path) -> None:
    with under_way(temporary) as child:
        (lock,) = temporary.glob("aios-own-*/home/run/kernel.lock")
        child.kill()
        with lock.open("r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # waits for as long as the kernel is there


@pytest.mark.slow
@pytest.mark.real
def test_a_proof_whose_kernel_dies_says_so_and_proves_nothing(temporary: Path) -> None:
    with under_way(temporary) as child:
        (record,) = temporary.glob("aios-own-*/home/run/kernel.json")
        os.kill(json.loads(record.read_bytes())["os_pid"], signal.SIGKILL)
        said, words = child.communicate(timeout=60)
    assert child.returncode == 1 and said == "" and "broke off" in words
    assert "Traceback" not in words and "a bug of ours" not in words, words
