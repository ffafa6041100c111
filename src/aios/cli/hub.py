"""A hub of models: which address the file of a repository has. The hub itself is named by `$HF_ENDPOINT` and nowhere else."""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass

import msgspec

from aios.abi.errors import NotFound
from aios.cli.command import UNVERIFIED, WRONG_USAGE, Said
from aios.cli.download import check_address, fetched_text
from aios.cli.show import one_line

MOST_LIST_BYTES = 16 << 20
REPOSITORY = re.compile(r"(?P<id>\w[\w.-]{0,95}/\w[\w.-]{0,95})(?::(?P<file>.+))?", re.ASCII)
MOST_TOLD = 8
"""File names in an error."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file elsewhere. `called`: how its place is named for people."""

    url: str
    file: str
    called: str


class _Sibling(msgspec.Struct):
    rfilename: str


class _Repository(msgspec.Struct):
    siblings: list[_Sibling] = []


def remote(source: str) -> Remote:
    """The file that an address or a repository with or without a file name means. Raises `Said`, `NotFound`, `Unavailable`."""
    if "://" in source:
        parts = urllib.parse.urlsplit(check_address(source))
        called = parts._replace(query="", fragment="").geturl()  # what stands behind the path may be a key
        return Remote(source, urllib.parse.unquote(parts.path).rpartition("/")[2], called)
    found = REPOSITORY.fullmatch(source)
    if found is None:
        said = f"{one_line(source[:200])} is no file here, no https address and no repository such as `owner/name:file.gguf`"
        raise Said(said, WRONG_USAGE)
    hub, repository = hub_address(), found["id"]
    file = found["file"] or only_file(hub, repository)
    if not file.isprintable() or any(part in ("", ".", "..") for part in file.split("/")):
        raise Said(f"{one_line(file[:200])} is no name of a file in a repository", WRONG_USAGE)
    return Remote(f"{hub}/{repository}/resolve/main/{urllib.parse.quote(file)}", file.rpartition("/")[2], f"{repository}:{file}")


def hub_address() -> str:
    """The hub's address. Raises `Said`."""
    address = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if not address:
        said = "a repository needs a hub: set HF_ENDPOINT to its https address, or name a path or the file's https address"
        raise Said(said, WRONG_USAGE)
    return check_address(address)


def only_file(hub: str, repository: str) -> str:
    """The one GGUF file of a repository. Raises `NotFound` if it has none, `Said` if it has several."""
    url = f"{hub}/api/models/{repository}"
    try:
        siblings = msgspec.json.decode(fetched_text(url, MOST_LIST_BYTES), type=_Repository).siblings
    except msgspec.DecodeError:
        raise Said(f"{url} does not answer as a model hub does: see what HF_ENDPOINT is", UNVERIFIED) from None
    files = sorted(sibling.rfilename for sibling in siblings if sibling.rfilename.endswith(".gguf"))
    if not files:
        raise NotFound(f"`{repository}` has no GGUF file: name another repository")
    if len(files) > 1:
        some = ", ".join(f"`{repository}:{one_line(file)}`" for file in files[:MOST_TOLD])
        raise Said(
            f"`{repository}` has {len(files)} GGUF files: name one of {some}{', …' if len(files) > MOST_TOLD else ''}",
            WRONG_USAGE,
        )
    return files[0]
