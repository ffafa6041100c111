"""`aios models add` from a hub: a real server with a hub's paths, which breaks off, lies and redirects."""

import hashlib
import http.server
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from gguf_files import gguf, keys

from aios.cli.download import check_address
from aios.cli.group import aios
from aios.drivers.core.local.shelf import Shelf

SMALL = gguf()
SHA256 = hashlib.sha256(SMALL).hexdigest()
FILE = "/o/m/resolve/main/small.gguf"


class Hub(http.server.ThreadingHTTPServer):
    """A hub with one repository. `cut`: bytes after which connections end, one each; `requests`: path and Range of each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files = {"small.gguf": SMALL}
        self.data = SMALL
        self.cut: list[int] = []
        self.requests: list[tuple[str, str | None]] = []
        self.linked: dict[str, str] = {"X-Linked-Etag": f'"{SHA256}"', "X-Linked-Size": str(len(SMALL))}
        self.moved: str | None = "/elsewhere"
        self.ranges = self.sized = True
        self.reached, self.goes_on = threading.Event(), threading.Event()
        self.halts = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none; what is one is printed, into whatever the command under test prints."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Answers(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        if self.path == "/api/models/o/m":
            names = [{"rfilename": name} for name in ("README.md", *self.server.files)]
            self.answer(200, json.dumps({"siblings": names}).encode(), {})
        elif self.path.partition("?")[0] == FILE and self.server.moved:
            self.answer(302, b"", self.server.linked | {"Location": self.server.moved})
        elif self.path.partition("?")[0] in (FILE, "/elsewhere"):
            self.file()
        else:
            self.answer(404, b"", {})

    def file(self) -> None:
        data, hub = self.server.data, self.server
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and hub.ranges:
            start = int(asked[1])
            if start >= len(data):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return self.answer(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
        return self.answer(200, data, {})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        hub = self.server
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if hub.sized:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status in (200, 206) and self.path == "/elsewhere" and hub.cut:
            body = body[: hub.cut.pop(0)]
            self.close_connection = True
        if hub.halts and self.path == "/elsewhere":
            hub.reached.set()
            hub.goes_on.wait(20)
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, a home without a kernel, and a folder to be in."""
    monkeypatch.setenv("AIOS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "etc"))
    monkeypatch.delenv("AIOS_CONFIG", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.goes_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def shelf(hub: Hub, tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "home")


def add(*arguments: str, expect: int = 0) -> Result:
    result = CliRunner().invoke(aios, ["models", "add", *arguments])
    assert result.exit_code == expect, result.output
    assert "Traceback" not in result.output
    return result


def left(shelf: Shelf) -> set[str]:
    return {path.name for path in shelf.folder.iterdir()} - {"lock"}


@pytest.mark.parametrize("source", ["o/m", "o/m:small.gguf"])
def test_a_file_of_a_repository_comes_whole_and_is_recorded(hub: Hub, shelf: Shelf, source: str) -> None:
    said = add(source).stderr
    [added] = shelf.list()
    assert (added.name, added.sha256, added.size_bytes, added.source) == ("small", SHA256, len(SMALL), "o/m:small.gguf")
    path = shelf.path("small")
    assert path.read_bytes() == SMALL and path.stat().st_mode & 0o777 == 0o600
    assert left(shelf) == {"small.gguf", "models.json"}
    assert "nobody states" not in said and re.search(r"o/m:small.gguf: 82 kB of 82 kB, \d+ .B/s, 0 ms left", said)


def test_an_address_without_a_statement_of_its_sha256_is_told_to_be_trusted_for_the_first_time(hub: Hub, shelf: Shelf) -> None:
    hub.moved = None
    assert "nobody states a SHA-256" in add(hub.url + FILE, "--name", "mine").stderr
    assert shelf.list()[0].sha256 == SHA256
    assert "nobody" not in add(hub.url + FILE + "?key=secret", "--name", "again", "--sha256", SHA256.upper()).stderr
    assert {added.source for added in shelf.list()} == {hub.url + FILE}


def test_connections_that_break_are_gone_on_with(hub: Hub, shelf: Shelf) -> None:
    hub.cut = [30_000, 10_000]
    add("o/m")
    assert shelf.path("small").read_bytes() == SMALL
    assert [asked for path, asked in hub.requests if path == "/elsewhere"] == [None, "bytes=29999-", "bytes=39998-"]


def test_after_a_break_the_same_command_goes_on(hub: Hub, shelf: Shelf) -> None:
    hub.cut = [30_000, 0, 0, 0]
    assert "broke off after 30 kB" in add("o/m", expect=6).stderr
    assert left(shelf) == {"small.gguf.part", "small.gguf.part.json"}
    assert (shelf.folder / "small.gguf.part").stat().st_mode & 0o777 == 0o600
    hub.requests.clear()
    add("o/m")
    assert ("/elsewhere", "bytes=29999-") in hub.requests and shelf.path("small").read_bytes() == SMALL


def test_what_came_whole_and_was_not_kept_is_not_fetched_again(hub: Hub, shelf: Shelf) -> None:
    hub.cut = [30_000, 0, 0, 0]
    add("o/m", expect=6)
    (shelf.folder / "small.gguf.part").write_bytes(SMALL)
    hub.requests.clear()
    add("o/m")
    assert [asked for path, asked in hub.requests if path == "/elsewhere"] == [f"bytes={len(SMALL) - 1}-"]


@pytest.mark.parametrize("size", [len(SMALL), 20_000])
def test_what_came_of_another_file_is_not_gone_on_with(hub: Hub, shelf: Shelf, size: int) -> None:
    hub.cut = [30_000, 0, 0, 0]
    add("o/m", expect=6)
    hub.data = gguf(keys(general__name="another"))
    if size < len(SMALL):
        hub.data = hub.data[:size]
    hub.linked = {"X-Linked-Etag": hashlib.sha256(hub.data).hexdigest()}
    add("o/m", expect=0 if size == len(SMALL) else 8)
    assert shelf.path("small").read_bytes() == hub.data if size == len(SMALL) else left(shelf) == set()


def test_what_nobody_knows_the_origin_of_gives_way_whole(hub: Hub, shelf: Shelf) -> None:
    shelf.folder.mkdir(parents=True, mode=0o700)
    shelf.folder.parent.chmod(0o700)
    (shelf.folder / "small.gguf.part").write_bytes(b"x" * 200_000)
    add("o/m")
    assert shelf.path("small").read_bytes() == SMALL


def test_a_server_that_knows_no_ranges_is_asked_for_all_again(hub: Hub, shelf: Shelf) -> None:
    hub.cut, hub.ranges = [30_000], False
    add("o/m")
    assert shelf.path("small").read_bytes() == SMALL


def test_another_sha256_than_the_hub_states_ends_with_8_and_leaves_nothing(hub: Hub, shelf: Shelf) -> None:
    hub.data = SMALL[:-1] + b"x"
    assert "is not what it should be" in add("o/m", expect=8).stderr
    assert left(shelf) == set()


def test_another_sha256_than_was_named_ends_with_8_before_it_is_fetched(hub: Hub, shelf: Shelf) -> None:
    add("o/m", "--sha256", "0" * 64, expect=8)
    assert left(shelf) == set()


def test_another_size_than_the_hub_states_ends_with_8(hub: Hub, shelf: Shelf) -> None:
    hub.linked["X-Linked-Size"] = "5"
    assert "should have 5 bytes" in add("o/m", expect=8).stderr
    assert left(shelf) == set()


def test_a_file_of_unknown_size_is_refused(hub: Hub, shelf: Shelf) -> None:
    hub.sized = False
    assert "does not say how big" in add("o/m:small.gguf", expect=8).stderr


@pytest.mark.parametrize(("size", "code", "said"), [(10**15, 2, "is more than the"), (10**12, 6, "are free")])
def test_what_has_no_room_is_refused_before_it_is_fetched(hub: Hub, shelf: Shelf, size: int, code: int, said: str) -> None:
    hub.moved, hub.data = None, Endless(size)
    assert said in add("o/m", expect=code).stderr and left(shelf) == set()


class Endless(bytes):
    """Data that claims to be that long."""

    def __new__(cls, size: int) -> "Endless":
        made = super().__new__(cls, b"GGUF")
        made.size = size
        return made

    size: int

    def __len__(self) -> int:
        return self.size


def test_what_is_no_model_is_told_as_a_file_of_this_machine_is(hub: Hub, shelf: Shelf) -> None:
    hub.data, hub.linked = b"<html>not found</html>", {}
    assert "o/m:small.gguf is not a GGUF model file" in add("o/m", expect=2).stderr
    assert left(shelf) == set()


@pytest.mark.parametrize("address", ["http://192.0.2.1/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://localhost.evil/x"])
def test_a_redirect_to_anything_but_https_is_refused(hub: Hub, shelf: Shelf, address: str) -> None:
    hub.moved = address
    said = add("o/m", expect=2).stderr
    assert "no https address" in said or "leads to nothing" in said
    assert left(shelf) == set()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("o/nobody",), 4, "nothing at"),
        (("o/m:nothing.gguf",), 4, "nothing at"),
        (("o/m:../../etc/passwd",), 2, "no name of a file"),
        (("no such thing",), 2, "no repository"),
        (("http://192.0.2.1/m.gguf",), 2, "no https address"),
        (("https://me:secret@127.0.0.1/m.gguf",), 2, "no https address"),
        (("https://[x/m.gguf",), 2, "no https address"),
        (("https://127.0.0.1:1/m gguf",), 2, "no https address"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(hub: Hub, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = add(*arguments, expect=code)
    assert said in result.stderr and len(result.stderr.splitlines()) <= 2 and "secret" not in result.stderr


def test_of_several_files_one_must_be_named(hub: Hub) -> None:
    hub.files = {"a.gguf": SMALL, "deep/b.gguf": SMALL}
    assert "name one of `o/m:a.gguf`, `o/m:deep/b.gguf`" in add("o/m", expect=2).stderr
    hub.files = {}
    assert "no GGUF file" in add("o/m", expect=4).stderr


def test_without_a_hub_one_sentence_says_what_to_set(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT")
    said = add("o/m", expect=2).stderr
    assert "set HF_ENDPOINT" in said and len(said.splitlines()) == 1
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert "cannot be reached" in add("o/m", expect=6).stderr


def test_only_this_machine_is_asked_without_encryption() -> None:
    assert check_address("http://[::1]:8/x") and check_address("http://localhost/x") and check_address("https://example.org/x")


def test_while_one_adds_it_another_hears_so(hub: Hub, shelf: Shelf) -> None:
    hub.halts = True
    with subprocess.Popen([sys.executable, "-m", "aios", "models", "add", "o/m"], stderr=subprocess.PIPE, text=True) as first:
        assert hub.reached.wait(20)
        assert "being added by another" in add("o/m", expect=1).stderr
        hub.goes_on.set()
        first.communicate(timeout=30)
    assert first.returncode == 0 and shelf.path("small").read_bytes() == SMALL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_who_ends_it_finds_what_came_the_next_time(hub: Hub, shelf: Shelf, number: signal.Signals) -> None:
    hub.cut = [30_000, 0, 0, 0]
    add("o/m", expect=6)
    hub.halts = True
    with subprocess.Popen([sys.executable, "-m", "aios", "models", "add", "o/m"], stderr=subprocess.PIPE, text=True) as first:
        assert hub.reached.wait(20)
        first.send_signal(number)
        said = first.communicate(timeout=30)[1]
    assert first.returncode == (130 if number == signal.SIGINT else -number) and "Traceback" not in said
    hub.halts = False
    hub.requests.clear()
    add("o/m")
    assert ("/elsewhere", "bytes=29999-") in hub.requests and left(shelf) == {"small.gguf", "models.json"}
