"""Clients of a door that call again and again, each on a kept connection: the load of proofs and measurements."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import msgspec

from aios.abi.errors import Failed
from aios.cli.upstream import MODEL
from aios.drivers.core.http1 import Answer, Connections

CHAT = "/v1/chat/completions"
KEEP_S = 4.0


class Caller:
    """Somebody who speaks OpenAI's chat wire at `url` (up to the port): `who` it is, is what it says.

    `answered`: how many of its calls were. Any number of tasks may call at the same time.
    """

    def __init__(self, who: str, url: str, token: str = "") -> None:
        address = urlsplit(url)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self.who = who
        self.answered = 0
        self._connections = Connections(address.hostname or "", address.port or 80, headers, KEEP_S)
        self._body = msgspec.json.encode({"model": MODEL, "messages": [{"role": "user", "content": who}], "stream": True})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connections.close()

    async def calls(self, number: int) -> list[float]:
        """So many calls, one after the other; the seconds of each. Raises `Failed` if one is not answered."""
        return [await self._call() for _ in range(number)]

    async def _call(self) -> float:
        begun = time.perf_counter()
        try:
            answer = await self._connections.request("POST", CHAT, self._body)
            try:
                said = await whole(answer)
            finally:
                self._connections.done(answer)
        except OSError as error:
            raise Failed(f"a call of `{self.who}` broke off: {error}") from None
        if answer.status != 200 or b"[DONE]" not in said:
            raise Failed(f"a call of `{self.who}` was answered {answer.status}: {said[:300].decode(errors='replace')}")
        self.answered += 1
        return time.perf_counter() - begun


async def asked(url: str, path: str) -> bytes:
    """What stands at an address."""
    address = urlsplit(url)
    connections = Connections(address.hostname or "", address.port or 80, {}, KEEP_S)
    try:
        return await whole(await connections.request("GET", path))
    finally:
        connections.close()


async def whole(answer: Answer) -> bytes:
    """All of an answer's body."""
    said = bytearray()
    while piece := await answer.read():
        said += piece
    return bytes(said)
