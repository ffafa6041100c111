"""Foreign programs as processes: real children, whose only address is the kernel's doors."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from served import LoopClock, MemoryDocument, NoHosts, until

from aios.abi.event import Strayed
from aios.abi.manifest import Manifest
from aios.abi.process import Exit, Explain, List, Logs, ProcessInfo, SignalProcess, Spawn, WaitFor
from aios.drivers.sandbox import enter
from aios.drivers.sandbox.landlock import LandlockSandbox
from aios.drivers.store.memory import MemoryStore
from aios.kernel import supervise
from aios.kernel.main import Kernel, Parts
from aios.server.anthropic import AnthropicDoor
from aios.server.http import HttpServer, ServerConfig
from aios.server.native import NativeDoor
from aios.server.openai import OpenAIDoor
from aios.server.programs import ConfinedPrograms
from aios.testing import Script, ScriptedCore

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(enter.landlock_abi() < 6, reason="needs a Linux with Landlock version 6 (6.12 or later)"),
]


@dataclass
class Node:
    """A kernel that runs programs. `folder`: where they are started."""

    kernel: Kernel
    server: HttpServer
    programs: ConfinedPrograms
    core: ScriptedCore
    folder: Path

    def __post_init__(self) -> None:
        self.operator = self.kernel.attach(self.kernel.tokens.new_operator())

    async def call(self, request: Any) -> Any:
        return (await self.kernel.call(self.operator, request)).value

    async def launch(self, *command: str, **fields: Any) -> ProcessInfo:
        wanted = {"restart": "temporary", "grants": ("use /llm/*",), "agent": "program", **fields}
        manifest = Manifest(command=command, folder=str(self.folder), **wanted)
        info: ProcessInfo = await self.call(Spawn(manifest=manifest, accepted=manifest.hash()))
        return info

    async def python(self, code: str, *words: str, **fields: Any) -> ProcessInfo:
        """Start a file with this code, by our own Python."""
        (self.folder / "program.py").write_text(textwrap.dedent(code))
        return await self.launch(sys.executable, "program.py", *words, **fields)

    async def end_of(self, process: ProcessInfo) -> Exit:
        async with asyncio.timeout(60):
            exit: Exit = await self.call(WaitFor(pid=process.pid))
            return exit

    async def lines(self, process: ProcessInfo) -> list[str]:
        return [line.text for line in (await self.call(Logs(pid=process.pid))).lines]

    async def first_line(self, process: ProcessInfo) -> str:
        return str((await self.call(Logs(pid=process.pid, wait_s=30))).lines[0].text)

    async def said(self, code: str, *words: str) -> list[str]:
        """What a program prints that ends well."""
        process = await self.python(code, *words)
        exit = await self.end_of(process)
        lines = await self.lines(process)
        assert exit.code == 0, (exit, lines)
        return lines

    async def signal(self, process: ProcessInfo, signal: Any) -> None:
        await self.call(SignalProcess(pid=process.pid, signal=signal))

    def strayed(self) -> list[Strayed]:
        return list(self.kernel.events.after(0, 10_000, lambda event: isinstance(event, Strayed))[0])  # type: ignore[arg-type]


@asynccontextmanager
async def node(tmp_path: Path, core: ScriptedCore | None = None, sandbox: LandlockSandbox | None = None) -> AsyncIterator[Node]:
    sandbox = sandbox or LandlockSandbox()
    home, folder = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    folder.mkdir()
    programs = ConfinedPrograms(sandbox, home / "work", home)
    parts = Parts(
        clock=LoopClock(), store=MemoryStore(), tokens=MemoryDocument(), consents=MemoryDocument(), hosts=NoHosts(),
        programs=programs,
    )  # fmt: skip
    core = core or ScriptedCore("hello from the kernel")
    before = sockets()
    async with Kernel(parts) as kernel:
        await kernel.add_core(core)
        doors = (NativeDoor(kernel), OpenAIDoor(kernel), AnthropicDoor(kernel))
        server = HttpServer(kernel, doors, ServerConfig(port=0))
        await server.start()
        programs.serve(kernel, server)
        yield Node(kernel, server, programs, core, folder)
        await server.close(grace_s=1.0)
    await programs.close()
    assert os.listdir(home / "work") == []
    sandbox.close()
    await asyncio.sleep(0)
    assert sockets() <= before, "a descriptor was left"


def sockets() -> int:
    """How many sockets this process has open."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum(os.readlink(link).startswith("socket:") for link in links if os.path.lexists(link))


