"""What a system call is made of: a request that knows its reply, and the options that ride beside it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

import msgspec

R = TypeVar("R")

MAX_TRACE_CHARACTERS = 128
MAX_KIND_CHARACTERS = 80
MAX_REMAINING_S = 1e9
MAX_WAITS_FOR = 8
MAX_WAITED_CHARACTERS = 200
JOB_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,80}"
_job = re.compile(JOB_NAME)

Class = Literal["interactive", "standard", "batch", "idle"]
CLASSES: tuple[Class, ...] = ("interactive", "standard", "batch", "idle")
"""The highest first. What is `idle` is served when nothing else waits."""


class Request(msgspec.Struct, Generic[R], frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all requests: `class Generate(Request[Completion])` is answered by a `Completion`.

    Unknown fields are refused, so that a misspelled field is an error and not a silent default.
    """


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all replies. Readers ignore unknown fields, so that a newer kernel can say more."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base of what a streamed call says before its reply."""


class Done(Reply, frozen=True):
    """The reply of calls that have nothing to tell but that they happened."""


def check_job(field: str, name: str) -> None:
    """Raise ValueError for what cannot be the name of a job: it is part of the name of an account."""
    if name and not _job.fullmatch(name):
        raise ValueError(f"`{field}` must be 1 to 81 letters, digits, `-`, `_`, `.` or `@`, and begin with one of the first two")


class Trace(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """What a caller's own tracing calls what it does. `id`: of the trace (W3C, 32 hexadecimal digits); `task`, `step`: its words.

    Nothing depends on them: they stand in the call's event, where they join the caller's records to the kernel's.
    `tag`: the job that its owner books it under, if its process is not of one: what all calls of a job come to stands in the
    account `job:TENANT/NAME`, beside all others that they are of.
    """

    id: str = ""
    task: str = ""
    step: str = ""
    tag: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "task", "step"):
            text = getattr(self, name)
            if len(text) > MAX_TRACE_CHARACTERS or not text.isprintable():
                raise ValueError(f"`{name}` must have at most {MAX_TRACE_CHARACTERS} printable characters")
        check_job("tag", self.tag)


class CallOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rides beside a request; may lower what the process was granted, never raise it.

    `deadline_s`: seconds from now after which the call ends with `DeadlineExceeded` (None: the row's own).
    `cls`: the scheduling class of this one call, at most that of its process.
    `key`: the caller's own name for the call, unique in its process: asked again with the same key, the recorded result is
    returned and nothing is done twice.
    `scope`: the part of its process's work that the call is of (a child of a group, say). The calls of a scope are numbered by
    themselves, so that their ids do not depend on what else runs at the time. Doors over HTTP have no scopes.
    `trace`: what the caller's own tracing calls it.

    The others are hints, which may be wrong: they change which of the caller's own calls is next, and not how much it gets.
    `kind`: what it does, where each call of a client is work of its own: calls of a kind are expected to need what such calls
    needed. `remaining_s`: seconds of a core's work that it still needs, with this call. `waits_for`: for what it waits as long as
    this call is open, processes by pid or name, or the ids of their calls; their calls may be served in its turn too.
    """

    deadline_s: float | None = None
    cls: Class | None = None
    key: str | None = None
    scope: str = ""
    trace: Trace | None = None
    kind: str = ""
    remaining_s: float | None = None
    waits_for: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.deadline_s is not None and not 0 < self.deadline_s < 1e9:
            raise ValueError("`deadline_s` must be a number of seconds above 0")
        if self.cls is not None and self.cls not in CLASSES:  # also where it is made: in a frame it would be a breach of contract
            raise ValueError(f"`cls` must be one of {', '.join(CLASSES)}")
        if self.key is not None and not (isinstance(self.key, str) and 0 < len(self.key) <= 200):
            raise ValueError("`key` must have 1 to 200 characters")
        if len(self.scope) > 200:
            raise ValueError("`scope` must have at most 200 characters")
        if self.kind and (len(self.kind) > MAX_KIND_CHARACTERS or not self.kind.isprintable()):
            raise ValueError(f"`kind` must have at most {MAX_KIND_CHARACTERS} printable characters")
        if self.remaining_s is not None and not 0 <= self.remaining_s <= MAX_REMAINING_S:
            raise ValueError("`remaining_s` must be a number of seconds, 0 or more")
        if len(self.waits_for) > MAX_WAITS_FOR:
            raise ValueError(f"`waits_for` must name at most {MAX_WAITS_FOR}")
        if any(not 0 < len(name) <= MAX_WAITED_CHARACTERS for name in self.waits_for):
            raise ValueError(f"`waits_for` must have names of 1 to {MAX_WAITED_CHARACTERS} characters")


NO_OPTIONS = CallOptions()


@cache
def reply_of(request: type[Request[Any]]) -> type[Any]:
    """The reply type that a request type declares."""
    for base in getattr(request, "__orig_bases__", ()):
        if get_origin(base) is Request:
            return get_args(base)[0]  # type: ignore[no-any-return]  # typing gives Any
    raise TypeError(f"{request.__name__} does not say what it is answered by: derive it from Request[Reply]")


def is_above(one: Class, other: Class) -> bool:
    """Whether a class is served before another one."""
    return CLASSES.index(one) < CLASSES.index(other)


def lower(granted: Class, asked: Class | None) -> Class:
    """The class a call gets: what it asks for, but never above what its process was granted."""
    if asked is None:
        return granted
    return max(granted, asked, key=CLASSES.index)
