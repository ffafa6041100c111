"""Getting a file over HTTPS: its size before its bytes, and after an interruption the rest of it only.

What came so far lies in `part`, and beside it a note of what it is a part of. Where the other side has something else by now,
it is begun anew. A redirect may lead to another host, never to a plain connection.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from pathlib import Path
from typing import IO

import msgspec

from aios import __version__
from aios.abi.errors import AiosError, Denied, NotFound, Unavailable
from aios.cli.command import UNVERIFIED, WRONG_USAGE, Said
from aios.cli.progress import Progress
from aios.cli.show import one_line, size

TIMEOUT_S = 30.0
PIECE_BYTES = 1 << 18
BARREN_TRIES = 3
"""Connections in a row that brought nothing, after which it is given up."""

MOST_TRIES = 100
SHA256 = re.compile(r"[0-9a-f]{64}")


class Told(msgspec.Struct, frozen=True):
    """What the other side says of a file. `tag`: changes when the file does. `sha256`: None if it does not say."""

    url: str
    size_bytes: int
    tag: str
    sha256: str | None


class Broken(Exception):
    """The connection failed or ended early; why, for people."""


class Changed(Broken):
    """What is there is another file than the one that came so far."""


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects over connections as safe as the first; keeps what each answer on the way said of the file."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        fp.close()
        check_address(newurl)
        if urllib.parse.urlsplit(newurl).scheme == "http" and req.type != "http":
            said = f"{req.full_url} leads to a connection without encryption, {one_line(newurl[:200])}: take it from elsewhere"
            raise Said(said, WRONG_USAGE)
        self.note(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def note(self, headers: Message) -> None:
        """The first who says a thing of the file is believed: that is who was asked for it."""
        for key in ("X-Linked-Etag", "X-Linked-Size", "ETag"):
            if key in headers:
                self.said.setdefault(key, headers[key].removeprefix("W/").strip('"'))


def check_address(url: str) -> str:
    """The address. Raises `Said` unless it is one of HTTPS, or of this machine, and without a password in it."""
    with suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        if safe and parts.hostname and "@" not in parts.netloc and url.isascii() and url.isprintable() and " " not in url:
            return url
    shown = one_line(url.rpartition("@")[2][:200])
    raise Said(f"{shown} is no https address: only from this machine are files taken without encryption", WRONG_USAGE)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def opened(url: str, redirects: Redirects, start: int = 0) -> http.client.HTTPResponse:
    """The answer to a request for what begins at byte `start`. Raises `Broken`, and an `AiosError` for a refusal."""
    host = urllib.parse.urlsplit(check_address(url)).hostname or ""
    proxies = urllib.request.ProxyHandler({} if is_loopback(host) else None)
    headers = {"User-Agent": f"aios/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.build_opener(proxies, redirects).open(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        error.close()
        raise refusal(url, error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Broken(str(getattr(error, "reason", error)) or type(error).__name__) from None
    assert isinstance(answer, http.client.HTTPResponse)
    redirects.note(answer.headers)
    return answer


def refusal(url: str, status: int) -> AiosError | Said | Broken:
    """What an HTTP status of failure means."""
    if status in (404, 410):
        return NotFound(f"there is nothing at {url}")
    if status in (401, 403):
        return Denied(f"{url} is not for everybody ({status}): get the file yourself, then `aios models add PATH`")
    if 300 <= status < 400:
        return Said(f"{url} leads to nothing that a file could be taken from: name another", WRONG_USAGE)
    if status == 416:
        return Changed("it is another file now")
    return Unavailable(f"{url} cannot be had now (its server says {status}): try again later")


def fetched_text(url: str, most: int) -> bytes:
    """A small answer as a whole. Raises an `AiosError`."""
    try:
        with opened(url, Redirects()) as answer:
            data = answer.read(most + 1)
    except (Broken, OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{url} cannot be reached ({one_line(str(error))}): mend the connection, then try again") from None
    if len(data) > most:
        raise Said(f"{url} answers with more than {size(most)}, which is no list of files", UNVERIFIED)
    return data


class Download:
    """One file on its way from `url` into `part`, whose folder is ours alone."""

    def __init__(self, url: str, part: Path) -> None:
        self._url = check_address(url)
        self._part = part
        self._note = part.with_name(f"{part.name}.json")

    def run(self, called: str, check: Callable[[Told, int], None]) -> Told:
        """Get all of it. `check` is told what it is, and how many bytes are still to come, and raises if they shall not.

        Raises `Unavailable` where it broke off: what came by then is kept.
        """
        barren, why = 0, ""
        for _ in range(MOST_TRIES):
            before = self._have()
            try:
                return self._go_on(called, check)
            except Changed as changed:
                self.discard()
                why = str(changed)
            except Broken as broken:
                why = one_line(str(broken))
            barren = 0 if self._have() > before else barren + 1
            if barren == BARREN_TRIES:
                break
        raise Unavailable(f"{called} broke off after {size(self._have())} ({why}): the same command goes on there")

    def discard(self) -> None:
        """Forget what came."""
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _have(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _noted(self) -> Told | None:
        """What the bytes that came are a part of; None where they cannot be gone on with."""
        with suppress(OSError, msgspec.DecodeError):
            noted = msgspec.json.decode(self._note.read_bytes(), type=Told)
            return noted if noted.tag and noted.url == self._url else None
        return None

    def _go_on(self, called: str, check: Callable[[Told, int], None]) -> Told:
        """Get what is missing over one connection. Raises `Broken` where it ends before the file does."""
        noted = self._noted()
        start = max(self._have() - 1, 0) if noted else 0  # the last byte once more, or a whole file would have no answer
        redirects = Redirects()
        with opened(self._url, redirects, start) as answer:
            told, begins = told_by(self._url, answer, redirects.said)
            if begins not in (0, start) or (begins and told != noted):
                raise Changed("it is another file now")
            check(told, told.size_bytes - begins)
            self._part.touch(mode=0o600)
            with open(self._part, "r+b", opener=private) as output, Progress(called, told.size_bytes, begins) as progress:
                output.seek(begins)
                if not begins:
                    output.truncate()
                if told != noted:  # after what it is not of is gone
                    write_private(self._note, msgspec.json.encode(told))
                copy(answer, output, told.size_bytes - begins, progress)
        return told


def told_by(url: str, answer: http.client.HTTPResponse, said: dict[str, str]) -> tuple[Told, int]:
    """What an answer says of the file, and the byte that it begins at."""
    begins, total = 0, answer.headers.get("Content-Length", "")
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})", answer.headers.get("Content-Range", ""))
        if found is None:
            raise Broken("it answers with a part and does not say which")
        begins, total = int(found[1]), found[2]
    if not re.fullmatch(r"\d{1,18}", total):
        raise Said(f"{url} does not say how big the file is: get it yourself, then `aios models add PATH`", UNVERIFIED)
    if said.get("X-Linked-Size", total) != total:
        raise Said(
            f"{url} should have {one_line(said['X-Linked-Size'][:20])} bytes, and {total} are sent: try again later", UNVERIFIED
        )
    linked = said.get("X-Linked-Etag", "").lower()
    tag = said.get("X-Linked-Etag") or said.get("ETag", "")
    return Told(url, int(total), tag, linked if SHA256.fullmatch(linked) else None), begins


def copy(answer: http.client.HTTPResponse, output: IO[bytes], size_bytes: int, progress: Progress) -> None:
    """So many bytes, and no more than these. Raises `Broken` if fewer come, `OSError` where they cannot be written."""
    left = size_bytes
    while left:
        try:
            piece = answer.read(min(left, PIECE_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise Broken(str(error) or type(error).__name__) from None
        if not piece:
            raise Broken("the connection was closed")
        output.write(piece)
        progress.advance(len(piece))
        left -= len(piece)


def private(path: str, flags: int) -> int:
    """Opens a file that only its owner may read, and no link to another."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def write_private(path: Path, data: bytes) -> None:
    """Write a small file that only its owner may read; whoever is killed meanwhile leaves the one before."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb", opener=private) as file:
        file.write(data)
    part.replace(path)
