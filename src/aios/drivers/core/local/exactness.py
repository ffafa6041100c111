"""Whether a generation depends on what happens around it: found by trying, on the machine at hand, before anybody relies on it.

The probe lets the loaded model read the same tokens under other circumstances and compares the raw logits bit by bit. The tokens
that it decodes are given, not chosen: what is compared is the model, and a difference shows at the first token. What is found
holds for one library, model, machine and setting, so it is remembered under all of these.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

from aios.drivers.core.local.engine import Engine, Feed
from aios.drivers.core.local.protocol import Prompt

TEXT = (
    "The committee met on a cold Tuesday morning to decide which of the three bridges had to be repaired first. Nobody agreed. "
    "The oldest of them, built of stone in 1874, carried only a few farmers and their animals, but its middle arch had begun to "
    "sink; the second was young and busy, and rust had eaten through one of its cables; the third was merely ugly."
)
LONG, SHORT, DECODED = 66, 16, 6
"""Tokens of the two prompts, the first longer than a chunk, and of what is decoded after each: ~2 s on a core of today."""

CHUNK = 17
"""Another size of chunk than anybody's setting."""

MOST_REMEMBERED = 64


class OutOfTime(Exception):
    """The probe has taken longer than it may."""


@dataclass(frozen=True, slots=True)
class Script:
    """What one sequence reads: `tokens`, of which the first `prompt` in chunks and the others one by one."""

    tokens: list[int]
    prompt: int


@dataclass(frozen=True, slots=True)
class Part:
    """A script in a slot. `pauses`: passes from which it is left out. `start`: tokens of it that are in the slot already."""

    slot: int
    script: Script
    pauses: range = range(0)
    start: int = 0


def play(engine: Engine, parts: list[Part], chunk: int, ends: float = float("inf"), keep: bool = False) -> list[list[str]]:
    """Run parts together; for each the hashes of the raw logits after its prompt and after each decoded token.

    As in service, one prompt is read in a pass and all that are through with theirs go on beside it. Raises `OutOfTime` when
    the clock reaches `ends`. `keep`: what was read stays in the slots.
    """
    read = [part.start for part in parts]
    hashes: list[list[str]] = [[] for _ in parts]
    passes = 0
    for part in parts:
        if not part.start:
            engine.forget(part.slot)
    while any(done < len(part.script.tokens) for done, part in zip(read, parts, strict=True)):
        if time.monotonic() > ends:
            raise OutOfTime
        feeds = _next_pass(parts, read, chunk, passes)
        passes += 1
        if not feeds:
            continue
        rows = iter(engine.run([feed for _, feed in feeds]))
        for at, feed in feeds:
            read[at] += len(feed.tokens)
            if feed.wants:
                hashes[at].append(blake2b(next(rows).tobytes(), digest_size=8).hexdigest())
    for part in parts:
        if not keep:
            engine.forget(part.slot)
    return hashes


def moved(engine: Engine, script: Script, at: int, slots: tuple[int, int], chunk: int, ends: float = float("inf")) -> list[str]:
    """Read so many tokens in one slot, save them, and go on in another slot that is loaded with them."""
    source, target = slots
    before = play(engine, [Part(source, Script(script.tokens[:at], min(script.prompt, at)))], chunk, ends, keep=True)[0]
    data = engine.save(source)
    engine.forget(source)
    engine.load(target, data)
    after = play(engine, [Part(target, script, start=at)], chunk, ends)[0]
    return before[at < script.prompt :] + after


def forked(engine: Engine, script: Script, at: int, slots: tuple[int, int], chunk: int, ends: float = float("inf")) -> list[str]:
    """Go on in a slot that begins with so many tokens of another, in which more was read."""
    source, target = slots
    play(engine, [Part(source, script)], chunk, ends, keep=True)
    engine.copy(source, target, at)
    rows = play(engine, [Part(target, script, start=at)], chunk, ends)[0]
    engine.forget(source)
    return [""] * max(0, at - script.prompt + 1) + rows


def _next_pass(parts: list[Part], read: list[int], chunk: int, passes: int) -> list[tuple[int, Feed]]:
    """The feeds of one pass with the numbers of their parts, in the order of the slots, as the engine wants them."""
    feeds, reading = [], False
    for at, part in enumerate(parts):
        tokens, prompt, start = part.script.tokens, part.script.prompt, read[at]
        if start >= len(tokens) or passes in part.pauses or (start < prompt and reading):
            continue
        size = min(chunk, prompt - start) if start < prompt else 1
        reading |= start < prompt
        feeds.append((at, Feed(part.slot, start, tokens[start : start + size], wants=start + size >= prompt)))
    return sorted(feeds, key=lambda each: each[1].slot)


