"""Tools: functions that a model may ask for and the kernel has run; for now a process's own, in its own child."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from aios.abi.bounds import above_zero
from aios.abi.request import Done, Reply, Request

MOST_TOOLS = 128
"""Of one process."""
MOST_DESCRIPTION = 4096
LONGEST_TOOL_S = 3600.0
_name = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ToolManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a tool is. `parameters`: the JSON schema of its arguments, an object's.

    `repeat`: `repeatable` if it may run again after a crash, `once` if it must never run twice by accident. `risk`: the worst
    that it can do. `timeout_s`: after so many seconds it is ended.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    repeat: Literal["repeatable", "once"] = "once"
    risk: Literal["read", "private", "external", "irreversible"] = "external"
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not _name.fullmatch(self.name):
            raise ValueError("`name` must be 1 to 64 letters, digits, `-` or `_`")
        if len(self.description) > MOST_DESCRIPTION:
            raise ValueError(f"`description` must have at most {MOST_DESCRIPTION} characters")
        above_zero("timeout_s", self.timeout_s, LONGEST_TOOL_S)


class RegisterTools(Request[Done], frozen=True, kw_only=True):
    """Tell the kernel of functions that the calling agent's own child runs when it is asked to.

    A name that is known already stands for the new function. Only agents in a child of the kernel have such functions.
    """

    tools: tuple[ToolManifest, ...]


class ToolList(Reply, frozen=True):
    """Tools, in the order in which they were registered."""

    tools: tuple[ToolManifest, ...]


class ListTools(Request[ToolList], frozen=True, kw_only=True):
    """The tools that the caller may use: its own functions."""


class ToolResult(Reply, frozen=True):
    """What a tool returned, a JSON value of at most 1 MB."""

    value: Any


class ExecuteTool(Request[ToolResult], frozen=True, kw_only=True):
    """Run a tool. `arguments` are checked against its schema before anything happens.

    A tool that is `once` and was begun, and of which nobody knows how it ended, ends in `OutcomeUnknown`; asked again with the
    same `key` it is not run a second time.
    """

    tool: str
    arguments: dict[str, Any] = {}
