"""The errors of AIOS: one tree, one table. Doors, command line and reference pages are derived from it.

    AiosError
      Refused       Unauthenticated Denied NeedsApproval OverBudget RateLimited QueueFull NoCore Draining Unavailable Deadlock
      BadRequest    UnknownCall Invalid NotFound Conflict TooLarge
      Failed        CoreFailed ToolFailed ChildFailed ContextFull OutputInvalid OutcomeUnknown Internal
      Stopped       DeadlineExceeded Cancelled Killed Fenced

An error says what went wrong and what would make it work. It never carries another tenant's data, a secret, or a stack
trace.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error on the wire. `retry_after_s`: when trying again makes sense; None if it does not."""

    code: str
    message: str
    field: str | None = None
    retry_after_s: float | None = None


class AiosError(Exception):
    """Base of all errors that a call may end in.

    `code`: the name on every wire. `http`: status at a door. `exit_code`: of the command line. `retry`: whether the same
    call may work later without anybody changing anything. `field`: path of the field at fault, where there is one.
    """

    http: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    retry: ClassVar[bool] = False
    way_out: ClassVar[str] = "see the message"

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    @property
    def code(self) -> str:
        return type(self).__name__

    def fault(self) -> Fault:
        return Fault(self.code, self.message, self.field, self.retry_after_s)


class Refused(AiosError):
    """The kernel did not do it; nothing happened."""


class Unauthenticated(Refused):
    """No token, or one that the kernel does not know."""

    http, exit_code, way_out = 401, 3, "send `Authorization: Bearer <token>`; `aios token add --agent NAME` makes one"


class Denied(Refused):
    """The process was not granted what the call needs."""

    http, exit_code, way_out = 403, 3, "add the named grant to the agent's manifest"


class NeedsApproval(Refused):
    """A person has not yet accepted what the manifest asks for."""

    http, exit_code, way_out = 403, 3, "an operator accepts the manifest once: `aios run` asks, `--yes` accepts"


class OverBudget(Refused):
    """An account has spent what it may, or may never spend as much as the call can come to."""

    http, exit_code, way_out = 402, 5, "the command that the message names raises the limit"


class RateLimited(Refused):
    """More calls than the process may make in this time."""

    http, retry, way_out = 429, True, "wait as long as Retry-After says"


class QueueFull(Refused):
    """The queue, the mailbox or the table that it would go into is full."""

    http, retry, way_out = 429, True, "wait as long as Retry-After says"


class NoCore(Refused):
    """No core can do what the request asks for."""

    http, way_out = 400, "leave out what the message names, or add a core that can do it"


class Draining(Refused):
    """The kernel is going down and takes no new calls."""

    http, exit_code, retry, way_out = 503, 6, True, "try again when the kernel is up"


class Unavailable(Refused):
    """Something the call needs is down or out of space for now."""

    http, exit_code, retry, way_out = 503, 6, True, "`aios doctor` says what is missing"


class Deadlock(Refused):
    """The call would wait for ever: what it would wait for waits for its own process."""

    http, way_out = 409, "end one of the waits that the message names, or wait with a deadline for something else"


class BadRequest(AiosError):
    """The request itself is wrong; sending it again does not help."""

    http, exit_code = 400, 2


class UnknownCall(BadRequest):
    """No row of the table has this name."""

    http, way_out = 404, "the reference lists every call"


class Invalid(BadRequest):
    """A field is missing, misspelled, or of the wrong type or range; `field` names it."""

    way_out = "mend the named field"


class NotFound(BadRequest):
    """There is no such thing, or none that this process may know of."""

    http, exit_code, way_out = 404, 4, "list what there is"


class Conflict(BadRequest):
    """It is not in the state that the request expects."""

    http, exit_code, way_out = 409, 1, "read the present state, then decide"


class TooLarge(BadRequest):
    """More bytes, items or levels than the limit that the message names."""

    http, way_out = 413, "send less"


class Failed(AiosError):
    """It was tried and did not work."""


class CoreFailed(Failed):
    """The model's host failed, and trying again did not help or was not allowed."""

    http, retry, way_out = 502, True, "`aios models` shows which cores are up"


class ToolFailed(Failed):
    """A tool raised, or gave what is no result."""

    http, way_out = 502, "the message says what the tool said"


class ChildFailed(Failed):
    """An agent's own code raised, or its process died."""

    http, way_out = 500, "`aios logs PID` shows what it printed"


class ContextFull(Failed):
    """The conversation is longer than the model's window."""

    http, way_out = 400, "send fewer tokens, or use a model with a larger window"


class OutputInvalid(Failed):
    """A model's answer is not what was asked for, and asking again did not help."""

    http, way_out = 502, "a simpler form, more `repairs` or `max_steps`, or a better model"


class OutcomeUnknown(Failed):
    """An act was begun and nobody knows whether it happened."""

    http, exit_code, way_out = 500, 1, "find out whether it happened before trying again"


class Internal(Failed):
    """A bug of ours. The message holds an incident id; the details are in the kernel's log."""

    way_out = "report the incident id"


class Stopped(AiosError):
    """It was ended before it was done."""


class DeadlineExceeded(Stopped):
    """The call's deadline passed."""

    http, retry, way_out = 504, False, "give it more time, or a higher class"


class Cancelled(Stopped):
    """The caller gave up, or went away."""

    http, exit_code, way_out = 499, 130, "nothing: it was asked for"


class Killed(Stopped):
    """The process was killed by an operator or its parent."""

    http, way_out = 410, "`aios why PID` says by whom"


class Fenced(Stopped):
    """The lease is no longer held under this token: its time was over, or it was given back."""

    http, way_out = 409, "acquire it again, and do again what depended on it"


def _leaves(root: type[AiosError]) -> list[type[AiosError]]:
    below = root.__subclasses__()
    return [leaf for child in below for leaf in _leaves(child)] if below else [root]


ERRORS: dict[str, type[AiosError]] = {error.__name__: error for error in _leaves(AiosError)}


def error_of(fault: Fault) -> AiosError:
    """The exception that a fault stands for; one of a newer kernel arrives as `Failed` with its own code in the text."""
    kind = ERRORS.get(fault.code)
    if kind is None:
        return Failed(f"{fault.code}: {fault.message}", field=fault.field, retry_after_s=fault.retry_after_s)
    return kind(fault.message, field=fault.field, retry_after_s=fault.retry_after_s)
