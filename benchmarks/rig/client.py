"""The client: agents that call, each on a kept connection, one call after the other. The same for every server.

A process of its own on bare sockets, so that it is never what a benchmark measures. An agent makes its next call in the very
step in which it has its answer.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from typing import Any

import httptools
import msgspec

from benchmarks.rig.child import Child, Failed, obey, run
from benchmarks.rig.work import BODIES, Work, http_request

CONNECT_AT_ONCE = 128
SMALL_BUFFER_BYTES = 4096
_stamp = re.compile(rb'"(?:content|delta|text_delta","text)":"@(\d+) ')
"""Of a piece; one door tells the whole once more, at its end."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`agents` that make `warm + calls` calls together; only what comes after the first `warm` counts.

    When so many calls have ended, agents that still wait hang up. `stalled` agents ask, and read nothing: such a plan never ends.
    """

    port: int
    path: str = "/v1/chat/completions"
    token: str = ""
    work: Work = Work()
    stream: bool = False
    agents: int = 1
    calls: int = 1
    warm: int = 0
    stalled: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What a plan came to: calls that ended in all, seconds of the counted ones, and for each of them its seconds.

    `pieces`: of all streams together; `lags_s`: how late each was. `first_s`: seconds until each counted stream's first piece.
    """

    calls: int
    seconds: float
    latencies_s: list[float]
    pieces: int
    lags_s: list[float]
    first_s: list[float]

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.seconds


class Client:
    """The parent's end."""

    def __init__(self) -> None:
        self._child = Child("benchmarks.rig.client")

    def begin(self, *plans: Plan) -> None:
        """Start plans that run at the same time; `end` waits for them."""
        self._child.tell(plans)

    def end(self) -> list[Outcome]:
        return self._child.hear(list[Outcome])

    def run(self, plan: Plan) -> Outcome:
        """Run one plan to its end."""
        self.begin(plan)
        return self.end()[0]

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.kill()


class Crowd:
    """The agents of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.request = http_request(plan.path, BODIES[plan.path](plan.work, plan.stream), plan.token)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.agents: list[Agent] = []
        self.latencies_s: list[float] = []
        self.lags_s: list[float] = []
        self.first_s: list[float] = []
        self.pieces = self._started = self._ended = 0
        self._total = plan.warm + plan.calls
        self._most = max(self._total, plan.agents)

    async def connect(self) -> None:
        for begin in range(0, self.plan.agents, CONNECT_AT_ONCE):
            some = range(begin, min(begin + CONNECT_AT_ONCE, self.plan.agents))
            self.agents += await asyncio.gather(*(self._connect() for _ in some))

    async def _connect(self) -> Agent:
        connection = socket.socket()
        connection.setblocking(False)
        if self.plan.stalled:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", self.plan.port))
        _, agent = await loop.create_connection(lambda: Agent(self), sock=connection)
        return agent

    def start(self) -> None:
        self._begun = self._ended_at = time.perf_counter()
        for agent in self.agents:
            self.next(agent)

    def next(self, agent: Agent) -> None:
        """The agent's next call, if one is left to make."""
        if self._started < self._most:
            self._started += 1
            agent.ask()

    def ended(self, agent: Agent, now: float) -> None:
        """An agent has its answer."""
        self._ended += 1
        if self._ended > self.plan.warm:
            self.latencies_s.append(now - agent.asked)
            if self.plan.stream:
                self.first_s.append(agent.first - agent.asked)
        elif self._ended == self.plan.warm:
            self._begun = now
        if self._ended == self._total:
            self._ended_at = now
            if not self.over.done():
                self.over.set_result(None)
        elif self._ended < self._total:
            self.next(agent)

    def fail(self, why: str) -> None:
        if not self.over.done():
            self.over.set_exception(Failed(why))

    def outcome(self) -> Outcome:
        for agent in self.agents:
            agent.hang_up()
        seconds = self._ended_at - self._begun
        return Outcome(self._ended, seconds, self.latencies_s, self.pieces, self.lags_s, self.first_s)


class Agent(asyncio.Protocol):
    """One connection."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._parser = httptools.HttpResponseParser(self)
        self._stream = crowd.plan.stream
        self._rest = b""
        self._pieces = 0
        self._gone = False
        self.asked = self.first = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport

    def ask(self) -> None:
        self._pieces, self._rest = 0, b""
        self._transport.write(self._crowd.request)
        self.asked = time.perf_counter()
        if self._crowd.plan.stalled:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._stream:
            self._pieces += body.count(b'"@')
            return
        now_ns = time.monotonic_ns()
        whole, end, self._rest = (self._rest + body).rpartition(b"\n\n")
        for stamp in _stamp.findall(whole):
            if not self._pieces:
                self.first = time.perf_counter()
            self._pieces += 1
            self._crowd.lags_s.append((now_ns - int(stamp)) / 1e9)

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        crowd, status = self._crowd, self._parser.get_status_code()
        wanted = crowd.plan.work.pieces if self._stream else 1
        if status != 200 or self._pieces < wanted:
            return crowd.fail(f"a call was answered {status} with {self._pieces} of {wanted} pieces: {self._rest[:300]!r}")
        crowd.pieces += self._pieces
        crowd.ended(self, now)

    def connection_lost(self, problem: Exception | None) -> None:
        if not self._gone:
            self._crowd.fail(f"the server closed a connection: {problem}")

    def hang_up(self) -> None:
        self._gone = True
        self._transport.abort()


async def carry_out(line: bytes) -> list[Outcome]:
    """Run plans at the same time."""
    crowds = [Crowd(plan) for plan in msgspec.json.decode(line, type=list[Plan])]
    for crowd in crowds:
        await crowd.connect()
    for crowd in crowds:
        crowd.start()
    await asyncio.gather(*(crowd.over for crowd in crowds))
    return [crowd.outcome() for crowd in crowds]


async def main() -> None:
    """Carry out the parent's plans."""
    await obey(carry_out)


if __name__ == "__main__":
    run(main)
