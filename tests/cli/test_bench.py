"""`aios bench` as people type it: what it measures is there, and is of this machine's kernel and model."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aios.abi.event import CallEnded
from aios.cli.bench import MEANINGS, first_s, prompt, said_per_s, said_per_s_by, table_of
from aios.config import read_settings
from aios.drivers.core.local.driver import LocalCoreConfig

OF_THE_MODEL = {"ttft_s", "prompt_tokens_per_s", "tokens_per_s", "tokens_per_s_together", "short_ttft_s", "urgent_ttft_s"}


def bench(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
    environment |= {"AIOS_HOME": str(place / "home"), "XDG_CONFIG_HOME": str(place / "etc")}
    argv = [sys.executable, "-m", "aios", "bench", "--json", str(place / "f"), *arguments]
    (place / "project").mkdir()
    (place / "project" / "aios.toml").write_text("[local]\nslots = 2\n")
    return subprocess.run(argv, capture_output=True, text=True, timeout=110, cwd=place / "project", env=environment)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("arguments", [(), ("--no-local",)])
def test_every_figure_is_measured_and_shown(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = bench(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "f").read_bytes())
    assert set(found) == {"name", "machine", "versions", "date", "quick", "figures", "rows"} and found["name"] == "bench"
    assert set(found["figures"]) == set(MEANINGS) - (OF_THE_MODEL if arguments else set())
    assert all(value > 0 for value in found["figures"].values())
    assert all(MEANINGS[name] in done.stdout for name in found["figures"])
    assert ("no local model was measured" in done.stderr) is bool(arguments)


def test_the_model_that_is_measured_is_the_one_that_is_set(tmp_path: Path) -> None:
    model = tmp_path / "a model.gguf"
    local = LocalCoreConfig(
        home=tmp_path, path=model, name="mine", slots=3, share=False, public=(tmp_path / "x",), sha256="0" * 64
    )
    (tmp_path / "aios.toml").write_text(table_of(local))
    assert dataclasses.replace(read_settings(tmp_path / "aios.toml").local, home=tmp_path) == local  # type: ignore[type-var]


def test_what_a_call_took_is_read_from_its_event() -> None:
    call = CallEnded(
        seq=1, at_ns=4 * 10**9, call="c", pid="p", name="n", row="llm.generate", cls="batch", outcome="ok",
        asked_ns=10**9, first_ns=2 * 10**9, output_tokens=21,
    )  # fmt: skip
    assert first_s(call) == 1.0 and said_per_s(call) == 10.0
    assert said_per_s_by([call, call]) == 21.0


def test_no_two_prompts_begin_alike() -> None:
    assert len({prompt(number, 9)[:2] for number in range(10)}) == 10 and len(prompt(1, 9).split()) == 10
