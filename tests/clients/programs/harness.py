"""What every client program is made of: it plays the scenes that it is told to, and says a line of JSON for each.

It runs in the client's own environment, so it uses the standard library alone. The scenes and what they must come to are in
`../scenes.py`; here stands what the client is asked.
"""

import asyncio
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

QUESTION = "say hello"
SUM = "what is the sum of 40 and 2?"
SLOW = "take your time"
PATIENCE_S = float(os.environ.get("PATIENCE_S", "600"))
"""The longest silence that the client puts up with."""
CHUNK_PATIENCE_S = float(os.environ.get("CHUNK_PATIENCE_S", "120"))
"""The longest time without a chunk, where a framework counts these: a comment does not count as one."""
MODEL = "default"
FOREIGN_MODEL = "gpt-4.1-mini"
"""An alias at the kernel, for frameworks that take only names they know."""


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def play(**scenes: Callable[[], Any]) -> None:
    """Play the scenes that the command line names, one after the other. A scene returns what the client's user would have."""
    with asyncio.Runner() as runner:
        for name in sys.argv[1:]:
            try:
                got = scenes[name]()
                value = runner.run(got) if inspect.isawaitable(got) else got
                line = {"scene": name, "value": value}
            except BaseException as error:  # noqa: BLE001  # the edge: whatever a framework raises is the scene's outcome
                traceback.print_exc()
                line = {"scene": name, "error": f"{type(error).__name__}: {error}"[:2000]}
            print("\n" + json.dumps(line), flush=True)
