"""What rides beside a request in its headers, and beside its answer: the same at every HTTP door."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import msgspec

from aios.abi.errors import AiosError, Draining, Invalid, QueueFull, Unauthenticated
from aios.abi.request import CLASSES, MAX_TRACE_CHARACTERS, MAX_WAITS_FOR, NO_OPTIONS, CallOptions, Class, Trace, check_job
from aios.ports.kernel import Answer
from aios.server.exchange import JSON, Headers, HttpRequest
from aios.server.quota import Quota, cost_header, quota_headers

LONGEST_PATIENCE_S = 45.0
MAX_SESSION_CHARACTERS = 200
LONGEST_RETRY_S = 60.0
LONGEST_RETRIES_S: dict[type[AiosError], float] = {QueueFull: LONGEST_RETRY_S, Draining: 20.0}
"""A client gives up at once when it is told to wait longer than it likes to. Of these errors it is always told."""


OPTIONS = (
    b"x-aios-key", b"x-aios-class", b"x-aios-deadline-s", b"x-aios-remaining-s", b"x-aios-kind", b"x-aios-waits-for",
    b"traceparent", b"baggage", b"x-aios-tag", b"openai-project",
)  # fmt: skip
SECONDS = {b"x-aios-deadline-s": "deadline_s", b"x-aios-remaining-s": "remaining_s"}
MAX_BAGGAGE = 64
"""Members of it that are looked at."""
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
SESSIONS = (b"x-claude-code-session-id", b"session-id", b"x-session-id")
"""Headers in which clients name their session; the first that is there counts, then what the body names."""
TIERS: dict[object, Class] = {"flex": "batch", "standard_only": "standard", "priority": "interactive", "fast": "interactive"}
"""What `service_tier` asks for; like every hint it lowers what was granted, and never raises it. Others say nothing."""


class Hints(msgspec.Struct):
    """The body's field `aios`, at any model door: as in `CallOptions`."""

    cls: Class | None = msgspec.field(name="class", default=None)
    deadline_s: float | None = None
    kind: str = ""
    remaining_s: float | None = None
    waits_for: tuple[str, ...] | str = ()


def token_of(request: HttpRequest) -> str:
    """The token, from either header that clients put it in. Raises `Unauthenticated`."""
    scheme, _, token = request.header(b"authorization").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    token = request.header(b"x-api-key")
    if not token:
        raise Unauthenticated(f"no token: {Unauthenticated.way_out}")
    return token


def session_of(request: HttpRequest, *named: object) -> str:
    """The client's name for its session, "" without one. `named`: names that the body has for it; what is no text is none.

    Only what a client says on purpose makes a process. What its words are is not its name (docs/adr/0005).
    """
    if not request.headers.keys().isdisjoint(SESSIONS):
        for carrier in SESSIONS:
            if session := request.header(carrier):
                return _bounded(session)
    for name in named:
        if name and isinstance(name, str):
            return _bounded(name)
    return ""


def _bounded(session: str) -> str:
    """A name that is too long is known by its hash: clients that choose such names know nothing of our bounds."""
    if len(session) <= MAX_SESSION_CHARACTERS:
        return session
    return hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()


def patience_of(request: HttpRequest) -> float:
    """Seconds that the client may be left without a byte: half of the read timeout that it states, 45 at most."""
    stated = request.header(b"x-stainless-read-timeout")
    try:
        patience_s = float(stated) / 2 if stated else LONGEST_PATIENCE_S
    except ValueError:
        return LONGEST_PATIENCE_S
    return min(patience_s, LONGEST_PATIENCE_S) if patience_s > 0 else LONGEST_PATIENCE_S


def options_of(request: HttpRequest, hints: Hints | None = None, tier: object = None) -> CallOptions:
    """The options of a call: headers first, then what the body's `aios` said, then its `service_tier`.

    Raises `Invalid` with the name that was sent, for what is ours; a tier that nobody knows says nothing.
    """
    headers = request.headers
    if hints is None and tier is None and headers.keys().isdisjoint(OPTIONS):
        return NO_OPTIONS
    said = _hinted(hints, tier) | _headed(request)
    trace = _trace(request)
    if not said and trace is None:
        return NO_OPTIONS
    try:
        return CallOptions(trace=trace, **said)
    except ValueError as error:
        _, field, wrong = str(error).split("`", 2)
        header = "x-aios-" + field.replace("_", "-")
        name = header if header.encode() in headers else f"aios.{field}"
        raise Invalid(f"`{name}`{wrong}", field=name) from None