def sharing() -> LandlockSandbox:
    """On a machine without network namespaces."""
    box = LandlockSandbox()
    box._networks = False
    return box


def free() -> LandlockSandbox:
    """That confines nothing: the control."""
    box = LandlockSandbox(0, filtered=False)
    box._networks = False
    return box


# --- the door ---------------------------------------------------------------------------------------------------------

SDK = """
    import openai
    client = openai.OpenAI()
    messages = [{"role": "user", "content": "hello?"}]
    print(client.chat.completions.create(model="default", messages=messages).choices[0].message.content)
    pieces = client.chat.completions.create(model="default", messages=messages, stream=True)
    print("".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices))
"""


@pytest.mark.parametrize("box", [LandlockSandbox, sharing])
async def test_an_unmodified_program_asks_through_the_kernel(tmp_path: Path, box: Any) -> None:
    async with node(tmp_path, sandbox=box()) as n:
        process = await n.python(SDK)
        assert (await n.end_of(process)).code == 0, await n.lines(process)
        assert [line for line in await n.lines(process) if not line.startswith("aios: ")] == ["hello from the kernel"] * 2
        (after,) = (await n.call(List())).processes
        assert (after.name, after.calls, after.outcome) == (process.name, 2, "result")
        assert len(n.kernel.processes.living()) == 1  # the operator: the program is no session
        assert n.strayed() == []


ASK = """
    import json, os, urllib.request, urllib.error
    def post(base, token, session=""):
        body = json.dumps({"model": "default", "messages": [{"role": "user", "content": "hi"}]}).encode()
        headers = {"authorization": "Bearer " + token, "content-type": "application/json", "x-session-id": session}
        try:
            urllib.request.urlopen(urllib.request.Request(base + "/chat/completions", body, headers))
            return 200
        except urllib.error.HTTPError as error:
            return error.code
"""


async def test_its_token_is_good_at_its_address_alone_and_no_other_token_there(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        other = n.kernel.tokens.add("other", ("use /llm/*",), "standard").value
        operator = n.kernel.tokens.new_operator()
        code = (
            ASK
            + """
    import sys, time
    base, own = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
    print(post(base, own), post(base, own, "another"), *(post(base, token) for token in sys.argv[1:]), flush=True)
    print(own, flush=True)
    time.sleep(60)
"""
        )
        process = await n.python(code, other, operator, "aios_guessed")
        await until_lines(n, process, 2)
        answers, token = await n.lines(process)
        assert answers.split() == ["200", "200", "401", "401", "401"]
        async with aiohttp.ClientSession() as http:
            url, headers = f"http://127.0.0.1:{n.server.port}/v1/models", {"authorization": f"Bearer {token}"}
            async with http.get(url, headers=headers) as response:
                assert response.status == 401 and "that program's address alone" in await response.text()
        await n.signal(process, "kill")
        await n.end_of(process)


async def until_lines(n: Node, process: ProcessInfo, count: int) -> None:
    async with asyncio.timeout(30):
        while len((page := await n.call(Logs(pid=process.pid))).lines) < count:
            await n.call(Logs(pid=process.pid, after=page.next, wait_s=30))


async def test_no_secret_of_the_kernels_gets_into_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-operators-own")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-key")
    monkeypatch.setenv("OPENAI_ORG_ID", "hidden-organisation")
    code = """
        import json, os, pathlib
        home = pathlib.Path.home()
        files = [str(file.relative_to(home)) for file in home.rglob("*") if file.is_file()]
        print(json.dumps([dict(os.environ), sorted(files), pathlib.Path("/proc/self/environ").read_text()]))
    """
    async with node(tmp_path) as n:
        (said,) = await n.said(code)
        environment, files, raw = json.loads(said)
        assert "hidden" not in said and "the-operators-own" not in said and "OPENAI_ORG_ID" not in raw
        assert environment["OPENAI_BASE_URL"] == "http://127.0.0.1:8642/v1" == environment["ANTHROPIC_BASE_URL"] + "/v1"
        assert environment["GOOGLE_GEMINI_BASE_URL"] == environment["OLLAMA_HOST"] == environment["ANTHROPIC_BASE_URL"]
        assert (
            environment["OPENAI_API_KEY"] == environment["ANTHROPIC_API_KEY"] == environment["GEMINI_API_KEY"]
            and environment["TMPDIR"] == environment["HOME"] + "/tmp"
        )
        assert environment["TRACEPARENT"] in environment["OPENAI_CUSTOM_HEADERS"]
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", environment["TRACEPARENT"])
        assert files == [".codex/config.toml", ".config/opencode/opencode.json"]


