"""What both of OpenAI's wires say in the same words: errors, and how likely a token was."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from aios.abi.errors import (
    AiosError,
    ContextFull,
    Denied,
    NeedsApproval,
    NotFound,
    OverBudget,
    QueueFull,
    RateLimited,
    Unauthenticated,
)
from aios.abi.llm import TokenLogprob
from aios.server.exchange import code_of

QUOTA = "insufficient_quota"
CODES: dict[type[AiosError], str] = {
    Unauthenticated: "invalid_api_key",
    NotFound: "model_not_found",
    ContextFull: "context_length_exceeded",
    RateLimited: "rate_limit_exceeded",
    QueueFull: "rate_limit_exceeded",
    OverBudget: QUOTA,
}
"""Codes that clients look for; every other error has its own name."""
TOOL_FIELD = re.compile(r"^(tools\[\d+\])\.(name|description|parameters|strict)\b")
"""A field of a tool in our requests, which chat clients write below `function`."""
DENIED_STATUS = 400
"""Not 403: some clients try that again."""

_encode = msgspec.json.Encoder().encode


class _ErrorBody(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str


def status_of(error: AiosError) -> int:
    """An error's status at OpenAI's doors."""
    return DENIED_STATUS if isinstance(error, Denied | NeedsApproval) else error.http


def error_body(error: AiosError, status: int, param: str | None, code: str = "") -> bytes:
    """An error in OpenAI's shape; without a `code` it is the one that clients look for, or the error's own name."""
    if isinstance(error, OverBudget):
        kind = QUOTA
    elif status == 429:
        kind = "rate_limit_error"
    elif status >= 500:
        kind = "server_error"
    else:
        kind = "invalid_request_error"
    return _encode({"error": _ErrorBody(error.message, kind, param, code or error_code(error))})


def error_code(error: AiosError) -> str:
    """The code that clients look for, or the error's own name."""
    if isinstance(error, NotFound) and error.field not in (None, "", "model"):
        return code_of(error)
    return CODES.get(type(error), code_of(error))


def chat_param(error: AiosError) -> str | None:
    """The field at fault as chat clients write it."""
    return TOOL_FIELD.sub(r"\1.function.\2", error.field) if error.field else None


def logprob_of(token: TokenLogprob) -> dict[str, Any]:
    """How likely a token was, and the likeliest at its place."""
    found = {"token": token.token, "logprob": token.logprob, "bytes": list(token.bytes or token.token.encode())}
    return {**found, "top_logprobs": [{k: v for k, v in logprob_of(other).items() if k != "top_logprobs"} for other in token.top]}
