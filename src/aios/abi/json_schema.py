"""JSON schemas, as much of them as describes the parameters of functions: what the SDK writes, and the kernel checks.

Schemas come from agents, so a check may neither run their code nor take long: no regular expressions (`pattern` is left to the
function itself), no references out of the schema, so many steps and no more. A word that this does not know is refused when the
schema is given, because a check that passes over it would promise too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from aios.abi.errors import Invalid, TooLarge

MOST_BYTES = 32 * 1024
MOST_LEVELS = 64
MOST_STEPS = 10_000
"""Schemas that one value is held against, in all; that is 5 to 10 ms."""
COMPARED_IN_A_STEP = 20
"""Entries of an `enum`, say, that take no longer than a schema."""

_ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "format", "pattern", "contentEncoding", "discriminator", "$defs", "$comment")
)
_PYTHON: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),  # 2.0 is none to the functions
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list | tuple),
    "object": lambda value: isinstance(value, dict),
}
_NUMBERS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "minimum": (lambda value, bound: value >= bound, "at least"),
    "maximum": (lambda value, bound: value <= bound, "at most"),
    "exclusiveMinimum": (lambda value, bound: value > bound, "above"),
    "exclusiveMaximum": (lambda value, bound: value < bound, "below"),
    "multipleOf": (lambda value, bound: math.isclose(math.remainder(value, bound), 0, abs_tol=1e-9), "a multiple of"),
}
_SIZES = {
    "minLength": (str, 1, "characters"), "maxLength": (str, -1, "characters"), "minItems": (list, 1, "items"),
    "maxItems": (list, -1, "items"), "minProperties": (dict, 1, "fields"), "maxProperties": (dict, -1, "fields"),
}  # fmt: skip
_SCHEMAS = ("items", "additionalProperties")
_LISTS = ("anyOf", "prefixItems")
_WORDS = (
    frozenset(("type", "enum", "const", "required", "properties", "$ref", *_NUMBERS, *_SIZES, *_SCHEMAS, *_LISTS)) | _ANNOTATIONS
)


def check_schema(schema: dict[str, Any], field: str) -> None:
    """Raise `Invalid` for what is no schema of an object's fields, or says what is not checked here; `TooLarge` above 32 KB."""
    try:
        size = len(msgspec.json.encode(schema))
    except (RecursionError, ValueError, TypeError) as error:
        raise Invalid(f"`{field}` is no JSON: {error}", field=field) from None
    if size > MOST_BYTES:
        raise TooLarge(f"`{field}` has {size} bytes, the most is {MOST_BYTES}", field=field)
    if schema and schema.get("type") != "object":
        raise Invalid(f"`{field}` must be the schema of an object: its `type` must be `object`", field=field)
    definitions = schema.get("$defs", {})
    if not isinstance(definitions, dict):
        raise Invalid(f"`{field}.$defs` must be an object", field=f"{field}.$defs")
    for name, each in (("", schema), *definitions.items()):
        _check(each, f"{field}.$defs.{name}" if name else field, definitions, MOST_LEVELS)


def _check(schema: Any, path: str, definitions: dict[str, Any], levels: int) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict) or not levels:
        raise Invalid(f"`{path[:200]}` is no schema, or one that is nested too deeply", field=path[:200])
    unknown = next((word for word in schema if word not in _WORDS), None)
    if unknown is not None:
        raise Invalid(f"`{path[:200]}`: `{unknown[:80]}` is nothing that the kernel checks", field=path[:200])
    fine = (
        _is_type(schema.get("type", "object"))
        and all(_PYTHON["number"](schema.get(word, 1)) for word in (*_NUMBERS, *_SIZES))
        and schema.get("multipleOf", 1) > 0
        and all(isinstance(schema.get(word, []), list | tuple) for word in (*_LISTS, "enum", "required"))
        and all(isinstance(name, str) for name in schema.get("required", ()))
        and isinstance(schema.get("properties", {}), dict)
        and ("$ref" not in schema or _target(schema["$ref"]) in definitions)
    )
    if not fine:
        raise Invalid(f"`{path[:200]}` is no schema", field=path[:200])
    below = [(word, schema[word]) for word in _SCHEMAS if word in schema]
    below += [(f"{word}[{at}]", each) for word in _LISTS for at, each in enumerate(schema.get(word, ()))]
    below += [(f"properties.{name}", each) for name, each in schema.get("properties", {}).items()]
    for name, each in below:
        _check(each, _below(path, name), definitions, levels - 1)


def _is_type(kind: Any) -> bool:
    return all(isinstance(each, str) and each in _PYTHON for each in _kinds(kind))


def _target(reference: Any) -> str:
    return reference.removeprefix("#/$defs/") if isinstance(reference, str) else ""


