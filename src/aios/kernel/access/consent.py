"""Acceptance of manifests: a person reads once what an agent asks for; kept by the manifest's hash."""

from __future__ import annotations

import msgspec

from aios.abi.errors import NeedsApproval, Unavailable
from aios.abi.manifest import Manifest
from aios.ports.clock import Clock
from aios.ports.store import Document


class _Accepted(msgspec.Struct, frozen=True):
    hash: str
    agent: str
    grants: tuple[str, ...]
    at_ns: int


_decoder = msgspec.json.Decoder(list[_Accepted])


class Consents:
    """The manifests that a person has accepted."""

    def __init__(self, document: Document, clock: Clock) -> None:
        self._document = document
        self._clock = clock
        self._accepted: dict[str, _Accepted] = {}
        content = document.load()
        if content is not None:
            try:
                self._accepted = {accepted.hash: accepted for accepted in _decoder.decode(content)}
            except msgspec.DecodeError as error:
                raise Unavailable(f"the file of accepted manifests is damaged ({error}): move it away") from None

    def check(self, manifest: Manifest, accepted: str | None) -> None:
        """Pass what was accepted before, and keep what is accepted now. Raises `NeedsApproval` with what is asked for."""
        hash = manifest.hash()
        if hash in self._accepted:
            return
        if accepted != hash:
            asks = ", ".join(f"`{grant}`" for grant in manifest.grants) or "nothing"
            raise NeedsApproval(
                f"`{manifest.agent}` asks for {asks}, class {manifest.cls}: send `accepted` with the manifest's hash {hash}"
            )
        line = _Accepted(hash, manifest.agent, manifest.grants, self._clock.now_ns())
        self._document.save(msgspec.json.format(msgspec.json.encode([*self._accepted.values(), line])))
        self._accepted[hash] = line
