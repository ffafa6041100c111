"""What `init` and `doctor` find on this machine, and what they make of it."""

import http.server
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aios.cli.detect import Detected, servers
from aios.cli.init import CONFIG, core_table
from aios.config import read_config


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """A server on this machine that answers everything so; its port."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_server_is_found_with_its_models() -> None:
    with answering(200, b'{"object": "list", "data": [{"id": "a", "object": "model"}, {"id": "b"}]}') as port:
        assert servers({port: ("Some", "some")}) == [Detected("Some", "some", f"http://127.0.0.1:{port}/v1", ("a", "b"))]


@pytest.mark.parametrize(("status", "body"), [(404, b'{"data": []}'), (200, b"<html>"), (200, b'{"data": 3}'), (200, b"")])
def test_what_answers_otherwise_is_no_such_server(status: int, body: bytes) -> None:
    with answering(status, body) as port:
        assert servers({port: ("Some", "some")}) == []


def test_a_port_that_says_nothing_costs_300_ms_at_most() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as other:
        begin = time.monotonic()
        assert servers({silent.getsockname()[1]: ("A", "a"), other.getsockname()[1]: ("B", "b")}) == []
        assert time.monotonic() - begin < 0.9


def test_every_line_that_init_comments_out_is_right_when_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    settings = re.sub(r"^# (?=\[|\w+ = )", "", CONFIG, flags=re.MULTILINE)
    found = core_table(Detected("Some", "some", "http://127.0.0.1:8080/v1", ("a", 'b "quoted"')))
    file = tmp_path / "elsewhere" / "aios.toml"
    file.parent.mkdir()
    file.write_text(settings + found)
    monkeypatch.setenv("AIOS_HOME", str(tmp_path.parent / f"{tmp_path.name}-home"))
    config = read_config(file)
    assert config.local is not None and config.local.path == Path("/models/some-model.gguf") and config.aliases
    assert config.cores[-1].models == ("a", 'b "quoted"') and config.server == read_config().server
