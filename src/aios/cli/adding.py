"""How a model file comes into the kernel's home: put together under another name, hashed, tried, and only then kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

from aios.abi.errors import NotFound, Unavailable
from aios.cli.command import FAILED, UNVERIFIED, WRONG_USAGE, Said
from aios.cli.download import Download, Told, private
from aios.cli.hub import remote
from aios.cli.progress import Progress
from aios.cli.show import one_line, say, size
from aios.drivers.core.local.examine import examine
from aios.drivers.core.local.gguf import Flaw
from aios.drivers.core.local.shelf import Added, Shelf, check_name, name_of

MOST_BYTES = 1 << 40
SPARE_BYTES = 500_000_000
"""What must be left on the disk."""

PIECE_BYTES = 1 << 20

EXIT_CODES: dict[Flaw, int] = {
    "no model": WRONG_USAGE,
    "byte order": WRONG_USAGE,
    "version": WRONG_USAGE,
    "truncated": UNVERIFIED,
    "damaged": UNVERIFIED,
    "unknown": FAILED,
    "unfit": FAILED,
    "engine": Unavailable.exit_code,
}


def added_from_path(shelf: Shelf, path: Path, name: str | None, sha256: str | None) -> Added:
    """Add a file of this machine. Raises `Said` or an `AiosError`, and then nothing of it is left in the home."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}: name a GGUF file")
    name = check_name(name or name_of(path.name))
    try:
        with shelf.adding(name) as part:
            part.unlink(missing_ok=True)
            try:
                architecture = examined(path, str(path))
                found = linked_or_copied(path.resolve(), part)
                refuse_other(found, sha256, str(path))
                added = Added(name, part.stat().st_size, found, str(path), architecture, time.time_ns())
                shelf.keep(added, part)
                return added
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(f"{path} cannot be added: {error.strerror}") from None


def added_from_hub(shelf: Shelf, source: str, name: str | None, sha256: str | None) -> Added:
    """Add a file from elsewhere. Raises as `added_from_path` does.

    What came before a connection broke off, or a person did, is kept for the next try.
    """
    file = remote(source)
    name = check_name(name or name_of(file.file))

    def check(told: Told, missing: int) -> None:
        check_room(missing, shelf.folder)
        if told.sha256 is not None:
            refuse_other(told.sha256, sha256, file.called)

    try:
        with shelf.adding(name) as part:
            download = Download(file.url, part)
            told = download.run(file.called, check)
            try:
                found = read(part, told.size_bytes, None)
                refuse_other(found, sha256 or told.sha256, file.called)
                added = Added(name, told.size_bytes, found, file.called, examined(part, file.called), time.time_ns())
            except Said as said:
                if said.exit_code != EXIT_CODES["engine"]:
                    download.discard()
                raise
            shelf.keep(added, part)
            download.discard()
    except OSError as error:
        raise Unavailable(f"{file.called} cannot be added: {error.strerror}") from None
    if sha256 is None and told.sha256 is None:
        say("nobody states a SHA-256 for it: compare the one below with one that you trust")
    return added


def examined(path: Path, called: str) -> str:
    """The architecture of a model file. Raises `Said` if it has a flaw."""
    verdict = examine(path)
    if verdict.flaw is None:
        return verdict.architecture
    raise Said(one_line(f"{called} {verdict.said}"), EXIT_CODES[verdict.flaw])


def linked_or_copied(path: Path, part: Path) -> str:
    """Let `part` be the same file, or else a copy of it; its SHA-256. Raises `Said`, `Unavailable`."""
    total = path.stat().st_size
    try:
        os.link(path, part)
    except OSError:  # another disk, or another's file
        check_room(total, part.parent)
        return read(path, total, part)
    return read(path, total, None)


def read(path: Path, total: int, copy: Path | None) -> str:
    """Read a file, and with `copy` write it there; its SHA-256."""
    digest = hashlib.sha256()
    opened = open(copy, "xb", opener=private) if copy else None
    with path.open("rb") as file, opened or open(os.devnull, "wb") as output:
        with Progress(f"{'copying' if copy else 'reading'} {path.name.removesuffix('.part')}", total) as progress:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                output.write(piece)
                progress.advance(len(piece))
    return digest.hexdigest()


def check_room(wanted: int, folder: Path) -> None:
    """Raises `Said` for what is no model any more, `Unavailable` where the disk has no room for it."""
    if wanted > MOST_BYTES:
        said = f"a model of {size(wanted)} is more than the {size(MOST_BYTES)} that one may have: name a smaller one"
        raise Said(said, WRONG_USAGE)
    free = shutil.disk_usage(folder).free
    if free < wanted + SPARE_BYTES:
        needed = f"{size(wanted)} are to come and {size(free)} are free"
        raise Unavailable(f"{needed} at {folder}: make room (and leave {size(SPARE_BYTES)}), or set AIOS_HOME to another disk")


def refuse_other(found: str, wanted: str | None, called: str) -> None:
    """Raises `Said` if a SHA-256 was named and this is another."""
    if wanted not in (None, found):
        raise Said(f"{called} is not what it should be: its SHA-256 is {found}, not {wanted}", UNVERIFIED)
