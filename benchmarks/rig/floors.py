"""Floors: what the two libraries that any such server would be made of cost alone, and together as a bare relay.

`server` is uvicorn, set up as the kernel does it, with a constant answer; `client` makes upstream calls with aiohttp, set up
for speed, and does nothing with what it reads; `relay` passes bytes on with both. The kernel's own connections to its upstream
replaced aiohttp: they are measured beside it, but the floor stays what it was, so that figures can be compared over time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from aios.drivers.core.http1 import Connections
from benchmarks.rig.child import listen, obey, run
from benchmarks.rig.upstream import ANSWER
from benchmarks.rig.work import Work, upstream_body

CONSTANT = ANSWER % (b"@1 xxxxxxxxxxxxxxxxxxxxx", 1, 61)
HEADERS = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}

App = Callable[[Any, Any, Any], Awaitable[None]]


class ClientPlan(msgspec.Struct, frozen=True, kw_only=True):
    """So many upstream calls, from so many coroutines. `own`: with the kernel's own connections, instead of aiohttp."""

    port: int
    work: Work
    agents: int
    calls: int
    own: bool = False


async def constant(scope: Any, receive: Any, send: Any) -> None:
    """Take the whole request and answer always the same."""
    await body_of(receive)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(CONSTANT))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": CONSTANT})


async def body_of(receive: Any) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    return body


def relay_to(session: aiohttp.ClientSession, port: int) -> App:
    """Pass a stream on as it comes, unread."""
    url = f"http://127.0.0.1:{port}/v1/chat/completions"

    async def relay(scope: Any, receive: Any, send: Any) -> None:
        body = await body_of(receive)
        async with session.post(url, data=body) as response:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
            while data := await response.content.readany():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    return relay


def new_session() -> aiohttp.ClientSession:
    """aiohttp, without what costs and is not needed."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), cookie_jar=aiohttp.DummyCookieJar(),
        headers=HEADERS, read_bufsize=8192, trust_env=False,
    )  # fmt: skip


async def serve(app: App) -> None:
    """The server library, set up as the kernel's edge does it."""
    settings = uvicorn.Config(
        app, interface="asgi3", http=HttpToolsProtocol, ws="none", lifespan="off", proxy_headers=False, access_log=False,
        server_header=False, date_header=False, log_config=None, log_level="critical",
    )  # fmt: skip
    settings.load()
    state, loop = ServerState(), asyncio.get_running_loop()

    async def tell(line: bytes) -> None:
        return None

    await obey(tell, await listen(lambda: HttpToolsProtocol(settings, state, {}, loop)))


async def server() -> None:
    await serve(constant)


async def relay() -> None:
    async with new_session() as session:
        await serve(relay_to(session, int(sys.argv[2])))


async def client() -> None:
    """Answer plans with the CPU seconds that each of its calls took."""
    async with new_session() as session:

        async def measure(line: bytes) -> float:
            plan = msgspec.json.decode(line, type=ClientPlan)
            left = iter(range(plan.calls))
            begun = time.process_time()
            if plan.own:
                connections = Connections("127.0.0.1", plan.port, HEADERS, 60.0)
                await asyncio.gather(*(own_calls(connections, plan, left) for _ in range(plan.agents)))
                connections.close()
            else:
                await asyncio.gather(*(calls_on(session, plan, left) for _ in range(plan.agents)))
            return (time.process_time() - begun) / plan.calls

        await obey(measure)


async def own_calls(connections: Connections, plan: ClientPlan, left: Iterable[int]) -> None:
    """One coroutine's share of the calls, with the kernel's own connections."""
    body = upstream_body(plan.work)
    for _ in left:
        answer = await connections.request("POST", "/v1/chat/completions", body)
        while await answer.read():
            pass
        connections.done(answer)


async def calls_on(session: aiohttp.ClientSession, plan: ClientPlan, left: Iterable[int]) -> None:
    """One coroutine's share of the calls, with aiohttp."""
    url, body = f"http://127.0.0.1:{plan.port}/v1/chat/completions", upstream_body(plan.work)
    for _ in left:
        async with session.post(url, data=body) as response:
            while await response.content.readany():
                pass


if __name__ == "__main__":
    run({"server": server, "relay": relay, "client": client}[sys.argv[1]])
