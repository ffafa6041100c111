"""What the `anthropic` library sends: one call for each of its parameters that a program may use, and some in company.

Run beside `tap.py`, in an environment that has the library; every call must succeed.
"""

import sys
from collections.abc import Callable
from typing import Any

import anthropic
import pydantic
from anthropic import beta_tool

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
FAR = {"type": "image", "source": {"type": "url", "url": "https://pictures.example/cat.png"}}
CACHED = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "Where"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "How the weather is", "input_schema": CITY}
CLOCK = {"name": "clock", "input_schema": {"type": "object", "properties": {}}}
USE = {"type": "tool_use", "id": "toolu_01A", "name": "weather", "input": {"city": "Rome"}}
OTHER_USE = {"type": "tool_use", "id": "toolu_01B", "name": "clock", "input": {}}
SEALED = {"type": "thinking", "thinking": "The user greets me.", "signature": "EqQBCgIYAhIM"}
HIDDEN = {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"}
SEARCHED = [
    {"type": "server_tool_use", "id": "srvtoolu_01", "name": "web_search", "input": {"query": "weather Rome"}},
    {
        "type": "web_search_tool_result",
        "tool_use_id": "srvtoolu_01",
        "content": [{"type": "web_search_result", "title": "Rome", "url": "https://rome.example", "encrypted_content": "Eo8"}],
    },
]
PERSON = {"type": "object", "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
          "required": ["city", "people"], "additionalProperties": False}  # fmt: skip


class Town(pydantic.BaseModel):
    city: str
    people: int


@beta_tool
def weather(city: str) -> str:
    """How the weather is.

    Args:
        city: Where.
    """
    return f"sunny in {city}"


@beta_tool
def broken(city: str) -> str:
    """A tool that raises.

    Args:
        city: Where.
    """
    raise ValueError(f"no such city: {city}")


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def result(content: Any = "sunny", use: str = "toolu_01A", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": use, "content": content, **more}


HELLO = {"role": "user", "content": "Hello, how are you?"}
TOOLS = {"tools": [WEATHER, CLOCK]}
TALKS: tuple[list[Any], ...] = (
    [HELLO],
    [user(text("Hello"))],
    [user(text("Hello"), text("there"))],
    [{"role": "user", "content": 'Ünïcödé "quoted" \\ back\nline \u2028 \U0001f600'}],
    [user(text("Long ago", **CACHED))],
    [user(text("Long ago", **HOUR), text("now"))],
    [user(IMAGE, text("What is this?"))],
    [user(text("Two of them:"), IMAGE, FAR)],
    [HELLO, {"role": "assistant", "content": "Fine."}, {"role": "user", "content": "Good."}],
    [HELLO, assistant(text("Fine."), text("And you?")), user(text("Good."))],
    [HELLO, HELLO, {"role": "user", "content": "Anybody?"}],
    [HELLO, assistant(text("Fine.")), assistant(text("And you?")), user(text("Good."))],
    [HELLO, {"role": "system", "content": "From here on answer in French."}, {"role": "user", "content": "Well?"}],
    [HELLO, assistant(SEALED, text("Fine.")), user(text("Good."))],
    [HELLO, assistant(HIDDEN, SEALED, text("Fine.")), user(text("Good."))],
    [HELLO, assistant(*SEARCHED, text("Sunny.")), user(text("Good."))],
)
RESULTS: tuple[list[Any], ...] = (
    [HELLO, assistant(USE), user(result())],
    [HELLO, assistant(text("I look."), USE), user(result([text("sunny"), text("25 degrees")]))],
    [HELLO, assistant(USE), user(result([text("a picture"), IMAGE]))],
    [HELLO, assistant(USE), user(result("no such city", is_error=True))],
    [HELLO, assistant(USE), user(result([text("no such city")], is_error=True))],
    [HELLO, assistant(USE), user({"type": "tool_result", "tool_use_id": "toolu_01A"})],
    [HELLO, assistant(USE, OTHER_USE), user(result(), result("noon", "toolu_01B"), text("And now?"))],
    [HELLO, assistant(USE, OTHER_USE), user(result("noon", "toolu_01B")), user(result())],
    [HELLO, assistant(SEALED, USE), user(result(**CACHED)), assistant(text("Sunny.")), user(text("Thanks."))],
)
SETTINGS: tuple[dict[str, Any], ...] = (
    {"system": "Be brief."},
    {"system": [text("You are a clerk.", **CACHED), text("Be brief.")]},
    {"stop_sequences": ["\n\nHuman:", "END"]},
    {"metadata": {"user_id": "13803d75-b4b5-4c3e-b2a2-6f21399b021b"}},
    {"service_tier": "standard_only"},
    {"service_tier": "auto"},
    {"max_tokens": 16_384},
    {"thinking": {"type": "adaptive"}},
    {"thinking": {"type": "adaptive", "display": "omitted"}},
    {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 4000},
    {"thinking": {"type": "disabled"}},
    {"output_config": {"effort": "low"}},
    {"output_config": {"format": {"type": "json_schema", "schema": PERSON}}},
    {"cache_control": {"type": "ephemeral"}},
    {"inference_geo": "us"},
    {**TOOLS},
    {"tools": [{**WEATHER, **CACHED, "strict": True, "input_examples": [{"city": "Rome"}]}]},
    {"tools": [{**WEATHER, "type": "custom", "eager_input_streaming": True, "defer_loading": False}]},
    {**TOOLS, "tool_choice": {"type": "auto"}},
    {**TOOLS, "tool_choice": {"type": "any"}},
    {**TOOLS, "tool_choice": {"type": "tool", "name": "clock", "disable_parallel_tool_use": True}},
    {**TOOLS, "tool_choice": {"type": "none"}},
    {"tools": [WEATHER, {"type": "web_search_20260318", "name": "web_search", "max_uses": 3}]},
    {"tools": [{"type": "code_execution_20260521", "name": "code_execution"}, {"type": "bash_20250124", "name": "bash"}]},
    {"extra_body": {"aios": {"class": "batch", "deadline_s": 30}}},
    {"extra_body": {"made_up": {"deeply": [{"nested": None}]}}, "extra_headers": {"anthropic-beta": "made-up-2030-01-01"}},
)  # fmt: skip
BETA: tuple[dict[str, Any], ...] = (
    {"betas": ["context-management-2025-06-27"], "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
    {"betas": ["mcp-client-2025-11-20"], "mcp_servers": [{"type": "url", "url": "https://mcp.example", "name": "files"}]},
    {"betas": ["message-threads-2026-10-01"], "thread": {"type": "create"}},
    {"speed": "fast", "betas": ["fast-mode-2026-02-01"]},
)


def calls(client: anthropic.Anthropic) -> list[Callable[[], Any]]:
    """All calls, each a function."""
    messages, beta = client.messages, client.beta.messages
    plain: dict[str, Any] = {"model": "default", "max_tokens": 200, "messages": [HELLO]}

    def streamed(**fields: Any) -> Any:
        with messages.stream(**{**plain, **fields}) as stream:
            return stream.get_final_message()

    found: list[Callable[[], Any]] = [lambda talk=talk: messages.create(**{**plain, "messages": talk}) for talk in TALKS]
    found += [lambda talk=talk: messages.create(**{**plain, **TOOLS, "messages": talk}) for talk in RESULTS]
    found += [lambda more=more: messages.create(**{**plain, **more}) for more in SETTINGS]
    found += [lambda more=more: streamed(**more) for more in (SETTINGS[1], SETTINGS[7], SETTINGS[15])]
    found += [lambda more=more: beta.create(**plain, **more) for more in BETA]
    found += [
        lambda: messages.create(**plain, stream=True).close(),
        lambda: messages.parse(**plain, output_format=Town),
        lambda: messages.count_tokens(model="default", messages=[HELLO], system="Be brief."),
        lambda: messages.count_tokens(model="default", messages=[user(IMAGE, text("?"))], **TOOLS, thinking={"type": "adaptive"}),
        lambda: beta.tool_runner(**plain, tools=[weather]).until_done(),
        lambda: beta.tool_runner(**plain, tools=[broken], thread=False).until_done(),
    ]
    return found


def main(address: str, token: str) -> None:
    client = anthropic.Anthropic(base_url=address, api_key=token, max_retries=0)
    for call in calls(client):
        call()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
