"""The beginning of a GGUF file, read without native code: whether it is one, whether all of it is there, what it says it is."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MAGIC = b"GGUF"
START_BYTES = 24
VERSIONS = (2, 3)
MOST_TENSORS, MOST_KEYS = 100_000, 100_000
MOST_NAME_BYTES = 1 << 16
MOST_TEXT_BYTES = 1 << 26
MOST_DIMENSIONS = 4

TEXT, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type; texts and arrays have none."""

WHOLE_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 7: "<?", 10: "<Q", 11: "<q"}

Flaw = Literal["no model", "byte order", "version", "truncated", "damaged", "unknown", "unfit", "engine"]
"""What may be wrong with a model file. By trying are found `unknown` and `unfit` (architectures) and `engine` (none is here)."""


class Flawed(Exception):
    """The file is no model that can be used. `said`: what it is instead, as the end of a sentence that begins with its name."""

    def __init__(self, flaw: Flaw, said: str) -> None:
        super().__init__(said)
        self.flaw: Flaw = flaw
        self.said = said


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself. `parts`: files that the model is spread over. `causal`: a token depends on those before it."""

    architecture: str
    parts: int
    causal: bool


def read_header(path: Path) -> Header:
    """Read the keys and the list of tensors. Raises `Flawed`, and `OSError` if the file cannot be read."""
    with path.open("rb") as file:
        start = file.read(START_BYTES)
        check_start(start)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header()


def check_start(start: bytes) -> None:
    """Raises `Flawed` if a file that begins with these `START_BYTES` (or is no longer) cannot be a model of ours."""
    if not start or start[:4] != MAGIC[: len(start)]:
        raise Flawed("no model", "is not a GGUF model file: name another")
    if len(start) < START_BYTES:
        raise _cut()
    version, tensors, keys = struct.unpack_from("<IQQ", start, 4)
    if version not in VERSIONS:
        if int.from_bytes(start[4:8], "big") in VERSIONS:
            raise Flawed("byte order", "is GGUF of the other byte order (big-endian): get or convert one for this machine")
        raise Flawed("version", f"is GGUF version {version}, of which AIOS knows 2 and 3: convert it, or name another")
    if not 0 < tensors <= MOST_TENSORS or not 0 < keys <= MOST_KEYS:
        raise Flawed("damaged", "has a damaged GGUF header: get the file again")


class _Reader:
    """Goes through the data from its 8th byte on."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 8

    def header(self) -> Header:
        tensors, keys = self._number("<Q"), self._number("<Q")
        found = {}
        for _ in range(keys):
            name = self._text(MOST_NAME_BYTES)
            if name in found:
                raise Flawed("damaged", f"has a damaged list of keys (`{_shown(name)}` stands there twice): get the file again")
            found[name] = self._value()
        for _ in range(tensors):
            self._tensor()
        architecture, parts = found.get(b"general.architecture"), found.get(b"split.count")
        if not isinstance(architecture, bytes) or not architecture:
            raise Flawed("damaged", "does not say of which architecture it is: get the file again")
        causal = found.get(architecture + b".attention.causal") != 0
        return Header(_shown(architecture), parts if isinstance(parts, int) else 1, causal)

    def _value(self) -> bytes | int | None:
        """A value, if it is a text or a whole number; others are passed over."""
        kind = self._number("<I")
        if kind == TEXT:
            return self._text(MOST_TEXT_BYTES)
        if kind == ARRAY:
            self._pass_array()
        elif kind in WHOLE_NUMBERS:
            return self._number(WHOLE_NUMBERS[kind])
        elif kind in SIZES:
            self._pass(SIZES[kind])
        else:
            raise Flawed("damaged", f"has a damaged list of keys (there is no type {kind}): get the file again")
        return None

    def _pass_array(self) -> None:
        kind, count = self._number("<I"), self._number("<Q")
        if kind in SIZES:
            self._pass(count * SIZES[kind])
        elif kind == TEXT:
            for _ in range(count):
                self._text(MOST_TEXT_BYTES)
        else:
            raise Flawed("damaged", f"has a damaged list of keys (there is no list of type {kind}): get the file again")

    def _tensor(self) -> None:
        self._text(MOST_NAME_BYTES)
        dimensions = self._number("<I")
        if not 0 < dimensions <= MOST_DIMENSIONS:
            raise Flawed("damaged", f"has a damaged list of tensors (one of {dimensions} dimensions): get the file again")
        self._pass(8 * dimensions + 4 + 8)

    def _text(self, most: int) -> bytes:
        size = self._number("<Q")
        if size > most:
            raise Flawed("damaged", f"has a damaged header (a text of {size} bytes): get the file again")
        start = self._at
        self._pass(size)
        return self._data[start : self._at]

    def _number(self, form: str) -> int:
        start = self._at
        self._pass(struct.calcsize(form))
        (number,) = struct.unpack_from(form, self._data, start)
        assert isinstance(number, int)
        return number

    def _pass(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise _cut()


def _cut() -> Flawed:
    return Flawed("truncated", "is truncated, its end is missing: get the file again")


def _shown(text: bytes) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:80].decode(errors="replace"))
