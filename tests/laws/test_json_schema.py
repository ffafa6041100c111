"""A law of the kernel's check of arguments: it takes a value exactly when the type that the schema was made of takes it."""

from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aios.abi.errors import Invalid, TooLarge
from aios.abi.json_schema import MOST_LEVELS, check_schema, check_value


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    y: float | None = None


class Cat(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    lives: Annotated[int, msgspec.Meta(gt=0, lt=10)]


class Dog(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    barks: bool


class Pair(TypedDict):
    left: str
    right: list["Point"]


class Tree(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    below: list["Tree"] = []


KINDS: list[Any] = [
    int, float, str, bool, None, int | None, list[int], tuple[int, str], dict[str, int], Literal["a", 1, None], Point,
    list[Point], Cat | Dog, Tree, Annotated[str, msgspec.Meta(min_length=1, max_length=2)],
    Annotated[list[int], msgspec.Meta(max_length=1)],
    Annotated[int, msgspec.Meta(ge=0, multiple_of=3)], Any, bool | str,
]  # fmt: skip
words = st.sampled_from(["a", "x", "y", "name", "below", "left", "right", "type", "Cat", "Dog", "lives", "barks", ""])
scalars = st.one_of(st.none(), st.booleans(), st.integers(-5, 12), st.sampled_from([0.5, 2.0]), words)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)


@settings(max_examples=1000)
@given(st.sampled_from(KINDS), values)
@example(int, 2.0)
@example(float, 2)
@example(Tree, {"name": "a", "below": [{"name": "b", "below": [{"name": 1}]}]})
@example(Cat | Dog, {"type": "Cat", "lives": 9})
@example(Cat | Dog, {"type": "Cat", "lives": 10})
@example(Point, {"x": 1, "y": None})
def test_what_the_type_takes_the_check_takes_and_nothing_else(kind: Any, value: Any) -> None:
    made = msgspec.defstruct("Arguments", [("it", kind)], forbid_unknown_fields=True)
    (reference,), definitions = msgspec.json.schema_components((made,), ref_template="#/$defs/{name}")
    schema = {**definitions.pop("Arguments"), "$defs": definitions}
    assert reference["$ref"] == "#/$defs/Arguments"
    check_schema(schema, "parameters")
    try:
        msgspec.convert({"it": value}, made)
    except msgspec.ValidationError:
        with pytest.raises(Invalid) as refused:
            check_value({"it": value}, schema, "arguments")
        assert str(refused.value.field).startswith("arguments.it")
    else:
        check_value({"it": value}, schema, "arguments")


def nested(depth: int, wide: int) -> dict[str, Any]:
    """A schema that a check could walk for ever: each level refers to the next, `wide` times."""
    steps = {f"s{n}": {"anyOf": [{"$ref": f"#/$defs/s{n + 1}"}] * wide} for n in range(depth)}
    return {"type": "object", "additionalProperties": {"$ref": "#/$defs/s0"}, "$defs": {**steps, f"s{depth}": {"type": "null"}}}


def many(word: str) -> dict[str, Any]:
    """A schema with a list of some thousand entries, which is gone through for each item of a value."""
    entries = ["string"] * 2000 if word == "type" else [str(n) for n in range(2000)]
    one = {word: entries if word != "required" else [*["a", "null"] * 1500]}
    return {"type": "object", "properties": {"many": {"type": "array", "items": {"anyOf": [one, {}]}}}}


@pytest.mark.parametrize(
    "schema",
    [
        many("enum"),
        many("required"),
        many("type"),
        nested(20, 8),
        nested(MOST_LEVELS, 1),
        {"type": "object", "$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    ],
)
def test_a_schema_that_would_take_for_ever_is_too_much(schema: dict[str, Any]) -> None:
    check_schema(schema, "parameters")
    with pytest.raises(TooLarge, match="too much to check"):
        check_value({"x": 1, "many": [{"a": 1, "null": 1}] * 400}, schema, "arguments")


def test_what_a_schema_says_nothing_of_costs_nothing() -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"type": "array"}, "n": {"type": "array", "items": {"enum": list(range(400))}}},
    }
    check_value({"x": list(range(50_000)), "y": {str(n): n for n in range(50_000)}, "n": list(range(400))}, schema, "arguments")


def test_the_path_of_what_is_wrong_is_short_however_long_the_names_are() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {"type": "string"}}}
    with pytest.raises(Invalid) as refused:
        check_value({"a" * 10_000: {"b" * 10_000: 1}}, schema, "arguments")
    assert len(str(refused.value.field)) < 400 and "must be of type string" in refused.value.message


schemas = st.recursive(
    st.one_of(scalars, st.sampled_from(["object", "array", "string", "integer"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "anyOf", "$ref", "$defs", "required", "enum", "minimum", "maxItems", "minLength"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=400)
@given(schemas, values)
def test_whatever_an_agent_calls_a_schema_is_refused_or_checked(schema: Any, value: Any) -> None:
    parameters = {"type": "object", "properties": {"it": schema}}
    try:
        check_schema(parameters, "parameters")
        check_value({"it": value}, parameters, "arguments")
    except (Invalid, TooLarge) as refused:
        assert refused.field
