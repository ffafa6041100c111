"""What JSON can say and a record cannot is refused with the field's name, at every depth."""

import msgspec
import pytest

from aios.abi.errors import Invalid
from aios.abi.llm import Count, Generate, Message, Part, ToolSpec
from aios.abi.table import ROWS
from aios.abi.wire import decode_request


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_numbers_of_more_than_64_bits(number: int) -> None:
    for fields in (
        {"tools": (ToolSpec("f", parameters={"a": [number]}),)},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": number}}}},
        {"tool_choice": {"type": number}},
    ):
        (name,) = fields
        with pytest.raises(ValueError, match=f"`{name}` cannot be recorded"):
            Generate(prompt="x", **fields)  # type: ignore[arg-type]  # each has its own type
    with pytest.raises(ValueError, match="`extra` cannot be recorded"):
        Generate(prompt="x", wire="openai_chat", extra={"top_k": number})
    with pytest.raises(ValueError, match="`extra` cannot be recorded"):
        message = Message("user", (Part("other", extra={"audio": number}),))
        Generate(messages=(message,), wire="openai_chat")
    with pytest.raises(ValueError, match="`tools` cannot be recorded"):
        Count(text="x", tools=(ToolSpec("f", parameters={"a": number}),))
    assert Generate(prompt="x", tools=(ToolSpec("f", parameters={"a": [2**64 - 1, -(2**63), 1e300]}),))


@pytest.mark.parametrize("levels", range(50, 3000, 50))
def test_nesting_is_refused_before_it_is_too_deep_for_others(levels: int) -> None:
    nested = '{"a":' * levels + "1" + "}" * levels
    body = f'{{"prompt":"x","tools":[{{"name":"f","parameters":{nested}}}]}}'.encode()
    try:
        request = decode_request(ROWS["llm.generate"], body, "json")
    except Invalid:
        return
    for _ in range(50):
        request = [request]  # type: ignore[assignment]  # as who hands it on
    assert msgspec.msgpack.encode(request)


def test_halves_of_characters() -> None:
    for name, value in {
        "tools": (ToolSpec("f", description="\ud800"),),
        "response_format": {"type": "choice", "choices": ["\ud800"]},
        "tool_choice": {"\ud800": 1},
    }.items():
        with pytest.raises(ValueError, match=f"`{name}` cannot be recorded: .*half a character"):
            Generate(prompt="x", **{name: value})  # type: ignore[arg-type]  # each has its own type
