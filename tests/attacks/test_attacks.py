"""Attacks: each a row with the refusal that is expected of it, and a control, which shows that the same road is open to
those who may take it. A refusal whose control fails proves nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from aios.abi import frames
from aios.abi.board import ListNotices, PutNotice
from aios.abi.errors import AiosError, Conflict, Denied, Fenced, Invalid, Killed, NotFound, Unauthenticated
from aios.abi.event import CallEnded, ReadEvents
from aios.abi.label import UNTRUSTED
from aios.abi.lease import AcquireLease, RenewLease
from aios.abi.llm import Generate
from aios.abi.mail import ReceiveMail, ReplyMail, RequestMail, SendMail
from aios.abi.manifest import Grant
from aios.abi.process import Explain, List, Logs, Self, SignalProcess, Spawn, WaitFor
from aios.abi.request import CallOptions
from aios.abi.system import AddToken, Drain, ListTokens, RevokeToken, Sleep
from aios.ports.gate import Gate
from aios.server.doors import doors_to
from aios.server.http import HttpServer, ServerConfig
from aios.testing import Script, ScriptedCore, time
from aios.testing.kernel import RunningKernel, kernel_for_tests, manifest_of
from aios.testing.transports import ALL, LoopChild, World, world

ENDLESS = Script(text="well", hang=True)


def ask(**fields: Any) -> Generate:
    return Generate(prompt="x", **fields)


async def nap(gate: Gate, seconds: float = 1000.0) -> None:
    await gate.call(Sleep(seconds=seconds))


async def spawner(gate: Gate, *generations: list[str]) -> str:
    """Starts a child with the first grants, which starts one with the next; tells how it ended."""
    if not generations:
        return "started"
    manifest = manifest_of("spawner", grants=tuple(generations[0]))
    child = await gate.call(Spawn(manifest=manifest, arguments=generations[1:]))
    exit = await gate.call(WaitFor(pid=child.pid))
    return str(exit.result or exit.error)


AGENTS = {"nap": nap, "spawner": spawner}


@dataclass
class Scene:
    """What an attacker finds: a kernel, its own Gate with ordinary rights, and a victim that is somebody else's."""

    w: World
    me: Gate
    victim: Gate

    async def pid(self, gate: Gate) -> str:
        return (await gate.call(Self())).pid

    async def generations(self, *grants: tuple[str, ...]) -> str:
        """What comes of an agent with the first grants whose descendants ask for the next ones."""
        agent = await self.w.k.spawn("spawner", *(list(asked) for asked in grants[1:]), grants=grants[0])
        exit = await self.w.k.operator.call(WaitFor(pid=agent.pid))
        return str(exit.result or exit.error)


Step = Callable[[Scene], Awaitable[Any]]


@dataclass
class Attack:
    """`attempt` ends in `refusal`, an error or an answer that tells nothing; `control` goes through."""

    name: str
    attempt: Step
    refusal: type[AiosError] | object
    control: Step


def called(who: str, request: Callable[[str], Any], of: str = "victim") -> Step:
    """A call of one about the other."""

    async def step(scene: Scene) -> Any:
        return await getattr(scene, who).call(request(await scene.pid(getattr(scene, of))))

    return step


def spawned(*generations: tuple[str, ...]) -> Step:
    return lambda scene: scene.generations(*generations)


async def reads_events(gate: Gate) -> set[str]:
    """The processes that a reader hears of."""
    return {getattr(event, "pid", "") for event in (await gate.call(ReadEvents())).events} - {""}


async def hears_of_victim(scene: Scene, gate: Gate) -> bool:
    return await scene.pid(scene.victim) in await reads_events(gate)


async def sees_victim(scene: Scene, gate: Gate) -> bool:
    seen = (await gate.call(List(kinds=("agent", "session")))).processes
    return await scene.pid(scene.victim) in [process.pid for process in seen]


def manifest_with(**fields: Any) -> Step:
    async def step(scene: Scene) -> Any:
        manifest = manifest_of("nap", **{"grants": (), **fields})
        return await scene.w.k.operator.call(Spawn(manifest=manifest, accepted=manifest.hash()))

    return step


