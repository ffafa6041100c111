"""The digest of a request: the same for the same meaning, also when a later version adds a field with a default."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import msgspec

from aios.abi.errors import Invalid
from aios.abi.request import Request

_canonical = msgspec.json.Encoder(order="sorted")


def digest(name: str, version: int, request: Request[Any]) -> bytes:
    """SHA-256 over row name, request version and the canonical body without defaults: 32 bytes.

    Raises `Invalid` for a request that holds what JSON has no word for (keys that are no text, extensions of msgpack).
    """
    try:
        body = _canonical.encode(request)
    except (TypeError, UnicodeError) as error:
        raise Invalid(f"the request holds what is no JSON value: {error}") from None
    return hashlib.sha256(_beginning(name, version) + body).digest()


@functools.lru_cache(maxsize=1000)
def _beginning(name: str, version: int) -> bytes:
    return b"%s/%d\n" % (name.encode(), version)
