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
    """Somebody who calls at `url` (up to the port); any number of tasks may do so at the same time. `who` is what it says.

    `answered`: how many of its chats were. `cls`: of its calls; `max_tokens`: of an answer.
    """

    def __init__(self, who: str, url: str, token: str = "", cls: str = "", max_tokens: int | None = None) -> None:
        address = urlsplit(url)
        given = {"Content-Type": "application/json", "Authorization": token and f"Bearer {token}", "X-Aios-Class": cls}
        headers = {name: value for name, value in given.items() if value}
        self.who = who
        self.answered = 0
        self._connections = Connections(address.hostname or "", address.port or 80, headers, KEEP_S)
        most = {} if max_tokens is None else {"max_tokens": max_tokens}
        asked = {"model": MODEL, "messages": [{"role": "user", "content": who}], "stream": True, **most}
        self._chat = msgspec.json.encode(asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connections.close()

    async def chats(self, number: int) -> list[float]:
        """So many calls to what only waits, one after the other; the seconds of each. Raises `Failed` if one is not answered."""
        return [await self._one_chat() for _ in range(number)]

    async def _one_chat(self) -> float:
        begun = time.perf_counter()
        said = await self.ask("POST", CHAT, self._chat)
        if b"[DONE]" not in said:
            raise Failed(f"an answer to `{self.who}` has no end: {said[-300:].decode(errors='replace')}")
        self.answered += 1
        return time.perf_counter() - begun

    async def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Ask anything; the body of the answer. Raises `Failed` if there is none, or it says no."""
        status, said = await self.told(method, path, body)
        if status != 200:
            raise Failed(f"a call of `{self.who}` was answered {status}: {said[:300].decode(errors='replace')}")
        return said

    async def try_chat(self) -> int:
        """One call to what only waits; the status of its answer. Raises `Failed` if there is none."""
        status, said = await self.told("POST", CHAT, self._chat)
        self.answered += status == 200 and b"[DONE]" in said
        return status

    async def told(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Ask anything; the status and body of the answer. Raises `Failed` if there is none."""
        try:
            answer = await self._connections.request(method, path, body)
            try:
                said = await whole(answer)
            finally:
                self._connections.done(answer)
        except OSError as error:
            raise Failed(f"a call of `{self.who}` broke off: {error}") from None
        return answer.status, said


async def whole(answer: Answer) -> bytes:
    """All of an answer's body."""
    said = bytearray()
    while piece := await answer.read():
        said += piece
    return bytes(said)