def minted(grants: tuple[str, ...]) -> Step:
    async def step(scene: Scene) -> Any:
        clerk = await scene.w.process(("own /tokens", "use /llm/small"))
        return await clerk.call(AddToken(agent="puppet", grants=grants))

    return step


async def replies_to_what_the_victim_was_asked(scene: Scene, gate: Gate) -> str:
    """What the operator hears, who asked the victim, when somebody else has the request's id."""
    asked = asyncio.ensure_future(scene.w.k.operator.call(RequestMail(to=await scene.pid(scene.victim))))
    mail = (await scene.victim.call(ReceiveMail(wait_s=None))).mail
    assert mail is not None
    try:
        await gate.call(ReplyMail(id=mail.id, value="mine"))
        return str((await asked).value)
    except NotFound:
        return "not asked"
    finally:
        asked.cancel()
        await asyncio.wait((asked,))


def renews_a_lease(who: str) -> Step:
    async def step(scene: Scene) -> Any:
        held = await scene.victim.call(AcquireLease(name=f"printer-{who}"))
        return await getattr(scene, who).call(RenewLease(name=held.name, token=held.token))

    return step


async def label_after_mail_to_oneself(scene: Scene, gate: Gate) -> bool:
    """Whether its label is better than untrusted when a process that was untrusted has been told its own words."""
    pid = await scene.pid(gate)
    process = scene.w.k.kernel.processes.get(pid)
    assert process is not None
    if gate is scene.me:
        process.label = UNTRUSTED
    await gate.call(SendMail(to=pid, value="x"))
    mail = (await gate.call(ReceiveMail())).mail
    assert mail is not None
    return min(process.label.integrity, mail.label.integrity) > UNTRUSTED.integrity


