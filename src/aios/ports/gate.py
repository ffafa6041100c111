"""The port `Gate`: what user space holds. In process, over an inherited socketpair, or over HTTP: the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeVar

from aios.abi.request import NO_OPTIONS, CallOptions, Event, Request

R = TypeVar("R")


class Gate(Protocol):
    """A process's way to the kernel."""

    async def call(self, request: Request[R], options: CallOptions = NO_OPTIONS) -> R:
        """Make a system call and return its reply. Cancelling the task cancels the call. Raises `AiosError`."""
        ...

    def stream(self, request: Request[Any], options: CallOptions = NO_OPTIONS) -> AsyncIterator[Event | Any]:
        """Make a system call; yields its events, then its reply. Closing the iterator cancels the call."""
        ...