def check_value(value: Any, schema: dict[str, Any], field: str) -> None:
    """Hold a value against a checked schema. Raises `Invalid` with the field's path, `TooLarge` for what is too much to check."""
    wrong = _Check(schema.get("$defs", {})).wrong(value, schema, field, MOST_LEVELS)
    if wrong is not None:
        raise Invalid(f"`{wrong.path}` {_said(wrong)}", field=wrong.path)


class Wrong(NamedTuple):
    """What is wrong: where, by which word of its schema, and what that says."""

    path: str
    word: str
    bound: Any = None


def _said(wrong: Wrong) -> str:
    """How it should be. Put into words when it is known to matter: most of what does not fit is one kind out of several."""
    word, bound = wrong.word, wrong.bound
    if word in _NUMBERS:
        return f"must be {_NUMBERS[word][1]} {bound}"
    if word in _SIZES:
        _, sign, what = _SIZES[word]
        return f"must have {'at least' if sign > 0 else 'at most'} {bound} {what}"
    if word == "type":
        return f"must be of type {' or '.join(_kinds(bound)[:10])}"
    if word == "enum":
        return f"must be one of {msgspec.json.encode(bound).decode()[:200]}"
    return {"required": "is missing", "anyOf": "is none of what it may be"}.get(word, "must not be there")


def _below(path: str, name: str) -> str:
    """The path of a field, of a length that costs nothing to carry along."""
    return f"{path[:200]}.{name[:80]}"


def _kinds(kind: Any) -> Sequence[str]:
    return kind if isinstance(kind, list | tuple) else (kind,)


class _Check:
    """One check of one value. `definitions`: what references stand for."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._steps = 0

    def wrong(self, value: Any, schema: Any, path: str, levels: int) -> Wrong | None:
        """What is wrong with a value, None if nothing is."""
        if isinstance(schema, bool):
            return None if schema else Wrong(path, "false")
        self._count(schema, path, levels)
        return (
            self._referred(value, schema, path, levels)
            or _simple(value, schema, path)
            or (self._fields(value, schema, path, levels) if isinstance(value, dict) else None)
            or (self._items(value, schema, path, levels) if isinstance(value, list | tuple) else None)
        )

    def _count(self, schema: dict[str, Any], path: str, levels: int) -> None:
        """Raise `TooLarge` when this one is too much; long lists in a schema count by their length."""
        lists = len(schema.get("enum", ())) + len(schema.get("required", ())) + len(_kinds(schema.get("type", ())))
        self._steps += 1 + lists // COMPARED_IN_A_STEP
        if self._steps > MOST_STEPS or not levels:
            raise TooLarge(f"`{path[:200]}` is too much to check", field=path[:200])

    def _referred(self, value: Any, schema: dict[str, Any], path: str, levels: int) -> Wrong | None:
        if "$ref" in schema:
            wrong = self.wrong(value, self._definitions[_target(schema["$ref"])], path, levels - 1)
            if wrong is not None:
                return wrong
        kinds = schema.get("anyOf")
        if kinds is None:
            return None
        found = [self.wrong(value, kind, path, levels - 1) for kind in kinds]
        if None in found:
            return None
        return next((wrong for wrong in found if wrong is not None and wrong.path != path), Wrong(path, "anyOf"))

    def _fields(self, value: dict[Any, Any], schema: dict[str, Any], path: str, levels: int) -> Wrong | None:
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name in schema.get("required", ()):
            if name not in value:
                return Wrong(_below(path, name), "required")
        for name, each in value.items():
            wanted = known.get(name, others)
            if wanted is not True and (wrong := self.wrong(each, wanted, _below(path, name), levels - 1)) is not None:
                return wrong
        return None

    def _items(self, value: Any, schema: dict[str, Any], path: str, levels: int) -> Wrong | None:
        first, others = schema.get("prefixItems", ()), schema.get("items", True)
        for at, each in enumerate(value if others is not True else value[: len(first)]):
            wrong = self.wrong(each, first[at] if at < len(first) else others, f"{path[:200]}[{at}]", levels - 1)
            if wrong is not None:
                return wrong
        return None


def _simple(value: Any, schema: dict[str, Any], path: str) -> Wrong | None:
    """What is wrong with a value by itself."""
    if "type" in schema and not any(_PYTHON[kind](value) for kind in _kinds(schema["type"])):
        return Wrong(path, "type", schema["type"])
    allowed = schema.get("enum", (schema["const"],) if "const" in schema else None)
    if allowed is not None and not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed):
        return Wrong(path, "enum", allowed)
    if _PYTHON["number"](value):
        for word, (holds, _) in _NUMBERS.items():
            if word in schema and not holds(value, schema[word]):
                return Wrong(path, word, schema[word])
    for word, (kind, sign, _) in _SIZES.items():
        fits = isinstance(value, (list, tuple) if kind is list else kind)
        if word in schema and fits and sign * len(value) < sign * schema[word]:
            return Wrong(path, word, schema[word])
    return None
