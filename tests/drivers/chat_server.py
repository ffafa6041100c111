"""A server of the OpenAI chat wire on loopback, in front of a scripted core: what the driver of that wire is tested against."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from aios.abi.errors import AiosError, ContextFull
from aios.abi.llm import Delta, Generate, Message, ToolSpec
from aios.ports.core import CoreCall
from aios.testing import ScriptedCore

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ChatServer:
    """`core` answers, unless `instead` does, and with a `key` only those that send it. `bodies`: what was sent, in order;
    `heard`: the paths of all requests."""

    core: ScriptedCore
    instead: Handler | None = None
    key: str | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    base_url: str = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if self.instead is not None:
            return await self.instead(request)
        call = CoreCall(id=str(len(self.bodies)), model=body["model"], request=generate_of(body), seed=body.get("seed", 0))
        stream = Stream(request, "messages" in body)
        try:
            done = await self.core.generate(call, stream.tell)
        except ContextFull as problem:
            reply = {"error": {"message": problem.message, "type": "exceed_context_size_error", "code": 400}}
            return web.json_response(reply, status=400)
        except ConnectionResetError:
            return stream.response
        except AiosError as problem:
            if not stream.response.prepared:
                return web.json_response({"error": {"message": problem.message}}, status=500)
            await stream.send({"error": {"message": problem.message, "code": 500}})
            return stream.response
        usage = {"prompt_tokens": done.usage.input_tokens, "completion_tokens": done.usage.output_tokens}
        await stream.send({"choices": [], "usage": usage})
        await stream.response.write(b"data: [DONE]\n\n")
        return stream.response

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.core.info().models]})

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.heard.append(request.path)
        said = request.headers.get("Authorization", "")
        if self.key is not None and said != f"Bearer {self.key}":
            message = f"Incorrect API key provided: {said.removeprefix('Bearer ')}. You can find your key in your account."
            return web.json_response({"error": {"message": message, "code": "invalid_api_key"}}, status=401)
        return await handler(request)


class Stream:
    def __init__(self, request: web.Request, chat: bool) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._request = request
        self._chat = chat

    async def tell(self, delta: Delta) -> None:
        said: dict[str, Any] = {"delta": {"content": delta.text}} if self._chat else {"text": delta.text}
        if delta.tool_calls:
            said["delta"]["tool_calls"] = [
                {"index": one.index, "id": one.id, "function": {"name": one.name, "arguments": one.arguments}}
                for one in delta.tool_calls
            ]
        await self.send({"choices": [{"index": delta.index, **said, "finish_reason": delta.finish}]})

    async def send(self, event: dict[str, Any]) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await self.response.write(b"data: " + msgspec.json.encode(event) + b"\n\n")


def generate_of(body: dict[str, Any]) -> Generate:
    same = ("max_tokens", "temperature", "top_p", "seed", "n", "prompt")
    return Generate(
        messages=tuple(Message(one["role"], one["content"]) for one in body.get("messages", ())),
        stop=tuple(body.get("stop", ())),
        tools=tuple(ToolSpec(one["function"]["name"]) for one in body.get("tools", ())),
        **{name: body[name] for name in same if name in body},
    )


@asynccontextmanager
async def chat_server(core: ScriptedCore, key: str | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[ChatServer]:
    server = ChatServer(core, key=key)
    await core.start(lambda _: None)
    app = web.Application(middlewares=[server.check])
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_post("/v1/completions", server.chat)
    app.router.add_get("/v1/models", server.models)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.base_url = f"{'https' if tls else 'http'}://{host}:{port}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