class Proof(msgspec.Struct, frozen=True):
    """What the probe found. `failed`: the first of `ROWS` that differs; `time` if it did not get through them, `` if exact."""

    exact: bool
    failed: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Trial:
    """A model under examination. The references are what two scripts give alone, in the first slot."""

    engine: Engine
    slots: int
    chunk: int
    ends: float
    long: Script
    short: Script
    long_rows: list[str]
    short_rows: list[str]

    @classmethod
    def prepare(cls, engine: Engine, slots: int, chunk: int, ends: float) -> Trial:
        """Read both scripts alone; shorter ones where the window is small."""
        tokens = engine.tokenize(Prompt(TEXT))
        most = min(LONG, len(tokens) - DECODED, engine.window - DECODED)
        long = Script(tokens[: most + DECODED], most)
        short = Script(tokens[-min(SHORT, most) - DECODED :], min(SHORT, most))
        rows = [play(engine, [Part(0, script)], chunk, ends)[0] for script in (long, short)]
        return cls(engine, slots, chunk, ends, long, short, *rows)

    def alone(self, slot: int, script: Script, chunk: int) -> list[str]:
        """What a script gives by itself."""
        return play(self.engine, [Part(slot, script)], chunk, self.ends)[0]


def in_another_slot(trial: Trial) -> bool:
    return trial.alone(trial.slots - 1, trial.short, trial.chunk) == trial.short_rows


def in_a_batch(trial: Trial) -> bool:
    """The short one decodes while the long one is being read, and then both together; the long one comes into the first slot."""
    if trial.slots == 1:
        return True
    parts = [Part(1, trial.short), Part(0, trial.long)]
    return play(trial.engine, parts, trial.chunk, trial.ends) == [trial.short_rows, trial.long_rows]


def in_other_chunks(trial: Trial) -> bool:
    return trial.alone(0, trial.long, min(CHUNK, trial.chunk)) == trial.long_rows


def recomputed(trial: Trial) -> bool:
    """After a crash, what was decoded is read again in chunks, and decoding goes on behind it."""
    again = DECODED - 2
    return trial.alone(0, Script(trial.short.tokens, trial.short.prompt + again), trial.chunk) == trial.short_rows[again:]


def shared(trial: Trial) -> bool:
    """A prompt begins with what was read for another, and one goes on in another slot; both in the midst of a chunk."""
    if trial.slots == 1:
        return True
    slots, script = (0, trial.slots - 1), trial.short
    copied = forked(trial.engine, script, script.prompt - 5, slots, trial.chunk, trial.ends)
    swapped = moved(trial.engine, script, script.prompt + 1, slots, trial.chunk, trial.ends)
    return copied == trial.short_rows and swapped == trial.short_rows


ROWS: Mapping[str, Callable[[Trial], bool]] = {
    "slot": in_another_slot,
    "recompute": recomputed,
    "batch": in_a_batch,
    "sharing": shared,
    "chunks": in_other_chunks,
}


def probe(engine: Engine, *, slots: int, chunk: int, limit_s: float) -> Proof:
    """Try all rows, up to the first that differs. Takes ~2 s with the embedded model; `limit_s` ends it between two passes."""
    started = time.monotonic()
    failed = ""
    try:
        trial = Trial.prepare(engine, slots, chunk, started + limit_s)
        failed = next((name for name, holds in ROWS.items() if not holds(trial)), "")
    except OutOfTime:
        failed = "time"
    return Proof(not failed, failed, time.monotonic() - started)


def remembered(cache: Path, key: str) -> Proof | None:
    """What was found before under this key."""
    return _read(cache).get(key)


def remember(cache: Path, key: str, proof: Proof) -> None:
    """Keep what was found, unless there is no place for it: then it will be found again."""
    known = {**_read(cache), key: proof}
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.write_bytes(msgspec.json.encode(dict(list(known.items())[-MOST_REMEMBERED:])))
        part.replace(cache)


def _read(cache: Path) -> dict[str, Proof]:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, Proof])
    except (OSError, msgspec.DecodeError):
        return {}
