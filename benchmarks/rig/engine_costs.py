"""What the engine itself costs, in a process of its own: reading, generating, and putting a sequence aside and back.

Asked once, it answers with a `Costs`. One thread, the profile of the local core, CPU time.
"""

from __future__ import annotations

import time

import msgspec

from aios.drivers.core.local import models
from aios.drivers.core.local.engine import Engine
from aios.drivers.core.local.exactness import Part, Script, play
from aios.drivers.core.local.llama import Llama
from aios.drivers.core.local.protocol import Prompt
from benchmarks.rig.child import obey, run
from benchmarks.rig.report import median
from benchmarks.rig.workload import RULE

SLOTS, CHUNK = 8, 64
LENGTH, SHORT, DECODED = 1000, 64, 24
TRIES = 15


class Costs(msgspec.Struct, frozen=True):
    """Tokens per CPU-second, read and made, alone and eight at once; CPU milliseconds of saving and loading 1,000 tokens, warm,
    and of both the first time; bytes that a token takes in the cache.
    """

    prefill_per_s: float
    decode_1_per_s: float
    decode_8_per_s: float
    save_ms: float
    load_ms: float
    first_ms: float
    bytes_per_token: float


async def answer(_line: bytes) -> Costs:
    engine = Engine(Llama(), models.find(models.EMBEDDED), slots=SLOTS, window=LENGTH + DECODED, threads=1, batch=CHUNK + SLOTS)
    tokens = engine.tokenize(Prompt(RULE * (LENGTH // 40)))[:LENGTH]
    reading_s = spent_s(engine, [Part(0, Script(tokens, LENGTH))])
    save_ms, load_ms, first_ms, size = swapped(engine)
    return Costs(
        LENGTH / reading_s,
        decoding_per_s(engine, tokens, 1),
        decoding_per_s(engine, tokens, SLOTS),
        save_ms,
        load_ms,
        first_ms,
        size / LENGTH,
    )


def spent_s(engine: Engine, parts: list[Part]) -> float:
    """CPU seconds of a play."""
    begun = time.process_time()
    play(engine, parts, CHUNK, keep=True)
    return time.process_time() - begun


def decoding_per_s(engine: Engine, tokens: list[int], number: int) -> float:
    """Tokens per CPU-second when so many sequences go on together."""
    long = [Script(tokens[: SHORT + DECODED], SHORT) for _ in range(number)]
    play(engine, [Part(slot, Script(script.tokens[:SHORT], SHORT)) for slot, script in enumerate(long)], CHUNK, keep=True)
    return number * DECODED / spent_s(engine, [Part(slot, script, start=SHORT) for slot, script in enumerate(long)])


def swapped(engine: Engine) -> tuple[float, float, float, int]:
    """CPU milliseconds of saving what is in the first slot, of loading it, of both the first time, and the bytes saved."""
    saves_ms, loads_ms, size = [], [], 0
    for attempt in range(TRIES):
        begun = time.process_time()
        data = engine.save(0)
        saved = time.process_time()
        engine.load(1 + attempt % 2, data)
        saves_ms.append((saved - begun) * 1000)
        loads_ms.append((time.process_time() - saved) * 1000)
        size = len(data)
    return median(saves_ms), median(loads_ms), saves_ms[0] + loads_ms[0], size


async def child() -> None:
    await obey(answer)


if __name__ == "__main__":
    run(child)
