"""What the agents in a file ask for, learned without trusting the file.

Its code runs in a child that is confined as a host is, before anybody was asked, so it may reach no more than a host may: not
the operator's token, nor the person's files. All that comes back is data.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections import deque
from pathlib import Path

import msgspec

from aios.abi.errors import Failed
from aios.abi.manifest import Manifest
from aios.cli.show import one_line
from aios.drivers.sandbox.landlock import LandlockSandbox, interpreter_paths
from aios.sdk.client import home
from aios.server.rules import program_environment, program_rules

LOAD_LIMIT_S = 20.0
MAX_ANSWER_BYTES = 1 << 20

_manifests = msgspec.json.Decoder(list[Manifest])


def manifests_of(file: Path) -> list[Manifest]:
    """What the agents in a file ask for. Raises `Failed` if it does not load, or answers with something else."""
    with tempfile.TemporaryDirectory(prefix="aios-") as own:
        answer = asyncio.run(_answered(file, os.path.realpath(own)))
    try:
        claimed = _manifests.decode(answer)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Failed(f"{file} does not say what its agents ask for: {one_line(str(error))}") from None
    program = str(file.resolve())
    return [msgspec.structs.replace(manifest, program=program) for manifest in claimed]


async def _answered(file: Path, own: str) -> bytes:
    """What the child says. Raises `Failed` with the last line of its standard error."""
    said: deque[str] = deque(["it said nothing"], maxlen=1)
    ours, theirs = socket.socketpair()
    sandbox = LandlockSandbox()
    try:
        with ours:
            with theirs:
                argv = (sys.executable, "-I", "-u", "-m", "aios.sdk.manifests", "--fd", str(theirs.fileno()), str(file))
                rules = program_rules(str(file), own, str(home()), interpreter_paths())
                env, fds = program_environment(own), (theirs.fileno(),)
                child = await sandbox.start(argv, env, fds, rules, own, lambda _, line: said.append(line))
            try:
                async with asyncio.timeout(LOAD_LIMIT_S):
                    answer = await _read(ours)
                    how = await child.wait_ended()
            except TimeoutError:
                raise Failed(f"{file} does not load: it was not done within {LOAD_LIMIT_S:g} s") from None
            finally:
                child.kill()
                await child.wait_ended()
    finally:
        sandbox.close()
    if how != "exit 0":
        raise Failed(f"{file} does not load: {one_line(said[0])}" + (f" ({how})" if how != "exit 1" else ""))
    return answer


async def _read(end: socket.socket) -> bytes:
    """All that comes, up to the limit and a little."""
    end.setblocking(False)
    pieces, size = [], 0
    while size <= MAX_ANSWER_BYTES and (piece := await asyncio.get_running_loop().sock_recv(end, 1 << 16)):
        pieces.append(piece)
        size += len(piece)
    if size > MAX_ANSWER_BYTES:
        raise Failed(f"what a file's agents ask for takes more than {MAX_ANSWER_BYTES} bytes")
    return b"".join(pieces)
