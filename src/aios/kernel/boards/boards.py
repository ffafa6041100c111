"""Boards: the newest value of each key, in the order of their versions, and those who wait for what comes next.

A version is a number of the board's, not of the key's: it says which of two values is newer, it is never used again, not even for
a key that was removed in between, and it is the cursor of those who watch.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator

import msgspec

from aios.abi.errors import Conflict, QueueFull, TooLarge
from aios.abi.label import Label

MOST_BOARDS = 1000
"""Of a tenant."""
MOST_KEYS = 4096
"""On a board: looking through all of them takes less than 1 ms."""
MOST_BOARD_BYTES = 16 * 1024 * 1024
"""On a board."""
MOST_BYTES = 64 * 1024 * 1024
"""On all boards of a tenant."""
MOST_WATCHERS = 4096
"""Of a board."""
KEPT_REMOVALS = 1000
"""Of a board: what was removed longer ago, a watcher may not hear of."""
NOTICE_BYTES = 600
"""What a notice costs beside its value, about."""

BoardId = tuple[str, str]
"""Tenant and name."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What stands under a key: its value is JSON text. Without one it says that the key was removed."""

    key: str
    version: int
    text: bytes | None
    label: Label
    writer: str
    name: str
    at_ns: int
    type: str

    @property
    def cost(self) -> int:
        return NOTICE_BYTES + len(self.key) + len(self.text or b"")


