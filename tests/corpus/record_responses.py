"""Record what a real client sends to the Responses door: a kernel with a scripted core, and a program that talks to it.

    python tests/corpus/record_responses.py openai-3-settings .venv/bin/python tests/corpus/programs/responses_openai.py

runs the command (of the environment that has the client) with `OPENAI_BASE_URL` and `OPENAI_API_KEY` set, and writes each body
that it posts, as it came, to `tests/corpus/responses/openai-3-settings-NN.json`; what is there already is not written twice.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "server"))

from served import running_kernel  # noqa: E402  # the folder of the tests of the doors

from aios.abi.llm import ToolCall  # noqa: E402
from aios.ports.core import FEATURES, CoreCall  # noqa: E402
from aios.server.doors import doors_to  # noqa: E402
from aios.server.exchange import HttpRequest  # noqa: E402
from aios.server.http import HttpServer, ServerConfig  # noqa: E402
from aios.testing import Script, ScriptedCore  # noqa: E402


def answer(call: CoreCall) -> Script:
    """A call of each function that is there, then JSON or words."""
    asked = call.request
    if asked.tools and asked.messages[-1].role != "tool" and asked.tool_choice != "none":
        calls = [ToolCall(f"call_{tool.name}", tool.name, json.dumps(arguments(tool.parameters))) for tool in asked.tools[:2]]
        return Script(text="let me see", tool_calls=tuple(calls), finish="tool_calls")
    if asked.response_format:
        return Script(text='{"city":"Bern","days":3}')
    return Script(text="It is sunny in Bern.", reasoning="The weather was asked for.")


def arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """Something for each parameter."""
    return {name: "Bern" if form.get("type") == "string" else 3 for name, form in schema.get("properties", {}).items()}


class Recorder(HttpServer):
    """Notes the bodies that are posted to the door."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.bodies: list[bytes] = []

    async def _body(self, request: HttpRequest, receive: Any) -> bytes:
        body = await super()._body(request, receive)
        if request.path in ("/v1/responses", "/v1/responses/input_tokens") and body and body not in self.bodies:
            self.bodies.append(body)
        return body


async def record(name: str, command: list[str]) -> None:
    async with running_kernel(ScriptedCore(answer, features=frozenset(FEATURES))) as kernel:
        server = Recorder(kernel, doors_to(kernel), ServerConfig(port=0))
        await server.start()
        token = kernel.tokens.add("recorder", ("use /llm/*",), "standard").value
        env = {**os.environ, "OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": token}
        program = await asyncio.create_subprocess_exec(*command, env=env)
        assert await program.wait() == 0
        await server.close(grace_s=1.0)
    for old in HERE.glob(f"responses/{name}-[0-9][0-9].json"):
        old.unlink()
    for number, body in enumerate(server.bodies, 1):
        (HERE / "responses" / f"{name}-{number:02}.json").write_bytes(body)
    print(f"{len(server.bodies)} bodies")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1], sys.argv[2:]))
