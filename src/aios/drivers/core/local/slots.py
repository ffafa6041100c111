"""Which sequence of the engine holds whose tokens, and what of that another call can go on from instead of reading it itself.

A slot keeps what was read in it when its call has ended. What must give way to another call goes into a store in memory, which
forgets first what was used longest ago. Whoever comes finds the longest common beginning among all slots and all that is
stored. A call that stands aside leaves its slot too, but is not forgotten like that: others take the other free slots first, the
store drops the other things first, and when it comes back it is in its own slot if that is still free.

Nobody finds what another tenant's calls have left, except for the texts that the operator has made public: how fast an
answer comes would tell who else has asked.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from aios.drivers.core.local.engine import Engine

BLOCK = 64
"""Tokens that are compared at once, and the fewest that are worth a place in the store."""

LEAST = 8
"""Tokens that are worth copying a sequence for, or waiting for: copying takes about as long as reading one."""


class Content(Protocol):
    """What is in a slot: tokens of a tenant's, of which so many have been read. `call`: 0 when that has ended."""

    @property
    def call(self) -> int: ...
    @property
    def tenant(self) -> str: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def read(self) -> int: ...


@dataclass(slots=True, eq=False)
class Left:
    """What a call has left behind. `data`: the engine's, where it is in the store. `call`: who comes back for it, 0: nobody."""

    tenant: str
    tokens: list[int]
    data: bytearray = field(default_factory=bytearray)
    call: int = 0

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
        slot = self._free.pop(self._choose(content.call))
        before = self._contents[slot]
        here = self.common(content, before, before.read) if before is not None and slot not in self._copying else 0
        if before is not None and before.read - here >= (LEAST if before.call else BLOCK) and slot not in self._copying:
            self._keep(slot, before)
        self._contents[slot] = content
        count = self.fill(slot, content, here)
        self.ended(content.call)
        return slot, count

    def _choose(self, call: int) -> int:
        """Which of the free slots a call takes: the one it had, or the lowest that nobody will come back to, or the lowest.

        The lowest, because the engine cuts a pass where slots do not follow each other.
        """
        owners = [left.call if (left := self._contents[slot]) is not None else 0 for slot in self._free]
        for wanted in (call, 0):
            if wanted in owners:
                return owners.index(wanted)
        return 0

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

    def give_back(self, slot: int, comes_back: bool = False) -> None:
        """Its call has ended, or stands aside; what was read stays, until the slot is needed."""
        content = self._contents[slot]
        assert content is not None
        self._contents[slot] = Left(content.tenant, content.tokens[: content.read], call=content.call if comes_back else 0)
        insort(self._free, slot)

    def ended(self, call: int) -> None:
        """A call that stood aside will not come back for what it left."""
        for left in (*self._contents, *self._store.all()):
            if isinstance(left, Left) and left.call == call:
                left.call = 0

    def passed(self) -> None:
        """A pass has run."""
        self._copying.clear()
        self._copied.clear()

    def common(self, content: Content, other: Content, read: int) -> int:
        """Tokens that a call need not read where so many of another's have been. Never all: the last one's logits are wanted."""
        most = min(len(content.tokens) - 1, read)
        if content.call == other.call:
            return max(0, most)  # it comes back
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
        if content.call or not any(
            other.tenant == content.tenant and other.read >= len(read) and other.tokens[: len(read)] == read
            for other in (*held, *self._store.all())
        ):
            self._store.add(Left(content.tenant, read, self._engine.save(slot), content.call))


class Store:
    """What had to leave its slot, the least recently used first.

    Where there is no room, the tenant that has the most in it gives way, so that nobody empties it for the others; what a call
    will come back for only where there is nothing else.
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
            known = not other.call or other.call == left.call
            if known and other.tenant == left.tenant and left.tokens[: other.read] == other.tokens:
                self._drop(other)
        self._left[left] = None
        self._bytes += len(left.data)
        while self._bytes > self._most_bytes:
            droppable = [other for other in self._left if not other.call] or list(self._left)
            sizes = sizes_of(droppable)
            self._drop(next(other for other in droppable if sizes[other.tenant] == max(sizes.values())))

    def use(self, left: Left) -> None:
        """It is wanted: forget it last."""
        del self._left[left]
        self._left[left] = None

    def _drop(self, left: Left) -> None:
        del self._left[left]
        self._bytes -= len(left.data)


def sizes_of(kept: Iterable[Left]) -> Counter[str]:
    """Bytes by tenant."""
    sizes: Counter[str] = Counter()
    for left in kept:
        sizes[left.tenant] += len(left.data)
    return sizes


def equal(tokens: list[int], others: list[int], most: int) -> int:
    """How many of the first `most` are equal."""
    most = min(most, len(tokens), len(others))
    for start in range(0, most, BLOCK):
        end = min(start + BLOCK, most)
        if tokens[start:end] != others[start:end]:
            return next(at for at in range(start, end) if tokens[at] != others[at])
    return most
