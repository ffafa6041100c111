"""The rows `tool.*`, for the functions that an agent's own child runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aios.abi.account import TOOL
from aios.abi.answers import check_json_value
from aios.abi.errors import AiosError, Conflict, DeadlineExceeded, Invalid, NotFound, OutcomeUnknown, TooLarge, ToolFailed
from aios.abi.json_schema import check_schema, check_value
from aios.abi.label import FIRST_PARTY
from aios.abi.request import Done
from aios.abi.tool import MOST_TOOLS, ExecuteTool, ListTools, RegisterTools, ToolList, ToolManifest, ToolResult
from aios.abi.wire import nearest
from aios.kernel.arguments import check_arguments
from aios.kernel.ledger.book import Book
from aios.kernel.ledger.cashier import Cashier
from aios.kernel.process import Call, Process
from aios.kernel.record.journal import Journal
from aios.kernel.syscall import Syscall
from aios.ports.host import HostGone

MOST_SCHEMA_BYTES = 256 * 1024
"""Of all descriptions and schemas of one process's tools, about."""
Run = Callable[[Process, str, dict[str, Any]], Awaitable[Any]]


class ToolCalls:
    """Knows the tools of each process, and runs them. `run`: has a process's host do it. `book`, `cashier`: what limits them."""

    def __init__(self, run: Run, journal: Journal, book: Book, cashier: Cashier) -> None:
        self._run = run
        self._journal = journal
        self._book = book
        self._cashier = cashier
        self._of: dict[Process, dict[str, ToolManifest]] = {}

    def syscalls(self) -> dict[str, Syscall]:
        return {
            "tool.register": Syscall(self._register),
            "tool.list": Syscall(self._list),
            "tool.execute": Syscall(self._execute),
        }

    def forget(self, process: Process) -> None:
        """A process has ended."""
        self._of.pop(process, None)

    async def _register(self, call: Call) -> Done:
        request, process = call.request, call.process
        assert isinstance(request, RegisterTools)
        if process.host_pid is None or process.manifest is None or process.manifest.command:
            what = "session" if process.kind == "session" else "program"
            raise Conflict(f"`{process.name}` is a {what}, not an agent in a child of the kernel: it runs its functions itself")
        for at, tool in enumerate(request.tools):
            check_schema(tool.parameters, f"tools[{at}].parameters")
        tools = {**self._of.get(process, {}), **{tool.name: tool for tool in request.tools}}
        if len(tools) > MOST_TOOLS:
            raise TooLarge(f"`{process.name}` would have {len(tools)} tools, the most is {MOST_TOOLS}", field="tools")
        size = sum(len(repr(tool.parameters)) + len(tool.description) for tool in tools.values())
        if size > MOST_SCHEMA_BYTES:
            raise TooLarge(f"the tools of `{process.name}` would have {size} bytes of schemas and descriptions", field="tools")
        self._of[process] = tools
        return Done()

    async def _list(self, call: Call) -> ToolList:
        assert isinstance(call.request, ListTools)
        return ToolList(tools=tuple(self._of.get(call.process, {}).values()))

    async def _execute(self, call: Call) -> ToolResult:
        request, process = call.request, call.process
        assert isinstance(request, ExecuteTool)
        known = self._of.get(process, {})
        tool = known.get(request.tool)
        if tool is None:
            raise NotFound(f"`{process.name}` has no tool `{request.tool[:80]}`{nearest(request.tool, known)}", field="tool")
        call.about = tool.name
        check_arguments((request.arguments,))
        check_json(request.arguments)
        check_value(request.arguments, tool.parameters, "arguments")
        use = await self._cashier.use(call, self._book.tagged(TOOL, process.tenant, tool.name))
        try:
            value = await (self._once(call, tool) if tool.repeat == "once" else self._timed(call, tool))
        except HostGone as gone:
            raise ToolFailed(f"the host of `{process.name}` died while it ran `{tool.name}`: {gone}") from None
        finally:
            self._cashier.used(call, use)
        call.label = process.label.join(FIRST_PARTY)
        return ToolResult(value=value)

    async def _once(self, call: Call, tool: ToolManifest) -> Any:
        """The intent is recorded before the act; what was begun and has no end that is known has `OutcomeUnknown`."""
        durable = self._journal.commit(self._journal.intent(call, call.request))
        if durable is not None:
            await durable
        unknown = OutcomeUnknown(f"`{tool.name}` was begun, and ended before it could say whether it is done")
        call.unknown = unknown
        try:
            value = await self._timed(call, tool)
        except (DeadlineExceeded, HostGone):
            raise unknown from None
        except asyncio.CancelledError:
            if call.stopped is not None:
                call.stopped = unknown
            raise
        except AiosError:
            call.unknown = None
            raise
        call.unknown = None
        return value

    async def _timed(self, call: Call, tool: ToolManifest) -> Any:
        assert isinstance(call.request, ExecuteTool)
        try:
            async with asyncio.timeout(tool.timeout_s):
                return await self._run(call.process, tool.name, call.request.arguments)
        except TimeoutError:
            raise DeadlineExceeded(f"`{tool.name}` ran for {tool.timeout_s:g} s, which is its limit") from None


def check_json(arguments: dict[str, Any]) -> None:
    """Raise `Invalid` for arguments that JSON has no word for: the function is called with what a model could have said."""
    try:
        check_json_value(arguments)
    except (TypeError, ValueError) as error:
        raise Invalid(f"`arguments`: {error}", field="arguments") from None
