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
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

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


def test_the_readme_shows_the_first_example_as_it_is() -> None:
    shown = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert (ROOT / "examples" / "hello.py").read_text().endswith(shown)