async def test_two_programs_know_nothing_of_each_other(tmp_path: Path) -> None:
    """Both listen at the same port, each in a network of its own, and neither reads the other's home."""
    async with node(tmp_path) as n:
        sleeping = "import os, time; print(os.environ['HOME'], os.getpid(), flush=True); time.sleep(60)"
        one = await n.python(sleeping)
        home, pid = (await n.first_line(one)).split()
        code = """
            import os, sys
            home, pid = sys.argv[1:]
            for act in (lambda: os.listdir(home), lambda: os.kill(int(pid), 0), lambda: open(f"/proc/{pid}/environ")):
                try:
                    print("done", act())
                except OSError as error:
                    print(type(error).__name__)
        """
        assert await n.said(code, home, pid) == ["PermissionError"] * 3
        await n.signal(one, "kill")
        await n.end_of(one)


# --- beyond it --------------------------------------------------------------------------------------------------------

STRAY = """
    import socket, sys, urllib.request
    for url in ("http://example.com:81/x", "https://api.openai.com/v1/traces"):
        try:
            print(urllib.request.urlopen(url, timeout=10).status)
        except OSError as error:
            print(type(error).__name__, "403" in str(error))
    for port in map(int, sys.argv[1:]):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
            print("connected")
        except OSError as error:
            print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("box", "other"), [(LandlockSandbox, "ConnectionRefusedError"), (sharing, "PermissionError"), (free, "connected")]
)
async def test_what_it_tries_to_reach_is_denied_and_told(tmp_path: Path, box: Any, other: str) -> None:
    """Where nothing confines it (the control), what listens at another port is reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with node(tmp_path, sandbox=box()) as n:
            process = await n.python(STRAY, str(server.getsockname()[1]))
            assert (await n.end_of(process)).code == 0
            lines = await n.lines(process)
            printed = [line for line in lines if not line.startswith("aios: ")]
            assert printed == ["HTTPError True", "URLError True", other]
            assert any("no network of its own" in line for line in lines) == (box is not LandlockSandbox)
            assert [event.target for event in n.strayed()] == ["example.com:81", "api.openai.com:443"]
            assert {event.name for event in n.strayed()} == {process.name}
            assert f"aios: {process.name} tried to reach api.openai.com:443: denied" in lines


async def test_attempts_without_an_end_are_no_flood_of_events(tmp_path: Path) -> None:
    code = """
        import socket
        def ask(line):
            with socket.create_connection(("127.0.0.1", 8642)) as end:
                end.sendall(line + b"\\r\\nhost: x\\r\\n\\r\\n")
                return end.makefile("rb").readline().split()[1]
        print({ask(b"CONNECT example.com:443 HTTP/1.1") for _ in range(50)})
        print({ask(b"GET http://host-%d/ HTTP/1.1" % number) for number in range(300)})
        print(ask(b"CONNECT \\x1b[2J\\xff:443 HTTP/1.1"), ask(b"GET http://[::1/ HTTP/1.1"), ask(b"POST ftp://a/ HTTP/1.1"))
    """
    async with node(tmp_path) as n:
        lines = [line for line in await n.said(code) if not line.startswith("aios: ")]
        assert lines[:2] == ["{b'403'}", "{b'403'}"] and set(lines[2].split()) <= {"b'400'", "b'403'"}
        targets = [event.target for event in n.strayed()]
        assert len(targets) <= 102 and targets.count("example.com:443") == 1 and "other places" in targets


