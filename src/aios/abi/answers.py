"""What an agent's function ended in: how its host puts it, and how much of that the kernel takes.

A host runs foreign code, so all that it answers is a claim. A result travels as JSON text: its size and the number of its values
are known before anything is read, and what was read holds JSON values by construction. An error keeps its code, because callers
decide by it, but its words are shown as the agent's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from aios.abi.errors import ERRORS, AiosError, ChildFailed, Fault, Internal, NeedsApproval, ToolFailed, Unauthenticated
from aios.abi.wire import MAX_VALUES, values_in

MAX_RESULT_BYTES = 1 << 20
MAX_SAID_CHARACTERS = 2000
"""Of an error's message."""
MAX_LEVELS = 500
"""Of nesting. Half of what Python 3.11 bears: those who hand a value on write it inside of other things, and from deeper in their
code. Stated, because each version bears another number."""
KERNELS_OWN = (Unauthenticated, NeedsApproval, Internal)
"""What no function ends in: these tell a person what to do about the kernel."""

_unreadable = (msgspec.DecodeError, RecursionError, UnicodeError, OverflowError)
_containers = frozenset((dict, list, tuple))
_unsendable = (TypeError, ValueError, OverflowError, RecursionError)


def result_text(result: Any) -> bytes:
    """A function's result as JSON. Raises `ChildFailed` for what is no JSON value, with the type, or is too large."""
    try:
        plain = msgspec.to_builtins(result)
        check_json_value(plain)
        text = msgspec.json.encode(plain)
    except _unsendable as error:
        raise ChildFailed(f"its result is not JSON: a `{type(result).__name__}` cannot be sent: {error}") from error
    read_result(text)
    return text


def read_result(text: bytes) -> Any:
    """The value of a result. Raises `ChildFailed` for what is no JSON, or more than the kernel keeps."""
    if len(text) > MAX_RESULT_BYTES:
        raise ChildFailed(f"its result is too large: {len(text)} bytes of JSON, the most is {MAX_RESULT_BYTES}")
    if values_in(text) > MAX_VALUES:
        raise ChildFailed(f"its result is too large: more than {MAX_VALUES} values")
    try:
        value = msgspec.json.decode(text)
        handed_on(value)
    except _unreadable as error:
        raise ChildFailed(f"its result is not JSON: {str(error)[:200]}") from None
    return value


def handed_on(value: Any) -> bytes:
    """A value as msgpack. Raises for what others could not hand on: numbers above 64 bits, nesting that leaves them no room."""
    level: list[Any] = [[value]]
    for _ in range(MAX_LEVELS + 1):
        level = [inside for each in level for inside in _values(each) if type(inside) in _containers]
        if not level:
            return msgspec.msgpack.encode(value)
    raise RecursionError(f"it is nested more than {MAX_LEVELS} levels deep")


def _values(container: Any) -> Iterable[Any]:
    return container.values() if type(container) is dict else container


def check_json_value(value: Any, most: int = MAX_VALUES) -> None:
    """Raise TypeError for builtins that JSON has no word for, or would change: keys that are no text, NaN, infinities.

    And ValueError for more than `most` values.
    """
    left = [value]
    seen = 0
    while left:
        seen += 1
        if seen > most:
            raise ValueError(f"more than {most} values")
        each = left.pop()
        if isinstance(each, dict):
            for key in each:
                if not isinstance(key, str):
                    raise TypeError(f"the key {str(key)[:80]} is a `{type(key).__name__}`, not a `str`")
            left += each.values()
        elif isinstance(each, list | tuple):
            left += each
        elif isinstance(each, float) and each - each != 0:
            raise TypeError(f"{each} is no JSON number")
        elif each is not None and not isinstance(each, str | int | float):
            raise TypeError(f"a `{type(each).__name__}` is no JSON value")


def told(error: AiosError) -> Fault:
    """An error as a host tells it: whatever an agent put into it, as words that fit a frame, no more than the kernel takes."""
    retry_after_s = error.retry_after_s if isinstance(error.retry_after_s, int | float) else None
    return Fault(error.code, _words(error.message), None if error.field is None else _words(error.field), retry_after_s)


def _words(text: object) -> str:
    """Without halves of characters, which names of files and errors of decoding hold, and no encoding does."""
    return str(text)[:MAX_SAID_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def failure_of_tool(name: str, fault: Fault) -> AiosError:
    """The error that tool `name` ended in, in its own words; what its result is not stands for the tool, not for its process."""
    error = failure_of(name, fault)
    return ToolFailed(f"`{name}` failed: {error.message}") if isinstance(error, ChildFailed) else error


def failure_of(name: str, fault: Fault) -> AiosError:
    """The error that the function of process `name` ended in, as its host says: in the agent's words, and shown as such."""
    said = fault.message[:MAX_SAID_CHARACTERS]
    kind = ERRORS.get(fault.code)
    if kind is ChildFailed:  # which says by itself that it is the agent's code that speaks
        return ChildFailed(said)
    if kind is None or kind in KERNELS_OWN:
        return ChildFailed(f"`{name}` failed: {fault.code[:80]}: {said}")
    return kind(f"`{name}` failed: {said}")
