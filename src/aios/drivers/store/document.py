"""A small file that is replaced whole: for tokens, consents, and whatever else is read at start and seldom written."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from aios.abi.errors import Unavailable

SPACE = (errno.ENOSPC, errno.EDQUOT)


class FileDocument:
    """The port `Document`: for its owner alone, and after `save` as durable as the disk makes it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> bytes | None:
        """See the port."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be read: {error.strerror}") from error
        with os.fdopen(fd, "rb") as file:
            state = os.fstat(fd)
            if state.st_mode & 0o077:
                raise Unavailable(f"others may read {self._path}: run `chmod 600 {self._path}`")
            if state.st_uid != os.geteuid():
                raise Unavailable(f"{self._path} belongs to another user: run `chown {os.geteuid()} {self._path}`")
            return file.read()

    def save(self, content: bytes) -> None:
        """See the port. The new content is on the disk under another name before it takes the old one's place."""
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            try:
                _write(part, content)
                os.replace(part, self._path)
                _sync_folder(self._path.parent)
            except OSError:
                part.unlink(missing_ok=True)
                raise
        except OSError as error:
            why = "no space is left on its disk" if error.errno in SPACE else str(error.strerror)
            raise Unavailable(f"{self._path} cannot be written: {why}") from error

    async def save_aside(self, content: bytes) -> None:
        """The same without keeping the loop waiting for the disk."""
        await asyncio.to_thread(self.save, content)


def _write(path: Path, content: bytes) -> None:
    """A new file for its owner alone; what a crash has left there gives way."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        file.write(content)
        file.flush()
        os.fsync(fd)


def _sync_folder(path: Path) -> None:
    """Make names in a folder as durable as what they name."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
