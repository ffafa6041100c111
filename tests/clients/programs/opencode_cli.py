"""The `opencode` command over chat completions, as a person would set it up: by its configuration file."""

import json
import os
import subprocess
from pathlib import Path

from harness import MODEL, QUESTION, SLOW, SUM, play

OPENCODE = Path(os.environ["CLIENT"], "node_modules/opencode-linux-x64/bin/opencode")
CONFIG = {
    "model": f"aios/{MODEL}",
    "small_model": f"aios/{MODEL}",
    "autoupdate": False,
    "share": "disabled",
    "permission": {"bash": "allow"},
    "provider": {
        "aios": {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": os.environ["OPENAI_BASE_URL"], "apiKey": os.environ["OPENAI_API_KEY"]},
            "models": {MODEL: {"name": "AIOS", "tool_call": True, "limit": {"context": 64000, "output": 1000}}},
        }
    },
}
work = Path.home() / "work"
work.mkdir()
(work / "opencode.json").write_text(json.dumps(CONFIG))


def ask(text):
    command = [OPENCODE, "run", "--pure", "--title", "t", "--format", "json", text]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=work, timeout=80)
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    said = [event["part"]["text"] for event in events if event.get("type") == "text"]
    if not said:
        raise RuntimeError(f"exit {done.returncode}: {done.stdout[-1000:]} {done.stderr[-1000:]}")
    return said[-1].strip()


play(
    hello=lambda: ask(QUESTION),
    tools=lambda: ask(SUM),
    wait_streaming=lambda: ask(SLOW),
    cut=lambda: ask(QUESTION),
    twice=lambda: [ask(QUESTION), ask(QUESTION)],
)
