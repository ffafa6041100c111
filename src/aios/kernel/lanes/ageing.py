"""When a waiting call is overdue, and how often one of those is served: what keeps waits bounded."""

from __future__ import annotations

import math

from aios.abi.request import Class
from aios.kernel.lanes.policy import Ticket

PATIENCE_S: dict[Class, float] = {"interactive": 20.0, "standard": 120.0, "batch": 600.0, "idle": math.inf}
"""How long a call of each class waits before it is overdue."""
AGEING_EVERY = 4
"""Of so many turns of a server one is for the oldest overdue call."""

AGED = "age"
"""The reason of such a turn."""


def overdue(ticket: Ticket, cls: Class, now: float) -> bool:
    """Whether a ticket has waited for longer than one of that class should."""
    return now - ticket.asked > PATIENCE_S[cls]
