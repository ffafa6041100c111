"""What can be wrong with a library or a model file is found before the host says that it is ready, and said in one sentence."""

import asyncio
import dataclasses
import os
import platform
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aios.abi.errors import CoreFailed, Unavailable
from aios.abi.llm import Models
from aios.abi.system import ListCores
from aios.drivers.core.local import host, models
from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig
from aios.drivers.core.local.llama import ABI, RETURNS_THROUGH_FIRST_ARGUMENT, EngineUnavailable, Field, Layout, Llama
from aios.ports.core import Health
from aios.testing.cores import Candidate, ignore
from aios.testing.kernel import kernel_for_tests

pytestmark = [pytest.mark.real, pytest.mark.slow]

NEW: list[Field] = [("new", "u32", 0), ("new", "bool", False), ("new", "-", None)]


def config(home: Path, **settings: Any) -> LocalCoreConfig:
    return LocalCoreConfig(home=home, **{"slots": 3, "reserve": 0, "window": 256, "threads": 1, "probe_s": 0.0, **settings})


async def refusal(settings: LocalCoreConfig) -> str:
    core = LocalCore(settings)
    with pytest.raises(Unavailable) as refused:
        await core.start(lambda _: None)
    assert not core.health().up
    assert "Traceback" not in refused.value.message and "\n" not in refused.value.message
    return refused.value.message


async def started(settings: LocalCoreConfig) -> tuple[LocalCore, Health]:
    """A core that came up and was closed, with its health in between."""
    core = LocalCore(settings)
    await core.start(lambda _: None)
    health = core.health()
    await core.close()
    return core, health


@pytest.fixture
def in_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Have hosts run a piece of Python before all else: that is how a library looks that is not the one written down."""

    def run(program: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(program)
        monkeypatch.setitem(host.SET, "PYTHONPATH", f"{tmp_path}{os.pathsep}{host.SET['PYTHONPATH']}")

    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def one_field_off(layout: Layout) -> Iterator[tuple[str, Layout]]:
    """All layouts that a new release could have turned this one into with one field."""
    for struct in ("model", "context"):
        fields = getattr(layout, struct)
        for at in range(len(fields) + 1):
            for new in NEW:
                yield f"{new} at {at} of {struct}", dataclasses.replace(layout, **{struct: (*fields[:at], new, *fields[at:])})
            if at < len(fields):
                yield f"no {fields[at]}", dataclasses.replace(layout, **{struct: (*fields[:at], *fields[at + 1 :])})


@pytest.mark.skipif(
    not RETURNS_THROUGH_FIRST_ARGUMENT or platform.libc_ver()[0] != "glibc", reason="what is written cannot be seen here"
)
@pytest.mark.parametrize("version", ABI)
def test_every_layout_that_is_one_field_off_is_refused(version: str) -> None:
    assert version == Llama().version, "this can be said of the installed library only"
    tried = 0
    for what, layout in one_field_off(ABI[version]):
        with pytest.raises(EngineUnavailable, match="structs"):
            Llama(layout)
            pytest.fail(f"accepted: {what}")
        tried += 1
    assert tried > 200


async def test_a_shifted_struct_is_refused_before_ready(home: Path, in_the_host: Callable[[str], None]) -> None:
    in_the_host(
        "from aios.drivers.core.local import llama\n"
        "llama.ABI = {version: llama.Layout(layout.model, layout.context[:3] + layout.context[4:])\n"
        "             for version, layout in llama.ABI.items()}\n"
    )
    message = await refusal(config(home))
    assert "structs" in message and "install" in message


async def test_an_unknown_version_is_refused_with_what_to_install(home: Path, in_the_host: Callable[[str], None]) -> None:
    in_the_host("from aios.drivers.core.local import llama\nllama.ABI = {'1.2.3': None}\n")
    message = await refusal(config(home))
    assert "install `xllamacpp==1.2.3`" in message


async def test_a_known_model_that_says_something_else_is_refused(home: Path, in_the_host: Callable[[str], None]) -> None:
    in_the_host(
        "from aios.drivers.core.local import golden\n"
        "golden.GOLDEN = {key: golden.Golden({0: one.logits[0] + 5}, one.hashes) for key, one in golden.GOLDEN.items()}\n"
    )
    assert "misreads" in await refusal(config(home))


async def test_other_last_bits_than_recorded_are_no_alarm(home: Path, in_the_host: Callable[[str], None]) -> None:
    in_the_host(
        "from aios.drivers.core.local import golden\n"
        "golden.GOLDEN = {key: golden.Golden(one.logits) for key, one in golden.GOLDEN.items()}\n"
    )
    core, _ = await started(config(home))
    assert core.statistics().golden == "near"


async def test_exactness_is_proved_once_for_a_setting(tmp_path: Path) -> None:
    proved, health = await started(config(tmp_path, probe_s=60.0))
    assert proved.info().exact and health.detail == ""
    assert proved.statistics().golden in ("same", "near")
    again, _ = await started(config(tmp_path))
    assert again.info().exact and again.statistics().probe_s < proved.statistics().probe_s / 10
    other, health = await started(config(tmp_path, chunk=48))
    assert not other.info().exact and "not exact" in health.detail, "another setting is another question"


async def test_what_is_not_proved_in_time_is_not_claimed_and_is_tried_again(tmp_path: Path) -> None:
    core, health = await started(config(tmp_path, probe_s=0.001))
    assert not core.info().exact and "probe_s" in health.detail
    core, _ = await started(config(tmp_path, probe_s=60.0))
    assert core.info().exact


async def test_a_profile_that_is_not_exact_claims_nothing(tmp_path: Path, in_the_host: Callable[[str], None]) -> None:
    in_the_host(
        "from aios.drivers.core.local.engine import Engine, Profile\n"
        "Engine.__init__.__kwdefaults__['profile'] = Profile(kv_type=1, unified=True)\n"
    )
    core, health = await started(config(tmp_path, probe_s=60.0))
    assert not core.info().exact
    assert health.up and "what runs beside them" in health.detail
    assert LocalCore(config(tmp_path)).info().exact is False, "before its start nothing is claimed"


async def test_a_model_is_listed_as_exact_where_all_its_cores_are(tmp_path: Path) -> None:
    exact = LocalCore(config(tmp_path, probe_s=60.0, name="exact"))
    async with kernel_for_tests(cores=[exact]) as k:
        (model,) = (await k.operator.call(Models())).models
        (core,) = (await k.operator.call(ListCores())).cores
        assert model.exact and core.exact
    both = [LocalCore(config(tmp_path, name="exact")), LocalCore(config(tmp_path, name="not", chunk=48))]
    async with kernel_for_tests(cores=both) as k:
        (model,) = (await k.operator.call(Models())).models
        cores = {core.name: core for core in (await k.operator.call(ListCores())).cores}
        assert not model.exact
        assert cores["exact"].exact and not cores["exact"].detail
        assert not cores["not"].exact and "not exact" in cores["not"].detail


def hollow(path: Path, start: bytes) -> Path:
    """A file as big as the embedded model that begins so, and is empty behind."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(models.find(models.EMBEDDED).stat().st_size)
    return path


