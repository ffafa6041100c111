"""What was spent, from one kernel to the next: a limit per month means the month, and not a kernel's life.

What is reserved stands in it as if it were spent, and no call goes to a provider before its reservation is on the disk. So a
kernel that is killed forgets nothing; the next one takes for spent what was under way. Calls that come together share a write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from aios.abi.account import WINDOWS, Window
from aios.abi.errors import Unavailable
from aios.drivers.store.document import FileDocument
from aios.kernel.amounts import MONEY
from aios.kernel.ledger.windows import begun_ns
from aios.kernel.main import Kernel

log = logging.getLogger("aios.spending")

FILE_NAME = "spent.json"
EVERY_S = 0.25
"""How long the file may say more than is true."""


class Spent(msgspec.Struct, frozen=True):
    """Nano-dollars of all accounts in the windows of `at_ns`, UTC."""

    at_ns: int
    money: dict[Window, int]


class Spending:
    """Keeps it for a kernel, in a file of its home."""

    def __init__(self, kernel: Kernel, home: Path) -> None:
        self._kernel = kernel
        self._path = home / FILE_NAME
        self._document = FileDocument(self._path)
        self._on_disk: Mark | None = None
        self._failing = False
        self._waiting: list[asyncio.Future[None]] = []
        self._wake, self._over = asyncio.Event(), asyncio.Event()

    def carry(self) -> None:
        """Begin with what kernels before have spent. Raises `Unavailable` for a file that is damaged."""
        found = self._document.load()
        if found is None:
            return
        try:
            spent = msgspec.json.decode(found, type=Spent)
            if min(spent.money.values(), default=0) < 0 or spent.at_ns < 0:
                raise ValueError("an amount below 0")
        except ValueError as problem:
            said = f"{self._path} is damaged ({problem}): remove it, and what was spent before is forgotten"
            raise Unavailable(said) from None
        self._kernel.accounts.top.carry(MONEY, spent.money, spent.at_ns, self._kernel.clock.now_ns())

    def now(self) -> Spent:
        """What stands in the book, reservations too."""
        top, at_ns = self._kernel.accounts.top, self._kernel.clock.now_ns()
        top.turn(at_ns)
        windows = [window for window in WINDOWS if window != "call"]
        return Spent(at_ns, {window: top.spent_in(window, MONEY) + top.reserved[MONEY] for window in windows})

    async def cover(self) -> None:
        """Return when all that is reserved now is on the disk. Raises `Unavailable` if it cannot be."""
        if self._over.is_set():
            raise Unavailable("the kernel goes down, and writes no more what is spent")
        if self._on_disk is not None and self._on_disk.covers(mark_of(self.now())):
            return
        written = asyncio.get_running_loop().create_future()
        self._waiting.append(written)
        self._wake.set()
        await written

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """It is written, as long as the block runs and at its end. Raises `Unavailable` if it cannot be at the end."""
        writing = asyncio.create_task(self._write_until_over(), name="spending")
        try:
            yield
        finally:
            self._over.set()
            self._wake.set()
            await writing
            self._document.save(msgspec.json.encode(self.now()))

    async def _write_until_over(self) -> None:
        """Write it when somebody waits for it, and a few times a second if it is another."""
        while not self._over.is_set():
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            tell(waiting, await self._write())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._wake.wait()
        tell(self._waiting, Unavailable("the kernel goes down, and writes no more what is spent"))

    async def _write(self) -> Unavailable | None:
        """Write what stands in the book now, if the disk does not have it; why it could not be."""
        spent = self.now()
        mark, before, self._on_disk = mark_of(spent), self._on_disk, None  # while it is written nobody knows what is there
        if mark != before:
            try:
                await self._document.save_aside(msgspec.json.encode(spent))
            except Unavailable as problem:
                if not self._failing:
                    log.warning("what is spent is not on the disk, and nothing that costs money is asked: %s", problem.message)
                self._failing = True
                return problem
        self._on_disk, self._failing = mark, False
        return None


class Mark(NamedTuple):
    """Nano-dollars in a lifetime, and the hour in which it was so: another hour may be in other windows."""

    hour_ns: int
    money: int

    def covers(self, now: Mark) -> bool:
        """Whether what is so now is not forgotten with this on the disk."""
        return self.hour_ns == now.hour_ns and self.money >= now.money


def mark_of(spent: Spent) -> Mark:
    """What tells two of them apart."""
    return Mark(begun_ns("hour", spent.at_ns), spent.money["lifetime"])


def tell(waiting: list[asyncio.Future[None]], problem: Unavailable | None) -> None:
    """Those who wait hear that it is written, or why not."""
    for written in waiting:
        if not written.done():
            written.set_result(None) if problem is None else written.set_exception(problem)
