"""The kernel from outside: a real kernel behind its real socket and port, a client in a thread of its own."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aios.abi.errors import CoreFailed, DeadlineExceeded, Denied, Failed, Invalid, Unauthenticated, Unavailable
from aios.abi.llm import Completion, Delta, Generate, Queued, Started
from aios.abi.process import Self, Signal, SignalProcess
from aios.abi.request import CallOptions
from aios.abi.system import ListTokens, Now, Sleep
from aios.drivers.clock import SystemClock
from aios.drivers.store.document import FileDocument
from aios.drivers.store.memory import MemoryStore
from aios.kernel.main import Kernel, Parts
from aios.sdk.client import Client, connected
from aios.server.http import HttpServer, ServerConfig
from aios.server.native import NativeDoor
from aios.testing import Script, ScriptedCore

pytestmark = pytest.mark.real
R = TypeVar("R")


class NoHosts:
    async def start(self, program: str) -> Any:
        raise AssertionError(program)


@dataclass
class Served:
    """A kernel that listens; `url`: its loopback address, `token`: of an agent that may only use models."""

    core: ScriptedCore
    url: str
    token: str


@asynccontextmanager
async def served(home: Path, monkeypatch: pytest.MonkeyPatch, core: ScriptedCore | None = None) -> AsyncIterator[Served]:
    monkeypatch.setenv("AIOS_HOME", str(home))
    monkeypatch.delenv("AIOS_TOKEN", raising=False)
    (home / "run").mkdir()
    core = core or ScriptedCore()
    tokens, consents = FileDocument(home / "tokens.json"), FileDocument(home / "consents.json")
    parts = Parts(clock=SystemClock(), store=MemoryStore(), tokens=tokens, consents=consents, hosts=NoHosts())
    async with Kernel(parts) as kernel:
        await kernel.add_core(core)
        server = HttpServer(kernel, (NativeDoor(kernel),), ServerConfig(port=0, socket=str(home / "run" / "aios.sock")))
        await server.start()
        FileDocument(home / "run" / "operator.token").save(kernel.tokens.new_operator().encode())
        token = kernel.tokens.add("tester", ("use /llm/*",), "standard").value
        try:
            yield Served(core, f"http://127.0.0.1:{server.port}", token)
        finally:
            await server.close(grace_s=1.0)


async def outside(act: Callable[[], R]) -> R:
    """What another program gets: run in a thread, because a client blocks."""
    return await asyncio.to_thread(act)


async def test_a_client_speaks_as_the_operator_over_the_socket_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch):
        assert (await outside(lambda: Client().call(Now()))).at_ns > 0
        assert (await outside(lambda: Client().call(Self()))).name.startswith("operator")


@pytest.mark.parametrize("road", ["socket", "address"])
async def test_replies_are_typed_and_streams_tell_their_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, road: str
) -> None:
    async with served(tmp_path, monkeypatch, ScriptedCore("one two three")) as kernel:
        client = Client(token=kernel.token) if road == "socket" else Client(kernel.url, kernel.token)
        ask = Generate(prompt="count")
        whole = await outside(lambda: client.call(ask))
        assert isinstance(whole, Completion) and whole.text == "one two three"
        events = await outside(lambda: list(client.stream(ask)))
        assert isinstance(events[0], Queued | Started) and isinstance(events[-1], Completion)
        assert "".join(event.text for event in events if isinstance(event, Delta)) == "one two three"
        assert [type(event).__name__ for event in await outside(lambda: list(client.stream(Now())))] == ["Instant"]


async def test_errors_are_those_of_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(text="one two", fail_after=1)
    async with served(tmp_path, monkeypatch, ScriptedCore(script)) as kernel:
        agent = Client(token=kernel.token)
        with pytest.raises(Denied):
            await outside(lambda: agent.call(ListTokens()))
        with pytest.raises(Unauthenticated):
            await outside(lambda: Client(token="wrong").call(Now()))
        with pytest.raises(Invalid) as caught:
            bad: Signal = "wave"  # type: ignore[assignment]  # the kernel is to say so
            await outside(lambda: Client().call(SignalProcess(pid="1", signal=bad)))
        assert caught.value.field == "signal"
        with pytest.raises(CoreFailed):
            await outside(lambda: list(agent.stream(Generate(prompt="x"))))


async def test_options_ride_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path, monkeypatch):
        with pytest.raises(DeadlineExceeded):
            await outside(lambda: Client().call(Sleep(seconds=60), CallOptions(deadline_s=0.05)))


async def test_a_stream_that_is_left_is_cancelled_at_the_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path, monkeypatch, ScriptedCore(Script(text="one two", hang=True))) as kernel:

        def leave() -> None:
            with Client(token=kernel.token) as client:
                for event in client.stream(Generate(prompt="x")):
                    if isinstance(event, Delta):
                        return

        await outside(leave)
        async with asyncio.timeout(5):
            while kernel.core.statistics().aborted == 0:
                await asyncio.sleep(0.005)


async def test_the_token_of_the_environment_goes_before_the_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path, monkeypatch) as kernel:
        monkeypatch.setenv("AIOS_TOKEN", kernel.token)
        with pytest.raises(Denied):
            await outside(lambda: Client().call(ListTokens()))


async def test_an_operators_token_that_others_may_read_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path, monkeypatch):
        (tmp_path / "run" / "operator.token").chmod(0o644)
        with pytest.raises(Unavailable, match="chmod 600"):
            await outside(lambda: Client().call(Now()))


def test_without_a_kernel_it_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOS_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match="start it with `aios up`"):
        Client().call(Now())
    with pytest.raises(Unavailable, match="no kernel answers at http://127.0.0.1:1: start it"):
        Client("http://127.0.0.1:1", "token").call(Now())


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="is no address"):
        Client("127.0.0.1:8642")


def test_the_operators_token_leaves_this_machine_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOS_HOME", str(tmp_path))
    monkeypatch.delenv("AIOS_TOKEN", raising=False)
    with pytest.raises(Unauthenticated, match="no token for elsewhere.example"):
        Client("http://elsewhere.example")._bearer()


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (b"", Unavailable, "it may have been done or not"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops", Failed, "this is no kernel: it answered 502"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{", Unavailable, "went away"),
    ],
)
def test_whoever_else_answers_is_not_taken_for_a_kernel(answer: bytes, error: type[Exception], said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(error, match=said):
            Client(f"http://127.0.0.1:{server.getsockname()[1]}", "token").call(Now())
        thread.join()


async def test_a_client_waits_for_a_place_in_a_full_queue(tmp_path: Path) -> None:
    """Whoever floods the kernel's socket with connections delays the operator, and does not shut the operator out."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as flood:
        listener.bind(str(tmp_path / "full"))
        listener.listen(0)
        flood.connect(str(tmp_path / "full"))
        with socket.socket(socket.AF_UNIX) as refused:
            refused.setblocking(False)
            with pytest.raises(BlockingIOError):
                refused.connect(str(tmp_path / "full"))
        waiting = asyncio.create_task(asyncio.to_thread(connected, str(tmp_path / "full")))
        listener.accept()[0].close()
        (await waiting).close()
