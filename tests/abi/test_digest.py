"""The digest of a request is the same for ever, and the label of a value is what it was made from."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.abi.digest import digest
from aios.abi.errors import Invalid
from aios.abi.label import KERNEL, MAX_SOURCES, Label
from aios.abi.llm import Generate, Message
from aios.abi.manifest import Manifest
from aios.abi.process import Spawn
from aios.abi.request import Request
from aios.abi.system import Sleep

MANIFEST = Manifest(agent="a", program="/a.py", entry="a", grants=("use /llm/*",))

GOLDEN = {
    "llm.generate": (
        Generate(messages=(Message("user", "hé"),), logit_bias={"b": 1.0, "a": -2.5}, temperature=0.0),
        "49ee769167c18c57143af65d4269176d38e547967e4e12f82ac71f8c9ac72b55",
    ),
    "process.spawn": (
        Spawn(manifest=MANIFEST, arguments=({"z": 1, "a": [True, None, 1.5]}, "x")),
        "1cc830720cebe7c3ce102db97593ec882e97fe4e9ef28463d21a1d473a6c7828",
    ),
    "clock.sleep": (Sleep(seconds=1.5), "faba709c81457ed370292591c4fd5b31c2811637d1f91335030fe9db99a4da5c"),
}
"""As they were in the first version: a change here breaks every journal that was ever written."""


@pytest.mark.parametrize("name", GOLDEN)
def test_a_digest_never_changes(name: str) -> None:
    request, expected = GOLDEN[name]
    assert digest(name, 1, request).hex() == expected


def test_the_hash_that_a_person_accepted_never_changes() -> None:
    assert MANIFEST.hash() == "66b4c9a931708e1f06188043c8dbec8b92078ddd8e1b5f122fb0ed155b26246a"


def grown(kind: type[Request[Any]]) -> type[Request[Any]]:
    """The request as a later version may have it: one field more, with a default."""
    fields = [(field.name, field.type, field.default) for field in msgspec.structs.fields(kind) if not field.required]
    needed = [(field.name, field.type) for field in msgspec.structs.fields(kind) if field.required]
    return msgspec.defstruct(
        kind.__name__, [*needed, ("aardvark", str, ""), *fields, ("zebra", tuple[int, ...], ())], bases=(Request,),
        frozen=True, kw_only=True, omit_defaults=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_a_new_field_with_a_default_changes_no_digest(name: str) -> None:
    request, _ = GOLDEN[name]
    later = msgspec.convert(msgspec.to_builtins(request), grown(type(request)))
    assert digest(name, 1, later) == digest(name, 1, request)
    other = msgspec.structs.replace(later, zebra=(1,))
    assert digest(name, 1, other) != digest(name, 1, request)


def test_name_and_version_are_part_of_it() -> None:
    request = Sleep(seconds=1)
    assert len({digest("clock.sleep", 1, request), digest("clock.sleep", 2, request), digest("clock.nap", 1, request)}) == 3


def test_the_order_of_keys_does_not_matter() -> None:
    one = Spawn(manifest=MANIFEST, arguments=({"a": 1, "b": {"c": 2, "d": 3}},))
    two = Spawn(manifest=MANIFEST, arguments=({"b": {"d": 3, "c": 2}, "a": 1},))
    assert digest("process.spawn", 1, one) == digest("process.spawn", 1, two)


@pytest.mark.parametrize("odd", [{1: 2}, {None: 1}, {(1, 2): 3}, object(), msgspec.msgpack.Ext(5, b""), "\ud800"])
def test_what_is_no_json_value_is_refused_and_no_bug(odd: Any) -> None:
    with pytest.raises(Invalid):
        digest("process.spawn", 1, Spawn(manifest=MANIFEST, arguments=(odd,)))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values, values)
def test_different_arguments_have_different_digests(one: Any, two: Any) -> None:
    digests = [digest("process.spawn", 1, Spawn(manifest=MANIFEST, arguments=(value,))) for value in (one, two)]
    same = msgspec.json.encode(one, order="sorted") == msgspec.json.encode(two, order="sorted")
    assert (digests[0] == digests[1]) == same


@given(values)
def test_a_digest_survives_both_wires(value: Any) -> None:
    request = Spawn(manifest=MANIFEST, arguments=(value,))
    for codec in (msgspec.json, msgspec.msgpack):
        again = codec.decode(codec.encode(request), type=Spawn)
        assert digest("process.spawn", 1, again) == digest("process.spawn", 1, request)


# --- labels -----------------------------------------------------------------------------------------------------------

sources = st.lists(st.text("abcdef", min_size=1, max_size=3), max_size=50).map(lambda ids: tuple(sorted(set(ids))))
labels = st.builds(
    Label, st.integers(0, 3), st.integers(0, 3), st.none() | st.frozensets(st.sampled_from("abc")), sources
)  # fmt: skip


@given(labels, labels)
def test_a_join_is_commutative(one: Label, two: Label) -> None:
    assert one.join(two) == two.join(one)


@given(labels, labels, labels)
def test_a_join_is_associative(one: Label, two: Label, three: Label) -> None:
    assert one.join(two).join(three) == one.join(two.join(three))


@given(labels)
def test_a_join_with_itself_or_with_the_kernels_word_changes_nothing(one: Label) -> None:
    assert one.join(one) == one == one.join(KERNEL)


@given(labels, labels)
def test_a_join_is_never_freer_than_its_parts(one: Label, two: Label) -> None:
    both = one.join(two)
    for part in (one, two):
        assert both.integrity <= part.integrity and both.confidentiality >= part.confidentiality
        assert part.readers is None or (both.readers is not None and both.readers <= part.readers)
    assert len(both.sources) <= MAX_SOURCES and list(both.sources) == sorted(both.sources)
