"""The engine's own server in a process of its own: `python -m benchmarks.rig.engine_server SLOTS WINDOW`.

Its defaults, but for the threads (one) and the sizes: what is measured beside it has the same.
"""

from __future__ import annotations

import sys

import xllamacpp  # type: ignore[import-untyped]

from aios.drivers.core.local import models
from benchmarks.rig.child import obey, run

QUIET = -1


async def serve() -> None:
    """Listen on a free port until the parent is gone."""
    slots, window = map(int, sys.argv[1:3])
    params = xllamacpp.CommonParams()
    params.model.path = str(models.find(models.EMBEDDED))
    params.n_parallel, params.n_ctx = slots, slots * window
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity = QUIET
    server = xllamacpp.Server(params)
    await obey(nothing, int(server.listening_address.rpartition(":")[2]))


async def nothing(_line: bytes) -> None:
    """It is asked over HTTP only."""


if __name__ == "__main__":
    run(serve)
