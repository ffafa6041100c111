"""The index child: `python -m aios.drivers.embed.child FD`, one end of a socketpair.

It answers one question after the other, and ends when the socket does. It is confined before it begins: texts of strangers are
read here, and nothing else can be.
"""

from __future__ import annotations

import hashlib
import signal
import socket
import sys
import time
from pathlib import Path

from aios.abi.frames import encode_frame
from aios.drivers.embed.minilm import MiniLM
from aios.drivers.embed.protocol import Load, Loaded, Texts, Unfit, Vectors, reader_of_kernel
from aios.drivers.embed.wordpiece import WordPiece

READ_BYTES = 1 << 18


class Model:
    """A model that was loaded: texts in, vectors out. Raises `OSError` or `ValueError` for files that are none."""

    def __init__(self, load: Load) -> None:
        folder = Path(load.folder)
        weights = folder / load.weights
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != load.sha256:
            raise ValueError(f"{weights} is damaged: its SHA-256 is {found[:12]}…, not {load.sha256[:12]}…")
        self._window = load.window
        self._tokenize = WordPiece(folder / "vocab.txt")
        self._embed = MiniLM(weights)

    def embed(self, texts: tuple[str, ...]) -> Vectors:
        cut = [self._tokenize(text, self._window) for text in texts]
        numbers = [pieces for pieces, _ in cut]
        vectors = self._embed(numbers).astype("<f4")
        return Vectors(tuple([vector.tobytes() for vector in vectors]), sum(map(len, numbers)), sum(was for _, was in cut))


def serve(sock: socket.socket) -> None:
    """Answer until the kernel is gone."""
    model: Model | None = None
    frames = reader_of_kernel()
    while data := sock.recv(READ_BYTES):
        for question in frames.feed(data):
            if isinstance(question, Load):
                try:
                    model = Model(question)
                except (OSError, ValueError, KeyError) as problem:
                    return sock.sendall(encode_frame(Unfit(str(problem))))
                sock.sendall(encode_frame(Loaded(time.process_time())))
            elif isinstance(question, Texts) and model is not None:
                sock.sendall(encode_frame(model.embed(question.texts)))


def main() -> int:
    """Run the child; its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(socket.socket(fileno=int(sys.argv[1])))
    except ConnectionError:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
