"""Laws of the local core's batching: whatever is shared, frozen, aborted and stored, each call says what it says alone.

The model of the engine says after each pass a token that depends on all that its sequence really holds, so whoever goes on from
wrong contents says something else. Like the real one it copies sequences late: when the next pass begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aios.drivers.core.local.batching import Batcher
from aios.drivers.core.local.engine import BrokenOff, Engine, Feed
from aios.drivers.core.local.protocol import Open, Piece, Prompt
from aios.drivers.core.local.slots import Slots, equal

VOCABULARY, WINDOW, TOKEN_BYTES = 251, 256, 8
BEGINNINGS = ("", "a" * 70, "a" * 70 + "b" * 40, "c" * 20)
ENDINGS = ("x", "yz", "x" * 30)
PUBLIC = "c" * 15
SMALL_STORE = 200 * TOKEN_BYTES


def next_token(tokens: list[int]) -> int:
    """What the model says after these; 0 is the end."""
    return hash(tuple(tokens)) % VOCABULARY


class ModelEngine:
    """What the engine does to the contents of its sequences."""

    window = WINDOW

    def __init__(self, slots: int) -> None:
        self.cells: list[list[int]] = [[] for _ in range(slots)]
        self.sizes = [0] * slots
        self._late: list[tuple[int, int]] = []
        self.fed = 0
        """Tokens that were read."""

    def tokenize(self, prompt: Prompt) -> list[int]:
        return list(prompt.text.encode())

    def piece(self, token: int) -> bytes:
        return b"%d," % token

    def ends(self, token: int) -> bool:
        return token == 0

    def longest_piece(self) -> int:
        return 1

    def forget(self, slot: int) -> None:
        self.sizes[slot] = 0

    def trim(self, slot: int, tokens: int) -> None:
        assert tokens <= self.sizes[slot]
        self.sizes[slot] = tokens

    def copy(self, source: int, target: int, tokens: int) -> None:
        assert source != target and tokens <= self.sizes[source]
        self._late.append((source, target))
        self.sizes[target] = tokens

    def save(self, slot: int) -> bytearray:
        return bytearray(np.array(self.cells[slot][: self.sizes[slot]], np.int64).tobytes())

    def load(self, slot: int, data: bytearray) -> None:
        self.cells[slot] = np.frombuffer(bytes(data), np.int64).tolist()
        self.sizes[slot] = len(self.cells[slot])

    def run(self, feeds: list[Feed], enough: Callable[[], bool] | None = None) -> list[NDArray[np.float32]]:
        for source, target in self._late:
            self.cells[target] = list(self.cells[source])
        self._late.clear()
        rows = []
        if enough is not None and enough():
            for feed in feeds:  # something of it was done
                self.cells[feed.slot] = [*self.cells[feed.slot][: feed.position], *[0] * len(feed.tokens)]
            raise BrokenOff
        for feed in feeds:
            assert feed.position == self.sizes[feed.slot], "no hole, and nothing twice"
            self.fed += len(feed.tokens)
            self.cells[feed.slot] = self.cells[feed.slot][: feed.position] + feed.tokens
            self.sizes[feed.slot] += len(feed.tokens)
            assert self.sizes[feed.slot] <= WINDOW
            if feed.wants:
                row = np.zeros(VOCABULARY, np.float32)
                row[next_token(self.cells[feed.slot])] = 9.0
                rows.append(row)
        return rows


def said_alone(prompt: str, most: int) -> list[int]:
    tokens, said = list(prompt.encode()), []
    while len(said) < most and len(tokens) < WINDOW and (token := next_token(tokens)):
        tokens.append(token)
        said.append(token)
    return said


@dataclass
class Desk:
    """A batcher, the calls that it was given, and what came of them."""

    batcher: Batcher
    opened: dict[int, Open] = field(default_factory=dict)
    said: dict[int, list[int]] = field(default_factory=dict)
    last: dict[int, Piece] = field(default_factory=dict)
    aborted: set[int] = field(default_factory=set)
    frozen: set[int] = field(default_factory=set)
    freezing: set[int] = field(default_factory=set)
    """Those that the host hears of in the midst of passes that they are to be frozen; it is not done yet."""

    def open(self, beginning: int, ending: int, tenant: int, most: int, before: int) -> None:
        """A call; `before`: tokens that an earlier host made, none of which has been read."""
        call = len(self.opened) + 1
        prompt = BEGINNINGS[beginning] + ENDINGS[ending]
        made = said_alone(prompt, most)[: min(before, most - 1)]
        self.opened[call] = Open(
            call, Prompt(prompt), seed=0, temperature=0, top_p=1, max_tokens=most, tenant=f"t{tenant}", delivered=tuple(made)
        )
        self.said[call] = made
        assert self.batcher.open(self.opened[call]) is None

    def step(self) -> None:
        if self.batcher.has_work():
            for piece in self.batcher.step(lambda: self.freezing).pieces:
                assert piece.call not in self.last and piece.call not in self.aborted | self.frozen
                self.said[piece.call] += piece.ids
                if piece.finish:
                    self.last[piece.call] = piece

    def abort(self, number: int) -> None:
        if call := self.one(number):
            self.batcher.abort(call)
            if call not in self.last:
                self.aborted.add(call)

    def freeze(self, number: int) -> None:
        self.batcher.freeze(self.one(number))
        self.frozen.add(self.one(number))

    def will_freeze(self, number: int) -> None:
        self.freezing |= {1, 2, 3, 4} if number == 0 else {self.one(number)}

    def thaw(self, number: int) -> None:
        self.batcher.thaw(self.one(number))
        self.frozen.discard(self.one(number))
        self.freezing.discard(self.one(number))

    def read(self, number: int) -> None:
        self.batcher.acknowledge(self.one(number), len(self.said.get(self.one(number), ())))

    def one(self, number: int) -> int:
        return number % len(self.opened) + 1 if self.opened else 0

    def finish(self) -> None:
        """Everybody goes on and is read: all must come to their ends."""
        for number in range(len(self.opened)):
            self.thaw(number)
        for _ in range(4000):
            for number in range(len(self.opened)):
                self.read(number)
            if not self.batcher.has_work():
                break
            self.step()
        assert set(self.last) | self.aborted == set(self.opened), "nobody waits for ever"


numbers = st.integers(0, 7)
opens = st.tuples(
    st.just(Desk.open), st.integers(0, 3), st.integers(0, 2), st.integers(0, 1), st.integers(1, 12), st.sampled_from([0, 0, 6])
)
touches = st.tuples(st.sampled_from([Desk.abort, Desk.freeze, Desk.will_freeze, Desk.thaw, Desk.read]), numbers)
rounds = st.tuples(st.lists(st.one_of(opens, touches), max_size=4), st.integers(1, 8))
A_SOURCE_IS_LOADED_BEFORE_IT_IS_COPIED = [
    ([(Desk.open, 1, 0, 0, 1, 0)], 8), ([(Desk.open, 0, 0, 0, 1, 0), (Desk.open, 3, 2, 0, 1, 0)], 8),
    ([(Desk.open, 3, 1, 0, 3, 0), (Desk.open, 1, 1, 0, 3, 0)], 1),
]  # fmt: skip
A_LEADER_IS_ABORTED = [([(Desk.open, 2, 0, 0, 3, 0), (Desk.open, 2, 1, 0, 3, 0)], 2), ([(Desk.abort, 0)], 1)]

WHO_COPIES_STANDS_ASIDE_BEFORE_A_PASS = [
    ([(Desk.open, 0, 0, 0, 1, 0), (Desk.open, 1, 0, 0, 1, 0), (Desk.open, 0, 0, 0, 1, 0)], 5), ([(Desk.open, 1, 0, 0, 4, 6)], 1),
    ([(Desk.open, 0, 0, 0, 1, 0), (Desk.open, 0, 0, 0, 1, 0)], 1),
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(rounds, min_size=1, max_size=12), st.integers(1, 4), st.sampled_from([0, 200 * TOKEN_BYTES, 1 << 20]), st.booleans()
)
@example(A_SOURCE_IS_LOADED_BEFORE_IT_IS_COPIED, 2, 1 << 20, True)
@example(A_LEADER_IS_ABORTED, 2, 0, True)
@example(WHO_COPIES_STANDS_ASIDE_BEFORE_A_PASS, 2, 200 * TOKEN_BYTES, True)
def test_each_call_says_what_it_says_alone(todo: list[Any], slots: int, store_bytes: int, share: bool) -> None:
    engine = cast(Engine, ModelEngine(slots))
    desk = Desk(Batcher(engine, Slots(engine, slots, store_bytes, [list(PUBLIC.encode())], share), chunk=16, backlog=3))
    for acts, steps in todo:
        for act, *arguments in acts:
            cast(Callable[..., None], act)(desk, *arguments)
        for _ in range(steps):
            desk.step()
    desk.finish()
    for call, opening in desk.opened.items():
        alone = said_alone(opening.prompt.text, cast(int, opening.max_tokens))
        if call in desk.aborted:
            assert desk.said[call] == alone[: len(desk.said[call])]
        else:
            assert desk.said[call] == alone
            assert desk.last[call].cached_tokens <= (may_share(desk, opening) if share else 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([Desk.freeze, Desk.thaw]), numbers, st.integers(0, 3)), max_size=20), st.booleans())
def test_who_stands_aside_while_there_are_slots_reads_nothing_twice(acts: list[Any], share: bool) -> None:
    """Four calls that have nothing in common, and five slots, of which the fifth is for others that come meanwhile."""
    engine = ModelEngine(5)
    slots = Slots(cast(Engine, engine), 5, 0, share=share)
    desk = Desk(Batcher(cast(Engine, engine), slots, chunk=64, backlog=99))
    for number in range(4):
        desk.open(number, number % 3, number % 2, 12, 0)
        desk.step()
    for act, number, steps in acts:
        act(desk, number % 4)
        for _ in range(steps):
            desk.step()
    desk.finish()
    assert engine.fed <= sum(len(one.prompt.text) + len(desk.said[call]) for call, one in desk.opened.items())


def may_share(desk: Desk, opening: Open) -> int:
    """Tokens of its prompt that a call can have found: of its own tenant's calls, or public ones."""
    own = list(opening.prompt.text.encode())
    most = 0
    for call, other in desk.opened.items():
        tokens = [*other.prompt.text.encode(), *desk.said[call]]
        if call != opening.call:
            common = equal(own, tokens, len(own))
            most = max(most, common if other.tenant == opening.tenant else min(common, equal(own, list(PUBLIC.encode()), 15)))
    return most
