"""Recorded requests to real services, read from a folder that is no part of the project."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks.rig.child import Failed

DATA = Path("data/traces")
CHAT, CODE = "azure2023_conv.csv", "azure2023_code.csv"
SOURCES = {
    CHAT: "AzureLLMInferenceTrace_conv.csv of Azure/AzurePublicDataset (CC-BY-4.0)",
    CODE: "AzureLLMInferenceTrace_code.csv of Azure/AzurePublicDataset (CC-BY-4.0)",
}


class Asked(NamedTuple):
    """One request: when, in seconds since the trace began, and tokens of its prompt and answer."""

    at_s: float
    input_tokens: int
    output_tokens: int


def azure(data: Path, name: str) -> list[Asked]:
    """A trace with the columns TIMESTAMP, ContextTokens, GeneratedTokens. Raises `Failed` where it is absent."""
    with open(found(data, name)) as lines:
        rows = [(seconds(row["TIMESTAMP"]), row) for row in csv.DictReader(lines)]
    first = rows[0][0] if rows else 0.0
    return [Asked(at - first, int(row["ContextTokens"]), max(1, int(row["GeneratedTokens"]))) for at, row in rows]


def seconds(stamp: str) -> float:
    """The traces count to 100 ns, which is finer than Python reads."""
    whole, _, fraction = stamp.partition(".")
    return datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp() + float(f"0.{fraction or 0}")


def found(data: Path, name: str) -> Path:
    """The file of that name, there or in the folder's `traces`. Raises `Failed` with how to get it."""
    file = data / name
    for place in (file, data / "traces" / name):
        if place.is_file():
            return place
    raise Failed(f"there is no `{file}`: get {SOURCES[name]}, save it under this name, and say `--data FOLDER`")
