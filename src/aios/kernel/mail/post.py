"""Mailboxes: what waits to be read, who waits for it, and which requests nobody has replied to yet.

A mail is in one place at a time: unread in a box, or handed to a receiver. Who gives up in the step in which it was handed over
gives it back, to where it was.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import Counter

import msgspec

from aios.abi.errors import QueueFull
from aios.abi.label import Label
from aios.kernel.process import Process

MOST_UNREAD = 4096
"""Mails in one box."""
MOST_UNREAD_BYTES = 4 * 1024 * 1024
MOST_FROM_ONE = 1024
"""Mails of one sender in one box, so that none keeps out the others."""
MOST_FROM_ONE_BYTES = 1024 * 1024
MOST_OF_FAMILY_BYTES = 16 * 1024 * 1024
"""Of all that an agent and its descendants have sent and nobody has read, so that none fills the boxes of all others."""
MOST_BYTES = 64 * 1024 * 1024
"""Of a tenant."""
MAIL_BYTES = 600
"""What a mail costs beside its value, about."""


class Letter(msgspec.Struct, frozen=True, gc=False):
    """A mail as it lies in a box: its value is JSON text, which nobody else holds.

    `number`: of all letters, in their order. `family`: pid of the first of the sender's ancestors that is an agent.
    """

    number: int
    id: str
    sender: str
    family: str
    name: str
    text: bytes
    label: Label
    at_ns: int
    asks: bool

    @property
    def cost(self) -> int:
        return MAIL_BYTES + len(self.text)


class Reply(msgspec.Struct, frozen=True):
    """What was replied to a request, as JSON text, and its label."""

    text: bytes
    label: Label


@dataclasses.dataclass(slots=True, eq=False)
class Asked:
    """A request that nobody has replied to. `reply`: None when the one who was asked has ended instead.

    `lent`: it was received, so that another life of the receiver must get it again; unless its record brings it back by itself.
    """

    letter: Letter
    to: Process
    reply: asyncio.Future[Reply | None]
    lent: bool = False


@dataclasses.dataclass(slots=True, eq=False)
class Receiver:
    """A call that waits for mail, of anybody or of one sender. `got`: None when that sender has ended."""

    sender: Process | None
    keyed: bool
    got: asyncio.Future[Letter | None]

    def wants(self, letter: Letter) -> bool:
        return self.sender is None or self.sender.pid == letter.sender


class Mailbox:
    """The mail of one process, oldest first, and its calls that wait for some."""

    __slots__ = ("asked", "bytes", "receivers", "senders", "unread")

    def __init__(self) -> None:
        self.unread: dict[str, Letter] = {}
        self.bytes = 0
        self.senders: dict[str, tuple[int, int]] = {}
        self.receivers: list[Receiver] = []
        self.asked: dict[str, Asked] = {}

    def count(self, letter: Letter, sign: int) -> None:
        """Book a letter in (1) or out (-1): as long as it is unread, and a request until it is replied to."""
        mails, size = self.senders.get(letter.sender, (0, 0))
        self.bytes += sign * letter.cost
        self.senders[letter.sender] = (mails + sign, size + sign * letter.cost)
        if mails + sign == 0:
            del self.senders[letter.sender]


class Post:
    """All mailboxes. A box is there as long as somebody has mail in it, or waits before it."""

    def __init__(self) -> None:
        self._boxes: dict[Process, Mailbox] = {}
        self._bytes: Counter[str] = Counter()  # by tenant, and by family
        self._awaited: dict[Process, set[Receiver]] = {}
        self.numbers = itertools.count(1)

    def unread(self, process: Process) -> int:
        box = self._boxes.get(process)
        return len(box.unread) if box is not None else 0

    def send(self, to: Process, letter: Letter) -> None:
        """Hand a letter to who waits for it, or put it into the box. Raises `QueueFull`."""
        box = self._boxes.setdefault(to, Mailbox())
        if letter.id in box.unread:  # it was sent under its key before
            return
        if self._hand(box, letter):
            return
        self._check_room(box, to, letter)
        box.unread[letter.id] = letter
        self._book(box, to, letter, 1)

    def ask(self, to: Process, letter: Letter) -> Asked:
        """The same with a request; `give_up` must follow. Raises `QueueFull`."""
        asked = Asked(letter, to, asyncio.get_running_loop().create_future())
        box = self._boxes.setdefault(to, Mailbox())
        if letter.id in box.asked:  # by another life of the sender, under the same key
            self.give_up(box.asked[letter.id])
            self._boxes[to] = box
        self._check_room(box, to, letter)
        box.asked[letter.id] = asked
        self._book(box, to, letter, 1)
        if not self._hand(box, letter):
            box.unread[letter.id] = letter
        return asked

    def give_up(self, asked: Asked) -> None:
        """Nobody waits for the reply any more: what was not read is taken back."""
        box = self._boxes.get(asked.to)
        if box is not None and box.asked.get(asked.letter.id) is asked:
            del box.asked[asked.letter.id]
            box.unread.pop(asked.letter.id, None)
            self._book(box, asked.to, asked.letter, -1)
            self._tidy(asked.to, box)

    def reply(self, by: Process, id: str, reply: Reply) -> bool:
        """Reply to a request; whether somebody waits for it."""
        box = self._boxes.get(by)
        asked = box.asked.get(id) if box is not None else None
        if asked is None or asked.reply.done():
            return False
        asked.reply.set_result(reply)
        return True

    def take(self, process: Process, sender: Process | None, keyed: bool) -> Letter | None:
        """The oldest mail of a process, or of one sender to it."""
        box = self._boxes.get(process)
        if box is None or not box.unread:
            return None
        letters = (letter for letter in box.unread.values() if sender is None or letter.sender == sender.pid)
        letter = next(letters, None)
        if letter is not None:
            del box.unread[letter.id]
            if not letter.asks:
                self._book(box, process, letter, -1)
            _lend(box, letter, keyed)
            self._tidy(process, box)
        return letter

    async def wait(self, process: Process, sender: Process | None, keyed: bool, timeout_s: float | None) -> Letter | None:
        """Wait for the next mail; None if the time was over, or the sender has ended."""
        box = self._boxes.setdefault(process, Mailbox())
        receiver = Receiver(sender, keyed, asyncio.get_running_loop().create_future())
        box.receivers.append(receiver)
        if sender is not None:
            self._awaited.setdefault(sender, set()).add(receiver)
        try:
            if timeout_s is None:
                return await receiver.got
            async with asyncio.timeout(timeout_s):
                return await receiver.got
        except BaseException as error:
            letter = receiver.got.result() if receiver.got.done() and not receiver.got.cancelled() else None
            if letter is not None:
                box.receivers.remove(receiver)
                self.give_back(process, letter)
            if isinstance(error, TimeoutError):
                return None
            raise
        finally:
            self._leave(box, process, receiver)

    def give_back(self, process: Process, letter: Letter) -> None:
        """It was taken by one who gives up: the next who waits for such a one gets it, or else it is unread again."""
        if process.exit is not None:
            return
        box = self._boxes.setdefault(process, Mailbox())
        forgotten = letter.asks and letter.id not in box.asked
        if not forgotten and not self._hand(box, letter):
            if not letter.asks:
                self._book(box, process, letter, 1)
            _put_back(box, [letter])
        self._tidy(process, box)

    def left(self, process: Process) -> None:
        """A life of a process is over: what it was asked and did not reply to is for its next one, if there is one."""
        for receiver in self._awaited.pop(process, ()) if process.exit is not None else ():
            if not receiver.got.done():
                receiver.got.set_result(None)
        box = self._boxes.get(process)
        if box is None:
            return
        if process.exit is None:
            _put_back(box, [asked.letter for asked in box.asked.values() if asked.lent])
            return
        for asked in box.asked.values():
            if not asked.reply.done():
                asked.reply.set_result(None)
        for letter in {**box.unread, **{id: asked.letter for id, asked in box.asked.items()}}.values():
            self._book(box, process, letter, -1)
        del self._boxes[process]

    def _hand(self, box: Mailbox, letter: Letter) -> bool:
        """Give a letter to the first who waits for such a one."""
        for receiver in box.receivers:
            if receiver.wants(letter) and not receiver.got.done():
                receiver.got.set_result(letter)
                _lend(box, letter, receiver.keyed)
                return True
        return False

    def _check_room(self, box: Mailbox, to: Process, letter: Letter) -> None:
        mails, size = box.senders.get(letter.sender, (0, 0))
        if mails >= MOST_FROM_ONE or size + letter.cost > MOST_FROM_ONE_BYTES:
            whose = f"{mails} mails of `{letter.name}`"
        elif len(box.unread) >= MOST_UNREAD or box.bytes + letter.cost > MOST_UNREAD_BYTES:
            whose = f"{len(box.unread)} mails"
        elif self._bytes[letter.family] + letter.cost > MOST_OF_FAMILY_BYTES:
            whose = f"with others {MOST_OF_FAMILY_BYTES} bytes of `{letter.name}` and its family"
        elif self._bytes[to.tenant] + letter.cost > MOST_BYTES:
            whose = f"with others {MOST_BYTES} bytes"
        else:
            return
        self._tidy(to, box)
        raise QueueFull(f"`{to.name}` has {whose} that are not read, or not replied to: try again later", retry_after_s=1.0)

    def _book(self, box: Mailbox, of: Process, letter: Letter, sign: int) -> None:
        box.count(letter, sign)
        for whose in (of.tenant, letter.family):
            self._bytes[whose] += sign * letter.cost
            if not self._bytes[whose]:
                del self._bytes[whose]

    def _leave(self, box: Mailbox, process: Process, receiver: Receiver) -> None:
        if receiver in box.receivers:
            box.receivers.remove(receiver)
        if receiver.sender is not None and receiver.sender in self._awaited:
            self._awaited[receiver.sender].discard(receiver)
            if not self._awaited[receiver.sender]:
                del self._awaited[receiver.sender]
        self._tidy(process, box)

    def _tidy(self, process: Process, box: Mailbox) -> None:
        if not box.unread and not box.receivers and not box.asked and self._boxes.get(process) is box:
            del self._boxes[process]


def _put_back(box: Mailbox, letters: list[Letter]) -> None:
    """Make letters unread again, in the order in which they were sent."""
    for letter in letters:
        box.unread[letter.id] = letter
        if letter.id in box.asked:
            box.asked[letter.id].lent = False
    box.unread = {letter.id: letter for letter in sorted(box.unread.values(), key=lambda letter: letter.number)}


def _lend(box: Mailbox, letter: Letter, keyed: bool) -> None:
    if letter.id in box.asked:
        box.asked[letter.id].lent = not keyed
