"""How much a client may still ask for, in the headers that vendors' clients know."""

from __future__ import annotations

import datetime

from aios.abi.account import LimitState
from aios.server.exchange import Headers

Quota = tuple[LimitState, ...]
NAMES = {"calls": "requests", "tokens": "tokens"}
OPENAI = {
    unit: tuple(f"x-ratelimit-{what}-{name}".encode() for what in ("limit", "remaining", "reset")) for unit, name in NAMES.items()
}
ANTHROPIC = {
    unit: tuple(f"anthropic-ratelimit-{name}-{what}".encode() for what in ("limit", "remaining", "reset"))
    for unit, name in NAMES.items()
}
NANO = 10**9


def quota_headers(quota: Quota) -> Headers:
    """As OpenAI says it."""
    headers: Headers = []
    for limit in quota:
        most, left, reset = OPENAI[limit.unit]
        headers += ((most, b"%d" % limit.amount), (left, b"%d" % max(0, limit.free)))
        if limit.resets_ns is not None:
            left_s = -((limit.at_ns - limit.resets_ns) // NANO)  # rounded up: who comes a moment too early has to wait again
            headers.append((reset, b"%ds" % left_s))
    return headers


def cost_header(cost: int) -> tuple[bytes, bytes]:
    """What a call came to, in dollars."""
    return (b"x-aios-cost", f"{cost // NANO}.{cost % NANO:09d}".encode())


def anthropic_quota_headers(quota: Quota) -> Headers:
    """As Anthropic says it."""
    headers: Headers = []
    for limit in quota:
        most, left, reset = ANTHROPIC[limit.unit]
        headers += ((most, b"%d" % limit.amount), (left, b"%d" % max(0, limit.free)))
        if limit.resets_ns is not None:
            at = datetime.datetime.fromtimestamp(limit.resets_ns // NANO, datetime.UTC)
            headers.append((reset, f"{at:%Y-%m-%dT%H:%M:%SZ}".encode()))
    return headers
