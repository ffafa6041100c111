"""How much a client may still ask for, in the headers that vendors' clients know."""

from __future__ import annotations

import datetime

from aios.abi.account import LimitState
from aios.server.exchange import Headers

NAMES = {"calls": "requests", "tokens": "tokens"}
NANO = 10**9


def quota_headers(quota: tuple[LimitState, ...]) -> Headers:
    """As OpenAI says it."""
    headers: Headers = []
    for limit in quota:
        name = NAMES[limit.unit]
        headers += [
            (f"x-ratelimit-limit-{name}".encode(), b"%d" % limit.amount),
            (f"x-ratelimit-remaining-{name}".encode(), b"%d" % max(0, limit.free)),
        ]
        if limit.resets_ns is not None:
            left_s = -((limit.at_ns - limit.resets_ns) // NANO)  # rounded up: who comes a moment too early has to wait again
            headers.append((f"x-ratelimit-reset-{name}".encode(), b"%ds" % left_s))
    return headers


def cost_header(cost: int) -> tuple[bytes, bytes]:
    """What a call came to, in dollars."""
    return (b"x-aios-cost", f"{cost // NANO}.{cost % NANO:09d}".encode())


def anthropic_quota_headers(quota: tuple[LimitState, ...]) -> Headers:
    """As Anthropic says it."""
    headers: Headers = []
    for limit in quota:
        name = f"anthropic-ratelimit-{NAMES[limit.unit]}"
        headers += [(f"{name}-limit".encode(), b"%d" % limit.amount), (f"{name}-remaining".encode(), b"%d" % max(0, limit.free))]
        if limit.resets_ns is not None:
            at = datetime.datetime.fromtimestamp(limit.resets_ns // NANO, datetime.UTC)
            headers.append((f"{name}-reset".encode(), f"{at:%Y-%m-%dT%H:%M:%SZ}".encode()))
    return headers
