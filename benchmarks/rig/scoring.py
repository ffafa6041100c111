"""How many of the committed items a model labels rightly by likelihood, and at what cost."""

from __future__ import annotations

from pathlib import Path

import msgspec

from aios.abi.llm import Score, Scores
from aios.ports.core import ScoreCall, ScoringCore
from benchmarks.rig.child import Failed
from benchmarks.rig.usage import cpu_s

ITEMS = Path(__file__).parents[1] / "items"
NOTHING = "N/A"
"""The content-free text that the labels are calibrated by (Zhao et al. 2021)."""


class Items(msgspec.Struct, frozen=True):
    """A set of items as committed. `field`: what stands before a text and before its label in the prompt."""

    about: str
    field: tuple[str, str]
    labels: tuple[str, ...]
    shots: tuple[tuple[str, str], ...]
    items: tuple[tuple[str, str], ...]

    def prompt(self, text: str) -> str:
        """The question, the shots, and the text, up to where its label follows with its space."""
        asked, answered = self.field
        shown = [f"{asked}: {shot}\n{answered}: {label}\n\n" for shot, label in self.shots]
        return f"{self.about}\n\n{''.join(shown)}{asked}: {text}\n{answered}:"


class Accuracy(msgspec.Struct, frozen=True):
    """Shares of the items, 0 to 1, and seconds of CPU time of the core's host per item, each way."""

    raw: float
    calibrated: float
    raw_cpu_s: float
    calibrated_cpu_s: float


async def topic_and_routing(core: ScoringCore) -> dict[str, Accuracy]:
    """Run both sets on a started core that lives in a process of its own."""
    return {name: await _accuracy(core, name) for name in ("topic", "routing")}


async def _accuracy(core: ScoringCore, name: str) -> Accuracy:
    items = msgspec.json.decode((ITEMS / f"{name}.json").read_bytes(), type=Items)
    raw, raw_cpu_s = await _run(core, items, None)
    calibrated, calibrated_cpu_s = await _run(core, items, items.prompt(NOTHING))
    return Accuracy(raw, calibrated, raw_cpu_s, calibrated_cpu_s)


async def _run(core: ScoringCore, items: Items, baseline: str | None) -> tuple[float, float]:
    """The share that is right, and the CPU time per item."""
    pid = core.health().pid
    if pid is None:
        raise Failed("the core has no host whose time could be taken")
    begun, right = cpu_s(pid), 0
    for number, (text, label) in enumerate(items.items):
        request = Score(prompt=items.prompt(text), labels=tuple(f" {each}" for each in items.labels), baseline=baseline)
        scores = await core.score(ScoreCall(id=f"item-{number}", model=core.info().models[0], request=request))
        right += _likeliest(scores) == f" {label}"
    return right / len(items.items), (cpu_s(pid) - begun) / len(items.items)


def _likeliest(scores: Scores) -> str:
    return max(scores.labels, key=lambda score: score.probability).label
