"""The kernel's end of a host's socketpair, against a peer that speaks frames: orderly, rude, slow, or dead."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from served import running_kernel, until

from aios.abi.errors import Fault, Killed
from aios.abi.frames import (
    MAX_FRAME_BYTES,
    Answer,
    Ask,
    Call,
    Cancel,
    Hello,
    Print,
    Reply,
    RunTool,
    Tell,
    Welcome,
    encode_frame,
    pack,
    reader_of_kernel,
)
from aios.abi.llm import Generate
from aios.abi.manifest import Manifest
from aios.abi.process import Explain, Logs, SignalProcess, Spawn, WaitFor
from aios.abi.record import ABI_VERSION
from aios.abi.request import Request
from aios.abi.system import Instant, Now, Sleep
from aios.abi.table import ROW_OF
from aios.abi.tool import ExecuteTool, RegisterTools, ToolManifest
from aios.drivers.sandbox.landlock import LandlockSandbox, interpreter_paths
from aios.kernel.main import Kernel
from aios.ports.sandbox import Isolation, Output, Rules
from aios.server import connection
from aios.server.rules import program_rules
from aios.server.socket import SocketHosts, remove_tree
from aios.testing import Script, ScriptedCore

pytestmark = pytest.mark.real


class Peer:
    """A child that is no process: the test speaks for it. `argv`, `env` and `rules` are what it was started with."""

    os_pid = 4711

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], fd: int, rules: Rules, output: Output) -> None:
        self.argv, self.env, self.rules, self.output = argv, env, rules, output
        self._socket = socket.socket(fileno=os.dup(fd))
        self._socket.setblocking(False)
        self._reader = reader_of_kernel()
        self._heard: list[Any] = []
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        self.die("killed by signal 9")

    def die(self, how: str) -> None:
        if not self.ended.done():
            self._socket.close()
            self.ended.set_result(how)

    async def wait_ended(self) -> str:
        return await asyncio.shield(self.ended)

    async def say(self, *frames: Any) -> None:
        await self.send(b"".join(encode_frame(frame) for frame in frames))

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def hear(self) -> Any:
        """The next frame from the kernel; None at the end of the connection."""
        while not self._heard:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._socket, 1 << 20), 5)
            if not data:
                return None
            self._heard += self._reader.feed(data)
        return self._heard.pop(0)

    async def call(self, id: int, pid: str, request: Request[Any], stream: bool = False) -> None:
        await self.say(Call(id, pid, ROW_OF[type(request)].name, pack(request), stream=stream))


@dataclass
class PeerSandbox:
    """Starts peers instead of processes. `meet`: what each does first."""

    meet: Callable[[Peer], Any]
    peers: list[Peer] = field(default_factory=list)

    def isolation(self) -> Isolation:
        return Isolation(mechanism="none", confined=(), missing=())

    async def start(
        self, argv: Sequence[str], env: Mapping[str, str], fds: Sequence[int], rules: Rules, folder: str, output: Output
    ) -> Peer:
        assert folder == rules.write[0] and argv[argv.index("--fd") + 1] == str(fds[0])
        peer = Peer(argv, env, fds[0], rules, output)
        self.peers.append(peer)
        await self.meet(peer)
        return peer


async def greet(peer: Peer) -> None:
    await peer.say(Hello(ABI_VERSION))


@dataclass
class Node:
    kernel: Kernel
    hosts: SocketHosts
    sandbox: PeerSandbox
    operator: Any
    program: str

    async def spawn(self, agent: str = "worker") -> tuple[Peer, Ask]:
        """A process in a host, and the question that its host was asked."""
        manifest = Manifest(agent=agent, program=self.program, entry="main", grants=("use /llm/*",))
        await self.kernel.call(self.operator, Spawn(manifest=manifest, accepted=manifest.hash()))
        await until(lambda: len(self.sandbox.peers) > 0)
        peer = self.sandbox.peers[-1]
        if len(self.sandbox.peers) == 1 and not isinstance(await peer.hear(), Welcome):
            raise AssertionError
        ask = await peer.hear()
        assert isinstance(ask, Ask)
        return peer, ask

    async def exit_of(self, pid: str) -> Any:
        return (await asyncio.wait_for(self.kernel.call(self.operator, WaitFor(pid=pid)), 5)).value


@asynccontextmanager
async def node(
    folder: Path, core: ScriptedCore | None = None, meet: Callable[[Peer], Any] = greet
) -> AsyncIterator[Node]:  # fmt: skip
    program = folder / "programs" / "agent.py"
    program.parent.mkdir()
    program.write_text("")
    sandbox = PeerSandbox(meet)
    hosts = SocketHosts(sandbox, folder / "home", readable=("/usr",))
    async with running_kernel(core or ScriptedCore(), hosts) as kernel:
        hosts.serve(kernel)
        operator = kernel.attach(kernel.tokens.new_operator())
        yield Node(kernel, hosts, sandbox, operator, str(program))
    await hosts.close()
    assert not list((folder / "home").iterdir()), "a host's folder was left behind"


async def test_a_host_is_started_with_nothing_secret_and_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        home = peer.env["HOME"]
        assert peer.argv[-1] == n.program and "aios.sdk.host" in peer.argv
        assert "OPENAI_API_KEY" not in peer.env and peer.env["LC_ALL"] == "C.UTF-8"
        assert peer.rules == Rules(read=("/usr", os.path.dirname(n.program)), write=(home,))
        assert os.path.dirname(home) == str(tmp_path / "home")
        await peer.say(Answer(ask.id))


def test_a_program_whose_folder_is_none_of_its_own_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's home, one above it, temporary files, the kernel's home and what is in it; the control: a folder for it."""
    person, kept = tmp_path / "people" / "ada", tmp_path / "kernel"
    for folder in (person / "project", kept / "run"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(person))
    for folder in (person, person.parent, tmp_path, kept, kept / "run", Path("/"), Path("/tmp"), Path("/var/tmp")):
        program = os.path.realpath(folder / "agent.py")
        assert program_rules(program, "own", str(kept), ()).read == (program,), folder
    (tmp_path / "link.py").symlink_to(person / "agent.py")
    assert program_rules(str(tmp_path / "link.py"), "own", str(kept), ()).read == (str(person / "agent.py"),)
    project = person / "project"
    assert program_rules(str(project / "agent.py"), "own", str(kept), ()).read == (str(project),)


