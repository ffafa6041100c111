"""What an attempt came to, as far as it is known."""

from __future__ import annotations

from aios.abi.errors import BadRequest, ContextFull, Refused
from aios.kernel.amounts import NOTHING, Amount, Bound
from aios.kernel.process import Call
from aios.ports.core import NotAsked

NOTHING_DONE = (Refused, BadRequest, ContextFull, NotAsked)
"""A core that says this before its first word has done nothing."""


def outcome_of(call: Call, bound: Bound, reserved: Amount, error: BaseException | None) -> Amount | None:
    """What is known of it; None for what cannot be known."""
    actual = call.came_to
    call.came_to = None
    if error is not None and (not call.acted or (isinstance(error, NOTHING_DONE) and not call.said_tokens)):
        actual = NOTHING
    elif error is not None and actual is None and bound.heard:
        actual = bound.of(min(call.said_tokens, bound.most))
    spent = reserved if actual is None else actual
    call.cost += spent.money
    return actual
