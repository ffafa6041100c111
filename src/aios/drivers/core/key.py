"""The key of a provider: it goes out in one header, and comes out nowhere else."""

from __future__ import annotations

import base64
import json
import re
import string

from aios.abi.errors import Invalid

MOST_CHARACTERS = 4096
TOLD_CHARACTERS = 8
"""So many characters of a key, in a row, are taken out of what its provider says."""
HIDDEN = "***"
MOST_TEXT = 2000
"""Characters of a text that is told on; what is beyond them is not."""

SMALL = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""Letter for letter: `lower` makes two of some."""

_in_a_header = re.compile(r"[!-~]+")


class Key:
    """What `variable` holds. Raises `Invalid`, which does not tell it, for what no header can carry."""

    __slots__ = ("_pieces", "_value", "_written", "variable")

    def __init__(self, variable: str, value: str) -> None:
        if not _in_a_header.fullmatch(value) or len(value) > MOST_CHARACTERS:
            raise Invalid(f"${variable} holds no key: it is one word of printable characters, at most {MOST_CHARACTERS}")
        self.variable = variable
        self._value = value
        size = min(TOLD_CHARACTERS, len(value))
        forms = (value, base64.b64encode(value.encode()).decode().rstrip("="))
        self._written = _as_json(value)
        self._pieces = {form[at : at + size].translate(SMALL) for form in forms for at in range(len(form) - size + 1)}

    def __repr__(self) -> str:
        return f"Key({self.variable})"

    def __reduce__(self) -> str:
        raise TypeError("a key is not copied")

    @property
    def header(self) -> str:
        """The value of `Authorization`."""
        return f"Bearer {self._value}"

    def hide(self, text: str) -> str:
        """A text without the key, or pieces of it, also where they are told in base64 or in other letters."""
        size, text = min(TOLD_CHARACTERS, len(self._value)), text[:MOST_TEXT]
        lower = text.translate(SMALL)
        told = bytearray(len(text))
        for at in range(len(lower) - size + 1):
            if lower[at : at + size] in self._pieces:
                told[at : at + size] = b"\1" * size
        return "".join(HIDDEN if found[0] else text[slice(*found[1:])] for found in _runs(told)) if any(told) else text

    def hide_in(self, data: bytes) -> bytes:
        """Lines of an answer without the key, however JSON is written of it."""
        for form in self._written:
            if form in data:
                data = data.replace(form, HIDDEN.encode())
        return data


def _as_json(value: str) -> tuple[bytes, ...]:
    """A text as encoders of JSON write it: some escape `/`, some what could be HTML."""
    plain = json.dumps(value)[1:-1]
    html = "".join(f"\\u{ord(char):04x}" if char in "<>&" else char for char in plain)
    forms = (plain, plain.replace("/", "\\/"), html, html.replace("/", "\\/"))
    return tuple(dict.fromkeys(form.encode() for form in (value, *forms)))


def _runs(flags: bytearray) -> list[tuple[int, int, int]]:
    """Stretches of equal flags: the flag, where it begins, and where it ends."""
    runs: list[tuple[int, int, int]] = []
    for at, flag in enumerate(flags):
        if runs and runs[-1][0] == flag:
            runs[-1] = (flag, runs[-1][1], at + 1)
        else:
            runs.append((flag, at, at + 1))
    return runs
