"""What was spent, from one kernel to the next: a limit per month means the month, and not a kernel's life.

It is written a few times a second, with what is reserved as if it were spent. So a kernel that is killed forgets at most what was
begun in the moment before, until the ledger's own records are durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from aios.abi.account import WINDOWS, Window
from aios.abi.errors import Unavailable
from aios.drivers.store.document import FileDocument
from aios.kernel.amounts import MONEY
from aios.kernel.main import Kernel

log = logging.getLogger("aios.spending")

FILE_NAME = "spent.json"
EVERY_S = 0.25


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

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """It is written, as long as the block runs and at its end. Raises `Unavailable` if it cannot be at the end."""
        over = asyncio.Event()
        writing = asyncio.create_task(self._write_until(over), name="spending")
        try:
            yield
        finally:
            over.set()
            await writing
            self._document.save(msgspec.json.encode(self.now()))

    async def _write_until(self, over: asyncio.Event) -> None:
        """Write it a few times a second, if it is another; a disk that takes nothing is tried again."""
        written = -1
        while not over.is_set():
            spent = self.now()
            if spent.money["lifetime"] != written:
                try:
                    await self._document.save_aside(msgspec.json.encode(spent))
                    written = spent.money["lifetime"]
                except Unavailable as problem:
                    log.warning("what was spent is not on the disk: %s", problem.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await over.wait()