READ_OWN = ("use /llm/*", "read /events", "spawn /agents/*")
ATTACKS = [
    Attack("signal another's process", called("me", lambda pid: SignalProcess(pid=pid, signal="kill")), NotFound,
           called("me", lambda pid: Explain(pid=pid), of="me")),
    Attack("wait for another's process", called("me", lambda pid: WaitFor(pid=pid)), NotFound,
           lambda s: s.w.k.operator.call(Explain(pid="operator-1"))),
    Attack("read another's log", called("me", lambda pid: Logs(pid=pid)), NotFound,
           called("me", lambda pid: Logs(pid=pid), of="me")),
    Attack("ask why another waits", called("me", lambda pid: Explain(pid=pid)), NotFound,
           called("me", lambda pid: Explain(pid=pid), of="me")),
    Attack("list others", lambda s: sees_victim(s, s.me), False, lambda s: sees_victim(s, s.w.k.operator)),
    Attack("read others' events", lambda s: hears_of_victim(s, s.me), False, lambda s: hears_of_victim(s, s.w.k.operator)),
    Attack("use a model without a grant", lambda s: s.me.call(ask(model="large")), Denied,
           lambda s: s.me.call(ask(model="small"))),
    Attack("take the kernel down", lambda s: s.me.call(Drain()), Denied, lambda s: s.w.k.operator.call(Drain())),
    Attack("list tokens", lambda s: s.me.call(ListTokens()), Denied, lambda s: s.w.k.operator.call(ListTokens())),
    Attack("make a token with more than one has", minted(("own /kernel",)), Denied, minted(("use /llm/small",))),
    Attack("make a token with a prefix above one's own", minted(("use /llm/*",)), Denied, minted(())),
    Attack("give a child what one has not", spawned(("spawn /agents/*",), ("use /llm/small",)), "Denied",
           spawned(("spawn /agents/*", "use /llm/small"), ("use /llm/small",))),
    Attack("give a child a prefix of what one has", spawned(("spawn /agents/*", "use /llm/small"), ("use /llm/*",)), "Denied",
           spawned(("spawn /agents/*", "use /llm/*"), ("use /llm/small",))),
    Attack("regain in the third generation what the second lost",
           spawned(("spawn /agents/*", "use /llm/*"), ("spawn /agents/*",), ("use /llm/*",)), "Denied",
           spawned(("spawn /agents/*", "use /llm/*"), ("spawn /agents/*", "use /llm/*"), ("use /llm/*",))),
    Attack("start children without a grant", spawned(("use /llm/*",), ()), "Denied", spawned(("spawn /agents/spawner",), ())),
    Attack("ask for a wildcard inside", manifest_with(grants=("use /l*m/x",)), Invalid, manifest_with(grants=("use /llm/*",))),
    Attack("ask for two rights in one line", manifest_with(grants=("use /llm/x own /*",)), Invalid,
           manifest_with(grants=("use /llm/x", "own /*"))),
    Attack("hide a right behind an escape", manifest_with(grants=("use /llm/\x1b[1K",)), Invalid,
           manifest_with(grants=("use /llm/K",))),
    Attack("write to another", called("me", lambda pid: SendMail(to=pid)), NotFound,
           called("me", lambda pid: SendMail(to=pid), of="me")),
    Attack("wait for another's mail", called("me", lambda pid: ReceiveMail(sender=pid)), NotFound,
           called("me", lambda pid: ReceiveMail(sender=pid), of="me")),
    Attack("reply for another", lambda s: replies_to_what_the_victim_was_asked(s, s.me), "not asked",
           lambda s: replies_to_what_the_victim_was_asked(s, s.victim)),
    Attack("make one's words clean by mail to oneself", lambda s: label_after_mail_to_oneself(s, s.me), False,
           lambda s: label_after_mail_to_oneself(s, s.victim)),
    Attack("read a board without a grant", lambda s: s.me.call(ListNotices(board="plans")), Denied,
           lambda s: s.victim.call(ListNotices(board="plans"))),
    Attack("write on a board without a grant", lambda s: s.me.call(PutNotice(board="plans", key="x")), Denied,
           lambda s: s.victim.call(PutNotice(board="plans", key="x"))),
    Attack("hold another's lease by its token", renews_a_lease("me"), Fenced, renews_a_lease("victim")),
    Attack("run a program of one's choosing by a relative path", manifest_with(program="../bin/sh"), Invalid, manifest_with()),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("transport", ["in process", "socket", "http"])
async def test_an_attack_is_refused_and_its_control_is_not(transport: str, attack: Attack) -> None:
    cores = [ScriptedCore(models=("small",), name="a"), ScriptedCore(models=("large",), name="b")]
    async with world(transport, cores, AGENTS) as w:
        me = await w.process(("use /llm/small", "use /leases/*", "read /events", "spawn /agents/*"))
        scene = Scene(w, me, await w.process(ALL))
        await scene.victim.call(ask(model="small"))
        if isinstance(attack.refusal, type):
            with pytest.raises(attack.refusal):
                await attack.attempt(scene)
        else:
            assert await attack.attempt(scene) == attack.refusal
        assert (await scene.victim.call(Self())).state == "running", "the victim noticed nothing"
        assert await attack.control(scene) not in (False, "Denied")


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_ten_thousand_guesses_find_no_token_and_learn_nothing() -> None:
    async with kernel_for_tests() as k:
        token = (await k.token()).value
        answers = set()
        guesses = [
            token[:-1],
            token + "A",
            token.lower(),
            token[5:],
            " " + token,
            token + "\0",
            *(f"aios_{n}" for n in range(10_000)),
        ]
        for guess in guesses:
            with pytest.raises(Unauthenticated) as refused:
                k.attach(guess)
            answers.add(refused.value.message)
        assert len(answers) == 1
        assert (await k.attach(token).call(Self())).agent == "client"


async def test_a_token_that_is_revoked_in_mid_stream_ends_the_stream_and_no_other() -> None:
    async with kernel_for_tests([ScriptedCore(Script(text="a b c d", token_s=1))]) as k:
        tokens = [await k.token() for _ in range(2)]
        streams = [k.attach(token.value).stream(ask()) for token in tokens]
        for stream in streams:
            await anext(stream)
            await anext(stream)
        await k.operator.call(RevokeToken(id=tokens[0].info.id))
        with pytest.raises(Unauthenticated):
            async for _ in streams[0]:
                pass
        assert [event async for event in streams[1]][-1].text == "a b c d"


async def test_a_session_name_opens_only_sessions_of_its_own_token() -> None:
    async with kernel_for_tests() as k:
        one, two = (await k.token()).value, (await k.token()).value
        theirs = await k.attach(one, "shared").call(Self())
        assert (await k.attach(two, "shared").call(Self())).pid != theirs.pid
        assert (await k.attach(one, "shared").call(Self())).pid == theirs.pid


# --- a host that does not keep to the contract ------------------------------------------------------------------------


@asynccontextmanager
async def two_hosts(agents: dict[str, Any]) -> AsyncIterator[tuple[RunningKernel, Sequence[LoopChild], Any, Any]]:
    """A kernel with two hosts: an attacker's and a victim's."""
    async with world("socket", [ScriptedCore("answer")], agents) as w:
        attacker = await w.k.spawn("nap")
        await asyncio.sleep(0.1)
        victim = await w.k.spawn("nap", program="/bin/sh")
        await asyncio.sleep(0.1)
        yield w.k, w.hosts, attacker, victim


async def test_a_frame_with_another_hosts_pid_is_denied_and_the_third_ends_the_host() -> None:
    async with two_hosts(AGENTS) as (k, hosts, attacker, victim):
        gate = await hosts[0].gate()
        assert (await gate.of(attacker.pid).call(Self())).pid == attacker.pid  # the control
        for _ in range(2):
            with pytest.raises(Denied, match="does not run in this host"):
                await gate.of(victim.pid).call(Self())
        with pytest.raises(AiosError):
            await gate.of("4711").call(Self())
        await asyncio.sleep(2)
        assert hosts[0].ended and not hosts[1].ended
        assert (await k.operator.call(Explain(pid=attacker.pid))).process.restarts == 1
        assert (await k.operator.call(Explain(pid=victim.pid))).process.restarts == 0


async def test_a_host_prints_into_no_other_log() -> None:
    async with two_hosts(AGENTS) as (k, hosts, attacker, victim):
        gate = await hosts[0].gate()
        for pid in (attacker.pid, victim.pid):
            gate.send(frames.Print(pid, "out", "hello"))
        await asyncio.sleep(0.1)
        lines = [len((await k.operator.call(Logs(pid=pid))).lines) for pid in (attacker.pid, victim.pid)]
        assert lines == [1, 0]


HOSTILE_FRAMES = {
    "too large": (frames.MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
    "four gigabytes": b"\xff\xff\xff\xff",
    "garbage": b"\x00\x00\x00\x04\xff\xff\xff\xff",
    "a frame of the kernel's": frames.encode_frame(frames.Welcome(1)),
    "a second greeting": frames.encode_frame(frames.Hello(1)),
    "an answer to nothing": frames.encode_frame(frames.Answer(99, "mine")),
    "text that is none": b"\x00\x00\x00\x14\x83\xa4type\xa6answer\xa2id\x01\xa6result\xa1\xff",
}


@pytest.mark.parametrize("what", HOSTILE_FRAMES)
async def test_a_host_that_sends_garbage_is_ended_and_its_agents_begin_again_and_nobody_else_notices(what: str) -> None:
    async with two_hosts(AGENTS) as (k, hosts, attacker, victim):
        gate = await hosts[0].gate()
        gate._transport.write(HOSTILE_FRAMES[what])
        await asyncio.sleep(3)
        assert hosts[0].ended
        after = [(await k.operator.call(Explain(pid=pid))).process for pid in (attacker.pid, victim.pid)]
        assert [(process.state, process.restarts) for process in after] == [("waiting", 1), ("waiting", 0)]
        assert (await k.operator.call(ask())).text == "answer"


async def test_a_frame_at_the_limit_is_taken() -> None:
    """The control of the oversized ones: what is refused is the size."""
    async with two_hosts(AGENTS) as (k, hosts, attacker, _):
        gate = await hosts[0].gate()
        with pytest.raises(NotFound):
            await gate.of(attacker.pid).call(ask(model="x" * (frames.MAX_FRAME_BYTES - 1000)))
        assert (await k.operator.call(Explain(pid=attacker.pid))).process.restarts == 0


async def test_a_killed_agent_that_goes_on_is_refused_until_its_host_is_ended() -> None:
    said: list[str] = []

    async def runaway(gate: Gate) -> None:
        while True:
            try:
                await asyncio.sleep(0.5)
                await gate.call(ask())
                said.append("answered")
            except asyncio.CancelledError:
                said.append("told")
                if said.count("told") > 1:
                    raise  # its host is gone
            except AiosError as error:
                said.append(error.code)

    async with world("socket", [ScriptedCore("x")], {"runaway": runaway}) as w:
        agent = await w.k.spawn("runaway")
        await asyncio.sleep(2.2)
        assert set(said) == {"answered"}
        said.clear()
        await w.k.operator.call(SignalProcess(pid=agent.pid, signal="kill"))
        exit = await w.k.operator.call(WaitFor(pid=agent.pid))
        assert exit.outcome == "killed" and time() < 8
        assert said.count(Killed.__name__) > 5 and "answered" not in said


# --- HTTP -------------------------------------------------------------------------------------------------------------


@dataclass
class Listening:
    """A kernel that listens on a port, and a wire to it: bytes there, bytes back."""

    k: RunningKernel
    port: int
    token: str
    core: ScriptedCore

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, head: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """One request on a connection of its own; its status and body."""
        own = {"host": f"127.0.0.1:{self.port}", "authorization": f"Bearer {self.token}", "content-type": "application/json"}
        fields = {**own, "content-length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
        reader, writer = await self.open()
        lines = [f"{head} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "connection: close", "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        answer = await reader.read()
        writer.close()
        status, _, rest = answer.partition(b"\r\n")
        return int(status.split()[1]), rest.partition(b"\r\n\r\n")[2]


@asynccontextmanager
async def listening() -> AsyncIterator[Listening]:
    core = ScriptedCore("fine")
    async with kernel_for_tests([core]) as k:
        server = HttpServer(k.kernel, doors_to(k.kernel), ServerConfig(port=0))
        await server.start()
        yield Listening(k, server.port, (await k.token()).value, core)
        await server.close(grace_s=1.0)
        await asyncio.sleep(0.01)


GENERATE = "POST /v1/call/llm.generate"
GOOD = b'{"prompt": "x"}'


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("host", "evil.example", 403),
        ("host", "evil.example:80", 403),
        ("host", "127.0.0.1.evil.example", 403),
        ("host", "", 403),
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("authorization", "", 401),
        ("authorization", "Bearer aios_guess", 401),
        ("authorization", "Basic b3BlcmF0b3I6", 401),
        ("content_type", "text/plain", 400),
        ("content_encoding", "gzip", 400),
    ],
)
async def test_a_request_from_elsewhere_is_refused(header: str, value: str, status: int) -> None:
    async with listening() as at:
        got, body = await at.send(GENERATE, GOOD, **{header: value})
        assert got == status and json.loads(body)["error"]["message"]
        assert at.core.calls == []
        got, _ = await at.send(GENERATE, GOOD, host=f"localhost:{at.port}", origin=f"http://localhost:{at.port}")
        assert got == 200 and len(at.core.calls) == 1  # the control


BODIES = {
    "a name twice": b'{"prompt": "x", "prompt": "y"}',
    "NaN": b'{"prompt": "x", "temperature": NaN}',
    "half a surrogate pair": b'{"prompt": "\\ud800"}',
    "nesting": b'{"prompt": ' + b"[" * 100_000,
    "an unknown field": b'{"prompt": "x", "operator": true}',
    "no UTF-8": b'{"prompt": "\xff\xfe"}',
    "a list": b"[1]",
    "nothing": b"",
    "a million values": b'{"prompt": "x", "stop": [' + b'"a",' * 10**6 + b'"b"]}',
    "a number of a million digits": b'{"prompt": "x", "n": 1' + b"0" * 10**6 + b"}",
}


@pytest.mark.parametrize("what", BODIES)
async def test_a_hostile_body_is_a_4xx_and_reaches_no_core(what: str) -> None:
    async with listening() as at:
        status, body = await at.send(GENERATE, BODIES[what])
        assert 400 <= status < 500 and len(body) < 2000
        assert json.loads(body)["error"]["code"] in ("Invalid", "TooLarge")
        assert at.core.calls == [] and time() < 2
        status, _ = await at.send(GENERATE, GOOD)
        assert status == 200


async def test_a_body_that_is_promised_too_large_is_refused_before_it_comes() -> None:
    async with listening() as at:
        reader, writer = await at.open()
        head = f"{GENERATE} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {at.token}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {2**30}\r\n\r\n".encode())
        assert b" 413 " in await reader.readline()
        writer.close()


async def test_a_hundred_that_send_a_byte_now_and_then_keep_nobody_waiting() -> None:
    """Half of them never end their headers, half never end their body; all are gone after a while."""
    async with listening() as at:
        head = f"{GENERATE} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {at.token}\r\ncontent-type: application/json\r\n"
        slow = [await at.open() for _ in range(100)]
        for number, (_, writer) in enumerate(slow):
            writer.write(head.encode() if number % 2 else f"{head}content-length: 1000\r\n\r\n".encode())
        for second in range(20):
            for _, writer in slow:
                writer.write(b"x: y\r\n" if second % 5 == 0 else b"")
            status, _ = await at.send(GENERATE, GOOD)
            assert status == 200 and time() == second
            await asyncio.sleep(1)
        await asyncio.sleep(60)
        with_body = [reader for number, (reader, _) in enumerate(slow) if number % 2 == 0]
        assert all([b" 400 " in await reader.readline() for reader in with_body])
        for _, writer in slow:
            writer.close()


async def test_an_option_in_a_header_raises_nothing() -> None:
    async with listening() as at:
        status, body = await at.send("POST /v1/call/process.self", b"{}", x_aios_class="interactive")
        assert status == 200 and json.loads(body)["cls"] == "standard"
        for name, value in (("x_aios_class", "operator"), ("x_aios_deadline_s", "-1"), ("x_aios_deadline_s", "nan")):
            status, body = await at.send("POST /v1/call/process.self", b"{}", **{name: value})
            assert status == 400


async def test_a_client_that_asks_for_a_pid_in_its_body_is_itself_nevertheless() -> None:
    async with listening() as at:
        status, body = await at.send("POST /v1/call/process.self", b'{"pid": "1"}')
        assert status == 400 and json.loads(body)["error"]["field"] == "pid"


# A stranger's claims: whatever a header or a body says, a call is the token's own, in the class that it was granted.

CLAIMED = ("operator", "aios", "interactive", "aios_root", "../../root", "1", "true", "é", "x" * 3000)
CARRIERS = [
    *({name: value} for name in ("x_session_id", "session_id", "x_claude_code_session_id") for value in CLAIMED),
    *({name: "OPERATOR"} for name in ("x_api_key", "x_goog_api_key", "proxy_authorization", "cookie", "x_auth_token")),
    *({name: "PID"} for name in ("x_aios_pid", "x_aios_process", "x_aios_parent", "x_aios_ticket", "x_request_id")),
    *({name: "operator"} for name in ("x_aios_tenant", "x_aios_agent", "x_aios_token", "x_aios_operator", "x_aios_name")),
    *({name: "interactive"} for name in ("x_aios_class", "x_aios_priority", "x_priority", "priority", "x_service_tier")),
    *({name: "127.0.0.1"} for name in ("x_forwarded_for", "x_real_ip", "forwarded", "x_forwarded_user", "x_remote_user")),
    *({name: "operator"} for name in ("openai_organization", "openai_project", "anthropic_workspace", "user_agent", "from")),
    *({"baggage": f"aios.{name}=operator"} for name in ("tenant", "token", "pid", "class", "task")),
    {"traceparent": "00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-ff"},
]  # fmt: skip
SAID: list[dict[str, Any]] = [
    *({name: value} for name in ("user", "safety_identifier", "prompt_cache_key") for value in ("operator", "PID", {"a": 1})),
    *({"service_tier": tier} for tier in ("priority", "fast", "scale", "interactive", "", 5, ["priority"])),
    *({name: "operator"} for name in ("tenant", "pid", "process", "token", "operator", "agent", "cls", "grants", "account")),
    *({"aios": {name: "interactive"}} for name in ("class", "tenant", "pid", "token", "operator", "session", "grants")),
    {"metadata": {"user_id": "operator", "tenant": "other", "class": "interactive"}},
    {"extra_headers": {"authorization": "Bearer OPERATOR"}},
    {"extra_body": {"aios": {"class": "interactive"}}},
]


@pytest.mark.parametrize(
    ("door", "asked"),
    [
        ("POST /v1/chat/completions", {"model": "default", "messages": [{"role": "user", "content": "x"}]}),
        ("POST /v1/responses", {"model": "default", "input": "x"}),
        ("POST /v1/messages", {"model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}),
    ],
    ids=["chat", "responses", "messages"],
)
async def test_no_claim_in_a_header_or_a_body_raises_anything(door: str, asked: dict[str, Any]) -> None:
    """Effective = min(granted, asked). The control: the same road lowers the class."""
    assert len(CARRIERS) >= 50 and len(SAID) >= 30
    async with listening() as at:
        operator, victim = await at.k.operator.call(Self()), await at.k.session("victim")
        pid = (await victim.call(Self())).pid
        known = {"PID": pid, "OPERATOR": at.k.kernel.tokens.new_operator()}
        claims = [({name: known.get(value, value) for name, value in one.items()}, asked) for one in CARRIERS]
        claims += [({}, {**asked, **json.loads(json.dumps(one).replace("PID", pid))}) for one in SAID]
        for headers, body in claims:
            status, told = await at.send(door, json.dumps(body).encode(), **headers)
            assert status == 200, (headers, body, told)
            status, told = await at.send("POST /v1/call/process.self", b"{}", **headers)
            me = json.loads(told)
            assert (status, me["agent"], me["cls"], me["tenant"], me["kind"]) == (200, "client", "standard", "local", "session")
            assert me["pid"] not in (pid, operator.pid)
            status, _ = await at.send("POST /v1/call/token.list", b"{}", **headers)
            assert status == 403
        assert classes(at) == ["standard"] * len(claims)
        await at.send(door, json.dumps({**asked, "service_tier": "flex"}).encode())
        assert classes(at)[-1] == "batch"


def classes(at: Listening) -> list[str]:
    """The classes that calls of models had."""
    events, _, _ = at.k.kernel.events.after(0, 10_000, lambda event: isinstance(event, CallEnded) and event.row == "llm.generate")
    return [event.cls for event in events]


# --- what people read -------------------------------------------------------------------------------------------------


async def test_what_an_agent_says_of_itself_cannot_steer_a_terminal() -> None:
    """Its name is refused, its lines are shown harmless; plain text is untouched, which is the control."""
    with pytest.raises(ValueError, match="letters"):
        manifest_of("nap", agent="\x1b]0;root\x07")
    async with world("socket", agents=AGENTS) as w:
        agent = await w.k.spawn("nap")
        await asyncio.sleep(0.1)
        gate = await w.hosts[0].gate()
        gate.send(frames.Print(agent.pid, "out", "plain text\n\x1b[2J\x1b]52;c;ZXZpbA==\x07 done\u202e\r\nlast"))
        await asyncio.sleep(0.1)
        lines = [line.text for line in (await w.k.operator.call(Logs(pid=agent.pid))).lines]
        assert lines[0] == "plain text" and lines[-1] == "last"
        assert all(line.isprintable() for line in lines)


async def test_an_error_of_an_agent_cannot_steer_a_terminal() -> None:
    async def evil(gate: Gate) -> None:
        raise LookupError("\x1b[2J\u202egone")

    async with kernel_for_tests(agents={"evil": evil}) as k:
        agent = await k.spawn("evil")
        exit = await k.operator.call(WaitFor(pid=agent.pid))
        assert exit.message.isprintable() and "gone" in exit.message
        assert (await k.operator.call(Explain(pid=agent.pid))).reason.isprintable()


def test_grants_are_read_as_they_are_shown() -> None:
    for text in ("use /llm/\u202ellm", "use /a b", "use  /a", "use /a\n", "\tuse /a", "use /*/x", "use x", "u*e /x", ""):
        with pytest.raises(ValueError, match="is no grant"):
            Grant.parse(text)
    assert str(Grant.parse("use /llm/*")) == "use /llm/*"


async def test_a_used_key_tells_nothing_of_another_process() -> None:
    async with kernel_for_tests([ScriptedCore("mine")]) as k:
        one, two = await k.session(), await k.session()
        await one.call(ask(), CallOptions(key="secret"))
        try:
            await two.call(Generate(prompt="another"), CallOptions(key="secret"))
        except Conflict:
            raise AssertionError("the key of another process was known") from None
        with pytest.raises(Conflict):
            await one.call(Generate(prompt="another"), CallOptions(key="secret"))
