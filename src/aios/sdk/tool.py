"""What makes a function a tool: something that a model may ask for, and that runs in its agent's own child."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

import msgspec

from aios.abi.errors import Invalid, NotFound
from aios.abi.llm import ToolSpec
from aios.abi.tool import RegisterTools, ToolManifest
from aios.ports.gate import Gate

P = ParamSpec("P")
R = TypeVar("R")
Repeat = Literal["repeatable", "once"]
Risk = Literal["read", "private", "external", "irreversible"]


class Tool(Generic[P, R]):
    """A tool: a function, and what the kernel and the model are told of it. It is still the function."""

    def __init__(self, function: Callable[P, R], repeat: Repeat, risk: Risk, timeout_s: float) -> None:
        self.function = function
        self.name = function.__name__
        self.repeat = repeat
        self.risk = risk
        self.timeout_s = timeout_s
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.name}>"

    @cached_property
    def manifest(self) -> ToolManifest:
        """What it is, its parameters as a JSON schema. Raises `Invalid` for a signature that JSON has no words for."""
        schema, definitions = msgspec.json.schema_components((self._arguments,), ref_template="#/$defs/{name}")
        parameters = definitions.pop(schema[0]["$ref"].removeprefix("#/$defs/"))
        parameters.pop("title", None)
        try:
            return ToolManifest(
                name=self.name, description=inspect.cleandoc(self.__doc__ or ""), repeat=self.repeat, risk=self.risk,
                parameters={**parameters, "$defs": definitions} if definitions else parameters, timeout_s=self.timeout_s,
            )  # fmt: skip
        except ValueError as error:
            raise Invalid(f"tool `{self.name}`: {error}", field="tools") from None

    @cached_property
    def _arguments(self) -> type[msgspec.Struct]:
        """Its parameters as the fields of a type."""
        try:
            hints = typing.get_type_hints(self.function, include_extras=True)
        except (NameError, TypeError) as error:
            raise Invalid(f"tool `{self.name}`: its annotations cannot be read: {error}", field="tools") from None
        fields: list[Any] = []
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise Invalid(f"tool `{self.name}`: `{parameter}` cannot be called by its name", field="tools")
            kind = hints.get(parameter.name, Any)
            fields.append(
                (parameter.name, kind) if parameter.default is parameter.empty else (parameter.name, kind, parameter.default)
            )
        try:
            made = msgspec.defstruct(f"{self.name}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
            msgspec.json.schema(made)
        except (TypeError, ValueError) as error:
            raise Invalid(f"tool `{self.name}`: JSON has no words for its parameters: {error}", field="tools") from None
        return made

    def bound(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as its annotations want them. Raises `Invalid`."""
        try:
            values = msgspec.convert(arguments, self._arguments)
        except msgspec.ValidationError as error:
            raise Invalid(f"tool `{self.name}`: {error}", field="arguments") from None
        return {name: getattr(values, name) for name in self._arguments.__struct_fields__}

    def said(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call, by name, as JSON values. Raises `Invalid`."""
        try:
            arguments = inspect.signature(self.function).bind(*args, **kwargs).arguments
            return {name: msgspec.to_builtins(value) for name, value in arguments.items()}
        except (TypeError, ValueError, RecursionError) as error:
            raise Invalid(f"tool `{self.name}`: {error}", field="arguments") from None

    def result(self, value: Any) -> Any:
        """A result, as its annotation wants it."""
        try:
            return msgspec.convert(value, typing.get_type_hints(self.function).get("return", Any))
        except (NameError, TypeError, msgspec.ValidationError):  # a type that only the function knows: what was sent
            return value


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *, repeat: Repeat = "once", risk: Risk = "external", timeout_s: float = 60.0
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(
    function: Callable[P, R] | None = None, /, *, repeat: Repeat = "once", risk: Risk = "external", timeout_s: float = 60.0
) -> Tool[P, R] | Callable[[Callable[P, R]], Tool[P, R]]:
    """Make a function a tool: `@tool`, or `@tool(repeat="repeatable", risk="read")`. Plain functions run in a thread.

    The model reads its docstring and its annotations. `repeat`: `repeatable` if it may run again after a crash; `once`: what was
    begun and whose end nobody knows is never run again by itself, but ends in `OutcomeUnknown`. `risk`: what it can do at worst.
    `timeout_s`: after so many seconds it is cancelled; a plain function cannot be, and its thread goes on.
    """

    def make(function: Callable[P, R]) -> Tool[P, R]:
        return Tool(function, repeat, risk, timeout_s)

    return make if function is None else make(function)


class Toolbox:
    """The tools of one process: its agent's, and those that its code has used. The kernel hears of each before its use."""

    __slots__ = ("_gate", "_known", "own")

    def __init__(self, gate: Gate, tools: Iterable[Tool[..., Any]] = ()) -> None:
        self._gate = gate
        self._known: dict[str, Tool[..., Any]] = {}
        self.own = tuple(tools)

    def find(self, name: str) -> Tool[..., Any]:
        """Raises `NotFound`."""
        found = self._known.get(name)
        if found is None:
            raise NotFound(f"there is no tool `{name[:80]}`", field="tool")
        return found

    async def ready(self, tools: Sequence[Tool[..., Any]]) -> tuple[ToolSpec, ...]:
        """Have the kernel know these, and say what the model is told of them. Raises `Invalid` for two of one name."""
        names = {tool.name: tool for tool in tools}
        twice = [tool.name for tool in tools if names[tool.name] is not tool]
        if twice:
            raise Invalid(f"two tools are named `{twice[0]}`", field="tools")
        new = [tool for tool in tools if tool.name not in self._known or self._known[tool.name].function is not tool.function]
        if new:
            await self._gate.call(RegisterTools(tools=tuple(tool.manifest for tool in new)))
            self._known.update((tool.name, tool) for tool in new)
        return tuple(ToolSpec(tool.name, tool.manifest.description, tool.manifest.parameters) for tool in tools)


def tools_of(functions: Iterable[Tool[..., Any] | Callable[..., Any]]) -> tuple[Tool[..., Any], ...]:
    """Functions as tools; those that were not made one are, as `@tool` makes them."""
    return tuple(each if isinstance(each, Tool) else tool(each) for each in functions)
