"""The commands as people type them: real processes, a real kernel, a home of its own."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aios.abi.llm import Embeddings
from aios.drivers.core.local import models

pytestmark = [pytest.mark.real, pytest.mark.slow]

AGENTS = """\
import asyncio

import aios


@aios.agent
async def hello(k: aios.Kernel, name: str = "world", *others: object) -> object:
    print(f"greeting {name}\\x1b[2J")
    return {"hello": name, "others": list(others)} if others else f"hello {name}"


@aios.agent
async def fails(k: aios.Kernel) -> None:
    raise ValueError("it does not work")


@aios.agent
async def sleeps(k: aios.Kernel) -> None:
    print("asleep")
    await asyncio.sleep(600)
"""
PROGRAM = [sys.executable, "-m", "aios"]


@dataclass(frozen=True)
class Place:
    """A home and a folder to work in."""

    home: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AIOS_")}
        return kept | {"AIOS_HOME": str(self.home), "XDG_CONFIG_HOME": str(self.folder / "etc")}

    def aios(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command; its exit code is as expected and it never ends in a traceback."""
        done = subprocess.run(
            [*PROGRAM, *arguments],
            capture_output=True, text=True, timeout=60, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "/aios/" not in done.stderr and "a bug of ours" not in done.stderr, done.stderr
        assert done.returncode == expect, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done

    @contextmanager
    def begin(self, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
        """The command while it runs; it does not outlive the block."""
        with subprocess.Popen(
            [*PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment,
        ) as child:
            try:
                yield child
            finally:
                child.kill()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.aios(*arguments).stdout)


def place_in(path: Path) -> Place:
    folder = path / "project"
    folder.mkdir()
    (folder / "agents.py").write_text(AGENTS)
    return Place(path / "home", folder)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """No kernel runs here."""
    return place_in(tmp_path)


@contextmanager
def kernel_in(place: Place) -> Iterator[None]:
    place.aios("up", "--detach", "--port", "0", "--no-local")
    try:
        yield
    finally:
        place.aios("down", "--grace", "0")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A kernel runs here, without a model."""
    place = place_in(tmp_path_factory.mktemp("fleet"))
    with kernel_in(place):
        yield place


def started(fleet: Place, name: str = "sleeps") -> str:
    return fleet.aios("run", f"agents.py:{name}", "--yes", "--detach").stdout.strip()


def test_up_says_where_it_answers_and_a_second_one_that_it_runs_already(fleet: Place) -> None:
    again = fleet.aios("up", "--detach")
    assert "runs already" in again.stderr and "http://127.0.0.1:" in again.stdout


def test_run_prints_what_the_agent_prints_harmlessly_and_then_its_result(fleet: Place) -> None:
    done = fleet.aios("run", "agents.py:hello", "Ada", "--yes")
    assert done.stdout == "greeting Ada\nhello Ada\n" and done.stderr == ""


def test_arguments_are_json_or_else_text(fleet: Place) -> None:
    done = fleet.aios("run", "agents.py:hello", "Ada", "3", '{"deep": [1]}', "text", "--yes")
    assert json.loads(done.stdout.splitlines()[-1]) == {"hello": "Ada", "others": [3, {"deep": [1]}, "text"]}


def test_a_manifest_that_nobody_has_accepted_is_told_and_not_started(fleet: Place) -> None:
    (fleet.folder / "asks.py").write_text(AGENTS.replace("@aios.agent", '@aios.agent(grants=["read /events"])', 1))
    refused = fleet.aios("run", "asks.py:hello", expect=3)
    assert "`read /events`" in refused.stderr and "--yes" in refused.stderr and refused.stdout == ""


def test_what_was_accepted_once_is_not_asked_again(fleet: Place) -> None:
    fleet.aios("run", "agents.py:hello", "--yes")
    assert fleet.aios("run", "agents.py:hello").stdout == "greeting world\nhello world\n"


def test_a_person_at_a_terminal_is_asked(fleet: Place) -> None:
    (fleet.folder / "asked.py").write_text(AGENTS)
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, "run", "asked.py:hello"], stdin=theirs, stdout=subprocess.PIPE, cwd=fleet.folder, env=fleet.environment
    )
    os.close(theirs)
    os.write(ours, b"y\n")
    assert child.communicate(timeout=60)[0] == b"greeting world\nhello world\n"
    os.close(ours)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "nowhere.py"), 4, "there is no file"),
        (("run", "agents.py"), 2, "agents.py:fails"),
        (("run", "agents.py:helo"), 4, "did you mean `hello`?"),
        (("run", "broken.py"), 1, "SyntaxError"),
        (("why", "nobody-1"), 4, "there is no process `nobody-1`"),
        (("logs", "nobody-1"), 4, "aios ps --all"),
        (("kill", "nobody-1"), 4, "there is no process"),
        (("token", "rm", "zz"), 4, "aios token ls"),
        (("call", "llm.generate", "prompt=x", "max_tokens=0"), 2, "`max_tokens` must be 1 to 1000000"),
        (("call", "llm.generate", "prompt=hi"), 1, ""),
        (("call", "clock.sleep", "seconds=60", "--deadline", "0.05"), 1, "deadline"),
    ],
)
def test_what_goes_wrong_ends_with_its_exit_code_and_one_sentence(
    fleet: Place, arguments: tuple[str, ...], code: int, said: str
) -> None:
    (fleet.folder / "broken.py").write_text("def f(:\n")
    done = fleet.aios(*arguments, expect=code)
    assert said in done.stderr and done.stdout == "" and len(done.stderr.splitlines()) <= 3


def test_an_agent_that_fails_shows_its_own_trace_and_nothing_of_ours(fleet: Place) -> None:
    done = fleet.aios("run", "agents.py:fails", "--yes", expect=1)
    assert (
        'agents.py", line 14, in fails' in done.stderr and "failed: ValueError: it does not work (agents.py, line" in done.stderr
    )


def test_ps_and_why_and_kill_take_a_name_or_its_beginning(fleet: Place) -> None:
    name = started(fleet)
    listed = {process["name"]: process for process in fleet.json("ps", "--json")["processes"]}
    assert listed[name]["agent"] == "sleeps" and name in fleet.aios("ps").stdout
    assert name in fleet.aios("why", name).stdout
    assert fleet.json("why", listed[name]["pid"], "--json")["process"]["name"] == name
    assert name in fleet.aios("kill", name, "--dry-run").stdout
    assert name in fleet.aios("ps", "-q", "agent:sleeps").stdout
    fleet.aios("kill", name, expect=2)
    fleet.aios("kill", name, "--yes")
    fleet.aios("logs", "-f", name)
    assert name not in fleet.aios("ps").stdout
    assert [process["outcome"] for process in fleet.json("ps", "-a", "-q", f"name:{name}", "--json")["processes"]] == ["killed"]


def test_an_agent_is_given_another_class(fleet: Place) -> None:
    name = fleet.aios("run", "agents.py:sleeps", "-y", "-d").stdout.strip()
    assert name in fleet.aios("nice", name, "batch", "--dry-run").stdout
    assert f"{name}: batch" in fleet.aios("nice", name, "batch").stderr
    assert "batch" in fleet.aios("ps", "-q", f"name:{name}").stdout
    assert "nothing that is not batch" in fleet.aios("nice", "-q", f"name:{name}", "batch").stderr
    assert f"{name}: standard" in fleet.aios("nice", "-q", "agent:sleeps class:batch", "standard").stderr
    fleet.aios("kill", name, "-y")


def test_a_command_runs_as_it_is_and_its_exit_code_is_ours(fleet: Place) -> None:
    done = fleet.aios("run", "--yes", "--", "sh", "-c", "echo out; echo $0 $1 >&2; exit 3", "one", "--two", expect=3)
    assert done.stdout == "out\n" and done.stderr == "one --two\n"
    assert fleet.aios("run", "--yes", "--agent", "quiet", "--class", "batch", "--", "true").stdout == ""
    (quiet,) = fleet.json("ps", "-a", "-q", "agent:quiet", "--json")["processes"]
    assert (quiet["cls"], quiet["outcome"]) == ("batch", "result")
    assert "killed by signal 9" in fleet.aios("run", "--yes", "--", "sh", "-c", "kill -9 $$", expect=137).stderr


def test_a_command_is_accepted_word_by_word(fleet: Place) -> None:
    assert "nobody is here to ask" in fleet.aios("run", "--", "sh", "-c", "exit 4", expect=3).stderr
    fleet.aios("run", "--yes", "--", "sh", "-c", "exit 4", expect=4)
    fleet.aios("run", "--", "sh", "-c", "exit 4", expect=4)
    assert "nobody is here to ask" in fleet.aios("run", "--", "sh", "-c", "exit 5", expect=3).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--",), 2, "say what"), ((), 2, "say what"), (("--", "nothing-of-this-name"), 4, "there is no command"),
        (("--", "./agents.py"), 2, "chmod"), (("--grant", "everything", "--", "true"), 2, "is no grant"),
        (("--agent", "a b", "--", "true"), 2, "letters"),
    ],
)  # fmt: skip
def test_what_is_no_command_is_said(fleet: Place, arguments: tuple[str, ...], code: int, words: str) -> None:
    assert words in fleet.aios("run", "--yes", *arguments, expect=code).stderr


def test_ctrl_c_ends_a_command(fleet: Place) -> None:
    with fleet.begin("run", "--yes", "--agent", "endless", "--", "sh", "-c", "echo up; sleep 600") as running:
        assert running.stdout is not None and running.stdout.readline() == "up\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
    (ended,) = fleet.json("ps", "-a", "-q", "agent:endless", "--json")["processes"]
    assert ended["outcome"] == "killed"


def test_a_command_that_is_never_to_end_begins_again_and_is_held_in_a_storm(fleet: Place) -> None:
    name = fleet.aios("run", "-y", "-d", "--restart", "permanent", "--", "sh", "-c", "exit 6").stdout.strip()
    with fleet.begin("logs", "-f", name) as following:
        assert following.stdout is not None
        said = [following.stdout.readline() for _ in range(4)]
    assert "held: it ended 4 times" in said[-1] and f"aios resume {name}" in said[-1]
    assert "‖ suspended" in fleet.aios("ps", "-q", f"name:{name}").stdout
    fleet.aios("kill", name, "-y")


def test_an_agent_is_suspended_and_resumed(fleet: Place) -> None:
    name = fleet.aios("run", "agents.py:sleeps", "-y", "-d").stdout.strip()
    assert name in fleet.aios("suspend", name, "--dry-run").stdout
    fleet.aios("suspend", name, expect=2)
    assert f"{name}: suspended" in fleet.aios("suspend", name, "-y").stderr
    assert "‖ suspended" in fleet.aios("ps", "-q", f"name:{name}").stdout
    why = fleet.aios("why", name).stdout
    assert "it is suspended by operator-1" in why and f"would move it: `aios resume {name}`" in why
    assert "nothing that is suspended" in fleet.aios("resume", "-q", "agent:hello", "-y").stderr
    fleet.aios("kill", name, "--stop", "-y", expect=1)
    assert f"{name}: resumed" in fleet.aios("resume", "-q", "agent:sleeps state:suspended", "-y").stderr
    assert "suspended" not in fleet.aios("ps", "-q", f"name:{name}").stdout
    fleet.aios("kill", name, "-y")
    fleet.aios("logs", "-f", name)
    assert fleet.aios("suspend", name).stderr == f"{name}: has ended already\n"


def test_the_tree_shows_who_started_whom(fleet: Place) -> None:
    name = fleet.aios("run", "agents.py:sleeps", "-y", "-d").stdout.strip()
    lines = fleet.aios("tree").stdout.splitlines()
    assert lines[0].startswith("NAME") and any(line.startswith(name) for line in lines)
    lines = fleet.aios("tree", "--all").stdout.splitlines()
    assert lines[1].startswith("operator-1 ") and any(line.startswith(("├─ " + name, "└─ " + name)) for line in lines[2:])
    assert name in [process["name"] for process in fleet.json("tree", "--json")["processes"]]
    fleet.aios("kill", name, "-y")


def test_kill_takes_a_selector(fleet: Place) -> None:
    names = [started(fleet), started(fleet)]
    done = fleet.aios("kill", "-q", "agent:sleeps class:standard", "-y")
    assert all(f"{name}: killed" in done.stderr for name in names)


def test_logs_follow_to_the_end(fleet: Place) -> None:
    name = started(fleet, "hello")
    assert fleet.aios("logs", "-f", name).stdout == "greeting world\n"
    assert [line["text"] for line in fleet.json("logs", name, "--json")["lines"]]


def test_events_are_lines_for_people_or_json(fleet: Place) -> None:
    name = started(fleet, "hello")
    fleet.aios("logs", "-f", name)
    assert name in fleet.aios("events", "--kind", "process").stdout
    page = fleet.json("events", "--json")
    assert page["events"] and {event["kind"] for event in page["events"]} >= {"kernel", "process", "host"}
    lines = [json.loads(line) for line in fleet.aios("events", "--jsonl", "--after", "1").stdout.splitlines()]
    assert lines[0]["seq"] == 2


def test_a_reader_that_goes_away_ends_the_command_quietly(fleet: Place) -> None:
    with fleet.begin("events", "-f") as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        fleet.aios("run", "agents.py:hello", "--yes")
        child.wait(timeout=30)
        assert child.stderr.read() == ""


def test_ctrl_c_ends_a_run_with_130_and_the_agent_with_it(fleet: Place) -> None:
    fleet.aios("run", "agents.py:sleeps", "--yes", "--detach")
    with fleet.begin("run", "agents.py:sleeps") as child:
        assert child.stdout is not None and child.stdout.readline() == "asleep\n"
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130 and "Traceback" not in said
    fleet.aios("kill", "-q", "agent:sleeps", "-y")


def test_any_call_can_be_made(fleet: Place) -> None:
    assert fleet.json("call", "clock.now")["at_ns"] > 0
    assert fleet.json("call", "process.list", "ended=false", 'kinds=["session"]')["processes"]


def test_a_token_is_shown_once_works_at_the_door_and_is_worthless_when_it_was_revoked(fleet: Place) -> None:
    made = fleet.aios("token", "add", "--agent", "visitor")
    lines = dict(line.removeprefix("export ").split("=", 1) for line in made.stdout.splitlines())
    request = urllib.request.Request(
        f"{lines['OPENAI_BASE_URL']}/models", headers={"Authorization": f"Bearer {lines['OPENAI_API_KEY']}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    listed = fleet.aios("token", "ls").stdout
    assert "visitor" in listed and lines["OPENAI_API_KEY"] not in listed
    assert re.search(r"^visitor-\d+ .* · idle ", fleet.aios("ps", "--all").stdout, re.MULTILINE)
    [info] = fleet.json("token", "ls", "--json")["tokens"]
    assert info["id"] in fleet.aios("token", "rm", "visitor", expect=2).stderr
    fleet.aios("token", "rm", info["id"][:4], "--yes")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=10)


def test_a_budget_is_set_listed_and_lifted_and_what_was_spent_is_shown(fleet: Place) -> None:
    set_it = fleet.aios("budget", "/nobody/agent", "0.25", "--per", "day", "--soft", "0.1")
    assert "/nobody/agent may spend $0.25 per day; left: $0.25" in set_it.stderr
    fleet.aios("budget", "/nobody", "--tokens", "1000")
    listed = fleet.aios("budget", "/nobody/agent").stdout
    assert re.search(r"^/nobody +1,000 tokens +- +0 tokens +0 tokens +1,000 tokens +- ", listed, re.MULTILINE)
    assert re.search(r"^/nobody/agent +\$0\.25 per day +\$0\.10 +\$0\.00 ", listed, re.MULTILINE)
    spent = fleet.aios("spend").stdout
    assert re.search(r"^/nobody/agent +\$0\.00 .*1,000 tokens of /nobody", spent, re.MULTILINE)
    assert fleet.json("spend", "--json")["accounts"][0]["account"] == "/"
    assert (
        "tool:local/look may spend 1 call at once; left: 1 call"
        in fleet.aios("budget", "tool:look", "--calls", "1", "--per", "now").stderr
    )
    for wrong, said in (
        (("budget", "tool:look", "5"), "`unit` must be `calls`"),
        (("budget", "job:a b", "5"), "`account` must be a path"),
        (("budget", "/a b"), "`account` must be a path"),
        (("budget", "/", "5", "--soft", "6"), "`soft` must be at most `amount`"),
        (("spend", "--most", "hour", "--all"), "`--most` goes with neither"),
        (("spend", "provider:"), "`account` must be a path"),
        (("run", "agents.py:hello", "--job", "a b"), "`job` must be 1 to 81 letters"),
    ):
        assert said in fleet.aios(*wrong, expect=2).stderr
    assert "job:local/nightly may spend 5 calls" in fleet.aios("budget", "job:nightly", "--calls", "5").stderr
    assert re.search(r"^job:local/nightly +5 calls", fleet.aios("budget", "job:nightly").stdout, re.MULTILINE)
    assert re.search(r"^job:local/nightly .* 5 calls ", fleet.aios("spend").stdout, re.MULTILINE)
    assert "no core has a provider `lokal`; did you mean `local`?" in fleet.aios("budget", "provider:lokal", "5", expect=4).stderr
    assert "no account `/nowhere`" in fleet.aios("spend", "/nowhere", expect=4).stderr
    assert (
        "has no limit of money per day any more"
        in fleet.aios("budget", "/nobody/agent", "--none", "money", "--per", "day").stderr
    )
    for command in (("budget", "/ｌocal", "5"), ("budget", "/nobody/é"), ("spend", "/ｌocal")):
        assert "`account` must be a path" in fleet.aios(*command, expect=2).stderr
    assert "`soft` must be at most" in fleet.aios("budget", "/nobody", "--calls", "5", "--soft", "6", expect=2).stderr
    fleet.aios("budget", "/nobody", "--tokens", "5", "--per", "hour")
    lifted = fleet.aios("budget", "/nobody", "--none", "tokens").stderr
    assert "/nobody has no limit of tokens in all any more; it still has one of 5 tokens per hour" in lifted
    fleet.aios("budget", "/nobody", "--none", "tokens", "--per", "hour")
    assert "nothing limits /nobody" in fleet.aios("budget", "/nobody").stderr
    assert "/nobody had no limit of tokens in all\n" in fleet.aios("budget", "/nobody", "--none", "tokens").stderr
    lifted = fleet.aios("budget", "/nobody/agnet", "--none", "money", expect=4).stderr
    assert "there is no account `/nobody/agnet`; did you mean `/nobody/agent`?" in lifted
    assert "`aios budget / 5.50` is one for all together" in fleet.aios("budget", "5.50", expect=2).stderr
    assert "there is no process `5.5`" in fleet.aios("budget", "5.5", "--calls", "9", expect=4).stderr
    lazy = started(fleet)
    assert f"`{lazy}` has asked no model yet: limit its agent, `/local/sleeps`" in fleet.aios("budget", lazy, expect=4).stderr
    assert "there is no process `nobody-7`" in fleet.aios("budget", "nobody-7", expect=4).stderr
    fleet.aios("kill", lazy, "--yes")
    fleet.aios("spend", "--most", "hour")
    asked = re.search(r"^(/local/\S+/(\S+-\d+)) ", fleet.aios("spend", "--all").stdout, re.MULTILINE)
    assert asked is not None
    path, name = asked.groups()
    for text in (name, f"local/{name}"):
        assert f"{path} may spend 5 calls per month" in fleet.aios("budget", text, "--calls", "5", "--per", "month").stderr
        assert f"{path} has no limit of calls per month" in fleet.aios("budget", text, "--none", "calls", "--per", "month").stderr


def test_texts_become_vectors_on_the_embedded_model(fleet: Place) -> None:
    texts = 'texts=["The weather is lovely today.", "It\'s so sunny outside!"]'
    found = msgspec.json.decode(fleet.aios("call", "llm.embed", texts).stdout, type=Embeddings)
    one, other = found.floats()
    assert (found.model, found.dimensions) == ("all-minilm-l6-v2", 384)
    assert sum(a * b for a, b in zip(one, other, strict=True)) == pytest.approx(0.6660, abs=5e-5)
    assert re.search(r"all-minilm-l6-v2 .*minilm +up +0/4 +embed", fleet.aios("models").stdout)
    assert "ok    embedder" in fleet.aios("doctor").stdout


def test_doctor_sees_the_kernel_that_runs(fleet: Place) -> None:
    checks = {check["what"]: check for check in json.loads(fleet.aios("doctor", "--json").stdout)}
    assert checks["kernel"]["state"] == "ok" and "port" not in checks


def test_models_says_what_to_do_when_there_is_none(fleet: Place) -> None:
    assert "aios doctor" in fleet.aios("models").stderr


def test_run_starts_the_kernel_that_it_needs(place: Place) -> None:
    (place.folder / "aios.toml").write_text("local = false\n[server]\nport = 0\n")
    assert place.aios("run", "-y", "--", "echo", "up").stdout == "up\n"
    assert place.aios("run", "-y", "agents.py:hello").stdout == "greeting world\nhello world\n"
    place.aios("down")


def test_after_down_nothing_answers_and_nothing_is_left(place: Place) -> None:
    with kernel_in(place):
        pass
    assert "no kernel answers" in place.aios("ps", expect=6).stderr
    assert not (place.home / "run" / "kernel.json").exists()


def test_a_kernel_that_was_killed_leaves_nothing_in_the_way_of_the_next(place: Place) -> None:
    place.aios("up", "--detach", "--port", "0", "--no-local")
    os.kill(json.loads((place.home / "run" / "kernel.json").read_bytes())["os_pid"], signal.SIGKILL)
    place.aios("ps", expect=6)
    with kernel_in(place):
        assert place.json("ps", "--json") == {"processes": []}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_kernel_in_the_foreground_in_order(place: Place, number: signal.Signals, code: int) -> None:
    with place.begin("up", "--port", "0", "--no-local") as child:
        assert child.stdout is not None and child.stdout.readline().startswith("http ")
        child.send_signal(number)
        _, said = child.communicate(timeout=30)
    assert child.returncode == code and "Traceback" not in said, said


def test_a_second_ctrl_c_does_not_wait_for_running_calls(place: Place) -> None:
    with place.begin("up", "--port", "0", "--no-local") as kernel:
        assert kernel.stdout is not None and kernel.stdout.readline().startswith("http ")
        with place.begin("call", "clock.sleep", "seconds=600") as caller:
            while "clock.sleep" not in place.aios("why", "operator").stdout:
                pass
            kernel.send_signal(signal.SIGINT)
            assert kernel.stderr is not None and "once more" in kernel.stderr.readline()
            kernel.send_signal(signal.SIGINT)
            kernel.communicate(timeout=5)
            _, said = caller.communicate(timeout=30)
    assert (kernel.returncode, caller.returncode) == (130, 6) and "went away" in said


@pytest.mark.parametrize("detached", [(), ("--detach",)])
def test_a_taken_port_is_one_sentence(place: Place, detached: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = place.aios("up", "--port", port, "--no-local", *detached, expect=6)
    assert port in done.stderr and len(done.stderr.splitlines()) <= 2


def test_a_model_file_that_is_missing_is_one_sentence(place: Place) -> None:
    (place.folder / "aios.toml").write_text('[local]\npath = "/nowhere.gguf"\n')
    done = place.aios("up", "--port", "0", "--detach", expect=6)
    assert "/nowhere.gguf" in done.stderr and len(done.stderr.splitlines()) <= 2


def test_a_slip_in_the_configuration_is_one_sentence(place: Place) -> None:
    (place.folder / "aios.toml").write_text("[server]\nprot = 1\n")
    done = place.aios("up", expect=2)
    assert "aios.toml: unknown key `server.prot`; did you mean `port`?" in done.stderr


def test_the_embedded_model_answers(place: Place) -> None:
    place.aios("up", "--detach", "--port", "0")
    try:
        reply = place.json("call", "llm.generate", "prompt=Once upon a time", "max_tokens=5", "seed=1")
        lines = place.aios(
            "call", "llm.generate", "prompt=Once upon a time", "max_tokens=5", "seed=1", "--stream"
        ).stdout.splitlines()
        assert reply["choices"][0]["text"] and json.loads(lines[-1])["choices"] == reply["choices"]
        assert "up" in place.aios("models").stdout
        said = place.aios("doctor").stdout
        assert "ok    core          smollm2-135m-instruct: local, " in said
        assert "ok    core in use   smollm2-135m-instruct: `default` stands for its model smollm2-135m-instruct\n" in said
    finally:
        place.aios("down")


def test_a_model_file_that_was_added_and_chosen_answers(place: Place) -> None:
    # another kernel may have the usual port, and the machine be busy
    (place.folder / "aios.toml").write_text("[server]\nport = 0\n[local]\nprobe_s = 60\n")
    file = str(models.find(models.EMBEDDED))
    place.aios("models", "add", file, "--name", "mine", "--sha256", models.EMBEDDED.sha256)
    assert "ok    core in use   embedded model" in place.aios("doctor").stdout
    place.aios("models", "use", "mine")
    assert "ok    core in use   added model, because `aios models use mine` chose it" in place.aios("doctor").stdout
    place.aios("up", "--detach", "--port", "0")
    try:
        reply = place.json("call", "llm.generate", "prompt=Once upon a time", "max_tokens=5", "seed=1")
        said = place.aios("doctor").stdout
        assert "ok    core          mine: local, " in said and "ok    core in use   mine: `default` stands for" in said
        assert "profile: cache q8_0 split by sequence, flash attention automatic; exact" in said
        assert "ok    core to come  added model, because `aios models use mine` chose it" in said
        assert reply["model"] == "mine" and reply["choices"][0]["text"]
        listed = place.json("models", "--json")
        assert [model["name"] for model in listed["models"]] == ["mine", "all-minilm-l6-v2"] and listed["added"][0]["used"]
        assert "starts again" in place.aios("models", "use", "embedded").stderr
        assert "`mine` is in use" in place.aios("models", "rm", "mine", "--yes", expect=1).stderr
    finally:
        place.aios("down")
    place.aios("models", "rm", "mine", "--yes")
    assert place.json("models", "--json") == {"models": [], "added": []}


def test_500_silent_connections_do_not_shut_the_operator_out(place: Place) -> None:
    """The kernel may open 256 files; connections come to its port and to its socket."""
    limited = ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *PROGRAM, "up", "--detach", "--port", "0", "--no-local"]
    subprocess.run(limited, check=True, cwd=place.folder, env=place.environment, capture_output=True, timeout=60)
    try:
        here = json.loads((place.home / "run" / "kernel.json").read_text())
        port = int(here["http"].rpartition(":")[2])
        with ExitStack() as stack:
            for _ in range(250):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                by_path = stack.enter_context(socket.socket(socket.AF_UNIX))
                by_path.settimeout(5)
                by_path.connect(here["socket"])
            assert "no agent runs" in place.aios("ps").stderr
    finally:
        place.aios("down", "--grace", "0")


def test_an_alias_of_a_model_that_is_not_there_is_told_and_breaks_nothing(place: Place) -> None:
    (place.folder / "aios.toml").write_text('local = false\n[aliases]\nfast = "nowhere"\n')
    place.aios("up", "--detach", "--port", "0")
    try:
        place.aios("models")
        assert "alias `fast` stands for `nowhere`" in (place.home / "logs" / "kernel.log").read_text()
        assert "`fast` stands for `nowhere`" in place.aios("doctor").stdout
    finally:
        place.aios("down", "--grace", "0")
