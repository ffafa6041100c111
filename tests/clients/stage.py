"""The stage on which clients play: a real server with a core by script, and between it and the client a wire that can be cut."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aios.abi.llm import Generate, Message, ToolCall
from aios.ports.core import CoreCall
from aios.server.doors import doors_to
from aios.server.http import HttpServer, ServerConfig
from aios.server.local import LocalGate
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import RunningKernel, kernel_for_tests

HERE = Path(__file__).parent
CLIENTS = HERE.parents[1] / ".clients"
CORPUS = HERE.parent / "corpus"
MODEL_CALL = re.compile(rb"POST /v1/(chat/completions|responses|messages)(?:\?\S*)? HTTP/1.1\r\n(.*?)\r\n\r\n", re.S)
MOST_KEPT_BYTES = 12_000
HELLO = "hello from the core"
WAITED = "it took a while"
HOLD = "hold the slot for seconds: "
LIMIT_S = 100.0


def text_of(message: Message) -> str:
    return message.content if isinstance(message.content, str) else " ".join(part.text for part in message.content)


def answer(call: CoreCall) -> Script:
    """What a model might say: it adds by its tool, and then says what the tool has said."""
    request = call.request
    assert isinstance(request, Generate)
    last = next(message for message in reversed(request.messages) if message.role != "system")
    said = text_of(last)
    if "Your output fields are:" in text_of(request.messages[0]):
        return Script(text=in_fields(text_of(request.messages[0]), said))
    if last.role == "tool" or "Observation:" in said:
        found = f"the tool said {said.removeprefix('Observation:').strip()}"
        if any(tool.name == "final_answer" for tool in request.tools):
            arguments = json.dumps({"answer": found})
            return Script(text="", tool_calls=(ToolCall(f"call_{call.id[-12:]}", "final_answer", arguments),))
        return Script(text=found)
    if said.startswith(HOLD):
        return Script(first_s=float(said.removeprefix(HOLD)))
    if "sum of" in said and request.tools:
        return Script(text="", tool_calls=(sum_by([tool.name for tool in request.tools], call.id),))
    return Script(text=WAITED if "your time" in said else HELLO)


SUMS = {
    "add": {"a": 40, "b": 2},
    "exec_command": {"cmd": "expr 40 + 2"},
    "bash": {"command": "expr 40 + 2", "description": "add"},
}


def sum_by(tools: list[str], id: str) -> ToolCall:
    """The sum by what the client has for it: its own function, or a shell."""
    tool, arguments = next((name, SUMS[kind]) for kind in SUMS for name in tools if name.endswith(kind))
    return ToolCall(f"call_{id[-12:]}", tool, json.dumps(arguments))


def in_fields(asked: str, said: str) -> str:
    """The answer in the form that DSPy asks of any model: a heading for each output field."""
    values = {
        "answer": WAITED if "your time" in said else HELLO,
        "next_thought": "I add.",
        "next_tool_name": "add",
        "next_tool_args": '{"a": 40, "b": 2}',
    }
    if observed := re.search(r"\[\[ ## observation_0 ## \]\]\s*(\S+)", said):
        values |= {"next_tool_name": "finish", "next_tool_args": "{}", "answer": f"the tool said {observed[1]}"}
    wanted = re.findall(r"`(\w+)`", asked.partition("Your output fields are:")[2].partition("All interactions")[0])
    headed = [f"[[ ## {field} ## ]]\n{values.get(field, 'because')}" for field in (*wanted, "completed")]
    return "\n\n".join(headed)


@dataclass
class Wire:
    """A relay on a port of its own. `cut`: the next answer does not arrive; the connection is cut when it begins.

    `said`: all that the kernel said, also what was cut off; `begun`: set when it has begun to answer for a model.
    """

    server: HttpServer
    cut: bool = False
    cuts: int = 0
    port: int = 0
    said: bytearray = field(default_factory=bytearray)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    _asked: list[bytearray] = field(default_factory=list)
    _relays: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ids(self) -> set[bytes]:
        """The ids of all answers that were on their way to clients."""
        found = set(re.findall(rb'"id": ?"((?:chatcmpl-|resp_|msg_)[^"]+)"', self.said))
        return {id for id in found if not id.startswith(b"msg_")} or found

    @property
    def asked(self) -> bytes:
        """All that clients asked, one connection after the other."""
        return b"".join(self._asked)

    def calls(self) -> int:
        """How often clients asked a model's door."""
        return len(MODEL_CALL.findall(self.asked))

    def bodies(self) -> list[tuple[str, bytes]]:
        """What clients asked: the door, and the body of the request."""
        asked = self.asked
        found = MODEL_CALL.finditer(asked)
        sizes = [(match, re.search(rb"(?i)content-length: (\d+)", match[2])) for match in found]
        bodies = [(match[1].decode(), asked[match.end() : match.end() + int(size[1])]) for match, size in sizes if size]
        return [(door.partition("/")[0], body) for door, body in bodies]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Wire]:
        listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = listening.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listening.close()
            for relay in self._relays:
                relay.cancel()
            await asyncio.gather(*self._relays, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        asked = bytearray()
        self._asked.append(asked)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            async with asyncio.TaskGroup() as both:
                there = both.create_task(_copy(reader, far_writer, asked))
                await self._back(far_reader, writer, asked)
                there.cancel()
        except* OSError:
            pass
        finally:
            self._relays.discard(task)
            writer.close()
            far_writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytearray) -> None:
        """What the kernel says, to the client; or nothing of a model's answer, once it has begun, if the wire is to be cut."""
        while data := await reader.read(65536):
            self.said += data
            if MODEL_CALL.search(asked):
                self.begun.set()
                if self.cut:
                    self.cut = False
                    self.cuts += 1
                    return
            writer.write(data)
            await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray) -> None:
    while data := await reader.read(65536):
        seen += data
        writer.write(data)
        await writer.drain()
    writer.write_eof()


