"""What the agents in a file ask for, told as JSON by a process of its own: `python -m aios.sdk.manifests --fd N FILE`.

Importing a file runs its code, so whoever starts this confines it as a host, and takes what it answers for a claim.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from aios.sdk.agent import Agent
from aios.sdk.program import failure, load


def main(arguments: list[str]) -> None:
    """Write the manifests of the file's own agents to N; if it does not load, the reason to stderr, as the last line."""
    option, fd, program = arguments
    assert option == "--fd"
    os.set_inheritable(int(fd), False)
    file = Path(program).resolve()
    sys.excepthook = lambda kind, error, trace: print(failure(error).message.replace("\n", " "), file=sys.stderr)
    manifests = [value.manifest() for value in vars(load(file)).values() if isinstance(value, Agent)]
    with open(int(fd), "wb") as answer:
        answer.write(msgspec.json.encode([manifest for manifest in manifests if manifest.program == str(file)]))


if __name__ == "__main__":
    main(sys.argv[1:])
