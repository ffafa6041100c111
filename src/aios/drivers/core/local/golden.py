"""What a known model says to eight fixed tokens: seen before anything is built on a library that may have been misread.

A pass goes through the structs, the batch and the logits, so a layout that is wrong in any of them gives numbers that are wrong
by whole units, on every machine. Bit by bit the numbers depend on the kernels that the library picks and on the mathematics of
the C library: hashes are recorded by kind of machine, and a difference in the last bits is never an alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from aios.drivers.core.local.engine import Engine, Feed
from aios.drivers.core.local.llama import EngineUnavailable

TOKENS = [1, 2, 3, 500, 700, 900, 1100, 1300]
TOLERANCE = 2.0
"""Of logits that lie up to 29 apart. Another type of cache, a greater change than another kernel, moves them by 0.8."""

Likeness = Literal["same", "near", "unknown"]
"""`same`: bit by bit what is recorded for this kind of machine. `near`: within the tolerance. `unknown`: nothing is recorded."""


@dataclass(frozen=True, slots=True)
class Golden:
    """The logits of some tokens after `TOKENS`, and the hash of all of them by the library's name of the machine."""

    logits: Mapping[int, float]
    hashes: Mapping[str, str] = field(default_factory=dict)


GOLDEN: Mapping[tuple[str, str], Golden] = {
    ("2026.10.11549", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"): Golden(
        logits={91: 31.26, 83: 29.39, 32550: 1.93, 12690: 3.02, 0: 21.11, 1: 12.5, 3: 11.02, 1000: 23.84, 16000: 21.53},
        hashes={
            "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | LLAMAFILE = 1 | OPENMP = 1 | "
            "REPACK = 1 | x86_64 glibc 2.36": "891bf579335c6c40",
        },
    ),
}
"""By version of the library and SHA-256 of the model file."""


def compare(engine: Engine, version: str, sha256: str, machine: str) -> Likeness:
    """Let the model read the tokens. Raises `EngineUnavailable` if what it says is not what is recorded."""
    golden = GOLDEN.get((version, sha256))
    if golden is None:
        return "unknown"
    (row,) = engine.run([Feed(0, 0, TOKENS, wants=True)])
    found = blake2b(row.tobytes(), digest_size=8).hexdigest()
    wrong = [token for token, logit in golden.logits.items() if not abs(float(row[token]) - logit) <= TOLERANCE]
    engine.forget(0)
    if wrong:
        raise EngineUnavailable(
            "the engine misreads the model or its own structs (a known question gets another answer): install it again with "
            "the version and hash of AIOS's lock file"
        )
    return "same" if golden.hashes.get(machine) == found else "near"