@dataclass
class Stage:
    """`core.calls` are the calls that came through to the model."""

    k: RunningKernel
    core: ScriptedCore
    wire: Wire
    token: str
    folder: str

    async def call(self, prompt: str) -> None:
        """A call with the client's token that is not the client's."""
        await LocalGate(self.k.kernel, self.k.kernel.attach(self.token)).call(Generate(messages=(Message("user", prompt),)))

    async def hold_the_slot(self, seconds: float) -> None:
        """A call of somebody else's that takes this long."""
        await self.k.operator.call(Generate(messages=(Message("user", f"{HOLD}{seconds}"),)))

    async def play(self, client: str, program: str, scenes: list[str], **environment: str) -> dict[str, Any]:
        """Run a client's program, unmodified, with nothing of ours but addresses and a key; what each scene came to."""
        home = tempfile.mkdtemp(dir=self.folder)
        env = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        env |= {
            "HOME": home, "TMPDIR": home, "CLIENT": str(CLIENTS / client),
            "OPENAI_BASE_URL": f"{self.wire.url}/v1", "OPENAI_API_KEY": self.token, "OPENAI_API_BASE": f"{self.wire.url}/v1",
            "ANTHROPIC_BASE_URL": self.wire.url, "ANTHROPIC_API_KEY": self.token, "PYTHONDONTWRITEBYTECODE": "1",
            "NO_PROXY": "127.0.0.1", **QUIET, **environment,
        }  # fmt: skip
        python = CLIENTS / client / "bin/python"
        if not python.exists():
            python = Path(sys.executable)  # the program only starts a command that is no Python
        child = await asyncio.create_subprocess_exec(
            str(python), str(HERE / "programs" / program), *scenes, env=env, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=home,
        )  # fmt: skip
        try:
            async with asyncio.timeout(LIMIT_S):
                out, err = await child.communicate()
        except TimeoutError:
            child.kill()
            out, err = await child.communicate()
            print(f"`{client}` did not come to an end within {LIMIT_S:g} s", file=sys.stderr)
        if "AIOS_RECORD" in os.environ:
            record(client, self.wire.bodies())
        lines = [json.loads(line) for line in out.decode().splitlines() if line.startswith('{"scene"')]
        print(err.decode()[-8000:], file=sys.stderr)
        return {line["scene"]: line.get("value", Failure(line.get("error", ""))) for line in lines}


def record(client: str, bodies: list[tuple[str, bytes]]) -> None:
    """Keep what a client asked as a body of the corpus: those of a few kilobytes whose fields nobody had so far."""
    for door, body in bodies:
        folder = CORPUS / door
        folder.mkdir(parents=True, exist_ok=True)
        kept = sorted(folder.glob(f"{client}-*.json"))
        shapes = [shape(json.loads(file.read_bytes())) for file in kept]
        if len(body) <= MOST_KEPT_BYTES and shape(json.loads(body)) not in shapes:
            (folder / f"{client}-{len(kept) + 1:02}.json").write_bytes(body + b"\n")


def shape(value: Any) -> Any:
    """The fields and types of a JSON value, without what stands in them."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in sorted(value.items())}
    if isinstance(value, list):
        return sorted({json.dumps(shape(inner)) for inner in value})
    return type(value).__name__


class Failure(str):
    """What a scene raised, instead of a value."""


QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "OTEL_SDK_DISABLED": "true",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "LANGSMITH_TRACING": "false",
}
"""What keeps frameworks from calling home."""


@asynccontextmanager
async def stage(slots: int = 8) -> AsyncIterator[Stage]:
    """A kernel with one core of so many slots behind the real doors, and a token for a client."""
    core = ScriptedCore(answer, slots=slots, window=200_000, features=frozenset({"chat", "tools", "seed", "stop", "n", "json"}))
    with tempfile.TemporaryDirectory() as folder:
        async with kernel_for_tests([core], aliases={"gpt-4.1-mini": ("scripted-1",)}) as k:
            server = HttpServer(k.kernel, doors_to(k.kernel), ServerConfig(port=0))
            await server.start()
            try:
                async with Wire(server).open() as wire:
                    yield Stage(k, core, wire, (await k.token()).value, folder)
            finally:
                await server.close(grace_s=1.0)
