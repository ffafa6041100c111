"""The model files that people have added: in the kernel's home, each with a record of what it is and where it came from."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from aios.abi.errors import Conflict, Invalid, NotFound, Unavailable
from aios.abi.wire import nearest
from aios.drivers.core.local.models import EMBEDDED
from aios.drivers.store.document import FileDocument

FOLDER = "models"
EMBEDDED_CHOICE = "embedded"
RESERVED = (EMBEDDED_CHOICE, EMBEDDED.name, "default")
MOST_NAME = 100


class Added(msgspec.Struct, frozen=True):
    """A model file. `source`: a path, a repository or an address. `architecture`: as the file says. `added_ns`: UTC."""

    name: str
    size_bytes: int
    sha256: str
    source: str
    architecture: str
    added_ns: int


class _Record(msgspec.Struct, frozen=True):
    models: dict[str, Added] = {}
    chosen: str | None = None


_records = msgspec.json.Decoder(_Record)


class Shelf:
    """The added models of a kernel's home. Raises `Unavailable` where its record cannot be read or written."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER
        self._document = FileDocument(self.folder / "models.json")

    def list(self) -> tuple[Added, ...]:
        """All of them, by name."""
        return tuple(sorted(self._record().models.values(), key=lambda added: added.name))

    def chosen(self) -> Added | None:
        """The one that is to be the local model; None: the embedded one."""
        record = self._record()
        return record.models.get(record.chosen) if record.chosen else None

    def path(self, name: str) -> Path:
        """Where the file of that model is."""
        return self.folder / f"{name}.gguf"

    @contextmanager
    def adding(self, name: str) -> Iterator[Path]:
        """The path at which a model's file is put together; what an earlier try left is still there.

        Nobody else adds a model of that name meanwhile. Raises `Conflict` if there is one, or somebody adds it now.
        """
        part = self.folder / f"{name}.gguf.part"
        lock = self._locked_file(f"{name}.lock", wait=False)
        if lock is None:
            raise Conflict(f"`{name}` is being added by another `aios models add`: wait for that one")
        try:
            if name in self._record().models:
                raise Conflict(f"there is a model `{name}` already: `aios models rm {name}`, or give this one a --name")
            yield part
        finally:
            (self.folder / f"{name}.lock").unlink()
            os.close(lock)

    def keep(self, added: Added, part: Path) -> None:
        """Give a file that is whole its name, and record it; both are on the disk then."""
        with self._changing() as record:
            _sync(part)
            part.replace(self.path(added.name))
            _sync(self.folder)
            self._save(_Record({**record.models, added.name: added}, record.chosen))

    def choose(self, name: str | None) -> None:
        """Make it the local model; None: the embedded one. Raises `NotFound`."""
        with self._changing() as record:
            if name is not None:
                self._found(record, name)
            self._save(_Record(record.models, name))

    def removable(self, name: str) -> Added:
        """The one with that name. Raises `NotFound`, and `Conflict` for the one that is chosen."""
        return self._removable(self._record(), name)

    def remove(self, name: str) -> None:
        """Delete a model and its record. Raises as `removable` does."""
        with self._changing() as record:
            self._removable(record, name)
            self._save(_Record({key: added for key, added in record.models.items() if key != name}, record.chosen))
            self.path(name).unlink(missing_ok=True)

    def _record(self) -> _Record:
        content = self._document.load()
        try:
            return _records.decode(content) if content is not None else _Record()
        except msgspec.DecodeError as error:
            where = self.folder / "models.json"
            raise Unavailable(f"the record {where} is damaged ({error}): move it away, and add the models again") from None

    def _save(self, record: _Record) -> None:
        self._document.save(msgspec.json.format(msgspec.json.encode(record)))

    def _removable(self, record: _Record, name: str) -> Added:
        if record.chosen == name:
            raise Conflict(f"`{name}` is the local model: `aios models use {EMBEDDED_CHOICE}`, or another, first")
        return self._found(record, name)

    @staticmethod
    def _found(record: _Record, name: str) -> Added:
        if name not in record.models:
            raise NotFound(f"there is no added model `{name}`: `aios models ls` lists them{nearest(name, record.models)}")
        return record.models[name]

    @contextmanager
    def _changing(self) -> Iterator[_Record]:
        """The record, which nobody else changes meanwhile."""
        lock = self._locked_file("lock", wait=True)
        assert lock is not None
        try:
            yield self._record()
        finally:
            os.close(lock)

    def _locked_file(self, name: str, *, wait: bool) -> int | None:
        """The descriptor of a file that is ours alone until it is closed; None if another has it and we do not wait."""
        path = self.folder / name
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            while True:
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    return None
                if path.exists() and path.stat().st_ino == os.fstat(lock).st_ino:
                    return lock
                os.close(lock)  # its holder removed it between our two steps
        except OSError as error:
            raise Unavailable(f"{path} cannot be used: {error.strerror}") from None


def name_of(text: str) -> str:
    """A name for a model from that of a file: without what a path or a terminal could read as more than a letter."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text.removesuffix(".gguf")).strip(".-_")[:MOST_NAME]
    return name or "model"


def check_name(name: str) -> str:
    """The name. Raises `Invalid` if no added model may have it."""
    if name != name_of(name) or name in RESERVED:
        raise Invalid(f"`{name}` cannot be the name of a model: take letters, digits, `.`, `-` and `_`, and none of {RESERVED}")
    return name


def _sync(path: Path) -> None:
    """Have it on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
