"""What a process begins with: the arguments that it was given, and the results of those that it begins after."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from aios.abi.answers import handed_on
from aios.abi.errors import ChildFailed, Invalid, TooLarge
from aios.abi.label import KERNEL
from aios.abi.process import Exit
from aios.abi.waits import Wait
from aios.kernel.awaited import awaiting
from aios.kernel.process import Process

MOST_ARGUMENT_BYTES = 256 * 1024


class After:
    """The processes that another one begins after. `results`: see `Spawn`; `since_ns`: when it was asked to.

    It hears of each end when it comes, and keeps no more of what ended than will be handed over: results that are too much for an
    argument must not be kept for as long as somebody waits for the last of them.
    """

    def __init__(self, processes: tuple[Process, ...], results: Literal["none", "one", "all"], since_ns: int) -> None:
        self._order = {process.pid: at for at, process in enumerate(processes)}
        self._living = dict.fromkeys(processes)
        self._wanted = results
        self._since_ns = since_ns
        self._results: dict[int, Any] = {}
        self._size = 0
        self._label = KERNEL
        self._failure = ""
        self._went_well = False
        self._over = asyncio.Event()

    @property
    def wait(self) -> Wait | None:
        """For whom it waits now; None when all have ended."""
        living = [process.name for process in self.living]
        if not living:
            return None
        others = f" and {len(living) - 1} others" if len(living) > 2 else f" and {living[1]}" if len(living) == 2 else ""
        return Wait(code="W", on=living[0] + others, since_ns=self._since_ns, holder=living[0])

    @property
    def living(self) -> list[Process]:
        """Those that have not ended."""
        return [process for process in self._living if process.exit is None]

    async def hand_over(self, process: Process) -> None:
        """When all have ended, put their results behind the process's own arguments; its label becomes no better than theirs.

        Raises `ChildFailed` if none of them ended well, `TooLarge` as soon as their results are more than an agent begins with.
        """
        for other in tuple(self._living):
            if other.exit is None:
                other.followers[self.heard] = None
            else:
                self.heard(other)
        try:
            with awaiting(process, self.living):
                await self._over.wait()
        finally:
            for other in self._living:
                other.followers.pop(self.heard, None)
        if self._size > MOST_ARGUMENT_BYTES:
            raise TooLarge(f"it did not begin: the results that it was to begin with have over {MOST_ARGUMENT_BYTES} bytes")
        if not self._went_well:
            raise ChildFailed(f"it did not begin: {self._failure}")
        if self._wanted != "none":
            results = [self._results[at] for at in sorted(self._results)]
            arguments = (*process.arguments, results[0] if self._wanted == "one" else results)
            check_arguments(arguments)
            process.arguments = arguments
            process.label = process.label.join(self._label)

    def heard(self, process: Process) -> None:
        """One of them has ended."""
        assert process.exit is not None
        del self._living[process]
        if process.exit.outcome != "result":
            self._failure = self._failure or f"`{process.name}`, which it was to begin after, failed: {process.exit.message}"
        else:
            self._went_well = True
            self._take(process, process.exit)
        if not self._living or self._size > MOST_ARGUMENT_BYTES:
            self._over.set()

    def _take(self, process: Process, exit: Exit) -> None:
        if self._wanted == "none":
            return
        self._size += process.exit_bytes
        self._label = self._label.join(process.label)
        self._results[self._order[process.pid]] = exit.result
        if self._size > MOST_ARGUMENT_BYTES:
            self._results.clear()


def check_arguments(arguments: tuple[Any, ...]) -> None:
    """Raise `Invalid` for what cannot be handed over to an agent: whole numbers above 64 bits, halves of characters,
    nesting that leaves those no room who hand it on.

    And `TooLarge` for more than an agent needs to begin with: they are kept as long as it is known.
    """
    try:
        size = len(handed_on(arguments))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Invalid(f"`arguments` cannot be handed over: {error}", field="arguments") from None
    if size > MOST_ARGUMENT_BYTES:
        raise TooLarge(f"`arguments` have {size} bytes, the most is {MOST_ARGUMENT_BYTES}", field="arguments")
