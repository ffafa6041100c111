"""Mail as an agent sees it: what it received, and how it replies."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from aios.abi.errors import DeadlineExceeded, Invalid
from aios.abi.label import Label
from aios.abi.mail import Mail, ReceiveMail, ReplyMail, RequestMail, SendMail
from aios.abi.request import NO_OPTIONS, CallOptions
from aios.ports.gate import Gate
from aios.sdk.group import Child
from aios.sdk.process import Process

T = TypeVar("T")


class Received:
    """Mail that was received. `sender` and `name`: pid and name of who sent it; `asks`: it waits for a reply."""

    def __init__(self, gate: Gate, mail: Mail) -> None:
        self._gate = gate
        self.id: str = mail.id
        self.value: Any = mail.value
        self.sender: str = mail.sender
        self.name: str = mail.name
        self.label: Label = mail.label
        self.asks: bool = mail.asks

    def __repr__(self) -> str:
        return f"<mail of {self.name}>"

    async def reply(self, value: Any) -> None:
        """Reply to a request. Raises `NotFound` if nobody waits for it (any more)."""
        await self._gate.call(ReplyMail(id=self.id, value=builtins(value)))


Addressee = str | Process | Child | Received
"""A pid, a name, the word `parent`, a process that was started, or who sent a mail."""


async def send(gate: Gate, to: Addressee, value: Any) -> str:
    """See `Kernel.send`."""
    return (await gate.call(SendMail(to=pid_of(to), value=builtins(value)))).id


async def receive(gate: Gate, sender: Addressee | None, timeout_s: float | None) -> Received:
    """See `Kernel.receive`."""
    of = pid_of(sender) if sender is not None else None
    wait_s, options = waiting(timeout_s)
    inbox = await gate.call(ReceiveMail(wait_s=wait_s, sender=of), options)
    if inbox.mail is None:
        raise DeadlineExceeded("there is no mail")
    return Received(gate, inbox.mail)


async def request(gate: Gate, to: Addressee, value: Any, timeout_s: float | None) -> Any:
    """See `Kernel.request`."""
    return (await gate.call(RequestMail(to=pid_of(to), value=builtins(value)), within(timeout_s))).value


def pid_of(who: Addressee) -> str:
    """The pid, or what else names a process. Raises `Invalid` for a child that has not begun."""
    if isinstance(who, str):
        return who
    if isinstance(who, Received):
        return who.sender
    if not isinstance(who, Process | Child):
        raise Invalid(f"a `{type(who).__name__}` is nobody who has mail: name a process, or who sent you mail", field="to")
    if who.pid is None:
        raise Invalid(f"`{who.key}` has no process yet: `await g.spawn(...)` returns when it has", field="to")
    return who.pid


def within(timeout_s: float | None) -> CallOptions:
    """The options of a call that waits for so long at most. Raises `DeadlineExceeded` where no time is left."""
    if timeout_s is None:
        return NO_OPTIONS
    if timeout_s <= 0:
        raise DeadlineExceeded("no time is left to wait in")
    return CallOptions(deadline_s=timeout_s)


def waiting(timeout_s: float | None) -> tuple[float | None, CallOptions]:
    """`wait_s` and the options of a call that waits for so long at most, and looks once where no time is left."""
    return (0.0, NO_OPTIONS) if timeout_s is not None and timeout_s <= 0 else (None, within(timeout_s))


def builtins(value: Any) -> Any:
    """A value as JSON values. Raises `Invalid` for what is none."""
    try:
        return msgspec.to_builtins(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"a `{type(value).__name__}` cannot be sent: {error}", field="value") from error


def converted(value: Any, out: type[T]) -> T:
    """JSON values as a type. Raises `Invalid` for what does not fit."""
    try:
        return msgspec.convert(value, out)
    except msgspec.ValidationError as error:
        raise Invalid(f"it is no `{getattr(out, '__name__', out)}`: {error}", field="value") from None
