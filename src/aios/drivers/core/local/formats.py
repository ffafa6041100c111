"""What a request wants of its answer's form, as a constraint for the host: `response_format`, `tools` and `tool_choice`."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

import msgspec

from aios.abi.errors import Invalid, NoCore, Unavailable
from aios.abi.llm import Generate, ToolSpec
from aios.drivers.core.local.protocol import Constraint

PACKAGE = "llguidance"
INSTALL = f"pip install --no-deps {PACKAGE}==1.9.1"

MOST_BYTES = 1 << 15
"""Of a form: what its reading may cost the other calls follows from it."""

FORMATS = "`text`, `json_object`, `json_schema`, `choice` or `regex`"
NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
COMBINING = frozenset(("$ref", "allOf", "anyOf", "oneOf", "patternProperties", "additionalProperties"))
_NAME = re.compile(r"[A-Za-z0-9_./:-]{1,128}", re.ASCII)


def installed_version() -> str:
    """Of the package with which the host keeps answers to a form. Raises `Unavailable` if it is not there."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(f"`{PACKAGE}`, which keeps answers to a form, is not installed: `{INSTALL}`") from None


def constraint_of(request: Generate) -> tuple[Constraint, str] | None:
    """The constraint of a request and the field that it comes from; None where any text will do. Raises `Invalid`, `NoCore`."""
    formed = _formed(request.response_format) if request.response_format is not None else None
    callable_, must = functions_of(request)
    if not callable_:
        return (_bounded(formed, "response_format"), "response_format") if formed else None
    if formed:
        message = "the local model does not keep to a `response_format` and call functions: set `tool_choice` to none"
        raise NoCore(message, field="response_format")
    functions = [(tool.name, _arguments(at, tool)) for at, tool in enumerate(request.tools) if tool in callable_]
    return _bounded(Constraint("call" if must else "call_or_text", _json(functions, "tools")), "tools"), "tools"


def functions_of(request: Generate) -> tuple[tuple[ToolSpec, ...], bool]:
    """The functions that the model may call, and whether it must call one. Raises `Invalid`."""
    names = [tool.name for tool in request.tools]
    for at, name in enumerate(names):
        if not _NAME.fullmatch(name):
            raise Invalid("a function's name has 1 to 128 letters, digits and `_ - . / :`", field=f"tools[{at}].name")
        if name in names[:at]:
            raise Invalid(f"two functions are named `{name}`", field=f"tools[{at}].name")
    match request.tool_choice:
        case None | "auto":
            return request.tools, False
        case "none":
            return (), False
        case "required":
            chosen = request.tools
        case {"type": "function", "function": {"name": str(name)}}:
            chosen = tuple(tool for tool in request.tools if tool.name == name)
        case _:
            message = '`tool_choice` is `none`, `auto`, `required` or {"type": "function", "function": {"name": NAME}}'
            raise Invalid(message, field="tool_choice")
    if not chosen:
        raise Invalid("`tool_choice` wants a function that is not among `tools`", field="tool_choice")
    return chosen, True


def _formed(wanted: dict[str, Any]) -> Constraint | None:
    match wanted:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return Constraint("schema", '{"type":"object"}')
        case {"type": "json_schema"}:
            return _schema(wanted.get("json_schema"))
        case {"type": "choice"}:
            return _choice(wanted.get("choices"))
        case {"type": "regex"}:
            return _regex(wanted.get("pattern"))
    raise Invalid(f"`response_format.type` is {FORMATS}", field="response_format.type")


def _schema(given: object) -> Constraint:
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(schema, dict):
        raise Invalid("`json_schema` holds `name` and `schema`, an object", field="response_format.json_schema.schema")
    return Constraint("schema", _json(schema, "response_format"))


def _choice(choices: object) -> Constraint:
    field = "response_format.choices"
    if not isinstance(choices, list | tuple) or not choices:
        raise Invalid("`choices` is a list of at least one text", field=field)
    for at, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice:
            raise Invalid("a choice is a text that is not empty", field=f"{field}[{at}]")
    if len(set(choices)) < len(choices):
        raise Invalid("two of the `choices` are equal", field=field)
    return Constraint("choice", _json(choices, field))


def _regex(pattern: object) -> Constraint:
    if not isinstance(pattern, str) or not pattern:
        raise Invalid("`pattern` is a regular expression for the whole answer", field="response_format.pattern")
    return Constraint("regex", pattern)


def _arguments(at: int, tool: ToolSpec) -> dict[str, Any]:
    """The schema of a function's arguments: an object, with no more than is named where the schema does not say."""
    schema = tool.parameters or NOTHING
    if schema.get("type", "object") != "object":
        raise Invalid("a function's `parameters` are an object's schema", field=f"tools[{at}].parameters")
    closed = {} if COMBINING & schema.keys() else {"additionalProperties": False}
    return {"type": "object", **closed, **schema}


def _json(value: object, field: str) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:
        raise Invalid("it is nested too deeply", field=field) from None


def _bounded(constraint: Constraint, field: str) -> Constraint:
    size = len(constraint.text.encode())
    if size > MOST_BYTES:
        raise Invalid(f"it has {size} bytes, more than the {MOST_BYTES} that a form may have", field=field)
    return constraint
