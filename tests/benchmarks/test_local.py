"""The benchmark of the local core: its workload is the one that it says, and what is wrong is counted as wrong."""

import asyncio
import os
from pathlib import Path

import pytest

from aios.drivers.core.local import host
from aios.drivers.core.local.driver import LocalCoreConfig
from benchmarks.rig import workload
from benchmarks.rig.child import Failed
from benchmarks.rig.disturbed import aborts, strike
from benchmarks.rig.exact_rows import count
from benchmarks.rig.workload import Ask, Asked, Heard

FORGETFUL = "import os\nfrom aios.drivers.core.local import sampler\nsampler.uniform = lambda seed, at: os.getpid() * 0.618 % 1\n"
"""Has hosts draw other random numbers than their predecessors."""


def stand_in(came: list[str], made: int = workload.ANSWER_TOKENS) -> Ask:
    """A system in which all calls make their tokens in turns; who asked, and when."""

    async def ask(prompt: str, tokens: int, _seed: int, heard: Heard) -> Asked:
        for _ in range(min(tokens, made)):
            await asyncio.sleep(0)
            came.append(prompt)
            heard()
        size = workload.QUESTION_TOKENS if prompt == workload.QUESTION else workload.PROMPT_TOKENS
        return Asked(size, 0, min(tokens, made))

    return ask


async def test_the_interactive_call_comes_in_the_midst_of_the_others() -> None:
    came: list[str] = []
    ran = await workload.run(stand_in(came), os.getpid())
    first = came.index(workload.QUESTION)
    assert {came[:first].count(prompt) for prompt in workload.PROMPTS} <= {10, 11, 12, 13, 14}
    assert len(ran.agents) == 8 and 0 < ran.first_s <= ran.done_s <= ran.cpu_s


async def test_a_workload_that_was_cut_short_is_no_measurement() -> None:
    with pytest.raises(Failed, match="tokens read and made"):
        await workload.run(stand_in([], made=workload.ANSWER_TOKENS - 1), os.getpid())


def test_logits_count_as_the_same_only_where_they_were_seen() -> None:
    assert count([["a", "b", "c"]], [["", "b", "x"]]) == (1, 2)


def config(home: Path) -> LocalCoreConfig:
    return LocalCoreConfig(home=home, slots=4, reserve=0, window=256, threads=1, probe_s=0, freeze_s=0.3)


@pytest.mark.real
@pytest.mark.slow
async def test_killed_and_stopped_hosts_lose_nothing(tmp_path: Path) -> None:
    struck = await strike(config(tmp_path), kills=2, stops=1, seed=4)
    assert (len(struck.killed_back_s), len(struck.stopped_back_s), struck.wrong) == (2, 1, 0)


@pytest.mark.real
@pytest.mark.slow
async def test_an_answer_that_goes_on_otherwise_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(FORGETFUL)
    monkeypatch.setitem(host.SET, "PYTHONPATH", f"{tmp_path}{os.pathsep}{host.SET['PYTHONPATH']}")
    assert (await strike(config(tmp_path), kills=1, stops=0, seed=4)).wrong


@pytest.mark.real
@pytest.mark.slow
async def test_an_aborted_call_is_gone_after_a_pass(tmp_path: Path) -> None:
    assert max(await aborts(tmp_path, attempts=2, seed=4)) <= 1
