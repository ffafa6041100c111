"""AIOS, an operating system for LLM agents: the kernel between agents and everything they spend, touch and remember."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aios.abi.errors import (
        AiosError,
        BadRequest,
        Cancelled,
        ChildFailed,
        Conflict,
        ContextFull,
        CoreFailed,
        DeadlineExceeded,
        Deadlock,
        Denied,
        Draining,
        Failed,
        Fenced,
        Internal,
        Invalid,
        Killed,
        NeedsApproval,
        NoCore,
        NotFound,
        OutcomeUnknown,
        OutputInvalid,
        OverBudget,
        QueueFull,
        RateLimited,
        Refused,
        Stopped,
        TooLarge,
        ToolFailed,
        Unauthenticated,
        Unavailable,
        UnknownCall,
    )
    from aios.abi.llm import Completion, Generate, Message
    from aios.abi.manifest import Manifest
    from aios.abi.request import CallOptions
    from aios.sdk.agent import Agent, agent
    from aios.sdk.boards import Board
    from aios.sdk.client import Client
    from aios.sdk.group import Child, Group, chunks
    from aios.sdk.kernel import Kernel
    from aios.sdk.leases import Lease
    from aios.sdk.mail import Received
    from aios.sdk.process import Process
    from aios.sdk.run import run
    from aios.sdk.tool import Tool, tool

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AiosError",
    "BadRequest",
    "Board",
    "CallOptions",
    "Cancelled",
    "Child",
    "ChildFailed",
    "Client",
    "Completion",
    "Conflict",
    "ContextFull",
    "CoreFailed",
    "DeadlineExceeded",
    "Deadlock",
    "Denied",
    "Draining",
    "Failed",
    "Fenced",
    "Generate",
    "Group",
    "Internal",
    "Invalid",
    "Kernel",
    "Killed",
    "Lease",
    "Manifest",
    "Message",
    "NeedsApproval",
    "NoCore",
    "NotFound",
    "OutcomeUnknown",
    "OutputInvalid",
    "OverBudget",
    "Process",
    "QueueFull",
    "RateLimited",
    "Received",
    "Refused",
    "Stopped",
    "TooLarge",
    "Tool",
    "ToolFailed",
    "Unauthenticated",
    "Unavailable",
    "UnknownCall",
    "agent",
    "chunks",
    "run",
    "tool",
]

_places = {
    "aios.abi.llm": ("Completion", "Generate", "Message"),
    "aios.abi.manifest": ("Manifest",),
    "aios.abi.request": ("CallOptions",),
    "aios.sdk.agent": ("Agent", "agent"),
    "aios.sdk.boards": ("Board",),
    "aios.sdk.client": ("Client",),
    "aios.sdk.group": ("Child", "Group", "chunks"),
    "aios.sdk.kernel": ("Kernel",),
    "aios.sdk.process": ("Process",),
    "aios.sdk.leases": ("Lease",),
    "aios.sdk.mail": ("Received",),
    "aios.sdk.run": ("run",),
    "aios.sdk.tool": ("Tool", "tool"),
}
_place_of = {name: place for place, names in _places.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used: programs wait for no more than they need."""
    if name not in __all__:
        raise AttributeError(f"module `aios` has no attribute `{name}`")
    value = globals()[name] = getattr(import_module(_place_of.get(name, "aios.abi.errors")), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
