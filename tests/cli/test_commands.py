"""Every command explains itself, is documented, and ends as the table of errors says."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from aios.abi.errors import ERRORS, AiosError
from aios.abi.process import Ahead, CallInfo
from aios.abi.system import TokenInfo, TokenList
from aios.cli.call import body_of
from aios.cli.checks import Check
from aios.cli.command import Ended
from aios.cli.doctor import line_of
from aios.cli.group import SENTENCES, aios
from aios.cli.reference import pages
from aios.cli.token import cells, chosen
from aios.cli.why import about_call

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a kernel, and a folder to be in."""
    monkeypatch.setenv("AIOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "etc"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(aios, arguments)


@pytest.mark.parametrize("name", SENTENCES)
def test_every_command_explains_itself_with_the_sentence_of_the_table(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0 and SENTENCES[name] in result.output


@pytest.mark.parametrize("name", ["cli", "config"])
def test_every_command_and_setting_is_documented_as_it_is(name: str) -> None:
    assert (REFERENCE / f"{name}.md").read_text() == pages()[name].rstrip() + "\n", "run `python tools/reference.py`"


TOKENS = TokenList(tokens=tuple(TokenInfo(id, agent, 0, ()) for id, agent in [("a11", "pen"), ("a12", "ink"), ("b13", "ink")]))


@pytest.mark.parametrize(("text", "id"), [("a11", "a11"), ("b", "b13"), ("pen", "a11")])
def test_a_token_is_meant_by_its_id_or_its_beginning_or_the_agent_that_has_only_it(text: str, id: str) -> None:
    assert chosen(TOKENS, text).id == id


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ink", r"`ink` has 2 tokens: name one of `a12`, `b13`"),
        ("a1", "beginning of 2 tokens"),
        ("", "no token"),
        ("z", "token ls"),
    ],
)
def test_which_token_is_meant_is_never_guessed(text: str, said: str) -> None:
    with pytest.raises(AiosError, match=said):
        chosen(TOKENS, text)


def test_the_lines_of_doctor_stand_in_columns() -> None:
    lines = [click.unstyle(line_of(Check("ok", what, "found"))) for what in ("core", "core in use", "configuration")]
    assert {line.index("found") for line in lines} == {20}


def test_a_misspelled_command_is_wrong_usage_and_names_the_nearest() -> None:
    result = invoke("modles")
    assert result.exit_code == 2 and "models" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("ps",), ("why", "x"), ("logs", "x"), ("events",), ("kill", "x"), ("suspend", "x"), ("resume", "x"),
        ("nice", "x", "batch"), ("tree",),
        ("call", "clock.now"), ("spend",), ("budget",), ("budget", "/", "5"),
        ("token", "ls"), ("token", "add", "--agent", "x"), ("token", "rm", "x"),
    ],
)  # fmt: skip
def test_without_a_kernel_one_sentence_says_how_to_start_one(arguments: tuple[str, ...], home: Path) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (6, "")
    assert result.stderr == f"aios: no kernel answers at {home}: start it with `aios up`\n"


def test_down_without_a_kernel_has_nothing_to_do(home: Path) -> None:
    assert invoke("down").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("call", "llm.genrate"), "did you mean `llm.generate`?"),
        (("call", "llm.generate", "promt=x"), "unknown field `promt`; did you mean `prompt`?"),
        (("call", "llm.generate", "prompt=3"), "`prompt`: Expected `str | null`, got `int`"),
        (("call", "clock.now", "--deadline", "-1"), "deadline_s"),
        (("call", "clock.sleep", "seconds"), "`seconds` is no KEY=VALUE"),
        (("call", "clock.sleep", "--json", "[1]", "seconds=1"), "--json takes one JSON object"),
        (("call", "clock.sleep", "--json", '{"seconds": 1, "seconds": 2}'), "`seconds` is given twice"),
        (("kill",), "say which"),
        (("suspend",), "say which"),
        (("nice", "batch"), "say which"),
        (("nice", "x", "urgent"), "interactive"),
        (("resume",), "say which"),
        (("events", "-f", "--json"), "--jsonl"),
        (("token", "add", "--agent", "x", "--grant", "everything"), "is no grant"),
        (("token", "add", "--agent", "x", "--weight", "nan"), "0.001 to 1000"),
        (("budget", "/", "nan"), "is no amount"),
        (("budget", "/", "--usd=-1"), "is no amount"),
        (("budget", "/", "0.0000000001"), "is no amount"),
        (("budget", "/", "1e30"), "is no amount"),
        (("budget", "5", "--per", "day"), "`aios budget / 5 --per day` is one for all together"),
        (("budget", "/", "5", "--soft", "6"), "`soft` must be at most `amount`"),
        (("budget", "/a/../b", "5"), "`account` must be a path"),
        (("budget", "/", "5", "--calls", "3"), "one limit at a time"),
        (("budget", "/", "--tokens", "-1"), "-1"),
        (("token", "add", "--agent", "x", "--tenant", "a/b"), "`tenant` must be"),
    ],
)
def test_wrong_usage_ends_with_2_before_any_kernel_is_asked(arguments: tuple[str, ...], said: str, home: Path) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2 and said in result.stderr


