"""What a foreign program finds around it: an environment and a home that lead it to the kernel, and nowhere else."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from aios.ports.program import Launch
from aios.server.rules import program_environment

TELEMETRY_OFF = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
}
"""Frameworks that would call home. What is not switched off by this is denied, and seen in the events."""

TEMPORARY = "tmp"
"""Below its home: some programs refuse a home that lies in the place for temporary files."""
PROXIED = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def environment_of(launch: Launch, own: str, address: str) -> Mapping[str, str]:
    """The whole environment of a program. `own`: its folder; `address`: `http://HOST:PORT` of its door."""
    trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    hints = f"x-session-id: {launch.name}\ntraceparent: {trace}"
    environment = {
        **program_environment(own),
        **TELEMETRY_OFF,
        "ANTHROPIC_API_KEY": launch.token,
        "ANTHROPIC_BASE_URL": address,
        "ANTHROPIC_CUSTOM_HEADERS": hints,
        "GEMINI_API_KEY": launch.token,
        "GOOGLE_GEMINI_BASE_URL": address,
        "OLLAMA_HOST": address,
        "OPENAI_API_BASE": f"{address}/v1",
        "OPENAI_API_KEY": launch.token,
        "OPENAI_BASE_URL": f"{address}/v1",
        "NODE_USE_ENV_PROXY": "1",
        "NO_COLOR": "1",
        "OPENAI_CUSTOM_HEADERS": hints,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": f"{own}/{TEMPORARY}",
        "TRACEPARENT": trace,
    }
    for names in (PROXIED, tuple(map(str.lower, PROXIED))):  # curl reads the small ones alone
        environment |= dict.fromkeys(names, address)
    environment["NO_PROXY"] = environment["no_proxy"] = "127.0.0.1,localhost"
    beside = os.path.dirname(launch.command[0])
    environment["PATH"] = f"{beside}:{environment.get('PATH', os.defpath)}"
    return environment


def furnish(own: str, address: str) -> None:
    """Make the folder a home: with the settings of programs that are not led by the environment alone."""
    Path(own, TEMPORARY).mkdir(mode=0o700)
    for place, text in (
        (".codex/config.toml", CODEX.format(base=f"{address}/v1")),
        (".config/opencode/opencode.json", json.dumps(opencode(f"{address}/v1"), indent=2)),
    ):
        file = Path(own, place)
        file.parent.mkdir(parents=True, mode=0o700)
        file.write_text(text)


CODEX = """\
model = "default"
model_provider = "aios"
check_for_update_on_startup = false

[model_providers.aios]
name = "aios"
base_url = "{base}"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""


def opencode(base: str) -> Mapping[str, object]:
    """The settings of `opencode`."""
    return {
        "$schema": "https://opencode.ai/config.json",
        "autoupdate": False,
        "share": "disabled",
        "model": "aios/default",
        "provider": {
            "aios": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "aios",
                "options": {"baseURL": base, "apiKey": "{env:OPENAI_API_KEY}"},
                "models": {"default": {}},
            }
        },
    }