async def test_a_request_to_the_kernel_in_the_form_for_proxies_is_one_to_the_kernel(tmp_path: Path) -> None:
    code = """
        import urllib.request
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": "http://127.0.0.1:8642"}))
        print(opener.open(urllib.request.Request("http://localhost:8642/health")).status)
    """
    async with node(tmp_path) as n:
        process = await n.python("import os\nos.environ.pop('no_proxy'), os.environ.pop('NO_PROXY')\n" + textwrap.dedent(code))
        assert (await n.end_of(process)).code == 0 and (await n.lines(process)) == ["200"] and n.strayed() == []


async def test_it_does_not_read_what_is_none_of_its_concern(tmp_path: Path) -> None:
    """The kernel's home and socket, a person's home, the other files beside one that it was given."""
    async with node(tmp_path) as n:
        home, beside = tmp_path / "home", tmp_path / "beside"
        (home / "operator.token").write_text("secret")
        beside.mkdir()
        (beside / "given.json").write_text("{}")
        (beside / "other.json").write_text("{}")
        code = """
            import os, socket, sys
            home, beside = sys.argv[1], os.path.dirname(sys.argv[2])
            def attempt(act):
                try:
                    act()
                    print("done")
                except OSError as error:
                    print(type(error).__name__)
            for place in (sys.argv[2], beside + "/other.json", home + "/operator.token", "/etc/shadow", "program.py"):
                attempt(lambda: open(place).read())
            for place in (home, beside, "/root", "/proc", "/tmp"):
                attempt(lambda: os.listdir(place))
            attempt(lambda: open("written", "w"))
            attempt(lambda: open(os.path.expanduser("~/written"), "w"))
            attempt(lambda: socket.socket(socket.AF_UNIX).connect(home + "/run/aios.sock"))
        """
        done = ["done", *["PermissionError"] * 3, "done", *["PermissionError"] * 5, "OSError", "done", "PermissionError"]
        assert await n.said(code, str(home), str(beside / "given.json")) == done


# --- its life ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys; sys.exit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139),
        ("raise ValueError", 1),
        ("pass", 0),
    ],
)
async def test_its_exit_code_is_kept(tmp_path: Path, code: str, expected: int) -> None:
    async with node(tmp_path) as n:
        exit = await n.end_of(await n.python(code))
        assert exit.code == expected and exit.outcome == ("error" if expected else "result")


