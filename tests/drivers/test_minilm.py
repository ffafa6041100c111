"""The embedding model in numpy says what the reference says: piece by piece, and number by number."""

import json
from pathlib import Path

import numpy as np
import pytest

from aios.drivers.embed.driver import WEIGHTS, WINDOW, find
from aios.drivers.embed.minilm import MiniLM, read_tensors
from aios.drivers.embed.wordpiece import WordPiece

KNOWN = json.loads(Path(__file__).with_name("wordpiece.json").read_text())
"""Texts and their pieces, as the library `tokenizers` 0.23 cuts them with the model's own `tokenizer.json`."""
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")


@pytest.fixture(scope="module")
def tokenize() -> WordPiece:
    return WordPiece(find() / "vocab.txt")


@pytest.fixture(scope="module")
def model() -> MiniLM:
    return MiniLM(find() / WEIGHTS)


@pytest.mark.parametrize(("text", "pieces"), KNOWN, ids=range(len(KNOWN)))
def test_a_text_is_cut_into_the_pieces_of_the_reference(tokenize: WordPiece, text: str, pieces: list[int]) -> None:
    assert tokenize(text, 10_000) == (pieces, False)


def test_a_long_text_is_cut_off_and_that_is_said(tokenize: WordPiece) -> None:
    begin, end = tokenize("", 2)[0]
    whole = tokenize("a b c d e", 100)[0]
    assert tokenize("a b c d e", 7) == (whole, False)
    assert tokenize("a b c d e", 6) == ([*whole[:5], end], True)
    assert tokenize("word " * 10**6, WINDOW)[0][0] == begin


def test_similarities_and_distances_are_those_that_its_authors_print(tokenize: WordPiece, model: MiniLM) -> None:
    vectors = model([tokenize(text, WINDOW)[0] for text in SENTENCES])
    likeness = vectors @ vectors.T
    assert np.allclose(likeness, [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]], atol=5e-5)
    distances = np.abs(vectors[0] - vectors).sum(axis=1)  # over all the numbers: a wrong one would show
    assert np.allclose(distances, [0, 12.6269, 20.2167], atol=5e-5)


def test_a_vector_hardly_depends_on_what_stands_beside_it(tokenize: WordPiece, model: MiniLM) -> None:
    texts = [tokenize(text, WINDOW)[0] for text in (*SENTENCES, "word " * 300, "x")]
    together = model(texts)
    assert np.abs(together - np.concatenate([model([text]) for text in texts])).max() < 1e-6
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"\x05\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError):
        read_tensors(tmp_path / "short")
