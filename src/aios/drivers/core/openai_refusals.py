"""What servers of the OpenAI chat wire say instead of an answer, as errors of ours with a way out.

Whose fault it is decides what it costs: what was refused before anything was done costs nothing, and what cannot be known is not
told as a refusal. A provider's words are told on without its key.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping

import msgspec

from aios.abi.errors import AiosError, ContextFull, CoreFailed, Invalid, RateLimited, Unavailable
from aios.abi.lines import visible
from aios.drivers.core.key import Key
from aios.drivers.core.openai_wire import ErrorBody, decode_error_body

_TOO_LONG = re.compile(r"context.?(length|size|window)|exceed_context|too many tokens|prompt is too long", re.IGNORECASE)
LONGEST_WAIT_S = 3600.0
"""That a server may ask for."""
NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance", "billing_not_active"})
"""What providers call it that nothing is left to pay them with."""
OVERLOADED = frozenset({503, 529})


def failure_in_stream(raw: msgspec.Raw, key: Key | None) -> AiosError:
    try:
        found = decode_error_body(raw)
    except msgspec.DecodeError:
        found = "an error without words"
    body = ErrorBody(message=found) if isinstance(found, str) else found
    if NO_MONEY & {body.code, body.type}:
        return error_of(402, body, None, key)
    return error_of(body.code if isinstance(body.code, int) else 500, body, None, key)


def error_of(status: int, found: ErrorBody, wait_s: float | None, key: Key | None) -> AiosError:
    """The error that a status other than 200 stands for. `wait_s`: as the server asks for, if it does."""
    if key is not None:
        refused = _of_the_key(status, found, key)
        if refused is not None:
            return refused
    message = _words(found.message, key)[:500] or f"the server answered {status}"
    if status in (400, 413, 422, 500) and _TOO_LONG.search(f"{found.code} {found.type} {message}"):
        return ContextFull(message)
    if status == 429:
        return RateLimited(message, retry_after_s=1.0 if wait_s is None else wait_s)
    if 300 <= status < 400:
        return CoreFailed(f"the server answered {status}, and we go nowhere but where `base_url` says: mend it if it has moved")
    if status == 404:
        return Invalid(f"the server does not know this: {message}", field="model")
    if status in (401, 403):
        return CoreFailed(f"the server wants a key: name its variable in `key_env` ({message})")
    if status in OVERLOADED and key is not None:
        return Unavailable(message, retry_after_s=5.0 if wait_s is None else wait_s)
    if 400 <= status < 500 and status != 408:
        return Invalid(message, field=_words(found.param, key) if found.param else None)
    return CoreFailed(message, retry_after_s=wait_s)


def _of_the_key(status: int, found: ErrorBody, key: Key) -> AiosError | None:
    """What a provider says of who asks, in our own words: its own may tell the key. Nothing was done for the call."""
    name, said = key.variable, _words(found.message, key)[:300] or "no reason given"
    if status == 401:
        return Unavailable(f"the provider does not take the key in ${name}: put a valid one there, and start the kernel anew")
    if status == 403:
        return Unavailable(
            f"the provider does not allow this to the key in ${name}: {said}; allow it there, or use another model"
        )
    if 300 <= status < 400:
        return Unavailable(
            f"the provider answered {status}, and its key goes nowhere but where `base_url` says: mend it if it moved"
        )
    if status == 402 or (status == 429 and NO_MONEY & {found.code, found.type}):
        return Unavailable(f"nothing pays the provider of ${name} any more: {said}; add credit there, or use another model")
    return None


def _words(said: str, key: Key | None) -> str:
    """What a server says, as one line without the key: it stands in logs and at terminals, which it must not steer."""
    return visible(" ".join((key.hide(said) if key is not None else said).split()))


def wait_of(headers: Mapping[bytes, bytes]) -> float | None:
    """How long a server wants us to wait, in seconds and at most an hour; None if it does not say, or not so that it is one."""
    told = {name: headers.get(name, b"").decode("latin-1").strip() for name in (b"retry-after-ms", b"retry-after", b"date")}
    for name, unit_s in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        if _number.fullmatch(told[name]):
            return min(float(told[name]) * unit_s, LONGEST_WAIT_S)
    until, now = (_moment(told[name]) for name in (b"retry-after", b"date"))
    return None if until is None else min(max(0.0, until - (now or time.time())), LONGEST_WAIT_S)


def most_tokens(status: int, found: ErrorBody) -> int | None:
    """How many tokens an answer may have at most, where a server refuses a call since it allowed more; else None."""
    told = _most.search(found.message[:1000]) if status in (400, 422) else None
    return int(told[1]) if told is not None else None


_most = re.compile(
    r"max_(?:completion_)?tokens\b.*?(?:at most|less than or equal to|\[1,|<=)\s*`?([0-9]{1,9})", re.IGNORECASE | re.DOTALL
)
_number = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)


def _moment(said: str) -> float | None:
    """Seconds since 1970 of a date as HTTP has it."""
    try:
        return email.utils.parsedate_to_datetime(said).timestamp()
    except (ValueError, OverflowError):
        return None
