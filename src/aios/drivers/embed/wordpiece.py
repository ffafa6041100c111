"""BERT's tokenizer for uncased models: a text as numbers of word pieces, exactly as the reference has them.

The library for this brings a dozen megabytes and threads of its own for what is a page of Python, and it is never the slow part.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

LONGEST_WORD = 100
"""Characters; a longer word is unknown as a whole."""
CACHED = 16_384
SPECIAL = re.compile(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])")
RUN = re.compile("[^\t\n\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")
"""What stands between spaces. Spaces that are control characters are none: those are dropped."""
IDEOGRAPHS = re.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f])"
)
"""Each is a word of its own. The last but one begins where the reference has it begin, by a slip."""
DROPPED = frozenset(("Cc", "Cf", "Co"))
"""Categories of characters that say nothing."""


class WordPiece:
    """A vocabulary and how a text is cut into it. `vocabulary`: a file with one piece per line, whose number is the line's."""

    def __init__(self, vocabulary: Path) -> None:
        pieces = vocabulary.read_text(encoding="utf-8").split("\n")
        self._numbers = {piece: number for number, piece in enumerate(pieces) if piece}
        self._unknown = self._numbers["[UNK]"]
        self._cached = lru_cache(maxsize=CACHED)(self._of_run)

    def __call__(self, text: str, most: int) -> tuple[list[int], bool]:
        """The numbers of a text, at most `most` with its begin and its end; and whether the text was too long for that."""
        found = list(islice(self._of(text), most - 1))
        cut = len(found) > most - 2
        return [self._numbers["[CLS]"], *found[: most - 2], self._numbers["[SEP]"]], cut

    def _of(self, text: str) -> Iterator[int]:
        """The numbers of a text, as they are asked for: a long text is read as far as it counts."""
        for at, part in enumerate(SPECIAL.split(text)):
            if at % 2:
                yield self._numbers[part]
                continue
            for run in RUN.finditer(part):
                found = run.group()
                yield from self._cached(found) if len(found) <= LONGEST_WORD else self._of_run(found)

    def _of_run(self, run: str) -> tuple[int, ...]:
        return tuple([number for word in words(run) for number in self._of_word(word)])

    def _of_word(self, word: str) -> list[int]:
        """The longest pieces that a word is made of, from its beginning; unknown as a whole if there are none."""
        if len(word) > LONGEST_WORD:
            return [self._unknown]
        numbers: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                number = self._numbers.get(("##" if start else "") + word[start:end])
                if number is not None:
                    break
            else:
                return [self._unknown]
            numbers.append(number)
            start = end
        return numbers


def words(run: str) -> Iterator[str]:
    """The words of what stands between spaces: without accents and in small letters, each punctuation mark on its own."""
    if not run.isascii():
        run = "".join([char for char in run if char != "\ufffd" and unicodedata.category(char) not in DROPPED])
        run = unicodedata.normalize("NFD", IDEOGRAPHS.sub(r" \1 ", run))
        run = "".join([char.lower() for char in run if unicodedata.category(char) != "Mn"])  # one by one: Σ has no final form
    elif not run.isprintable():
        run = "".join(filter(str.isprintable, run))
    word = ""
    for char in run.lower() if run.isascii() else run:
        if char == " " or is_punctuation(char):
            if word:
                yield word
            if char != " ":
                yield char
            word = ""
        else:
            word += char
    if word:
        yield word


def is_punctuation(char: str) -> bool:
    """Whether a character is a word by itself: all of ASCII's marks, `$` and `+` among them, and what Unicode calls so."""
    if char.isascii():
        return not char.isalnum()
    return unicodedata.category(char).startswith("P")
