"""What the agents in a file ask for, told as JSON by a process of its own: `python -m aios.cli.manifests FILE`.

Importing a file runs its code. Whatever that prints goes to stderr, and however it ends, only this process ends with it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from aios.sdk.agent import Agent
from aios.sdk.program import failure, load


def main() -> None:
    """Write the manifests of the file's own agents to stdout; if it does not load, the reason to stderr, as the last line."""
    file = Path(sys.argv[1]).resolve()
    answer = os.dup(1)
    os.dup2(2, 1)
    sys.excepthook = lambda kind, error, trace: print(failure(error).message.replace("\n", " "), file=sys.stderr)
    manifests = [value.manifest() for value in vars(load(file)).values() if isinstance(value, Agent)]
    os.write(answer, msgspec.json.encode([manifest for manifest in manifests if manifest.program == str(file)]))


if __name__ == "__main__":
    main()
