"""`aios models` without a kernel: files come in, are listed, chosen and deleted, and what is wrong is one sentence."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from gguf_files import gguf, keys, written

from aios.cli.group import aios
from aios.drivers.core.local.shelf import Shelf

SMALL = gguf()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a kernel, and a folder to be in with a small model in it."""
    monkeypatch.setenv("AIOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "etc"))
    monkeypatch.delenv("AIOS_CONFIG", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    written(Path("small.gguf"), SMALL)
    return tmp_path / "home"


def models(*arguments: str, expect: int = 0) -> Result:
    result = CliRunner().invoke(aios, ["models", *arguments])
    assert result.exit_code == expect, result.output
    return result


def test_a_file_is_added_listed_chosen_and_deleted(home: Path) -> None:
    models("add", "small.gguf")
    [listed] = json.loads(models("--json").stdout)["added"]
    assert listed["name"] == "small" and listed["size_bytes"] == len(SMALL) and listed["architecture"] == "llama"
    assert listed["source"] == str(Path("small.gguf").absolute()) and not listed["used"]
    assert listed["sha256"][:12] in models().stdout and "small" in models("ls").stdout
    models("use", "small")
    assert json.loads(models("ls", "--json").stdout)["added"][0]["used"] and "in use" in models().stdout
    assert "`small` is the local model" in models("rm", "small", "--yes", expect=1).stderr
    models("use", "embedded")
    models("rm", "small", "--yes")
    assert "small" not in models().stdout and Path("small.gguf").read_bytes() == SMALL


def test_the_persons_file_stays_as_it_is_also_where_it_cannot_be_linked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models("add", "small.gguf", "--name", "linked")
    monkeypatch.setenv("AIOS_HOME", f"/dev/shm/aios-test-{os.getpid()}")
    other = Path(os.environ["AIOS_HOME"])
    try:
        models("add", "small.gguf", "--name", "copied")
        copy = other / "models" / "copied.gguf"
        assert copy.stat().st_dev != Path("small.gguf").stat().st_dev, "the control: it is another file system"
        assert copy.read_bytes() == SMALL and copy.stat().st_mode & 0o777 == 0o600
    finally:
        for path in sorted(other.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        other.rmdir()
    assert (home / "models" / "linked.gguf").samefile("small.gguf")


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (b"hello", 2, "not a GGUF"),
        (SMALL[:-100], 8, "truncated"),
        (SMALL[:200], 8, "truncated"),
        (SMALL[:24] + b"\xff" * 8 + SMALL[32:], 8, "damaged"),
        (SMALL[:4] + SMALL[7:3:-1] + SMALL[8:], 2, "big-endian"),
        (gguf(keys("nobody-knows")), 1, "does not know (`nobody-knows`)"),
    ],
)
def test_each_flaw_is_one_sentence_with_its_exit_code_and_leaves_nothing(home: Path, data: bytes, code: int, said: str) -> None:
    result = models("add", str(written(Path("bad.gguf"), data)), expect=code)
    assert said in result.stderr and len(result.stderr.splitlines()) <= 2 and "Traceback" not in result.output
    assert {path.name for path in (home / "models").iterdir()} <= {"lock"}


def test_another_sha256_than_the_one_that_was_named_ends_with_8(home: Path) -> None:
    assert "its SHA-256 is" in models("add", "small.gguf", "--sha256", "0" * 64, expect=8).stderr
    assert Shelf(home).list() == ()
    models("add", "small.gguf", "--sha256", "xyz", expect=2)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("add", "nowhere.gguf"), 4, "no file"),
        (("add", "."), 4, "no file"),
        (("add", "small.gguf", "--name", "embedded"), 2, "cannot be the name"),
        (("rm", "nobody"), 4, "no added model `nobody`"),
        (("use", "nobody"), 4, "no added model `nobody`"),
        (("lss",), 2, "ls"),
    ],
)
def test_what_is_not_there_is_one_sentence(home: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert said in models(*arguments, expect=code).stderr


def test_use_says_what_comes_before_the_choice(home: Path) -> None:
    models("add", "small.gguf")
    assert "before" not in models("use", "small").stderr
    written(Path("aios.toml"), b'[local]\npath = "/models/other.gguf"\n')
    assert "but the model file comes before it: /models/other.gguf is named in" in models("use", "small").stderr
    written(Path("aios.toml"), b'[[core]]\nname = "c"\nbase_url = "http://127.0.0.1:1/v1"\nmodels = ["m"]\n')
    assert "but the endpoint comes before it: `c` stands in" in models("use", "embedded").stderr
    written(Path("aios.toml"), b"local = false\n")
    assert "but no model runs: `local` is off" in models("use", "small").stderr


def test_a_file_of_the_home_that_the_configuration_names_is_not_deleted(home: Path) -> None:
    models("add", "small.gguf")
    written(Path("aios.toml"), f'[local]\npath = "{home}/models/small.gguf"\n'.encode())
    assert "`small` is in use" in models("rm", "small", "--yes", expect=1).stderr


def test_doctor_says_which_core_and_why_and_what_is_wrong_with_the_file(home: Path) -> None:
    def doctor(expect: int) -> str:
        result = CliRunner().invoke(aios, ["doctor"])
        assert result.exit_code == expect, result.output
        return result.stdout

    written(Path("aios.toml"), b"[server]\nport = 0\n")  # another kernel may have the usual one
    models("add", "small.gguf")
    assert "core in use   embedded model, because" in doctor(0)
    models("use", "small")
    said = doctor(0)
    assert "core in use   added model, because `aios models use small` chose it" in said and "architecture llama" in said
    (home / "models" / "small.gguf").write_bytes(SMALL[:-1] + b"x")
    said = doctor(1)
    assert "FAIL  model file" in said and "is damaged" in said and "fix: `aios models use embedded`" in said
    written(Path("cut.gguf"), SMALL[:-100])
    written(Path("aios.toml"), b'[local]\npath = "cut.gguf"\n')
    said = doctor(1)
    assert "cut.gguf is truncated" in said and "core in use   model file, because cut.gguf is named in aios.toml" in said
