"""Responses that are kept, so that a client can go on from one, or ask for it again: per process, and within bounds.

A response is kept as the bytes that came and went, so what it takes is known, and is read again when a later one goes on from it.
The oldest is forgotten first. What a chain goes on from stays in memory as long as a later response of it does, and counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from aios.abi.errors import Invalid, NotFound, TooLarge
from aios.abi.wire import MAX_VALUES, values_in
from aios.ports.kernel import Caller
from aios.server.response_items import Input, Item, read_input
from aios.server.response_log import Run

MOST_TURNS = 1000
"""Of one process."""
MOST_BYTES = 16 * 1024 * 1024
"""Of one process."""
MOST_BYTES_OF_ALL = 128 * 1024 * 1024
"""Of all processes together; above it the token whose processes hold most loses its oldest."""
TURN_BYTES = 1000
"""What a turn takes beside its texts, about."""
TURN_VALUES = 50
"""What reading a turn again costs beside its values, in values."""
SWEEP_AT = 64
"""Processes after which those that have ended with nothing kept are let go; then each time that there are twice as many."""


class _Output(msgspec.Struct):
    output: tuple[Item, ...]


_outputs = msgspec.json.Decoder(_Output)


@dataclass(slots=True, eq=False)
class Turn:
    """One response: its input as JSON, and the response itself as JSON. `run`: if it is made in the background."""

    id: str
    input: bytes
    answer: bytes
    previous: Turn | None = None
    run: Run | None = None
    key: bytes = b""
    """What all tries of the request have in common, as long as its client may not have heard of the response."""
    begun_s: float = 0.0
    values: int = 0
    """Of it and all that it goes on from."""
    size_bytes: int = 0
    followers: int = 0
    listed: bool = False

    @property
    def ended(self) -> bool:
        return self.run is None or self.run.over

    def heard(self) -> None:
        """Its client knows that it is there."""
        self.key = b""

    def items(self) -> tuple[Item, ...]:
        """What was answered."""
        return _outputs.decode(self.answer).output


@dataclass(slots=True)
class Share:
    """What is kept of one token's processes: by a turn's id whose it is, the oldest first."""

    by_id: dict[str, Turns] = field(default_factory=dict)
    size_bytes: int = 0

    def forget_oldest(self) -> bool:
        """Forget the oldest turn that has ended; whether there was one."""
        for id, turns in self.by_id.items():
            if turns.by_id[id].ended:
                turns.forget(turns.by_id[id])
                return True
        return False


@dataclass(slots=True)
class Turns:
    """The turns of one process: `caller`, in its `session` of a token, of whose `share` they are.

    `running`: those that are under way in the background.
    """

    kept: Kept
    share: Share
    session: tuple[str, str]
    caller: Caller
    by_id: dict[str, Turn] = field(default_factory=dict)
    size_bytes: int = 0
    running: int = 0

    def find(self, id: str, name: str = "id") -> Turn:
        """A turn that is kept. Raises `NotFound`: it was never made by this process, was not stored, or is forgotten."""
        turn = self.by_id.get(id)
        if turn is None:
            text = "it is another process's, was not stored, or is forgotten by now"
            raise NotFound(f"no response `{id[:100]}` is kept: {text}", field=name)
        return turn

    def previous(self, id: str) -> Turn:
        """The turn that a new one goes on from. Raises `NotFound`, `Invalid` if it has not ended, `TooLarge`."""
        turn = self.find(id, "previous_response_id")
        if not turn.ended:
            raise Invalid(f"response `{id[:100]}` is not done yet: wait for it, or cancel it", field="previous_response_id")
        if turn.values > MAX_VALUES:
            raise TooLarge(f"the conversation has more than {MAX_VALUES} values: begin a new one", field="previous_response_id")
        return turn

    def add(self, turn: Turn) -> bool:
        """Keep a turn, and forget the oldest if there is no room. False if those under way leave none: it is not kept."""
        if len(turn.input) + len(turn.answer) > MOST_BYTES - TURN_BYTES or not self.kept.knows(self):
            return False
        turn.listed = True
        self.by_id[turn.id] = turn
        self.share.by_id[turn.id] = self
        self._hold(turn.previous)
        self.measure(turn)
        return turn.listed

    def measure(self, turn: Turn) -> None:
        """Count what a turn takes, now that it says something else."""
        before = turn.previous.values if turn.previous is not None else 0
        turn.values = before + TURN_VALUES + values_in(turn.input) + values_in(turn.answer)
        log_bytes = turn.run.log.size_bytes if turn.run is not None else 0
        self.grow(turn, TURN_BYTES + len(turn.input) + len(turn.answer) + log_bytes - turn.size_bytes)

    def grow(self, turn: Turn, size_bytes: int) -> bool:
        """Count what a turn takes more. False if there is no room for it, whatever is forgotten."""
        if not turn.listed:
            return False
        turn.size_bytes += size_bytes
        self._count(size_bytes)
        return self._make_room() and self.kept.make_room()

    def unheard(self, key: bytes, after_s: float) -> Turn | None:
        """The last background turn of this request, begun after that time, of which its client may not have heard."""
        turns = (turn for turn in reversed(self.by_id.values()) if turn.key == key and turn.begun_s > after_s)
        return next(turns, None)

    def forget(self, turn: Turn) -> None:
        """Keep it no longer."""
        del self.by_id[turn.id]
        del self.share.by_id[turn.id]
        turn.listed = False
        left: Turn | None = turn
        while left is not None and not left.listed and not left.followers:
            self._count(-left.size_bytes)
            left = left.previous
            if left is not None:
                left.followers -= 1

    def _hold(self, turn: Turn | None) -> None:
        """One more goes on from a turn. It may have been forgotten since that one was asked for: then it counts again."""
        while turn is not None:
            turn.followers += 1
            if turn.listed or turn.followers > 1:
                return
            self._count(turn.size_bytes)
            turn = turn.previous

    def _make_room(self) -> bool:
        while self.size_bytes > MOST_BYTES or len(self.by_id) > MOST_TURNS:
            oldest = next((turn for turn in self.by_id.values() if turn.ended), None)
            if oldest is None:
                return False
            self.forget(oldest)
        return True

    def _count(self, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        self.share.size_bytes += size_bytes
        self.kept.size_bytes += size_bytes


class Kept:
    """The turns of all processes."""

    def __init__(self) -> None:
        self._of: dict[Caller, Turns] = {}
        self._in: dict[tuple[str, str], Turns] = {}
        self._shares: dict[str, Share] = {}
        self._sweep_at = SWEEP_AT
        self.size_bytes = 0

    def session(self, token_id: str, id: str) -> str | None:
        """The session in which a token's client had a response made; None if none of its has that id."""
        share = self._shares.get(token_id)
        turns = share.by_id.get(id) if share is not None else None
        return turns.session[1] if turns is not None else None

    def of(self, caller: Caller, token_id: str, session: str) -> Turns:
        """A process's. The process of a session that had another, which ended because it was idle, goes on with its turns."""
        turns = self._of.get(caller)
        if turns is not None:
            return turns
        if len(self._of) >= self._sweep_at:
            self._sweep()
        turns = self._in.get((token_id, session))
        if turns is not None and not turns.caller.alive:
            del self._of[turns.caller]
            turns.caller = caller
        else:
            share = self._shares.setdefault(token_id, Share())
            turns = self._in[token_id, session] = Turns(self, share, (token_id, session), caller)
        self._of[caller] = turns
        return turns

    def knows(self, turns: Turns) -> bool:
        """Whether they are still a process's, or may become one's."""
        return self._of.get(turns.caller) is turns

    def make_room(self) -> bool:
        """Bring all together below the bound. False if it cannot be done: too much is under way."""
        while self.size_bytes > MOST_BYTES_OF_ALL:
            if not max(self._shares.values(), key=lambda share: share.size_bytes).forget_oldest():
                return False
        return True

    def _sweep(self) -> None:
        """Let go of processes that have ended and of which nothing is kept."""
        for turns in list(self._of.values()):
            if not turns.caller.alive and not turns.by_id:
                del self._of[turns.caller]
                if self._in.get(turns.session) is turns:
                    del self._in[turns.session]
        used = {turns.session[0] for turns in self._of.values()}
        self._shares = {token: share for token, share in self._shares.items() if token in used}
        self._sweep_at = max(SWEEP_AT, 2 * len(self._of))


class Before:
    """What a request goes on from: the inputs and answers of a chain, and items that it names by their ids."""

    def __init__(self, turns: Turns, previous: Turn | None) -> None:
        self._turns = turns
        self._previous = previous
        self._items: dict[str, tuple[Item, ...]] = {}

    def __iter__(self) -> Iterator[Input]:
        chain = []
        turn = self._previous
        while turn is not None:
            chain.append(turn)
            turn = turn.previous
        for turn in reversed(chain):
            yield read_input(turn.input)
            yield turn.items()

    def item(self, id: str) -> Item | None:
        """An item of an answer, by the id that it was told with: the response's own is part of it."""
        kind, _, rest = id.partition("_")
        response = f"resp_{rest.rpartition('_')[0]}"
        turn = self._turns.by_id.get(response)
        if turn is None or not kind:
            return None
        if response not in self._items:
            self._items[response] = turn.items()
        return next((item for item in self._items[response] if item.id == id), None)
