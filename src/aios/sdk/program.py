"""A program: the Python file that agents are defined in, loaded, and what of it concerns an error."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from aios.abi.answers import MAX_SAID_CHARACTERS
from aios.abi.errors import AiosError, ChildFailed, NotFound
from aios.sdk.agent import Agent
from aios.sdk.tool import Tool

MOST_SAID = 10
"""Errors of a group, in words."""
OURS = (str(Path(__file__).resolve().parents[1]), sysconfig.get_path("stdlib"))


def load(file: Path) -> ModuleType:
    """Import a file under its own name, its folder first on the path. Raises whatever its code raises."""
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = file.stem if file.stem not in sys.modules else f"{file.stem}__agent"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise NotFound(f"`{file}` is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def agent_of(module: ModuleType, entry: str) -> tuple[Callable[..., Any], tuple[Tool[..., Any], ...]]:
    """The agent function of that qualified name, and its tools. Raises `NotFound`."""
    try:
        found: Any = reduce(getattr, entry.split("."), cast(Any, module))
    except AttributeError:
        found = None
    function = found.function if isinstance(found, Agent) else found
    if not callable(function):
        raise NotFound(f"`{Path(module.__file__ or '').name}` has no agent function `{entry}`")
    return function, found.tools if isinstance(found, Agent) else ()


def failure(error: BaseException) -> AiosError:
    """What the caller of an agent is told: the type, the message, and the line of the agent's own code."""
    if isinstance(error, AiosError):
        return error
    if isinstance(error, BaseExceptionGroup):
        said = "; ".join(f"{_whose(each)}{type(each).__name__}: {each}" for each in error.exceptions[:MOST_SAID])
        return ChildFailed(f"{error.message}: {said}"[:MAX_SAID_CHARACTERS])
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((*OURS, "<frozen"))]
    said = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        return ChildFailed(f"{said} ({Path(error.filename or '').name}, line {error.lineno})")
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno}: `{own[-1].line}`)" if own else ""
    return ChildFailed(f"{said[:2000]}{where}")


def _whose(error: BaseException) -> str:
    """The first note of an error, which says where in a group it was raised."""
    return "".join(f"{note}: " for note in getattr(error, "__notes__", ())[:1])


def own_traceback(error: BaseException) -> str:
    """The traceback for the agent's log, from its own code on: how the host came to it is nobody's concern."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(OURS):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))
