"""The `codex` command over Responses, as a person would set it up: by its configuration file."""

import json
import os
import subprocess
from pathlib import Path

from harness import MODEL, QUESTION, SLOW, SUM, play

CODEX = Path(os.environ["CLIENT"], "node_modules/.bin/codex")
CONFIG = f"""
model = "{MODEL}"
model_provider = "aios"
[model_providers.aios]
name = "AIOS"
base_url = "{os.environ["OPENAI_BASE_URL"]}"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
[analytics]
enabled = false
"""
Path.home().joinpath(".codex").mkdir()
Path.home().joinpath(".codex/config.toml").write_text(CONFIG)


def ask(text):
    command = [CODEX, "exec", "--json", "--skip-git-repo-check", "--sandbox", "danger-full-access", text]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=Path.home(), timeout=80)
    items = [json.loads(line).get("item", {}) for line in done.stdout.splitlines() if line.startswith("{")]
    said = [item["text"] for item in items if item.get("type") == "agent_message"]
    if not said:
        raise RuntimeError(f"exit {done.returncode}: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    return said[-1]


play(
    hello=lambda: ask(QUESTION),
    tools=lambda: ask(SUM),
    wait_streaming=lambda: ask(SLOW),
    cut=lambda: ask(QUESTION),
    twice=lambda: [ask(QUESTION), ask(QUESTION)],
)