async def test_folders_that_a_killed_kernel_left_are_swept_and_nothing_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "host-left" / "deep").mkdir(parents=True)
    (home / "host-left" / "deep" / "file").write_text("x")
    (home / "host-file").write_text("")
    (home / "kept").mkdir()
    hosts = SocketHosts(PeerSandbox(greet), home, readable=())
    async with running_kernel(ScriptedCore(), hosts) as kernel:
        hosts.serve(kernel)
        await until(lambda: [entry.name for entry in home.iterdir()] == ["kept"])
    await hosts.close()


async def test_calls_of_an_agent_are_answered_and_its_function_ends_it(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        await peer.call(1, ask.pid, Now())
        reply = await peer.hear()
        assert reply.id == 1 and msgspec.msgpack.decode(bytes(reply.body), type=Instant).at_ns > 0
        await peer.say(Answer(ask.id, result=b'{"done": true}'))
        assert (await n.exit_of(ask.pid)).result == {"done": True}


async def test_events_come_before_the_reply_when_they_are_asked_for(tmp_path: Path) -> None:
    async with node(tmp_path, ScriptedCore("one two")) as n:
        peer, ask = await n.spawn()
        await peer.call(1, ask.pid, Generate(prompt="go"), stream=True)
        said = []
        while not isinstance(frame := await peer.hear(), Reply):
            said.append(msgspec.msgpack.decode(frame.body))
        assert [event["event"] for event in said][:2] == ["started", "delta"]
        assert "".join(event.get("text", "") for event in said) == "one two"
        assert msgspec.msgpack.decode(frame.body)["choices"][0]["text"] == "one two"
        assert frame.label.integrity == 1
        await peer.say(Answer(ask.id))


@pytest.mark.parametrize(
    ("name", "body", "code", "field"),
    [
        ("clock.new", {}, "UnknownCall", None),
        ("clock.sleep", {}, "Invalid", "seconds"),
        ("clock.sleep", {"seconds": "x"}, "Invalid", "seconds"),
        ("clock.now", {"second": 1}, "Invalid", "second"),
    ],
)
async def test_a_bad_request_is_answered_with_the_field(tmp_path: Path, name: str, body: Any, code: str, field: Any) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        await peer.say(Call(1, ask.pid, name, pack(body)))
        fault = (await peer.hear()).fault
        assert (fault.code, fault.field) == (code, field)
        await peer.say(Answer(ask.id))


async def test_a_cancelled_call_still_gets_its_reply(tmp_path: Path) -> None:
    async with node(tmp_path, ScriptedCore(Script(text="a", hang=True))) as n:
        peer, ask = await n.spawn()
        body = pack(Generate(prompt="go"))
        await peer.say(Call(1, ask.pid, "llm.generate", body), Cancel(1), Cancel(99))
        reply = await peer.hear()
        assert (reply.id, reply.fault.code) == (1, "Cancelled")
        await peer.say(Answer(ask.id))
        assert (await n.exit_of(ask.pid)).outcome == "result"


async def test_an_error_of_the_function_is_the_processs_end(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        await peer.say(Answer(ask.id, fault=msgspec.convert({"code": "ChildFailed", "message": "ValueError: no"}, Fault)))
        ended = await n.exit_of(ask.pid)
        assert (ended.outcome, ended.error, ended.message) == ("error", "ChildFailed", "ValueError: no")


UNANSWERABLE = {
    "no JSON": b"\xff",
    "two values": b"1,2",
    "a key that is no text": b"{[1, 2]: 3}",
    "msgpack": msgspec.msgpack.encode({(1, 2): 3}),
    "not a number": b"[NaN]",
    "above 64 bits": b"9" * 40,
    "half of a character": b'"\\ud800"',
    "endless nesting": b"[" * 100_000,
    "deep nesting": b"[" * 900 + b"]" * 900,
    "nesting of one level too many": b"[" * 501 + b"]" * 501,
    "too large: 1048577 bytes": b'"' + b"x" * ((1 << 20) - 1) + b'"',
    "too large: more than 200000 values": b"[" + b"0," * 250_000 + b"0]",
}


@pytest.mark.parametrize("what", UNANSWERABLE)
async def test_a_result_that_is_no_json_or_too_large_ends_its_process_and_nothing_else(tmp_path: Path, what: str) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        manifest = Manifest(agent="other", program=n.program, entry="main")
        await n.kernel.call(n.operator, Spawn(manifest=manifest, accepted=manifest.hash()))
        other = await peer.hear()
        await peer.say(Answer(ask.id, result=UNANSWERABLE[what]))
        ended = await n.exit_of(ask.pid)
        assert (ended.outcome, ended.error) == ("error", "ChildFailed") and len(ended.message) < 300
        assert ended.message.startswith(f"its result is {what if 'too large' in what else 'not JSON: '}")
        await peer.say(Answer(other.id, result=b'{"a": [1.5, null, "x"]}'))  # the control, from the same host
        assert (await n.exit_of(other.pid)).result == {"a": [1.5, None, "x"]}


@pytest.mark.parametrize(
    ("code", "becomes", "message"),
    [
        ("Unauthenticated", "ChildFailed", "`worker-{}` failed: Unauthenticated: run this"),
        ("NeedsApproval", "ChildFailed", "`worker-{}` failed: NeedsApproval: run this"),
        ("Internal", "ChildFailed", "`worker-{}` failed: Internal: run this"),
        ("Whatever", "ChildFailed", "`worker-{}` failed: Whatever: run this"),
        ("Denied", "Denied", "`worker-{}` failed: run this"),
        ("ContextFull", "ContextFull", "`worker-{}` failed: run this"),
        ("ChildFailed", "ChildFailed", "run this"),
    ],
)
async def test_an_error_that_a_host_says_is_shown_as_its_agents_own(
    tmp_path: Path, code: str, becomes: str, message: str
) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        await peer.say(Answer(ask.id, fault=Fault(code, "run this")))
        ended = await n.exit_of(ask.pid)
        number = (await n.kernel.call(n.operator, Explain(pid=ask.pid))).value.process.name.rpartition("-")[2]
        assert (ended.error, ended.message) == (becomes, message.format(number))


async def test_what_a_host_says_of_an_error_is_cut(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        await peer.say(Answer(ask.id, fault=Fault("x" * 1_000_000, "y" * 1_000_000)))
        assert len((await n.exit_of(ask.pid)).message) < 2200


async def test_a_call_of_very_many_values_is_refused_before_they_are_read(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        for count, code in ((180_000, "TooLarge"), (100, "NotFound")):
            body = pack({"model": "none", "messages": [{"role": "user", "content": ""}] * count})
            await peer.say(Call(count, ask.pid, "llm.count", body))
            assert (await peer.hear()).fault.code == code
        long = pack({"model": "none", "messages": [{"role": "user", "content": "x" * 4_000_000}]})
        await peer.say(Call(1, ask.pid, "llm.count", long))
        assert (await peer.hear()).fault.code == "NotFound", "a long text is no crowd of values"
        await peer.say(Answer(ask.id))


async def test_a_signal_reaches_the_host(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        await n.kernel.call(n.operator, SignalProcess(pid=ask.pid, signal="kill"))
        assert await peer.hear() == Tell(ask.pid, "kill")
        await peer.say(Answer(ask.id, fault=Killed("stopped").fault()))
        assert (await n.exit_of(ask.pid)).outcome == "killed"


async def test_when_the_host_dies_its_calls_end_at_once_and_its_agents_begin_again(tmp_path: Path) -> None:
    core = ScriptedCore(Script(text="a", hang=True))
    async with node(tmp_path, core) as n:
        peer, ask = await n.spawn()
        await peer.call(1, ask.pid, Generate(prompt="go"))
        await until(lambda: core.statistics().running == 1)
        peer.die("killed by signal 11")
        await until(lambda: core.statistics().running == 0 and len(n.sandbox.peers) == 2)
        again = n.sandbox.peers[1]
        assert isinstance(await again.hear(), Welcome)
        second = await again.hear()
        assert second.pid == ask.pid
        await again.say(Answer(second.id, result=b"2"))
        assert (await n.exit_of(ask.pid)).result == 2


async def break_the_frame(peer: Peer, ask: Ask) -> None:
    await peer.send(b"\x00\x00\x00\x03abc")


async def send_an_endless_frame(peer: Peer, ask: Ask) -> None:
    await peer.send((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))


async def speak_for_others(peer: Peer, ask: Ask) -> None:
    for id in range(3):
        await peer.call(id, "123456", Now())


async def print_for_others(peer: Peer, ask: Ask) -> None:
    await peer.say(*[Print("123456", "out", "x")] * 3)


async def greet_again(peer: Peer, ask: Ask) -> None:
    await peer.say(Hello(ABI_VERSION))


async def answer_what_was_not_asked(peer: Peer, ask: Ask) -> None:
    await peer.say(Answer(ask.id + 1))


async def open_a_call_twice(peer: Peer, ask: Ask) -> None:
    await peer.call(1, ask.pid, Sleep(seconds=60))
    await peer.call(1, ask.pid, Sleep(seconds=60))


@pytest.mark.parametrize(
    "misbehave",
    [
        break_the_frame, send_an_endless_frame, speak_for_others, print_for_others, greet_again, answer_what_was_not_asked,
        open_a_call_twice,
    ],
)  # fmt: skip
async def test_a_host_that_breaks_the_contract_is_killed(tmp_path: Path, misbehave: Callable[[Peer, Ask], Any]) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        await misbehave(peer, ask)
        assert await asyncio.wait_for(peer.wait_ended(), 5) == "killed by signal 9"


async def test_a_call_for_another_process_is_denied(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        await peer.call(1, n.operator.pid, Now())
        assert (await peer.hear()).fault.code == "Denied"
        await peer.say(Answer(ask.id))


async def test_a_late_call_of_an_ended_process_is_denied_and_no_misdeed(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        await peer.say(Answer(ask.id))
        for id in range(5):
            await peer.call(id, ask.pid, Now())
            assert (await peer.hear()).fault.code == "Denied"
        assert not peer.ended.done()


async def test_open_calls_of_a_process_are_bounded_and_answers_still_get_through(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        sleep = pack(Sleep(seconds=60))
        await peer.say(*[Call(id, ask.pid, "clock.sleep", sleep) for id in range(connection.MAX_OPEN_CALLS + 1)])
        reply = await peer.hear()
        assert (reply.id, reply.fault.code, reply.fault.retry_after_s) == (connection.MAX_OPEN_CALLS, "RateLimited", 1.0)
        await peer.say(Cancel(0))
        assert (await peer.hear()).fault.code == "Cancelled"
        await peer.call(9999, ask.pid, Now())
        last = await peer.hear()
        assert last.fault is None, last
        await peer.say(Answer(ask.id))


async def test_functions_that_do_not_end_are_bounded_and_late_answers_are_no_misdeed(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        manifest = ToolManifest(name="f", repeat="repeatable", parameters={"type": "object"})
        await peer.call(1, ask.pid, RegisterTools(tools=(manifest,)))
        assert (await peer.hear()).fault is None
        execute = pack(ExecuteTool(tool="f"))
        most = connection.MAX_RUNNING_TOOLS
        await peer.say(*[Call(id, ask.pid, "tool.execute", execute) for id in range(most + 1)])
        heard = [await peer.hear() for _ in range(most + 1)]
        (refused,) = [frame for frame in heard if isinstance(frame, Reply)]
        assert (refused.id, refused.fault and refused.fault.code) == (most, "RateLimited")
        first, second, *_ = questions = [frame for frame in heard if isinstance(frame, RunTool)]
        await peer.say(Cancel(0))
        given_up = {type(frame): frame for frame in (await peer.hear(), await peer.hear())}
        assert given_up[Cancel].id == first.id and given_up[Reply].fault.code == "Cancelled"
        await peer.call(9999, ask.pid, ExecuteTool(tool="f"))  # it was told to end, and has not
        assert (await peer.hear()).fault.code == "RateLimited"
        await peer.say(Answer(first.id, b"1"), Answer(second.id, b'"two"'))
        assert msgspec.msgpack.decode((await peer.hear()).body) == {"value": "two"}
        await peer.call(10_000, ask.pid, ExecuteTool(tool="f"))
        assert isinstance(again := await peer.hear(), RunTool)
        for answer, code in (
            (Answer(again.id, b"{"), "ToolFailed"),
            (Answer(questions[2].id, fault=Fault("Internal", "x")), "ToolFailed"),
        ):
            await peer.say(answer)
            assert (await peer.hear()).fault.code == code
        await peer.say(Answer(ask.id))
        exit = await n.exit_of(ask.pid)
        assert exit.outcome == "result"


async def test_a_child_that_does_not_read_is_not_listened_to_until_it_does(tmp_path: Path) -> None:
    async with node(tmp_path, ScriptedCore("word " * 60_000, window=1_000_000)) as n:
        peer, ask = await n.spawn()
        await peer.call(1, ask.pid, Generate(prompt="go"), stream=True)
        await asyncio.sleep(0.3)
        assert n.kernel.statistics().calls_running == 1, "it waits for its reader"
        texts = 0
        while not isinstance(frame := await peer.hear(), Reply):
            texts += b"word" in bytes(frame.body)
        assert texts == 60_000
        await peer.say(Answer(ask.id))


async def test_what_an_agent_prints_is_kept_and_a_flood_is_cut(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        peer, ask = await n.spawn()
        await peer.say(Print(ask.pid, "out", "one\ntwo\n"), *[Print(ask.pid, "out", "x\n" * 30_000)] * 3)
        await asyncio.sleep(1.05)
        await peer.say(Print(ask.pid, "err", "last " + "y" * 100_000), Answer(ask.id))
        await n.exit_of(ask.pid)
        lines = (await n.kernel.call(n.operator, Logs(pid=ask.pid))).value.lines
        assert len(lines) <= 1000
        assert lines[-1].text.startswith("last y") and len(lines[-1].text) <= 8192
        assert lines[-2].text.startswith("... 89002 lines were dropped")


async def test_a_child_that_dies_before_its_greeting_says_why(tmp_path: Path) -> None:
    async def die(peer: Peer) -> None:
        peer.output("err", "ModuleNotFoundError: No module named 'nothing'")
        peer.die("exit 1")

    async with node(tmp_path, meet=die) as n:
        manifest = Manifest(agent="worker", program=n.program, entry="main")
        spawned = await n.kernel.call(n.operator, Spawn(manifest=manifest, accepted=manifest.hash()))
        ended = await n.exit_of(spawned.value.pid)
        assert ended.error == "ChildFailed"
        assert "exit 1" in ended.message and "No module named 'nothing'" in ended.message


async def test_a_child_of_another_version_is_refused(tmp_path: Path) -> None:
    async def greet_from_the_future(peer: Peer) -> None:
        await peer.say(Hello(ABI_VERSION + 1))

    async with node(tmp_path, meet=greet_from_the_future) as n:
        manifest = Manifest(agent="worker", program=n.program, entry="main")
        spawned = await n.kernel.call(n.operator, Spawn(manifest=manifest, accepted=manifest.hash()))
        ended = await n.exit_of(spawned.value.pid)
        assert ended.error == "ChildFailed" and "install the same version" in ended.message


PROGRAM = """
import os
import aios

@aios.agent(model="default")
async def main(k, path):
    print("hello from", os.getcwd() == os.environ["HOME"])
    try:
        open(path)
    except PermissionError:
        return [await k.ask("go"), "OPENAI_API_KEY" in os.environ]
"""


async def test_a_real_child_asks_a_model_and_sees_nothing_of_the_kernels_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    sandbox = LandlockSandbox()
    if "files" not in sandbox.isolation().confined:
        pytest.skip("this Linux has no Landlock")
    source = Path(connection.__file__).parents[2]
    hosts = SocketHosts(sandbox, tmp_path / "home", (*interpreter_paths(), str(source)))
    program = tmp_path / "programs" / "agent.py"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    secret = tmp_path / "home" / "tokens.json"
    manifest = Manifest(agent="worker", program=str(program), entry="main", grants=("use /llm/*",))
    async with running_kernel(ScriptedCore("one two"), hosts) as kernel:
        hosts.serve(kernel)
        secret.write_text("secret")
        operator = kernel.attach(kernel.tokens.new_operator())
        spawn = Spawn(manifest=manifest, accepted=manifest.hash(), arguments=(str(secret),))
        pid = (await kernel.call(operator, spawn)).value.pid
        ended = (await asyncio.wait_for(kernel.call(operator, WaitFor(pid=pid)), 20)).value
        lines = (await kernel.call(operator, Logs(pid=pid))).value.lines
    await hosts.close()
    sandbox.close()
    assert ended.result == ["one two", False], ended
    assert [line.text for line in lines] == ["hello from True"]
    assert list((tmp_path / "home").iterdir()) == [secret]


async def test_a_tree_is_removed_without_following_its_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    tree = tmp_path / "tree"
    for place in (tree / "a" / "b", tree / "c"):
        place.mkdir(parents=True)
        for number in range(100):
            (place / str(number)).write_text("")
    (tree / "link").symlink_to(outside)
    await remove_tree(str(tree))
    assert not tree.exists() and (outside / "kept").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody to whom a folder can be closed")
async def test_folders_that_a_child_has_closed_are_removed_too(tmp_path: Path) -> None:
    """And what a link leads to stays as it is."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    tree = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(tree, 65534, 65534)
    os.chown(outside, 65534, 65534)
    os.seteuid(65534)
    try:
        (tree / "a" / "b").mkdir(parents=True)
        (tree / "a" / "b" / "file").write_text("")
        (tree / "link").symlink_to(outside)
        (tree / "a" / "b").chmod(0)
        (tree / "a").chmod(0)
        await remove_tree(str(tree))
    finally:
        os.seteuid(0)
    assert list(tree.parent.glob(f"{tree.name}/*")) == [] and outside.stat().st_mode & 0o777 == 0o500
