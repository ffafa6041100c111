"""How tests run: `async def` in virtual time unless marked `real`, nothing left over at their end, no skip on the CI machine.

There are no async fixtures: what a test opens it opens with `async with`, so that it ends inside the test.
"""

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from aios.testing import VirtualLoop

if sys.platform == "win32":
    new_real_loop = asyncio.new_event_loop
else:
    from uvloop import new_event_loop as new_real_loop

Test = Callable[..., Coroutine[Any, Any, None]]


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; programs under test would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    loop_factory = new_real_loop if pyfuncitem.get_closest_marker("real") else VirtualLoop
    law = getattr(pyfuncitem.obj, "hypothesis", None)
    if law and inspect.iscoroutinefunction(law.inner_test):  # Hypothesis calls it once for each example
        law.inner_test = on_a_loop(law.inner_test, loop_factory)
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    signature = inspect.signature(pyfuncitem.obj)
    on_a_loop(pyfuncitem.obj, loop_factory)(**{name: pyfuncitem.funcargs[name] for name in signature.parameters})
    return True


def on_a_loop(test: Test, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Callable[..., None]:
    """The test as a function that runs it on a loop of its own, and fails if it leaves anything behind there."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        lost: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: lost.append(context))
            runner.run(to_the_end(test(*args, **kwargs)))
        for context in lost:  # an exception that nobody awaited
            raise AssertionError(context["message"]) from context.get("exception")

    return run


async def to_the_end(test: Coroutine[Any, Any, None]) -> None:
    await test
    await asyncio.sleep(0)  # what ends in this very pass of the loop is not left over
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"still running at the end of the test: {left}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if "CI" in os.environ and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("skipped where everything can be installed: failing", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """On the CI machine a skip fails the run: what the test needs can be installed there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if "CI" in os.environ and exitstatus == pytest.ExitCode.OK and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
