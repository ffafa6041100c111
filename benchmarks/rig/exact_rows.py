"""The exactness suite, in a process of its own: reads scripts under other circumstances, prints which logits were the same.

`python -m benchmarks.rig.exact_rows TABLE`: its argument is a `Table` as JSON, its answer a `Found`. The tests run the same.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from aios.drivers.core.local import models
from aios.drivers.core.local.engine import Engine, Profile
from aios.drivers.core.local.exactness import Part, Script, forked, moved, play
from aios.drivers.core.local.llama import Llama
from aios.drivers.core.local.protocol import Prompt
from benchmarks.rig.child import Failed

SLOTS, CHUNK = 5, 64
F16 = 1
PLACE = Path(__file__).parents[2]
"""Where the package of the benchmarks is found."""


class Table(msgspec.Struct, frozen=True):
    """What to try. `lengths`: of the prompts in tokens, at most 4; `decoded`: tokens after each."""

    rows: tuple[str, ...]
    lengths: tuple[int, ...]
    threads: int = 1
    decoded: int = 32
    kv_type: int = 8
    unified: bool = False
    flash: int = -1


class Found(msgspec.Struct, frozen=True):
    """`alone`: the hashes of each script's logits; `same`: by row, how many of how many were the same as there."""

    alone: list[list[str]]
    same: dict[str, tuple[int, int]]


Hashes = list[list[str]]


class Reading:
    """A table that is being read by another process."""

    def __init__(self, table: Table) -> None:
        program = [sys.executable, "-m", __name__, msgspec.json.encode(table).decode()]
        self._process = subprocess.Popen(program, cwd=PLACE, stdout=subprocess.PIPE)

    def wait(self) -> Found:
        """What it found. Raises `Failed` where it could not."""
        said, _ = self._process.communicate()
        if self._process.returncode:
            raise Failed(f"the exactness suite ended with exit {self._process.returncode}: what it said stands above")
        return msgspec.json.decode(said, type=Found)


def scripts(engine: Engine, table: Table) -> list[Script]:
    """One for each length; no two begin alike."""
    found = []
    for number, length in enumerate(table.lengths):
        text = " ".join(f"Entry {step * 7 + number}: ship {step % 9} brought {step * step % 97} crates." for step in range(200))
        found.append(Script(engine.tokenize(Prompt(text[number * 31 :]))[: length + table.decoded], length))
    return found


def alone(engine: Engine, them: list[Script], *, slot: int = 0, chunk: int = CHUNK) -> Hashes:
    return [play(engine, [Part(slot, script)], chunk)[0] for script in them]


def together(engine: Engine, them: list[Script]) -> Hashes:
    """All at once, in slots that are not in the order in which they come."""
    return play(engine, [Part((2 * at + 1) % SLOTS, script) for at, script in enumerate(them)], CHUNK)


def frozen(engine: Engine, them: list[Script]) -> Hashes:
    """All at once, each left out of seven passes, some of them while it is being read."""
    return play(engine, [Part(at, script, range(2 + 4 * at, 9 + 4 * at)) for at, script in enumerate(them)], CHUNK)


def read_again(engine: Engine, them: list[Script], again: int) -> Hashes:
    """As after a crash: what was decoded is read again in chunks. Only the logits behind it are seen."""
    rows = alone(engine, [Script(script.tokens, script.prompt + again) for script in them])
    return [[""] * again + seen for seen in rows]


def thawed(engine: Engine, them: list[Script]) -> Hashes:
    """Each is frozen in its answer, gives its slot to the next one, and goes on in another."""
    return [moved(engine, script, script.prompt + 2, (at % SLOTS, (at + 2) % SLOTS), CHUNK) for at, script in enumerate(them)]


def begun_by_others(engine: Engine, them: list[Script], part: int) -> Hashes:
    """Each begins with what was read for another call: so many eighths of its prompt."""
    return [forked(engine, each, each.prompt * part // 8, (at % SLOTS, (at + 1) % SLOTS), CHUNK) for at, each in enumerate(them)]


ROWS: Mapping[str, Callable[[Engine, list[Script]], Hashes]] = {
    "other slot": lambda engine, them: alone(engine, them, slot=SLOTS - 1),
    "batch": together,
    "freeze": frozen,
    "chunks of 1": lambda engine, them: alone(engine, them, chunk=1),
    "chunks of 17": lambda engine, them: alone(engine, them, chunk=17),
    "chunks of 32": lambda engine, them: alone(engine, them, chunk=32),
    "thaw": thawed,
    "fork 3/8": lambda engine, them: begun_by_others(engine, them, 3),
    "fork 8/8": lambda engine, them: begun_by_others(engine, them, 8),
    "recompute 5": lambda engine, them: read_again(engine, them, 5),
    "recompute 19": lambda engine, them: read_again(engine, them, 19),
}


def main() -> None:
    table = msgspec.json.decode(sys.argv[1], type=Table)
    engine = Engine(
        Llama(),
        models.find(models.EMBEDDED),
        slots=SLOTS,
        window=max(table.lengths) + table.decoded + 8,
        threads=table.threads,
        batch=CHUNK + SLOTS,
        profile=Profile(table.kv_type, table.unified, table.flash),
    )
    them = scripts(engine, table)
    reference = alone(engine, them)
    same = {name: count(reference, ROWS[name](engine, them)) for name in table.rows}
    sys.stdout.buffer.write(msgspec.json.encode(Found(reference, same)))


def count(reference: Hashes, hashes: Hashes) -> tuple[int, int]:
    """How many logits are the same, of those that were seen."""
    pairs = [pair for rows, others in zip(reference, hashes, strict=True) for pair in zip(rows, others, strict=True) if pair[1]]
    return sum(one == other for one, other in pairs), len(pairs)


if __name__ == "__main__":
    main()
