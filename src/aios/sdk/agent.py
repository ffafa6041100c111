"""What makes a function an agent."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload

from aios.abi.errors import Invalid
from aios.abi.manifest import Grant, Manifest, OnBudget, Restart
from aios.abi.request import Class
from aios.sdk.tool import Tool, tools_of

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_GRANTS = ("use /llm/*",)


class Agent(Generic[P, R]):
    """An agent: a function whose first parameter is its `Kernel`, and what it asks for before it runs.

    It is still the function: tests call it with a stand-in for the kernel.
    """

    def __init__(
        self, function: Callable[P, R], name: str, model: str, cls: Class, grants: tuple[str, ...],
        tools: tuple[Tool[..., Any], ...] = (), restart: Restart = "transient", on_budget: OnBudget = "park",
    ) -> None:  # fmt: skip
        self.function = function
        self.name = name
        self.model = model
        self.cls = cls
        self.grants = grants
        self.tools = tools
        self.restart = restart
        self.on_budget = on_budget
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__wrapped__ = function
        self._program = Path(inspect.unwrap(function).__code__.co_filename).absolute()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<agent {self.name}>"

    def manifest(self) -> Manifest:
        """What it asks for. Raises `Invalid` for a function that a host could not find again in its file."""
        entry = self.function.__qualname__
        if "<locals>" in entry or not self._program.is_file():
            raise Invalid(f"agent `{self.name}` is found by its name, in a process of its own: define it at the top of a file")
        program = str(self._program.resolve())
        return Manifest(
            agent=self.name, program=program, entry=entry,
            grants=self.grants, cls=self.cls, model=self.model, restart=self.restart, on_budget=self.on_budget,
        )  # fmt: skip


@overload
def agent(function: Callable[P, R], /) -> Agent[P, R]: ...


@overload
def agent(
    *,
    name: str | None = None,
    model: str = "default",
    cls: Class = "standard",
    grants: tuple[str, ...] = DEFAULT_GRANTS,
    tools: Sequence[Tool[..., Any] | Callable[..., Any]] = (),
    restart: Restart = "transient",
    on_budget: OnBudget = "park",
) -> Callable[[Callable[P, R]], Agent[P, R]]: ...


def agent(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    model: str = "default",
    cls: Class = "standard",
    grants: tuple[str, ...] = DEFAULT_GRANTS,
    tools: Sequence[Tool[..., Any] | Callable[..., Any]] = (),
    restart: Restart = "transient",
    on_budget: OnBudget = "park",
) -> Agent[P, R] | Callable[[Callable[P, R]], Agent[P, R]]:
    """Make a function an agent: `@agent`, or `@agent(model="fast", cls="batch")`.

    `name`: what people see (its own name). `model`: what `default` means for it. `cls`: the highest class of its calls.
    `grants`: its rights as `verb /resource`. `tools`: functions that its models may have run (`k.ask`).
    `restart`: whether it begins again by itself, `on_budget`: whether its calls wait (`park`) or end in `OverBudget` (`fail`)
    when its budget is spent, see `Manifest`. Raises ValueError for what is no grant.
    """
    for grant in grants:
        Grant.parse(grant)

    def make(function: Callable[P, R]) -> Agent[P, R]:
        called = name or function.__name__.replace("_", "-")
        return Agent(function, called, model, cls, tuple(grants), tools_of(tools), restart, on_budget)

    return make if function is None else make(function)
