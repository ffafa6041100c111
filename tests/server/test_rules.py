"""What a foreign command reads: what it is made of and what it was given, and no folder that others share."""

import os
from pathlib import Path

import pytest

from aios.server.rules import command_rules


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's folder, in which the kernel's home is too."""
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    monkeypatch.setenv("PATH", "/usr/bin")
    for folder in ("ada/project", "ada/.local/share/aios/work", "ada/keys", "python/bin"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def made(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def reads(place: Path, *command: str, folder: str = "ada/project") -> set[str]:
    """What it reads below the person's place."""
    kept = str(place / "ada/.local/share/aios")
    rules = command_rules(command, str(place / folder), f"{kept}/own", kept, "own", 1)
    assert rules.write == (f"{kept}/own",)
    assert not any(f"{kept}/".startswith(f"{path}/") for path in rules.read), "the kernel's home lies in it"
    return {os.path.relpath(path, place) for path in rules.read if path.startswith(f"{place}/")}


def test_a_virtual_environment_is_read_with_the_python_that_it_stands_on(place: Path) -> None:
    python = made(place / "python/bin/python3.12")
    (place / "ada/project/.venv/bin").mkdir(parents=True)
    (place / "ada/project/.venv/bin/python").symlink_to(python)
    (place / "ada/project/.venv/pyvenv.cfg").write_text(f"home = {place}/python/bin\nversion = 3.12\n")
    venv = {"ada/project/.venv", "ada/project/.venv/bin/python"}
    assert reads(place, f"{place}/ada/project/.venv/bin/python") == {"ada/project", *venv, "python", "python/bin/python3.12"}


def test_a_script_is_read_with_its_interpreter(place: Path) -> None:
    made(place / "python/bin/python3.12")
    script = made(place / "ada/keys/run", f"#!{place}/python/bin/python3.12 -u\n")
    assert reads(place, str(script)) == {"ada/project", "ada/keys/run", "python", "python/bin/python3.12"}


def test_a_package_of_nodes_is_read_with_those_beside_it(place: Path) -> None:
    tool = made(place / "ada/tools/node_modules/@x/tool/bin/tool.js", "#!/usr/bin/env node\n")
    link = place / "ada/tools/node_modules/.bin/tool"
    link.parent.mkdir()
    link.symlink_to("../@x/tool/bin/tool.js")
    assert "ada/tools/node_modules" in reads(place, str(link)) and "ada/tools" not in reads(place, str(link))
    assert tool.exists()


def test_a_tool_in_a_persons_home_does_not_open_the_home(place: Path) -> None:
    tool = made(place / "ada/bin/tool")
    assert reads(place, str(tool)) == {"ada/project", "ada/bin/tool"}
    deep = made(place / "ada/.local/bin/tool")  # above which the kernel's home lies
    assert reads(place, str(deep)) == {"ada/project", "ada/.local/bin/tool"}


def test_who_starts_in_a_home_reads_what_was_named_alone(place: Path) -> None:
    made(place / "ada/agent.py"), made(place / "ada/data.json"), made(place / "ada/other.json")
    assert reads(place, "/bin/cat", "agent.py", "data.json", "--x", folder="ada") == {"ada/agent.py", "ada/data.json"}


def test_a_script_is_read_with_its_folder_and_other_files_alone(place: Path) -> None:
    script, given = made(place / "ada/scripts/agent.py"), made(place / "ada/keys/one.pem")
    made(place / "ada/keys/two.pem")
    found = reads(place, "/bin/cat", str(script), str(given))
    assert found == {"ada/project", "ada/scripts", "ada/scripts/agent.py", "ada/keys/one.pem"}


def test_what_lies_in_the_kernels_home_is_not_read(place: Path) -> None:
    token = made(place / "ada/.local/share/aios/run/operator.token")
    assert reads(place, "/bin/cat", str(token)) == {"ada/project"}
    assert reads(place, "/bin/cat", folder="ada/.local/share/aios/work") == set()


@pytest.mark.parametrize("what", ["loop", "fifo", "device", "nothing"])
def test_what_is_no_program_ends(place: Path, what: str) -> None:
    """A ring of links or scripts, or a file that would never end, holds up nobody."""
    program = place / "ada/project/program"
    if what == "loop":
        made(program, f"#!{program}\n")
        (place / "ada/project/link").symlink_to("link")
        assert reads(place, str(place / "ada/project/link")) == {"ada/project", "ada/project/link"}
    elif what == "fifo":
        os.mkfifo(program)
    elif what == "device":
        program = Path("/dev/zero")
    assert "ada/project" in reads(place, str(program))