@pytest.mark.parametrize("kind", ERRORS.values())
def test_an_error_ends_with_its_exit_code_and_says_what_to_do(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    ended = Ended(kind("it went wrong"))
    ended.show()
    said = capsys.readouterr().err
    assert ended.exit_code == kind.exit_code and said.startswith("aios: it went wrong\n")
    assert kind.way_out in said or kind.way_out == "see the message"


def test_fields_of_a_call_are_json_or_else_text_and_dots_reach_into_objects() -> None:
    body = body_of('{"manifest": {"agent": "a"}, "n": 1}', ("manifest.entry=f", "n=2", "list=[1, 2]", "text=a=b", 'quoted="3"'))
    assert json.loads(body) == {"manifest": {"agent": "a", "entry": "f"}, "n": 2, "list": [1, 2], "text": "a=b", "quoted": "3"}
    with pytest.raises(click.UsageError):
        body_of(None, ("a=1", "a.b=2"))


@pytest.mark.usefixtures("home")
def test_init_writes_what_doctor_and_run_understand_and_never_overwrites() -> None:
    assert invoke("init", "--yes").exit_code == 0
    Path("hello.py").write_text("mine")
    again = invoke("init", "--yes")
    assert again.exit_code == 0 and "kept" in again.stderr and Path("hello.py").read_text() == "mine"
    found = {check["what"]: check for check in json.loads(invoke("doctor", "--json").stdout)}
    assert found["configuration"] == {"state": "ok", "what": "configuration", "found": "aios.toml"}


def test_doctor_lists_keys_by_name_and_never_by_value(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    result = invoke("doctor")
    assert "OPENAI_API_KEY to https://api.openai.com: off until there is a limit" in result.stdout
    assert "very-secret" not in result.output


def test_doctor_fails_when_something_that_is_needed_is_missing(home: Path) -> None:
    Path("aios.toml").write_text('[local]\npath = "/nowhere.gguf"\n')
    result = invoke("doctor")
    assert result.exit_code == 1 and "FAIL  model file" in result.stdout


@pytest.mark.usefixtures("home")
def test_the_version_needs_neither_the_server_nor_the_engine() -> None:
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "aios", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    for module in ("aiohttp", "uvicorn", "numpy", "rich", "msgspec", "asyncio", "uvloop"):
        assert f" {module}\n" not in seen.stderr, f"`aios --version` imports {module}"


@pytest.mark.usefixtures("home")
def test_the_version_brings_in_nothing_that_it_does_not_need() -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "aios", "--version"], capture_output=True, text=True, check=True
    )
    brought = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines() if "|" in line}
    assert "click" in brought, "the control: this is how it shows"
    assert not brought & {"aiohttp", "asyncio", "httptools", "msgspec", "numpy", "rich", "uvicorn", "uvloop"}


def test_a_token_in_the_list_names_its_account_and_its_weight() -> None:
    info = TokenInfo("a11", "pen", 0, ("use /llm/*",), tenant="acme", user="ann", weight=2.5)
    assert cells(info)[:5] == ("a11", "acme/ann", "pen", "standard", "2.5")
    assert cells(TokenInfo("a11", "pen", 0, ()))[:5] == ("a11", "local", "pen", "standard", "")


def test_why_names_the_rule_of_a_call_and_who_waits_for_it() -> None:
    call = CallInfo(
        "1/1", "llm.generate", 0, ahead_count=2, ahead=(Ahead("a-1", "batch"),), rule="level 2", lenders=("b-1", "b-2")
    )
    assert about_call(call)[1:] == [
        "    ahead of it 2: a-1 (batch), and 1 more", "    its turn comes by level 2, if nothing else comes",
        "    for it waits b-1, b-2, and pays if it is served in their turn",
    ]  # fmt: skip