async def test_what_cannot_be_run_is_one_sentence(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        plain, broken = n.folder / "plain", n.folder / "broken"
        plain.write_text("x")
        broken.write_text("#!/no/such/interpreter\n")
        broken.chmod(0o755)
        for command, words in (("/no/such/command", "No such file"), (str(plain), "Permission denied"), (str(broken), "No such")):
            exit = await n.end_of(await n.launch(command, restart="permanent"))
            assert (exit.error, exit.code) == ("ChildFailed", None) and words in exit.message and command in exit.message
        n.folder = tmp_path / "gone"
        exit = await n.end_of(await n.launch("/bin/true"))
        assert exit.error == "ChildFailed" and "gone" in exit.message


async def test_a_script_runs_by_what_its_first_line_names(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        script = n.folder / "script"
        script.write_text(f"#!{sys.executable}\nimport openai; print('read')\n")
        script.chmod(0o755)
        process = await n.launch(str(script))
        assert (await n.end_of(process)).code == 0 and await n.lines(process) == ["read"]


TREE = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    inner = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    children = [subprocess.Popen([sys.executable, "-c", inner], stdout=subprocess.PIPE) for _ in range(2)]
    for child in children:
        child.stdout.readline()
    if os.fork() == 0:
        try:
            os.setsid()
        except OSError:
            pass
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()
    print(os.getpid(), *(child.pid for child in children), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_nothing_is_left_of_a_program_that_does_not_want_to_end(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores SIGTERM, has children that do, and one that tries to be nobody's."""
    monkeypatch.setattr(supervise, "STOP_GRACE_S", 0.3)
    async with node(tmp_path) as n:
        process = await n.python(TREE)
        leader = int((await n.first_line(process)).split()[0])
        assert len(group(leader)) == 4
        await n.signal(process, how)
        exit = await n.end_of(process)
        assert (exit.outcome, exit.code) == ("killed", 137)
        await until(lambda: group(leader) == [])


def group(leader: int) -> list[int]:
    """The processes of a group, without those that are only waited for."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(entry))
    return found


async def test_sigterm_lets_it_clean_up(tmp_path: Path) -> None:
    code = """
        import signal, sys, time
        def end(number, frame):
            print("cleaned up", flush=True)
            sys.exit(5)
        signal.signal(signal.SIGTERM, end)
        print("up", flush=True)
        time.sleep(600)
    """
    async with node(tmp_path) as n:
        process = await n.python(code)
        await n.first_line(process)
        await n.signal(process, "stop")
        exit = await n.end_of(process)
        assert (exit.outcome, exit.code) == ("killed", 5) and (await n.lines(process))[-1] == "cleaned up"


async def test_a_suspended_program_stands_still_and_goes_on(tmp_path: Path) -> None:
    code = """
        import sys, time
        print("up", flush=True)
        time.sleep(0.2)
        print("done", flush=True)
    """
    async with node(tmp_path) as n:
        process = await n.python(code)
        await n.first_line(process)
        await n.signal(process, "suspend")
        (seen,) = (await n.call(List())).processes
        assert seen.state == "suspended" and seen.host_pid is not None

        def state() -> str:
            return Path(f"/proc/{seen.host_pid}/stat").read_text().rpartition(")")[2].split()[0]

        await until(lambda: state() == "T")
        why = await n.call(Explain(pid=process.pid))
        assert why.moves == (f"`aios resume {process.name}`",)
        await n.signal(process, "resume")
        assert (await n.end_of(process)).code == 0 and (await n.lines(process))[-1] == "done"


async def test_a_suspended_program_can_be_killed(tmp_path: Path) -> None:
    async with node(tmp_path, ScriptedCore(Script(text="x", hang=True))) as n:
        process = await n.python(SDK)
        await until(lambda: n.core.statistics().started == 1)
        await n.signal(process, "suspend")
        await n.signal(process, "kill")
        assert (await n.end_of(process)).code == 128 + signal.SIGKILL
        await until(lambda: n.core.statistics().aborted == 1)


async def test_a_flood_of_output_is_bounded_and_said(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        process = await n.python("for number in range(200_000): print(number)")
        assert (await n.end_of(process)).code == 0
        assert any("lines were dropped" in line for line in await n.lines(process))


async def test_when_it_ends_so_do_its_calls(tmp_path: Path) -> None:
    code = (
        ASK
        + """
    import threading
    threading.Thread(target=post, args=(os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]), daemon=True).start()
    import sys
    sys.stdin.read()
    import time
    time.sleep(0.5)
    os._exit(0)
"""
    )
    async with node(tmp_path, ScriptedCore(Script(text="x", hang=True))) as n:
        assert (await n.end_of(await n.python(code))).code == 0
        await until(lambda: n.core.statistics().aborted == n.core.statistics().started)


async def test_a_storm_of_restarts_is_held_with_its_reason(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        process = await n.launch("/bin/sh", "-c", "exit 7", restart="permanent")
        await until(lambda: n.kernel.processes.get(process.pid).held is not None)  # type: ignore[union-attr]
        why = await n.call(Explain(pid=process.pid))
        assert "exit 7" in why.reason and why.process.restarts == 3
        assert any("begins again" in line for line in await n.lines(process))
        assert not n.programs._running
        await n.signal(process, "kill")
        assert (await n.end_of(process)).outcome == "killed"