def beginning() -> bytes:
    with models.find(models.EMBEDDED).open("rb") as file:
        return file.read(4 << 20)


async def test_a_file_of_another_architecture_is_refused_and_other_calls_do_not_notice(home: Path, tmp_path: Path) -> None:
    start = beginning()
    assert start.count(b"llama", 0, 400)
    unknown = hollow(tmp_path / "unknown.gguf", start.replace(b"llama", b"lhama"))
    core = LocalCore(config(home))
    await core.start(lambda _: None)
    candidate = Candidate(core, running=lambda: core.statistics().in_flight)
    alone = await core.generate(candidate.call(), ignore)
    beside = asyncio.create_task(core.generate(candidate.call(), ignore))
    message = await refusal(config(home, path=unknown))
    assert "unknown model architecture" in message and "lhama" in message
    assert (await beside).text == alone.text
    assert core.health().restarts == 0
    await core.close()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"gpt2", b"none", "no vocabulary"),
        (b"gpt2", b"gpt9", "unknown tokenizer"),
        (b"llama", b"mamba", "key not found"),
    ],
)
async def test_a_file_that_says_what_it_is_not_is_refused(
    home: Path, tmp_path: Path, old: bytes, new: bytes, expected: str
) -> None:
    start = beginning()
    at = start.index(b"tokenizer.ggml.model") if old == b"gpt2" else 0
    changed = start[:at] + start[at:].replace(old, new, 1 if at else -1)
    assert expected in await refusal(config(home, path=hollow(tmp_path / "changed.gguf", changed)))


@pytest.mark.parametrize("seed", range(6))
async def test_damage_in_a_header_is_one_error_or_harmless(home: Path, tmp_path: Path, seed: int) -> None:
    dice, start = random.Random(seed), bytearray(beginning())
    for _ in range(4):
        start[dice.randrange(8, 1200)] = dice.randrange(256)
    core = LocalCore(config(home, path=hollow(tmp_path / "damaged.gguf", bytes(start))))
    try:
        await core.start(lambda _: None)
    except Unavailable as refused:
        assert "\n" not in refused.message and "Traceback" not in refused.message
    await core.close()


async def test_a_file_that_is_not_the_one_that_was_added_is_refused(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    shutil.copyfile(models.find(models.EMBEDDED), path)
    added = models.EMBEDDED.sha256
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"changed")
    core = LocalCore(config(home, path=path, sha256=added))
    with pytest.raises(Unavailable, match="damaged"):
        await core.start(lambda _: None)
    await core.close()


async def test_a_new_host_does_not_go_on_with_another_model(home: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "mine.gguf", tmp_path / "other.gguf"
    shutil.copyfile(models.find(models.EMBEDDED), path)
    shutil.copyfile(path, other)
    with other.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"another")
    core = LocalCore(config(home, path=path))
    await core.start(lambda _: None)
    other.replace(path)
    pid = core.health().pid
    assert pid is not None
    candidate = Candidate(core, running=lambda: core.statistics().in_flight)
    call = asyncio.create_task(core.generate(candidate.call(), ignore))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(CoreFailed, match="SHA-256"):
        await call
    assert not core.health().up
    await core.close()
