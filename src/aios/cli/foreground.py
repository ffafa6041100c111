"""The kernel in this process, until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack

import uvloop

from aios import boot
from aios.abi.account import LimitState
from aios.cli.group import INTERRUPTED
from aios.cli.running import Running, on_record
from aios.cli.show import say
from aios.config import Config


def serve(config: Config, show: Callable[[Running, LimitState | None], None], ready: int | None, until: int | None) -> None:
    """Run the kernel to its end; `show` tells people where it answers and what may be spent; closing `ready` tells a parent.

    At the end of descriptor `until` it goes down. Raises `KeyboardInterrupt` after Ctrl-C, and what `boot.serve` raises.
    """
    for descriptor in (ready, until):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)  # a child of the kernel that held it would keep the parent waiting
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with ExitStack() as stack:

        def answers(address: boot.Address) -> None:
            found = Running(os.getpid(), address.http, address.socket, address.keys)
            stack.enter_context(on_record(found))
            show(found, address.budget)
            sys.stdout.flush()
            if ready is not None:
                os.close(ready)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            signals = runner.run(until_signalled(config, answers, until))
    if signal.SIGINT in signals:
        raise KeyboardInterrupt


async def until_signalled(config: Config, answers: Callable[[boot.Address], None], until: int | None) -> list[signal.Signals]:
    """The kernel, which drains at the first SIGINT or SIGTERM; the second ends the process as it is.

    The end of descriptor `until` is like a SIGTERM. The children of a kernel end with it, however it ends. Returns the signals
    that came.
    """
    loop = asyncio.get_running_loop()
    kernel = loop.create_task(boot.serve(config, answers))
    signals: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        if signals:
            os._exit(INTERRUPTED)
        signals.append(number)
        say("going down: once more ends it at once")
        kernel.cancel()

    def over(descriptor: int) -> None:
        loop.remove_reader(descriptor)
        end(signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    if until is not None:
        loop.add_reader(until, over, until)
    try:
        await kernel
    except asyncio.CancelledError:
        if not signals:
            raise
    return signals
