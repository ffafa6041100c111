"""Which sequence of the engine holds whose tokens, and what of that another call can go on from instead of reading it itself.

A slot keeps what was read in it when its call has ended. What must give way to another call goes into a store in memory, which
forgets first what was used longest ago. Whoever comes finds the longest common beginning among all slots and all that is
stored. A call that is frozen only leaves its slot: it goes on like one that finds its own beginning, and reads it again if it
was forgotten meanwhile.

Nobody finds what another tenant's calls have left, except for the texts that the operator has made public: how fast an
answer comes would tell who else has asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Protocol

from aios.drivers.core.local.engine import Engine

BLOCK = 64
"""Tokens that are compared at once, and the fewest that are worth a place in the store."""

LEAST = 8
"""Tokens that are worth copying a sequence for, or waiting for: copying takes about as long as reading one."""


class Content(Protocol):
    """What is in a slot: tokens of a tenant's, of which so many have been read."""

    @property
    def tenant(self) -> str: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def read(self) -> int: ...


@dataclass(slots=True, eq=False)
class Left:
    """What a call has left behind. `data`: the engine's, where it is in the store."""

    tenant: str
    tokens: list[int]
    data: bytearray = field(default_factory=bytearray)

    @property
    def read(self) -> int:
        return len(self.tokens)


class Slots:
    """The engine's sequences. `store_bytes`: for what had to give way. `public`: beginnings that all tenants may share.

    `share` false: every call reads everything itself.
    """

    def __init__(
        self, engine: Engine, count: int, store_bytes: int, public: Iterable[list[int]] = (), share: bool = True
    ) -> None:
        self._engine = engine
        self._contents: list[Content | None] = [None] * count
        self._free = list(range(count))
        self._store = Store(store_bytes)
        self._public = list(public)
        self._share = share
        self._copying: set[int] = set()
        self._copied: set[int] = set()
        """The slots that the engine fills when the next pass begins, and those that it fills them from."""

    def __bool__(self) -> bool:
        """Whether one is free."""
        return bool(self._free)

    def take(self, content: Content) -> tuple[int, int]:
        """A free slot for a call, and how many of its tokens are read there already."""
        slot = heappop(self._free)  # the lowest: the engine cuts a pass where slots do not follow each other
        before = self._contents[slot]
        here = self.common(content, before, before.read) if before is not None and slot not in self._copying else 0
        if before is not None and before.read - here >= BLOCK and slot not in self._copying:
            self._keep(slot, before)
        self._contents[slot] = content
        return slot, self.fill(slot, content, here)

    def fill(self, slot: int, content: Content, here: int = 0) -> int:
        """Let a call's slot begin with the most that is read anywhere, `here` being what is read there; how many tokens."""
        loadable = slot not in self._copying | self._copied  # loading is done at once, copying later
        others = [(self.common(content, left, left.read), left) for left in self._store.all() if loadable]
        most, stored = max(others, key=lambda found: found[0], default=(0, None))
        near, source = max(((count, at) for at, count in self._elsewhere(slot, content)), default=(0, -1))
        if here >= max(most, near):
            self._engine.trim(slot, here) if here else self._engine.forget(slot)
            return here
        if near >= most:
            self._engine.copy(source, slot, near)
            self._copying.add(slot)
            self._copied.add(source)
            return near
        assert stored is not None
        self._store.use(stored)
        self._engine.load(slot, stored.data)
        self._engine.trim(slot, most)
        return most

    def give_back(self, slot: int) -> None:
        """Its call has ended, or is frozen; what was read stays for others, until the slot is needed."""
        content = self._contents[slot]
        assert content is not None
        self._contents[slot] = Left(content.tenant, content.tokens[: content.read])
        heappush(self._free, slot)

    def passed(self) -> None:
        """A pass has run."""
        self._copying.clear()
        self._copied.clear()

    def common(self, content: Content, other: Content, read: int) -> int:
        """Tokens that a call need not read where so many of another's have been. Never all: the last one's logits are wanted."""
        most = min(len(content.tokens) - 1, read)
        if not self._share or most < 1:
            return 0
        if content.tenant != other.tenant:
            most = min(most, max((equal(content.tokens, text, len(text)) for text in self._public), default=0))
        count = equal(content.tokens, other.tokens, most)
        return count if count >= min(LEAST, most) else 0

    def _elsewhere(self, slot: int, content: Content) -> Iterable[tuple[int, int]]:
        """The other slots, and how much of a call each holds."""
        for at, other in enumerate(self._contents):
            if other is not None and at != slot and at not in self._copying:
                count = self.common(content, other, other.read)
                if count:
                    yield at, count

    def _keep(self, slot: int, content: Content) -> None:
        """Store what has to give way, unless it is found elsewhere too."""
        read = content.tokens[: content.read]
        held = (other for at, other in enumerate(self._contents) if other is not None and at != slot)
        if not any(
            other.tenant == content.tenant and other.read >= len(read) and other.tokens[: len(read)] == read
            for other in (*held, *self._store.all())
        ):
            self._store.add(Left(content.tenant, read, self._engine.save(slot)))


class Store:
    """What had to leave its slot, the least recently used first.

    Where there is no room, the tenant that has the most in it gives way, so that nobody empties it for the others.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._left: dict[Left, None] = {}
        self._bytes = 0

    def all(self) -> Iterable[Left]:
        return tuple(self._left)

    def add(self, left: Left) -> None:
        """Take it in, for what the greatest tenant used longest ago, and instead of what it begins with."""
        for other in self.all():
            if other.tenant == left.tenant and left.tokens[: other.read] == other.tokens:
                self._drop(other)
        self._left[left] = None
        self._bytes += len(left.data)
        while self._bytes > self._most_bytes:
            greatest = max(self._sizes().items(), key=lambda found: found[1])[0]
            self._drop(next(other for other in self._left if other.tenant == greatest))

    def use(self, left: Left) -> None:
        """It is wanted: forget it last."""
        del self._left[left]
        self._left[left] = None

    def _sizes(self) -> dict[str, int]:
        """Bytes by tenant."""
        sizes: dict[str, int] = {}
        for left in self._left:
            sizes[left.tenant] = sizes.get(left.tenant, 0) + len(left.data)
        return sizes

    def _drop(self, left: Left) -> None:
        del self._left[left]
        self._bytes -= len(left.data)


def equal(tokens: list[int], others: list[int], most: int) -> int:
    """How many of the first `most` are equal."""
    most = min(most, len(tokens), len(others))
    for start in range(0, most, BLOCK):
        end = min(start + BLOCK, most)
        if tokens[start:end] != others[start:end]:
            return next(at for at in range(start, end) if tokens[at] != others[at])
    return most
