"""Keys of providers as people use them: off until there is a limit, on within it, and nowhere to be found but at the provider."""

import json
import os
import pty
import re
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from certificates import authority
from test_kernel import PROGRAM, Place, place_in

from aios.drivers.clock import SystemClock
from aios.drivers.core.openai_chat import OpenAIChatConfig
from aios.drivers.price.book import PricesConfig
from aios.kernel.access.tokens import Tokens
from aios.keys import Allowance, Use, prices_of, read_allowance, write_allowance
from aios.ports.core import Price
from aios.testing.kernel import MemoryDocument

pytestmark = [pytest.mark.real, pytest.mark.slow]

KEY = "sk-far-8Jq2LmZx0Vt7RwYc5NbT1kDs"
PRICE = Price(input=1000, cached=1000, output=2000)
USAGE = '{"prompt_tokens": 10, "completion_tokens": 5}'


@dataclass
class Provider:
    """`said`: the path and the key of each request; `port`: on loopback, by TLS. `status`: of its answers.

    `looks`: is called when it is asked for something that costs, before it answers.
    """

    certificate: Path
    port: int = 0
    said: list[tuple[str, str | None]] = field(default_factory=list)
    status: int = 200
    looks: Callable[[], None] | None = None


@contextmanager
def serving(provider: Provider, tls: ssl.SSLContext) -> Iterator[None]:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(b'{"data": [{"id": "far-1"}]}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if provider.looks is not None:
                provider.looks()
            text = '{"choices": [{"index": 0, "delta": {"content": "far away"}, "finish_reason": "stop"}]}'
            self.answer(f'data: {text}\n\ndata: {{"choices": [], "usage": {USAGE}}}\n\ndata: [DONE]\n\n'.encode())

        def answer(self, body: bytes) -> None:
            key = self.headers["Authorization"]
            provider.said.append((self.path, key))
            good = key == f"Bearer {KEY}"
            if not good or (provider.status != 200 and self.path.endswith("completions")):
                body = f'{{"error": {{"message": "Incorrect API key provided: {key}"}}}}'.encode()
            self.send_response(401 if not good else provider.status if self.path.endswith("completions") else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    provider.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    ours = authority(tmp_path_factory.mktemp("authority"))
    provider = Provider(ours.certificate)
    with serving(provider, ours.server("127.0.0.1")):
        yield provider


@pytest.fixture
def place(tmp_path: Path, far: Provider, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A project whose configuration names the provider, and an environment that holds its key; no kernel runs."""
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FAR_API_KEY", KEY)
    far.said.clear()
    place = place_in(tmp_path)
    write_config(place, far)
    return place


def write_config(place: Place, far: Provider, **other: str) -> None:
    said = {"base_url": f"https://127.0.0.1:{far.port}/v1", "key_env": "FAR_API_KEY", "ca_file": str(far.certificate), **other}
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items() if value)
    price = f"[core.price]\ninput = {PRICE.input}\ncached = {PRICE.cached}\noutput = {PRICE.output}\n"
    (place.folder / "aios.toml").write_text(f'local = false\nembedder = false\n[[core]]\nname = "far"\n{lines}{price}')


@contextmanager
def up(place: Place, *options: str) -> Iterator[str]:
    """A kernel in the background; what `aios up` said of it."""
    said = place.aios("up", "--detach", "--port", "0", *options)
    try:
        yield said.stdout + said.stderr
    finally:
        place.aios("down", "--grace", "0")


def generate(place: Place, expect: int = 0) -> Any:
    done = place.aios("call", "llm.generate", "prompt=hi", "model=far-1", "max_tokens=16", expect=expect)
    return json.loads(done.stdout) if expect == 0 else done.stderr


def nowhere(place: Place, *said: str) -> None:
    """The key, or a piece of it, is in no file that the kernel has, and in nothing that was said."""
    files = [file for file in place.home.rglob("*") if file.is_file()]
    assert len(files) > 3
    for text in (*said, *(file.read_text(errors="replace") for file in files)):
        assert KEY[7:15] not in text and KEY[-8:] not in text


def test_without_a_limit_a_key_is_off_and_the_command_that_switches_it_on_is_told(place: Place, far: Provider) -> None:
    with up(place) as said:
        assert re.search(
            r"off: FAR_API_KEY to https://127.0.0.1:\d+.* has no limit: `aios up --budget USD --per month --to https://127", said
        )
        assert "budget:" not in said and place.json("models", "--json")["models"] == []
        doctor = place.aios("doctor").stdout
        assert "FAR_API_KEY" in doctor and "off until there is a limit" in doctor
    with up(place, "--yes") as said:
        assert "--yes switches no key on without an amount: `aios up --budget USD --per month --to https://127.0.0.1:" in said
        assert "off: FAR_API_KEY" in said
    with up(place, "--yes", "--budget", "5") as said:
        assert "is not meant by --budget alone: `--to https://127.0.0.1:" in said and "off: FAR_API_KEY" in said
    assert far.said == []
    nowhere(place, said, doctor)


def test_with_a_limit_it_is_on_the_limit_is_told_and_holds(place: Place, far: Provider) -> None:
    with up(place, "--budget", "0.01", "--per", "day", "--to", f"https://127.0.0.1:{far.port}") as said:
        where = r"on: FAR_API_KEY to https://\S+, vouched for by \S+, at prices of aios.toml, \w+, 1 models on core `far`"
        assert re.search(where, said)
        assert "budget: $0.01 per day for all together, $0.01 left" in said
        assert "note: what core `far` costs is aios.toml's word" in said
        assert generate(place)["choices"][0]["text"] == "far away"
        assert "$0.00998 left" in place.aios("up").stderr
        assert '"money"' in place.aios("spend", "--json").stdout
        place.aios("budget", "/", "--usd", "0.00002", "--per", "day")
        refused = generate(place, expect=5)
        assert "aios budget / --usd AMOUNT --per day" in refused
        doctor = place.aios("doctor").stdout
        assert "may be used, within $0.01 per day" in doctor
        events = place.aios("events").stdout
    assert {key for _, key in far.said} == {f"Bearer {KEY}"}
    assert [path for path, _ in far.said].count("/v1/completions") == 1
    nowhere(place, said, refused, doctor, events)
    far.said.clear()
    with up(place) as said:  # the operator's word holds from now on
        assert "on: FAR_API_KEY" in said and "budget: $0.01 per day" in said
    place.aios("up", "--budget", "0", "--detach", "--port", "0")
    with up(place) as said:
        assert "off: FAR_API_KEY" in said


def test_a_refusal_of_the_provider_costs_nothing_and_what_nobody_can_know_costs_all(
    place: Place, far: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_allowance_of(place, far)
    with up(place):
        for status, code in ((401, 6), (402, 6), (403, 6), (404, 2), (503, 6), (302, 6)):
            monkeypatch.setattr(far, "status", status)
            generate(place, expect=code)
        assert "$1.00 left" in place.aios("up").stderr
        monkeypatch.setattr(far, "status", 500)
        generate(place, expect=1)
        charged = re.search(r"\$0\.99\d+ left", place.aios("up").stderr)
        assert charged is not None
        monkeypatch.setattr(far, "status", 429)
        generate(place, expect=1)
        assert charged[0] in place.aios("up").stderr


def test_a_client_at_a_door_is_answered_and_hears_nothing_of_the_key(
    place: Place, far: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_allowance_of(place, far)
    with up(place) as said:
        http = re.search(r"http://\S+", said)
        assert http is not None
        token = re.search(r"aios_\S+", place.aios("token", "add", "--agent", "client", "--grant", "use /llm/*").stdout)
        assert token is not None
        answered = [asked(f"{http[0]}/v1/chat/completions", token[0])]
        for status in (400, 401, 429, 500):
            monkeypatch.setattr(far, "status", status)
            answered.append(asked(f"{http[0]}/v1/chat/completions", token[0]))
    assert "far away" in answered[0] and len(set(answered)) == 5
    nowhere(place, *answered)


def asked(url: str, token: str) -> str:
    """What a client of OpenAI's wire hears, heads and all."""
    body = json.dumps({"model": "far-1", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
            return f"{answer.headers} {answer.read().decode()}"
    except urllib.error.HTTPError as refused:
        return f"{refused.headers} {refused.read().decode()}"


def test_a_key_that_would_go_elsewhere_is_off_again(place: Place, far: Provider) -> None:
    write_allowance_of(place, far)
    for other in ({"base_url": "https://127.0.0.1:9/v1"}, {"ca_file": str(place.folder / "theirs.pem")}):
        (place.folder / "theirs.pem").write_text(far.certificate.read_text())
        write_config(place, far, **other)
        with up(place) as said:
            assert "off: FAR_API_KEY to https://127.0.0.1:" in said and "has no limit" in said
    assert far.said == []
    write_config(place, far)
    with up(place) as said:
        assert "on: FAR_API_KEY" in said


def write_allowance_of(place: Place, far: Provider) -> None:
    place.home.mkdir(mode=0o700, exist_ok=True)
    said = prices_of(OpenAIChatConfig(base_url=f"https://127.0.0.1:{far.port}", price=PRICE), PricesConfig())
    use = Use("FAR_API_KEY", f"https://127.0.0.1:{far.port}", str(far.certificate), said)
    write_allowance(place.home, Allowance(10**9, "day", (use,)))


def test_a_file_that_says_other_prices_does_not_get_the_key_that_was_accepted_for_others(place: Place, far: Provider) -> None:
    write_allowance_of(place, far)
    file = place.folder / "aios.toml"
    good = file.read_text()
    free = good[: good.index("[core.price]")] + 'provider = "local"\n'
    for other in (good.replace("output = 2000", "output = 0"), free):
        file.write_text(other)
        with up(place) as said:
            assert "off: FAR_API_KEY to https://127.0.0.1:" in said and "has no limit" in said and "on:" not in said
    assert far.said == []
    file.write_text(good)
    with up(place) as said:
        assert "on: FAR_API_KEY" in said


def test_what_switches_all_keys_off_does_so_where_none_is_there(
    place: Place, far: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_allowance_of(place, far)
    monkeypatch.delenv("FAR_API_KEY")
    with up(place, "--budget", "0"):
        pass
    monkeypatch.setenv("FAR_API_KEY", KEY)
    with up(place) as said:
        assert "off: FAR_API_KEY" in said and "on:" not in said
    assert far.said == []


def test_whoever_closed_the_input_is_not_asked(place: Place, far: Provider) -> None:
    script = f"exec {' '.join(PROGRAM)} up --detach --port 0 <&-"
    done = subprocess.run(
        ["sh", "-c", script], cwd=place.folder, env=place.environment, capture_output=True, text=True, check=False
    )
    place.aios("down", "--grace", "0")
    assert done.returncode == 0 and "off: FAR_API_KEY" in done.stderr, done.stderr


BEHIND = """
import fcntl, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.exit(subprocess.run(sys.argv[1:], process_group=0).returncode)
"""
"""Runs a command in the background of a terminal, which stops whoever reads from there."""


def test_who_is_in_the_background_of_a_terminal_is_not_asked(place: Place, far: Provider) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [PROGRAM[0], "-c", BEHIND, *PROGRAM, "up", "--detach", "--port", "0"], stdin=theirs, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, cwd=place.folder, env=place.environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        said = child.communicate(timeout=60)[0].decode()
    finally:
        child.kill()
        os.close(ours)
        place.aios("down", "--grace", "0")
    assert child.returncode == 0 and "The most that" not in said and "off: FAR_API_KEY" in said


WRONG = ["-1", "nan", "inf", "1e3", "1e999", "1_000", "1,5", "5 ", "٥", "５", "0x5", "", "$", "0.0000000001"]


@pytest.mark.parametrize("amount", WRONG)
def test_what_is_no_amount_switches_nothing_on(place: Place, amount: str) -> None:
    assert "is no amount: write dollars as" in place.aios("up", "--detach", "--budget", amount, expect=2).stderr
    assert not (place.home / "keys.json").exists()


def test_a_place_without_an_amount_is_not_passed_over(place: Place, far: Provider) -> None:
    done = place.aios("up", "--detach", "--port", "0", "--to", f"https://127.0.0.1:{far.port}", expect=2)
    assert "give both" in done.stderr and not (place.home / "keys.json").exists()


def test_an_amount_with_its_time_is_told_how_that_is_said(place: Place) -> None:
    assert "`--per day`" in place.aios("up", "--detach", "--budget", "$5/day", expect=2).stderr


CHILD = "import os; print(sorted(os.environ.values()), [open(f'/proc/{p}/environ').read() for p in ('self',)])"


def test_no_child_of_the_kernel_inherits_a_key(place: Place, far: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    write_allowance_of(place, far)
    (place.folder / "looks.py").write_text(
        "import os\nimport aios\n\n\n@aios.agent\nasync def looks(k: aios.Kernel) -> object:\n    return dict(os.environ)\n"
    )
    with up(place) as said:
        assert "ANTHROPIC_API_KEY: Anthropic is coming" in said
        agent = place.aios("run", "looks.py", "--yes").stdout
        program = place.aios("run", "--yes", "--", *PROGRAM[:1], "-c", CHILD).stdout
        kernel = json.loads((place.home / "run" / "kernel.json").read_text())["os_pid"]
        for child in descendants(kernel):
            assert KEY not in Path(f"/proc/{child}/environ").read_text(errors="replace")
        commands = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=False).stdout
    assert "PATH" in agent and "OPENAI_API_KEY" not in agent and program
    nowhere(place, said, agent, program, commands)


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(stat.parent.name))
    found = parents.get(pid, [])
    return [*found, *(each for child in found for each in descendants(child))]


def test_a_wrong_key_and_an_untrusted_server_leave_a_kernel_that_runs(
    place: Place, far: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_API_KEY", KEY[::-1])
    with up(place, "--budget", "1", "--to", f"https://127.0.0.1:{far.port}") as said:
        assert "the provider does not take the key in $FAR_API_KEY" in said and KEY[::-1][7:15] not in said
    write_config(place, far, ca_file="")
    monkeypatch.setenv("FAR_API_KEY", KEY)
    far.said.clear()
    with up(place, "--budget", "1", "--to", f"https://127.0.0.1:{far.port}") as said:
        assert "not trusted" in said or "certificate" in said
    assert far.said == []


def at_a_terminal(place: Place, answers: bytes) -> str:
    """What `aios up --detach` says to a person who answers so."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, "up", "--detach", "--port", "0"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=place.folder, env=place.environment,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, answers)
    said = child.communicate(timeout=60)[0].decode()
    os.close(ours)
    place.aios("down", "--grace", "0")
    return said


def test_a_person_at_a_terminal_is_asked_once_for_an_amount(place: Place, far: Provider) -> None:
    said = at_a_terminal(place, b"lots\n0.5\nday\n")
    assert "FAR_API_KEY to https://127.0.0.1:" in said and "'lots' is no amount" in said
    assert "on: FAR_API_KEY" in said and "budget: $0.50 per day" in said
    again = at_a_terminal(place, b"")
    assert "The most that" not in again and "budget: $0.50 per day" in again
    kept = read_allowance(place.home)
    assert (kept.amount, kept.window, [use.variable for use in kept.accepted]) == (500_000_000, "day", ["FAR_API_KEY"])


def test_a_person_who_names_no_amount_leaves_it_off_and_is_not_asked_again(place: Place, far: Provider) -> None:
    assert "off: FAR_API_KEY" in at_a_terminal(place, b"\n")
    assert "The most that" not in at_a_terminal(place, b"")
    assert far.said == []


def test_a_token_of_ours_is_no_key_although_it_goes_by_the_name_of_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Tokens(MemoryDocument(), SystemClock()).add("pen", (), "standard").value
    monkeypatch.setenv("OPENAI_API_KEY", own)
    with up(place, "--budget", "1") as said:
        assert "OPENAI_API_KEY" not in said


def test_an_allowance_that_is_damaged_or_open_to_others_switches_nothing_on(place: Place, far: Provider) -> None:
    write_allowance_of(place, far)
    file = place.home / "keys.json"
    file.chmod(0o644)
    assert "chmod 600" in place.aios("up", "--detach", expect=6).stderr
    file.chmod(0o600)
    for bad in (
        "{",
        "",
        '{"amount": -1}',
        f'{{"amount": {2**53 + 1}}}',
        f'{{"amount": {10**40}}}',
        '{"amount": 1.5}',
        '{"amount": "1"}',
        '{"window": "year"}',
    ):
        file.write_text(bad)
        assert "remove it, and every key is off" in place.aios("up", "--detach", expect=6).stderr
    assert far.said == []


def test_what_was_spent_counts_in_the_next_kernel_too_also_after_a_kill(place: Place, far: Provider) -> None:
    write_allowance_of(place, far)
    with up(place) as said:
        assert "$1.00 left" in said
        generate(place)
    with up(place) as said:
        assert "$0.99998 left" in said
        generate(place)
        kernel = json.loads((place.home / "run" / "kernel.json").read_text())["os_pid"]
        until(lambda: json.loads((place.home / "spent.json").read_text())["money"]["day"] == 40_000)
        os.kill(kernel, signal.SIGKILL)
        until(lambda: "no kernel" in place.aios("ps", expect=6).stderr)
    with up(place) as said:
        assert "$0.99996 left" in said
    for bad in (
        '{"at_ns": 1, "money": {"day": -5}}',
        '{"at_ns": -1, "money": {}}',
        "",
        "{",
        '{"at_ns": 1, "money": {"year": 1}}',
    ):
        (place.home / "spent.json").write_text(bad)
        assert "is damaged" in place.aios("up", "--detach", expect=6).stderr


def test_nothing_is_asked_that_costs_before_it_is_on_the_disk_what_it_may_come_to(
    place: Place, far: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood: list[int] = []
    asked, ended = threading.Event(), threading.Event()

    def money() -> int:
        found: int = json.loads((place.home / "spent.json").read_text())["money"]["day"]
        return found

    def hangs() -> None:
        asked.set()
        ended.wait(60)

    write_allowance_of(place, far)
    with up(place):
        monkeypatch.setattr(far, "looks", lambda: stood.append(money()))
        generate(place)
        generate(place)
        least = 512 * PRICE.input + 16 * PRICE.output
        assert stood[0] >= least and stood[1] >= least + 20_000
        monkeypatch.setattr(far, "looks", hangs)
        words = ("call", "llm.generate", "prompt=hi", "model=far-1", "max_tokens=16")
        child = subprocess.Popen([*PROGRAM, *words], cwd=place.folder, env=place.environment, stderr=subprocess.DEVNULL)
        assert asked.wait(60)
        os.kill(json.loads((place.home / "run" / "kernel.json").read_text())["os_pid"], signal.SIGKILL)
        ended.set()
        child.wait(60)
        until(lambda: "no kernel" in place.aios("ps", expect=6).stderr)
    assert money() >= least + 40_000
    monkeypatch.setattr(far, "looks", None)
    with up(place) as said:
        left = re.search(r"\$(0\.\d+) left", said)
        assert left is not None and float(left[1]) <= 1 - (least + 40_000) / 10**9


def until(holds: Callable[[], bool]) -> None:
    """Return when something holds; look again a few times a second, for half a minute."""
    for _ in range(300):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("it never held")
