"""The examples as a reader of the README runs them, on a real kernel with the embedded model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARGUMENTS = {
    "hello": "Ada",
    "fleet": '["river", "kettle"]',
    "quote": "I have 40 GBP. How many JPY is that?",
    "digest": '["A river rose.", "", "Trains run."]',
    "library": '["What is a river?"]',
    "paper": "rivers",
}
UNMODIFIED = ROOT / "examples" / "unmodified.py"
EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {UNMODIFIED})

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of somebody whose kernel runs."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "aios.toml").write_text("[server]\nport = 0\n")
    environment = {**os.environ, "AIOS_HOME": str(folder / "home"), "AIOS_CONFIG": str(folder / "aios.toml")}
    aios = [sys.executable, "-m", "aios"]
    subprocess.run([*aios, "up", "--detach"], env=environment, cwd=ROOT, check=True, timeout=90, capture_output=True)
    yield environment
    subprocess.run([*aios, "down", "--grace", "0"], env=environment, cwd=ROOT, check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_runs_to_its_end(example: Path, environment: dict[str, str]) -> None:
    assert len(example.read_text().splitlines()) <= 60
    command = [sys.executable, "-m", "aios", "run", f"{example}:{example.stem}", ARGUMENTS[example.stem], "--yes"]
    accepted = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert accepted.returncode == 0, accepted.stderr
    script = subprocess.run(
        [sys.executable, str(example)], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert script.returncode == 0, script.stderr
    assert script.stdout.strip()


def test_an_unmodified_program_runs_under_the_kernel_and_reaches_nothing_else(environment: dict[str, str]) -> None:
    assert len(UNMODIFIED.read_text().splitlines()) <= 60
    aios = [sys.executable, "-m", "aios"]
    run = [*aios, "run", "--yes", "--", sys.executable, str(UNMODIFIED), "Somewhere warm."]
    done = subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    city, *told, telemetry = done.stdout.splitlines()
    assert city in ("Oslo", "Rome", "Lima") and "".join(told) and "403" in telemetry
    assert "tried to reach telemetry.example.com:443: denied" in done.stderr
    events = subprocess.run([*aios, "events", "--kind", "denied"], env=environment, capture_output=True, text=True, timeout=60)
    assert "unmodified-" in events.stdout and "telemetry.example.com:443" in events.stdout


def test_the_readme_shows_the_first_example_as_it_is() -> None:
    shown = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert (ROOT / "examples" / "hello.py").read_text().endswith(shown)
