"""Lanes: what is waited for turns of, and by which rule."""

from __future__ import annotations

import msgspec

from aios.abi.request import Done, Reply, Request


class LaneState(msgspec.Struct, frozen=True):
    """A lane. `running`: calls that have a turn, of `width` at once; `waiting`: calls without one, by class."""

    name: str
    policy: str
    width: int
    running: int
    waiting: dict[str, int]


class LaneList(Reply, frozen=True):
    """All lanes, and the names of the policies that there are."""

    lanes: tuple[LaneState, ...]
    policies: tuple[str, ...]


class ListLanes(Request[LaneList], frozen=True, kw_only=True):
    """The lanes, by which policy each decides, and how many calls wait."""


class UseLane(Request[Done], frozen=True, kw_only=True):
    """From now on another policy decides who is next in a lane, until the kernel goes down.

    Nobody who waits loses by it, and who has a turn keeps it. `policy`: `fifo` (who came first), `round-robin` (one call of each
    process in turn), `priority` (the higher class, then who came first) or `fair` (who was served least).
    """

    lane: str
    policy: str
