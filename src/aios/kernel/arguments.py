"""What a process begins with: the arguments that it was given, and the results of those that it begins after."""

from __future__ import annotations

from typing import Any, Literal

from aios.abi.answers import handed_on
from aios.abi.errors import ChildFailed, Invalid, TooLarge
from aios.abi.waits import Wait
from aios.kernel.process import Process

MOST_ARGUMENT_BYTES = 256 * 1024


class After:
    """The processes that another one begins after. `results`: see `Spawn`; `since_ns`: when it was asked to."""

    def __init__(self, processes: tuple[Process, ...], results: Literal["none", "one", "all"], since_ns: int) -> None:
        self._processes = processes
        self._results = results
        self._since_ns = since_ns

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
        return [process for process in self._processes if process.exit is None]

    async def hand_over(self, process: Process) -> None:
        """When all have ended, put their results behind the process's own arguments; its label becomes no better than theirs.

        Raises `ChildFailed` if none of them ended well, `TooLarge` if their results are more than an agent begins with.
        """
        for other in self._processes:
            await other.ended.wait()
        ends = [other.exit for other in self._processes if other.exit is not None]
        results = [end.result for end in ends if end.outcome == "result"]
        if not results:
            first = ends[0]
            raise ChildFailed(
                f"it did not begin: `{self._processes[0].name}`, which it was to begin after, failed: {first.message}"
            )
        if self._results == "none":
            return
        arguments = (*process.arguments, results[0] if self._results == "one" else results)
        check_arguments(arguments)
        process.arguments = arguments
        for other in self._processes:
            process.label = process.label.join(other.label)


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
