"""Direct mail between processes: structured values, each with who sent it and where it came from."""

from __future__ import annotations

from typing import Any

import msgspec

from aios.abi.label import Label
from aios.abi.request import Done, Reply, Request


class Mail(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value that a process sent to another. `sender` and `name`: pid and name of who sent it, as the kernel knows them.

    `id`: the same for what was sent under one key, and unique otherwise. `label`: of the sender when it was sent; whoever
    receives it takes it on. `asks`: the sender waits for a `mail.reply` to this id.
    """

    id: str
    sender: str
    name: str
    value: Any
    label: Label
    at_ns: int
    asks: bool = False


class Sent(Reply, frozen=True):
    """The mail is in the mailbox. `id`: the mail's."""

    id: str


class SendMail(Request[Sent], frozen=True, kw_only=True):
    """Put a JSON value (at most 256 KiB) into the mailbox of another process, or of one's own.

    `to`: pid or name, or the word `parent`. Allowed without a grant: oneself, ancestors, descendants, and children of the
    same agent; beyond these, processes of an agent that `write /mail/AGENT` names. `NotFound` for all others, `Conflict` for
    who has ended, `QueueFull` for a full mailbox: nobody waits for room. What its owner has not read when it ends is dropped.
    """

    to: str
    value: Any = None


class Inbox(Reply, frozen=True, omit_defaults=True):
    """`mail`: the oldest that was asked for; None if there was none in time. `left`: how many are unread still."""

    mail: Mail | None = None
    left: int = 0


class ReceiveMail(Request[Inbox], frozen=True, kw_only=True):
    """Take the oldest mail out of one's own mailbox.

    `wait_s`: seconds to wait for it; None: as long as it takes. `sender`: only of that process (pid, name, or `parent`); if
    it has ended and left nothing unread, that is a `Conflict`. A life of a process that its host's death ended has received
    what it received; only under a call `key` does the next life get the same mail again, and requests that nobody replied to.
    """

    wait_s: float | None = 0.0
    sender: str | None = None


class Answered(Reply, frozen=True):
    """What the other process replied, and its label."""

    value: Any
    label: Label


class RequestMail(Request[Answered], frozen=True, kw_only=True):
    """Send mail that asks for a reply, and wait for it. `to` and `value`: as of `mail.send`.

    Ends with `Conflict` when the other ends without having replied, and with `Deadlock` at once if the other waits for the
    caller. Who gives up (deadline, cancel) takes back what has not been read.
    """

    to: str
    value: Any = None


class ReplyMail(Request[Done], frozen=True, kw_only=True):
    """Reply to mail that `asks`. `id`: the mail's. `NotFound` if nobody waits for this reply (any more)."""

    id: str
    value: Any = None
