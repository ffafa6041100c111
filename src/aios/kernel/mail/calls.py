"""The rows `mail.*`."""

from __future__ import annotations

import asyncio

import msgspec

from aios.abi.errors import Conflict, Invalid, NotFound
from aios.abi.mail import Answered, Inbox, Mail, ReceiveMail, ReplyMail, RequestMail, SendMail, Sent
from aios.abi.request import Done
from aios.abi.waits import Wait
from aios.abi.wire import nearest
from aios.kernel.access.grants import Grants
from aios.kernel.awaited import awaiting
from aios.kernel.mail.post import Letter, Post, Reply
from aios.kernel.process import Call, Process, ProcessTable, kin
from aios.kernel.syscall import Syscall, check_range, json_text
from aios.kernel.waiting import wait_for
from aios.ports.clock import Clock

MOST_WAIT_S = 366 * 86400.0

_decode = msgspec.json.Decoder().decode


class MailCalls:
    """Sends, receives, asks and replies."""

    def __init__(self, post: Post, processes: ProcessTable, grants: Grants, clock: Clock) -> None:
        self._post = post
        self._processes = processes
        self._grants = grants
        self._clock = clock

    def syscalls(self) -> dict[str, Syscall]:
        return {
            "mail.send": Syscall(self._send, prepare=self._address),
            "mail.receive": Syscall(self._receive),
            "mail.request": Syscall(self._request, prepare=self._address),
            "mail.reply": Syscall(self._reply),
        }

    def _address(self, call: Call) -> tuple[str, ...]:
        """The grant that mail to this process needs, if it is not of the family. Raises `NotFound`."""
        assert isinstance(call.request, SendMail | RequestMail)
        to = self._reached(call.process, call.request.to, "to")
        return () if kin(call.process, to) else (f"/mail/{to.agent}",)

    def _reached(self, caller: Process, name: str, field: str) -> Process:
        """A process that the caller may write to. Raises `NotFound`, the same for what it may not and what is not there."""
        found = self._processes.named(caller, name)
        if found is not None and (kin(caller, found) or self._grants.of(caller).allows("write", f"/mail/{found.agent}")):
            return found
        near = nearest(name, (process.name for process in self._processes.seen_by(caller)))
        if caller.operator:
            raise NotFound(f"there is no process `{name[:80]}`{near}", field=field)
        raise NotFound(
            f"there is no process `{name[:80]}` that `{caller.name}` may write to{near}; to write beyond its family it needs "
            "`write /mail/AGENT` among its grants", field=field,
        )  # fmt: skip

    async def _send(self, call: Call) -> Sent:
        assert isinstance(call.request, SendMail)
        to = self._reached(call.process, call.request.to, "to")
        check_lives(to)
        letter = self._letter(call, call.request.value, asks=False)
        self._post.send(to, letter)
        return Sent(letter.id)

    def _letter(self, call: Call, value: object, asks: bool) -> Letter:
        sender = call.process
        text = json_text("value", value)
        number, now_ns = next(self._post.numbers), self._clock.now_ns()
        return Letter(number, call.id, sender.pid, family_of(sender), sender.name, text, sender.label, now_ns, asks)

    async def _receive(self, call: Call) -> Inbox:
        request, me, keyed = call.request, call.process, call.options.key is not None
        assert isinstance(request, ReceiveMail)
        if request.wait_s is not None:
            check_range("wait_s", request.wait_s, 0, MOST_WAIT_S)
        sender = self._reached(me, request.sender, "sender") if request.sender is not None else None
        letter = self._post.take(me, sender, keyed)
        if letter is None and sender is not None:
            check_lives(sender)
        if letter is None and request.wait_s != 0:
            holder = sender.name if sender is not None else ""
            wait = Wait(code="M", on=f"mail of {holder}" if holder else "mail", since_ns=call.asked_ns, holder=holder)
            call.waits = lambda: wait
            letter = await self._post.wait(me, sender, keyed, request.wait_s)
        if letter is None:
            if sender is not None:
                check_lives(sender)
            return Inbox()
        await self._hold_on(me, letter)
        call.label = letter.label
        return Inbox(_mail(letter), self._post.unread(me))

    async def _hold_on(self, me: Process, letter: Letter) -> None:
        """A process that is held takes nothing: who gives up meanwhile has not received it."""
        try:
            while me.held is not None:
                await me.resumed()
        except asyncio.CancelledError:
            self._post.give_back(me, letter)
            raise

    async def _request(self, call: Call) -> Answered:
        request = call.request
        assert isinstance(request, RequestMail)
        to = self._reached(call.process, request.to, "to")
        if to is call.process:
            raise Invalid("a process cannot wait for its own reply: `mail.send` reaches oneself", field="to")
        check_lives(to)
        letter = self._letter(call, request.value, asks=True)
        wait = Wait(code="W", on=f"a reply of {to.name}", since_ns=call.asked_ns, holder=to.name)
        asked = self._post.ask(to, letter)
        try:
            with awaiting(call, (to,)):
                await wait_for(call, asked.reply, lambda: None if asked.reply.done() else to, lambda: wait)
        finally:
            self._post.give_up(asked)
        reply = asked.reply.result()
        if reply is None:
            check_lives(to)
            raise AssertionError("only an end leaves a request without a reply")
        call.label = reply.label
        return Answered(_decode(reply.text), reply.label)

    async def _reply(self, call: Call) -> Done:
        request = call.request
        assert isinstance(request, ReplyMail)
        reply = Reply(json_text("value", request.value), call.process.label)
        if not self._post.reply(call.process, request.id, reply):
            raise NotFound(f"nobody waits for `{call.process.name}` to reply to mail `{request.id[:80]}` (any more)", field="id")
        return Done()


def family_of(process: Process) -> str:
    """The pid of the first of its ancestors that is an agent; its own for a session."""
    while process.parent is not None and process.parent.kind == "agent":
        process = process.parent
    return process.pid


def check_lives(process: Process) -> None:
    """Raise `Conflict`, with how it ended, for a process that has."""
    if process.exit is not None:
        how = {"result": "it returned", "error": f"it failed ({process.exit.error})", "killed": "it was killed"}
        raise Conflict(f"`{process.name}` has ended: {how[process.exit.outcome]}", field="to")
    if process.doomed:
        raise Conflict(f"`{process.name}` is being killed", field="to")


def _mail(letter: Letter) -> Mail:
    return Mail(
        id=letter.id, sender=letter.sender, name=letter.name, value=_decode(letter.text), label=letter.label,
        at_ns=letter.at_ns, asks=letter.asks,
    )  # fmt: skip