def _hinted(hints: Hints | None, tier: object) -> dict[str, Any]:
    """What the body says."""
    said: dict[str, Any] = {}
    if hints is not None:
        waits_for = (hints.waits_for,) if isinstance(hints.waits_for, str) else hints.waits_for
        said = {
            "cls": hints.cls, "deadline_s": hints.deadline_s, "kind": hints.kind or None, "remaining_s": hints.remaining_s,
            "waits_for": waits_for or None,
        }  # fmt: skip
    if said.get("cls") is None and isinstance(tier, str):
        said["cls"] = TIERS.get(tier)
    return {name: value for name, value in said.items() if value is not None}


def _headed(request: HttpRequest) -> dict[str, Any]:
    """What the headers say."""
    said: dict[str, Any] = {}
    if key := request.header(b"x-aios-key"):
        said["key"] = key
    if b"x-aios-class" in request.headers:
        said["cls"] = _class(request.header(b"x-aios-class"))
    for header, field in SECONDS.items():
        if header in request.headers:
            said[field] = _seconds(header, request)
    if kind := request.header(b"x-aios-kind"):
        said["kind"] = kind
    if waits_for := request.header(b"x-aios-waits-for"):
        said["waits_for"] = tuple(name.strip() for name in waits_for.split(",", MAX_WAITS_FOR))
    return said


def _trace(request: HttpRequest) -> Trace | None:
    """What the client's tracing says in the headers of W3C; what is malformed there says nothing."""
    found = _TRACEPARENT.fullmatch(request.header(b"traceparent"))
    said = {"id": found.group(1)} if found else {}
    for member in request.header(b"baggage").split(",", MAX_BAGGAGE)[:MAX_BAGGAGE]:
        name, _, value = member.partition(";")[0].partition("=")
        name, text = name.strip(), unquote(value.strip())
        if name in ("aios.task", "aios.step") and 0 < len(text) <= MAX_TRACE_CHARACTERS and text.isprintable():
            said.setdefault(name.removeprefix("aios."), text)
    if tag := _tag(request):
        said["tag"] = tag
    return Trace(**said) if said else None


def _tag(request: HttpRequest) -> str:
    """The job that the call is booked under, "" if that is not said. Raises `Invalid` if our own header is malformed."""
    for name in (b"x-aios-tag", b"openai-project"):
        if text := request.header(name):
            try:
                check_job("x-aios-tag", text)
                return text
            except ValueError as error:
                if name == b"x-aios-tag":
                    raise Invalid(str(error), field="x-aios-tag") from None
    return ""


def _class(text: str) -> Class:
    for cls in CLASSES:
        if cls == text:
            return cls
    raise Invalid(f"`x-aios-class` must be one of {', '.join(CLASSES)}", field="x-aios-class")


def _seconds(header: bytes, request: HttpRequest) -> float:
    try:
        return float(request.header(header))
    except ValueError:
        name = header.decode()
        raise Invalid(f"`{name}` must be a number of seconds", field=name) from None


def answer_headers(answer: Answer, left: Callable[[Quota], Headers] = quota_headers) -> Headers:
    """Which call it was, how long it waited for its turn, what it cost, and how much is `left`, in a vendor's words."""
    headers = [JSON, (b"x-aios-ticket", answer.call.encode()), (b"x-aios-wait-ms", b"%d" % (answer.wait_s * 1000))]
    if answer.cost:
        headers.append(cost_header(answer.cost))
    return [*headers, *left(answer.quota)] if answer.quota else headers


def refusal_headers(error: AiosError) -> Headers:
    """Whether and when to try again."""
    headers = [JSON]
    if not error.retry:
        headers.append((b"x-should-retry", b"false"))
    if error.retry_after_s is not None or type(error) in LONGEST_RETRIES_S:
        after_s = min(max(error.retry_after_s or 1.0, 1.0), LONGEST_RETRIES_S.get(type(error), LONGEST_RETRY_S))
        headers.append((b"retry-after", b"%d" % math.ceil(after_s)))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def ignored_header(names: list[str]) -> tuple[bytes, bytes]:
    """What a body held that means nothing here: 20 names at most, of 50 characters."""
    text = ", ".join(re.sub(r"[^\w.-]", "?", name, flags=re.ASCII)[:50] for name in names[:20])
    return (b"x-aios-ignored", text.encode())


_labels = msgspec.json.Encoder()


def label_header(answer: Answer) -> tuple[bytes, bytes]:
    """The answer's label as JSON without defaults: `{}` is the kernel's own word."""
    return (b"x-aios-label", _labels.encode(answer.label))
