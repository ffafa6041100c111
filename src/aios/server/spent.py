"""A client whose budget is spent, at doors whose clients take status 429 for a reason to try again.

`x-should-retry: false` stops most of them at once. What comes again all the same within minutes, byte by byte, is told with 400.
"""

from __future__ import annotations

import collections
import time
from hashlib import sha256

from aios.abi.errors import OverBudget
from aios.server.exchange import HttpRequest

KEPT_S = 300.0
"""There are frameworks that come back after one to four minutes."""
MOST_KEPT = 10_000


class OverBudgetAgain(OverBudget):
    """The same request was refused a moment ago."""

    @property
    def code(self) -> str:
        return OverBudget.__name__


class Spent:
    """The last requests that were refused as their budget is spent."""

    def __init__(self) -> None:
        self._at: collections.OrderedDict[bytes, float] = collections.OrderedDict()

    def refusal(self, request: HttpRequest, error: OverBudget) -> OverBudget:
        """The error as the client is to hear it."""
        key = sha256(b"\0".join((request.token_id.encode(), request.path.encode(), request.body))).digest()
        now_s = time.monotonic()
        before_s = self._at.pop(key, None)
        self._at[key] = now_s
        if len(self._at) > MOST_KEPT:
            self._at.popitem(last=False)
        if before_s is None or now_s - before_s > KEPT_S:
            return error
        return OverBudgetAgain(error.message, field=error.field)
