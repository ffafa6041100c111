"""Why something does not go on: states, wait codes, and the words that every surface shows for them."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["declared", "ready", "running", "waiting", "suspended", "ended"]
Outcome = Literal["result", "error", "killed"]
Code = Literal["S", "B", "R", "L", "M", "T", "W", "C", "X"]


PARKED = "parked"


class WaitKind(msgspec.Struct, frozen=True):
    """One line of the table: what a code means and the word a person sees."""

    code: Code
    word: str
    meaning: str


WAITS: dict[str, WaitKind] = {
    kind.code: kind
    for kind in (
        WaitKind("S", "queued", "a turn in a lane"),
        WaitKind("B", "blocked", "room in a budget: what is reserved for others, or a higher limit"),
        WaitKind("R", "blocked", "the next minute: an account has asked for all that it may in this one"),
        WaitKind("L", "blocked", "a lease that another holds"),
        WaitKind("M", "sleeping", "a message or an event"),
        WaitKind("T", "sleeping", "a timer"),
        WaitKind("W", "sleeping", "another process: its end, or its reply"),
        WaitKind("C", "blocked", "a core that is down"),
        WaitKind("X", "blocked", "held: by a person, a parent, or after repeated crashes"),
    )
}


class Wait(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a call waits: `code` of the table, who holds what it waits for, since when, and when it should end.

    `since_ns`: UTC; `eta_s`: seconds from now, None where nobody can say. `parked`: its budget is spent, and it goes on when that
    is raised or begins anew.
    """

    code: Code
    on: str
    since_ns: int
    holder: str = ""
    eta_s: float | None = None
    parked: bool = False

    @property
    def is_reason(self) -> bool:
        """Whether `on` names no thing, but is a sentence about the holder: "`/a` has spent $5 of $5 per day ..."."""
        return bool(self.holder) and self.on.startswith(f"`{self.holder}` ")

    @property
    def word(self) -> str:
        return PARKED if self.parked else WAITS[self.code].word


def word_of(state: State, wait: Wait | None = None, outcome: Outcome | None = None) -> str:
    """The word for a process: a pure function of (state, wait), so that every surface says the same.

    What waits for nothing is idle: a client's session between its calls.
    """
    if state == "ended":
        return {"result": "done", "error": "failed", "killed": "killed"}[outcome or "result"]
    if state in ("declared", "ready"):
        return "queued"
    if state in ("running", "suspended"):
        return state
    return wait.word if wait is not None else "idle"
