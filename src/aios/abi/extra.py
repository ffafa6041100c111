"""What a request or an answer holds in the words of one wire, beyond what the contract has words for.

A client and a core that speak the same wire may tell each other what means nothing to anybody between them: a setting of one
server, a model's sealed reasoning. Such fields ride along as `extra`, where they were found: a message's at its message. They are
recorded and digested with what they belong to. A core of the same wire puts them back, all others leave them out.

An extra never says what the contract has a word for, for then a check could be got around by saying it twice: `set_aside` takes
only fields that the wire's own types have not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args, get_type_hints

import msgspec

Wire = Literal["openai_chat", "openai_responses", "anthropic_messages"]
Fields = dict[str, Any]

EXTRA = "~aios:extra"
"""The name under which `set_aside` puts what it finds; types that are to receive it have a field of this name."""
MAX_EXTRA_BYTES = 1 << 20
"""Of all extras of a request or an answer, as JSON; what is content (audio, files) does not count."""
MOST_ODD = 5000
"""Objects with names that nobody knows; to set them aside takes 15 ms."""
MAX_JOINED_DEPTH = 8
WHOLE_WORDS = frozenset(("type", "id", "index", "format"))
"""Texts that come whole with each piece of an answer; other texts come in pieces."""

_encode = msgspec.json.Encoder().encode


class Shape:
    """What a type knows of its own names, and which of its fields hold further objects, alone or in lists."""

    __slots__ = ("below", "known")

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        self.known = frozenset(kind.__struct_encode_fields__)
        held = {name: _struct_in(hint) for name, hint in get_type_hints(kind).items()}
        self.below = tuple([(name, Shape(inner)) for name, inner in held.items() if inner is not None])


def _struct_in(hint: object) -> type[msgspec.Struct] | None:
    """The type in a hint, alone or in a list, that takes what is set aside."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct) and EXTRA in hint.__struct_encode_fields__:
        return hint
    return next((found for part in get_args(hint) if (found := _struct_in(part)) is not None), None)


def set_aside(value: object, shape: Shape, most: int = MOST_ODD) -> int:
    """Put the fields that nobody knows under `EXTRA`, in place, each where it stands; in how many objects there were any.

    Stops when there were more than `most`: nothing is to be done with such a value.
    """
    if isinstance(value, list):
        count = 0
        for each in value:
            count += set_aside(each, shape, most - count)
            if count > most:
                break
        return count
    if not isinstance(value, dict):
        return 0
    count = not value.keys() <= shape.known
    if count:
        value[EXTRA] = {name: value.pop(name) for name in list(value) if name not in shape.known}
    for name, below in shape.below:
        if name in value:
            count += set_aside(value[name], below, most - count)
    return count


def objects(value: object) -> list[Fields]:
    """The objects in a list, none if it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def size_of(extras: Iterable[Fields | None]) -> int:
    """Bytes of extras as JSON."""
    return sum(len(_encode(extra)) for extra in extras if extra)


def join_pieces(into: Fields, piece: Fields, depth: int = 0) -> None:
    """Add what one piece of an answer said: texts and lists go on, objects are joined, of all else the last counts."""
    for name, value in piece.items():
        before = into.get(name)
        if isinstance(before, str) and isinstance(value, str) and name not in WHOLE_WORDS:
            into[name] = before + value
        elif isinstance(before, list) and isinstance(value, list):
            into[name] = before + value
        elif isinstance(before, dict) and isinstance(value, dict) and depth < MAX_JOINED_DEPTH:
            joined = dict(before)
            join_pieces(joined, value, depth + 1)
            into[name] = joined
        elif value is not None or name not in into:
            into[name] = value
