"""What is set aside because only one wire has words for it, and how its pieces are joined."""

from typing import Any

import msgspec
import pytest

from aios.abi.extra import EXTRA, Shape, join_pieces, set_aside, size_of


class Below(msgspec.Struct, forbid_unknown_fields=True):
    x: int = 0
    extra: dict[str, Any] | None = msgspec.field(name=EXTRA, default=None)


class Above(msgspec.Struct, forbid_unknown_fields=True):
    one: Below | None = None
    many: str | tuple[Below, ...] = ()
    loose: dict[str, Any] = {}
    extra: dict[str, Any] | None = msgspec.field(name=EXTRA, default=None)


SHAPE = Shape(Above)


def test_what_nobody_knows_is_set_aside_where_it_stands() -> None:
    value = {"one": {"x": 1, "odd": 2}, "many": [{"x": 3}, {"y": None}], "loose": {"any": 1}, "z": [{"x": 1}]}
    assert set_aside(value, SHAPE) == 3
    found = msgspec.convert(value, Above)
    assert found == Above(Below(1, {"odd": 2}), (Below(3), Below(0, {"y": None})), {"any": 1}, {"z": [{"x": 1}]})


@pytest.mark.parametrize("value", [5, "text", None, [], {}, {"many": "text", "one": None}, {"one": {"x": 1}}, [[{"x": 1}]]])
def test_where_nothing_is_odd_nothing_is_done(value: Any) -> None:
    before = msgspec.json.encode(value)
    assert not set_aside(value, Shape(Below) if isinstance(value, list) else SHAPE)
    assert msgspec.json.encode(value) == before


def test_it_stops_where_there_is_too_much() -> None:
    value = {"many": [{"odd": 1} for _ in range(100)]}
    assert set_aside(value, SHAPE, most=3) == 4
    assert value["many"][4] == {"odd": 1}


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        ([{"a": "x"}, {"a": "y"}], {"a": "xy"}),
        ([{"a": [1]}, {"a": [2]}], {"a": [1, 2]}),
        ([{"a": {"b": "x", "c": 1}}, {"a": {"b": "y"}}], {"a": {"b": "xy", "c": 1}}),
        ([{"type": "t", "id": "1"}, {"type": "t", "id": "1"}], {"type": "t", "id": "1"}),
        ([{"a": 1}, {"a": 2}], {"a": 2}),
        ([{"a": "x"}, {"a": None}], {"a": "x"}),
        ([{"a": None}, {"a": "x"}], {"a": "x"}),
        ([{"a": "x"}, {"a": [1]}], {"a": [1]}),
    ],
)
def test_pieces_are_joined_as_clients_join_them(pieces: list[dict[str, Any]], whole: dict[str, Any]) -> None:
    joined: dict[str, Any] = {}
    for piece in pieces:
        join_pieces(joined, piece)
    assert joined == whole


def test_pieces_of_any_depth_are_joined_in_few_steps() -> None:
    deep: Any = "x"
    for _ in range(100):
        deep = {"a": deep}
    joined: dict[str, Any] = {}
    join_pieces(joined, deep)
    join_pieces(joined, deep)
    assert joined == deep
    assert size_of([joined, None, {}]) == len(msgspec.json.encode(deep))
