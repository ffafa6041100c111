"""Records what real clients send: a kernel with a scripted core that writes each body that a model door takes to a file.

    python tests/corpus/tap.py tests/corpus/messages anthropic-sdk   # prints an address and a token, and serves until it ends
    CLIENT_PYTHON tests/corpus/messages_calls.py ADDRESS TOKEN       # in an environment that has the client

Long texts (a client's own prompts) are cut.
"""

import asyncio
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "server"))

from served import running_kernel

from aios.abi.llm import ToolCall
from aios.ports.core import FEATURES, CoreCall
from aios.server.anthropic import AnthropicDoor
from aios.server.exchange import Handler, HttpRequest, Writer
from aios.server.http import HttpServer, ServerConfig
from aios.server.openai import OpenAIDoor
from aios.testing import Script, ScriptedCore

LONG = 100
"""Characters of a text that are kept whole."""


def answer(call: CoreCall) -> Script:
    """A call of the first tool where there is one, until there is a result; else something in the form that is asked for."""
    request = call.request
    if request.tools and request.tool_choice != "none" and request.messages[-1].role != "tool":
        tool = request.tools[0]
        arguments = {name: filler(schema) for name, schema in (tool.parameters.get("properties") or {}).items()}
        return Script(text="I look.", tool_calls=(ToolCall(f"call_{call.id}", tool.name, json.dumps(arguments)),))
    if request.response_format:
        return Script(text='{"city":"Paris","people":3}')
    said = request.messages[-1].content
    return Script(text=f"You said: {said if isinstance(said, str) else ' '.join(part.text for part in said)}"[:80])


def filler(schema: Mapping[str, Any]) -> Any:
    """A value of a schema's type."""
    return {"integer": 3, "number": 3.5, "boolean": False, "array": [], "object": {}}.get(schema.get("type", ""), "Paris")


def tapped(handler: Handler, folder: Path, client: str, numbers: Any) -> Handler:
    """The handler, after the request was written down."""

    async def handle(request: HttpRequest, writer: Writer) -> None:
        if request.body:
            body = json.dumps(shortened(json.loads(request.body)), ensure_ascii=False, separators=(",", ":"))
            (folder / f"{client}-{next(numbers):03}.json").write_text(body + "\n")
        await handler(request, writer)

    return handle


def shortened(value: Any) -> Any:
    """The value with its long texts cut, each with the length that it had."""
    if isinstance(value, str) and len(value) > LONG:
        return f"a text of {len(value)} characters"
    if isinstance(value, dict):
        return {name: shortened(below) for name, below in value.items()}
    return [shortened(below) for below in value] if isinstance(value, list) else value


async def main(folder: Path, client: str) -> None:
    numbers = itertools.count(1)
    core = ScriptedCore(answer, features=frozenset(FEATURES), window=1_000_000)
    async with running_kernel(core) as kernel:
        doors = (OpenAIDoor(kernel), AnthropicDoor(kernel))
        for door in doors:
            door.routes = {key: tapped(handler, folder, client, numbers) for key, handler in door.routes.items()}
        server = HttpServer(kernel, doors, ServerConfig(port=0))
        await server.start()
        print(server.url, kernel.tokens.add("recorded", ("use /llm/*",), "standard").value, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