class Pattern:
    """A key, or a beginning and `*`."""

    __slots__ = ("_exact", "_prefix", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._exact = not text.endswith("*")
        self._prefix = text.removesuffix("*")

    def matches(self, key: str) -> bool:
        return key == self._prefix if self._exact else key.startswith(self._prefix)


@dataclasses.dataclass(slots=True, eq=False)
class Watcher:
    """A call that waits for a notice."""

    pattern: Pattern
    type: str
    woken: asyncio.Future[None]


class Board:
    """Entries by key, oldest version first: what is put anew goes to the end."""

    __slots__ = ("bytes", "entries", "removed", "version", "watchers")

    def __init__(self, version: int) -> None:
        self.version = version
        self.entries: dict[str, Entry] = {}
        self.removed = 0
        self.bytes = 0
        self.watchers: dict[Watcher, None] = {}

    @property
    def standing(self) -> int:
        return len(self.entries) - self.removed

    def after(self, cursor: int) -> Iterator[Entry]:
        """The entries with a larger version, oldest first; costs what it finds."""
        newer = list(itertools.takewhile(lambda entry: entry.version > cursor, reversed(self.entries.values())))
        return reversed(newer)

    def replace(self, entry: Entry, before: Entry | None) -> None:
        if before is not None:
            del self.entries[entry.key]
            self.removed -= before.text is None
        self.entries[entry.key] = entry
        self.removed += entry.text is None


class Boards:
    """The boards of all tenants. A board is there as soon as something is put on it, or somebody watches it."""

    def __init__(self) -> None:
        self._boards: dict[BoardId, Board] = {}
        self._count: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._last_version = 0

    def find(self, id: BoardId) -> Board | None:
        return self._boards.get(id)

    def put(self, id: BoardId, entry: Entry, if_version: int | None) -> int:
        """Put an entry, whose version is given here. Raises `Conflict`, `QueueFull`, `TooLarge`."""
        board = self._boards.get(id)
        before = board.entries.get(entry.key) if board is not None else None
        stands = before if before is not None and before.text is not None else None
        _check(id, entry, stands, if_version)
        if stands is None and entry.text is None:
            return before.version if before is not None else 0
        size = entry.cost - (before.cost if before is not None else 0)
        if entry.text is not None and self._bytes[id[0]] + size > MOST_BYTES:
            raise TooLarge(f"the boards of this tenant hold {self._bytes[id[0]]} of {MOST_BYTES} bytes: remove something")
        if entry.text is not None and board is not None and board.bytes + size > MOST_BOARD_BYTES:
            raise TooLarge(f"board `{id[1]}` holds {board.bytes} of {MOST_BOARD_BYTES} bytes: remove something")
        if board is None or not board.entries:
            self._make_room(id[0])
            board = self._boards.setdefault(id, Board(self._last_version))
        if stands is None and board.standing >= MOST_KEYS:
            raise TooLarge(f"board `{id[1]}` has {MOST_KEYS} keys, which is the most: remove some", field="key")
        self._count[id[0]] += not board.entries
        board.version += 1
        type = stands.type if stands is not None and entry.text is None else entry.type
        entry = msgspec.structs.replace(entry, version=board.version, type=type)
        board.replace(entry, before)
        self._book(id, board, size)
        self._forget_removals(id, board)
        _wake(board, entry)
        return entry.version

    def _make_room(self, tenant: str) -> None:
        """Make sure that there may be one more board. Raises `QueueFull`."""
        if self._count[tenant] >= MOST_BOARDS:
            self._forget_empty(tenant)
        if self._count[tenant] >= MOST_BOARDS:
            raise QueueFull(f"there are {MOST_BOARDS} boards already: use one of them", retry_after_s=60.0)

    def _book(self, id: BoardId, board: Board, size: int) -> None:
        board.bytes += size
        self._bytes[id[0]] += size

    def _forget_removals(self, id: BoardId, board: Board) -> None:
        if board.removed <= KEPT_REMOVALS:
            return
        oldest = next(entry for entry in board.entries.values() if entry.text is None)
        del board.entries[oldest.key]
        board.removed -= 1
        self._book(id, board, -oldest.cost)

    async def wait(self, id: BoardId, pattern: Pattern, type: str, timeout_s: float | None) -> None:
        """Return when something was put that matches, or the time is over. Raises `QueueFull`."""
        board = self._boards.setdefault(id, Board(self._last_version))
        if len(board.watchers) >= MOST_WATCHERS:
            raise QueueFull(f"{MOST_WATCHERS} calls watch board `{id[1]}` already", retry_after_s=10.0)
        watcher = Watcher(pattern, type, asyncio.get_running_loop().create_future())
        board.watchers[watcher] = None
        try:
            async with asyncio.timeout(timeout_s):
                await watcher.woken
        except TimeoutError:
            pass
        finally:
            board.watchers.pop(watcher, None)
            if not board.entries and not board.watchers and self._boards.get(id) is board:
                del self._boards[id]  # nothing was ever put on it

    def _forget_empty(self, tenant: str) -> None:
        """Forget the boards of a tenant that nothing stands on and nobody watches; the next of a name goes on counting."""
        for id, board in list(self._boards.items()):
            if id[0] == tenant and board.entries and not board.standing and not board.watchers:
                self._last_version = max(self._last_version, board.version)
                self._book(id, board, -board.bytes)
                self._count[tenant] -= 1
                del self._boards[id]


def _check(id: BoardId, entry: Entry, stands: Entry | None, if_version: int | None) -> None:
    version = stands.version if stands is not None else 0
    if if_version is not None and if_version != version:
        now = f"is in version {version}" if version else "does not stand there"
        raise Conflict(f"`{entry.key}` on board `{id[1]}` {now}, not in version {if_version}", field="if_version")
    if stands is not None and stands.type and entry.text is not None and entry.type != stands.type:
        kind = f"a `{entry.type}`" if entry.type else "a value without a type"
        raise Conflict(f"`{entry.key}` on board `{id[1]}` is a `{stands.type}`: {kind} does not replace it", field="type")


def _wake(board: Board, entry: Entry) -> None:
    for watcher in list(board.watchers):
        if (not watcher.type or watcher.type == entry.type) and watcher.pattern.matches(entry.key):
            del board.watchers[watcher]
            if not watcher.woken.done():
                watcher.woken.set_result(None)
