"""What a command line is called as an agent, and what it asks for."""

import os
import sys
from pathlib import Path

import pytest

from aios.abi.errors import Invalid, NotFound
from aios.cli.program import manifest_of, name_of
from aios.sdk.run import asks


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "my agent.py", "--x"], "my-agent"), (["python", "-m", "my_agent"], "python"), (["./run.sh"], "run"),
        (["operator"], "operator"), (["/bin/…"], "program"), (["x" * 100], "x" * 64),
    ],
)  # fmt: skip
def test_a_command_is_called_as_its_first_file_or_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my agent.py").write_text("")
    assert name_of(command) == name


def test_what_a_command_asks_for_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    manifest = manifest_of(["python", "agent.py", "two words\x1b[2J"], None)
    assert manifest.command[0] == f"{os.path.dirname(sys.executable)}/python" and manifest.folder == str(tmp_path)
    assert (manifest.agent, manifest.grants, manifest.restart) == ("python", ("use /llm/*",), "temporary")
    shown = asks(manifest)
    assert "agent.py 'two words" in shown and "may  use /llm/*" in shown and str(tmp_path) in shown and "\x1b" not in shown


def test_what_is_no_command_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.py").write_text("")
    with pytest.raises(NotFound, match="no command `nothing`"):
        manifest_of(["nothing"], None)
    with pytest.raises(Invalid, match=r"chmod \+x ./agent.py"):
        manifest_of(["./agent.py"], None)
    with pytest.raises(Invalid, match="operator"):
        manifest_of(["true"], "operator")
