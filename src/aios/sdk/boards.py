"""Boards as an agent sees them: values by key, their versions, and what is new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from aios.abi.board import GetNotice, Headline, ListNotices, Notice, PutNotice, WatchBoard
from aios.abi.errors import DeadlineExceeded, NotFound
from aios.abi.request import CallOptions
from aios.ports.gate import Gate
from aios.sdk.mail import builtins, converted, waiting

PAGE = 100


class Board:
    """A board, by its name. `out`, where it is a parameter: a type that values are read as; they are JSON values otherwise."""

    def __init__(self, gate: Gate, name: str) -> None:
        self._gate = gate
        self.name = name

    def __repr__(self) -> str:
        return f"<board {self.name}>"

    async def put(
        self, key: str, value: Any, *, if_version: int | None = None, type: str | None = None, once: str | None = None
    ) -> int:
        """Put a value under a key; its version. Raises `Conflict` if another version stands there than `if_version`.

        `type`: the name of the value's type (that of a struct's class is taken by itself). `once`: a name for this call, under
        which it happens once.
        """
        if type is None:
            type = value.__class__.__name__ if isinstance(value, msgspec.Struct) else ""
        request = PutNotice(board=self.name, key=key, value=builtins(value), if_version=if_version, type=type)
        return (await self._gate.call(request, CallOptions(key=once))).version

    async def get(self, key: str, *, out: type[Any] | None = None) -> Notice | None:
        """What stands under a key; None if nothing does."""
        try:
            return _read(await self._gate.call(GetNotice(board=self.name, key=key)), out)
        except NotFound:
            return None

    async def remove(self, key: str, *, if_version: int | None = None) -> None:
        """Take down what stands under a key."""
        await self._gate.call(PutNotice(board=self.name, key=key, if_version=if_version, remove=True))

    async def list(self, pattern: str = "*") -> tuple[Headline, ...]:
        """What stands on the board, without the values, oldest version first. `pattern`: a key, or a beginning and `*`."""
        found: list[Headline] = []
        after, more = 0, True
        while more:
            page = await self._gate.call(ListNotices(board=self.name, pattern=pattern, after=after, limit=PAGE))
            found += page.notices
            after, more = page.next, page.more
        return tuple(found)

    async def watch(
        self, pattern: str = "*", *, after: int = 0, type: str = "", out: type[Any] | None = None
    ) -> AsyncGenerator[Notice, None]:
        """What stands on the board and what is put there, without an end; removals too. `after`: from this version on."""
        while True:
            page = await self._gate.call(WatchBoard(board=self.name, pattern=pattern, after=after, type=type, wait_s=None))
            for notice in page.notices:
                yield _read(notice, out)
            after = page.next

    async def wait(self, key: str, *, timeout_s: float | None = None, after: int = 0, out: type[Any] | None = None) -> Notice:
        """What stands under a key, as soon as something does, in a version above `after`. Raises `DeadlineExceeded`."""
        loop = asyncio.get_running_loop()
        until = None if timeout_s is None else loop.time() + timeout_s
        while True:  # removals count as news, and no number of them makes it longer
            wait_s, options = waiting(None if until is None else until - loop.time())
            page = await self._gate.call(WatchBoard(board=self.name, pattern=key, after=after, wait_s=wait_s), options)
            for notice in page.notices:
                if not notice.removed:
                    return _read(notice, out)
            if wait_s is not None:
                raise DeadlineExceeded(f"nothing stands on board `{self.name}` under `{key}`")
            after = page.next


def _read(notice: Notice, out: type[Any] | None) -> Notice:
    if out is None or notice.removed:
        return notice
    return msgspec.structs.replace(notice, value=converted(notice.value, out))
