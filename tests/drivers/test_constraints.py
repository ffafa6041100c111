"""Answers that must have a form have it, whatever the schema and the seed, and what is no form is one error of one call."""

import itertools
import json
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios.abi.errors import AiosError, Invalid, NoCore
from aios.abi.llm import Completion, Delta, ToolCallDelta, ToolSpec
from aios.drivers.core.local import models
from aios.drivers.core.local.batching import Batcher
from aios.drivers.core.local.constraints import BadConstraint, Constraints
from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig
from aios.drivers.core.local.engine import Engine
from aios.drivers.core.local.formats import MOST_BYTES, constraint_of
from aios.drivers.core.local.llama import Llama
from aios.drivers.core.local.protocol import Constraint, Open, Piece, Prompt, Refused, Turn
from aios.drivers.core.local.sampler import choose_among, likeliest, logprobs
from aios.drivers.core.local.slots import Slots
from aios.drivers.core.local.tools import CallReader
from aios.testing.cores import Candidate, Heard, ignore

SLOTS = 8
ASK = Prompt("", (Turn("user", "Describe somebody as JSON."),))
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(Llama(), models.find(models.EMBEDDED), slots=SLOTS, window=256, threads=1, batch=64 + SLOTS)
    yield engine
    engine.close()


def opening(constraint: Constraint | None, seed: int = 1, **fields: Any) -> Open:
    fields = {"prompt": ASK, "temperature": 1.0, "top_p": 1.0, "max_tokens": 150, **fields}
    return Open(call=next(numbers), seed=seed, constraint=constraint, **fields)


def run(engine: Engine, *openings: Open) -> list[list[Piece]]:
    """What comes of each, all at once."""
    batcher = Batcher(engine, Slots(engine, SLOTS, 0), chunk=64, backlog=10_000)
    pieces: dict[int, list[Piece]] = {each.call: [] for each in openings}
    for each in openings:
        assert batcher.open(each) is None
    while batcher.has_work():
        step = batcher.step()
        assert not step.refused
        for piece in step.pieces:
            pieces[piece.call].append(piece)
    return list(pieces.values())


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def ids_of(pieces: list[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.ids]


def schema(value: dict[str, Any]) -> Constraint:
    return Constraint("schema", json.dumps(value))


# valid answers


def some_schema(dice: random.Random, depth: int) -> dict[str, Any]:
    """One of those that `fits` knows, with answers of bounded length."""
    simple = [
        {"type": "string", "maxLength": dice.randrange(1, 12)},
        {"type": "integer", "minimum": -dice.randrange(50), "maximum": dice.randrange(1, 5000)},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["red", "green", dice.randrange(100), None]},
        {"const": f'a "quoted" é {dice.randrange(100)}'},
        {"type": "string", "pattern": f"^[a-c]{{{dice.randrange(1, 4)}}}-[0-9]+x$", "maxLength": 12},
    ]
    if not depth or dice.random() < 0.3:
        return dice.choice(simple)
    if dice.random() < 0.3:
        return {"type": "array", "items": some_schema(dice, depth - 1), "minItems": 1, "maxItems": dice.randrange(1, 4)}
    if dice.random() < 0.3:
        return {"anyOf": [some_schema(dice, depth - 1) for _ in range(2)]}
    names = [f"{name}_{depth}" for name in ("one", "two", "three")[: dice.randrange(1, 4)]]
    return {
        "type": "object",
        "properties": {name: some_schema(dice, depth - 1) for name in names},
        "required": names[: dice.randrange(len(names) + 1)],
        "additionalProperties": False,
    }


KINDS: dict[str, Any] = {"string": str, "boolean": bool, "null": type(None), "array": list, "object": dict}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is valid, for the keywords of `some_schema`."""
    if "anyOf" in schema:
        return any(fits(value, each) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return any(value == each and type(value) is type(each) for each in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "integer":
        return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
    if type(value) is not KINDS[schema["type"]]:
        return False
    if isinstance(value, str):
        return len(value) <= schema["maxLength"] and re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, list):
        return schema["minItems"] <= len(value) <= schema["maxItems"] and all(fits(each, schema["items"]) for each in value)
    if isinstance(value, dict):
        known = schema["properties"]
        return set(schema["required"]) <= set(value) <= set(known) and all(fits(value[name], known[name]) for name in value)
    return True


def test_an_answer_is_valid_whatever_the_schema_and_the_seed(engine: Engine) -> None:
    dice = random.Random(5)
    schemas = [some_schema(dice, 2) for _ in range(32)]
    whole = 0
    found = run(engine, *(opening(schema(each), seed) for seed, each in enumerate(schemas)))
    for wanted, pieces in zip(schemas, found, strict=True):
        if pieces[-1].finish == "length":
            continue
        whole += 1
        assert fits(json.loads(text_of(pieces)), wanted), (text_of(pieces), wanted)
    assert whole >= 28


def test_the_answer_is_the_same_alone_in_a_batch_and_with_its_likelihoods(engine: Engine) -> None:
    """With likelihoods no token is taken unread, so this is also: what must follow is what would have been chosen."""
    dice = random.Random(7)
    forms = [schema(some_schema(dice, 2)) for _ in range(SLOTS)]
    together = run(engine, *(opening(form, seed) for seed, form in enumerate(forms)))
    one_by_one = run(engine, *(opening(form, seed, logprobs=0) for seed, form in enumerate(forms)))
    assert [ids_of(pieces) for pieces in together] == [ids_of(pieces) for pieces in one_by_one]
    for number in (0, 3):
        assert ids_of(run(engine, opening(forms[number], number))[0]) == ids_of(together[number])
    assert max(len(piece.ids) for pieces in together for piece in pieces) > 1


def test_it_goes_on_after_any_piece_as_it_would_have(engine: Engine) -> None:
    form = schema(
        {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
    )
    (whole,) = run(engine, opening(form))
    done = [tuple(ids_of(whole[:cut])) for cut in range(1, len(whole))]
    rests = run(engine, *(opening(form, delivered=delivered, acked=len(delivered)) for delivered in done))
    assert len(done) > 3
    assert all([*delivered, *ids_of(rest)] == ids_of(whole) for delivered, rest in zip(done, rests, strict=True))


def test_choices_and_patterns_are_met_to_the_end(engine: Engine) -> None:
    choices = ["a", "ab", 'he said "é\n"', "{", "漢字 😀"]
    choice, pattern = Constraint("choice", json.dumps(choices)), Constraint("regex", r"[0-9]{4}-[0-9]{2}(-[0-9]{2})?")
    literal = "a/\nstart: /b"
    forms = [choice] * 12 + [pattern] * 4 + [Constraint("regex", literal)]
    found = run(engine, *(opening(form, seed, temperature=2.0) for seed, form in enumerate(forms)))
    texts = [text_of(pieces) for pieces in found]
    assert set(texts[:12]) <= set(choices) and len(set(texts[:12])) > 1
    assert all(re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", text) for text in texts[12:16])
    assert texts[16:] == [literal]
    assert all(pieces[-1].finish == "stop" for pieces in found)


def test_max_tokens_and_stop_texts_end_it_in_the_middle(engine: Engine) -> None:
    form = schema({"type": "object", "properties": {"a_long_name": {"const": 1}}, "required": ["a_long_name"]})
    (short,), (stopped,) = run(engine, opening(form, max_tokens=3)), run(engine, opening(form, stop=("ng_na",)))
    assert (len(ids_of(short)), short[-1].finish) == (3, "length")
    assert (text_of(stopped), stopped[-1].finish) == ('{"a_lo', "stop")


def test_likelihoods_are_those_of_the_model_and_their_bytes_join_to_the_text(engine: Engine) -> None:
    (pieces,) = run(engine, opening(Constraint("regex", "(😀|漢){3}"), logprobs=3))
    found = [each for piece in pieces for each in piece.logprobs]
    assert b"".join(each.piece for each in found).decode() == text_of(pieces) and len(found) == len(ids_of(pieces)) > 3
    assert all(each.logprob <= each.top[0][1] <= 0 for each in found)
    assert all([value for _, value in each.top] == sorted((value for _, value in each.top), reverse=True) for each in found)


LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=30).map(lambda row: np.array(row, np.float32))


@given(row=LOGITS, chance=st.floats(0, 1, exclude_max=True), temperature=st.sampled_from([0.0, 0.5, 2.0]), data=st.data())
def test_only_what_is_allowed_is_chosen_and_probabilities_sum_to_one(
    row: np.ndarray, chance: float, temperature: float, data: st.DataObject
) -> None:
    allowed = data.draw(st.sets(st.integers(0, len(row) - 1), min_size=1))
    assert choose_among(row, np.array(sorted(allowed)), temperature, 0.9, chance) in allowed
    assert sum(np.exp(logprobs(row, range(len(row))))) == pytest.approx(1)
    assert likeliest(row, 2) == sorted(range(len(row)), key=lambda token: (-row[token], token))[:2]


# what is no form


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        value = {"type": "array", "items": value}
    return value


NO_FORMS = {
    "contradiction": (schema({"allOf": [{"type": "string"}, {"type": "number"}]}), "nsatisfiable"),
    "nothing to choose": (schema({"enum": []}), "nsatisfiable"),
    "endless": (schema({"$ref": "#"}), "no text"),
    "elsewhere": (schema({"$ref": "http://example.com/a.json"}), "nothing is fetched"),
    "a file": (schema({"$ref": "file:///etc/passwd"}), "nothing is fetched"),
    "nowhere": (schema({"$ref": "#/$defs/x"}), "does not exist"),
    "deep": (schema(nested(400)), "nested too deeply"),
    "deep call": (Constraint("call", json.dumps([["f", nested(400)]])), "nested too deeply"),
    "deeper call": (Constraint("call", '[["f", ' + '{"a":' * 5000 + "1" + "}" * 5000 + "]]"), "nested too deeply"),
    "unknown keyword": (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
    "one of several": (schema({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}), "write `anyOf`"),
    "together": (schema({"type": "string", "pattern": "^(a|b)*c$", "minLength": 500, "maxLength": 600}), "too complex"),
    "no type": (schema({"type": "strin"}), "strin"),
    "explodes": (schema({"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {}}} for j in range(6)]} for i in range(12)]}), "large"),
    "open bracket": (Constraint("regex", "(abc"), "unclosed group"),
    "looks ahead": (Constraint("regex", "(?=a)b"), "look-around"),
    "empty class": (Constraint("regex", "[a&&b]"), "no text"),
    "deep pattern": (Constraint("regex", "(" * 9000 + "a" + ")" * 9000), "nest"),
}


@pytest.mark.parametrize("name", NO_FORMS)
def test_what_is_no_form_is_refused_with_one_sentence(engine: Engine, name: str) -> None:
    constraint, expected = NO_FORMS[name]
    batcher = Batcher(engine, Slots(engine, SLOTS, 0), chunk=64, backlog=100)
    refused = batcher.open(opening(constraint))
    assert isinstance(refused, Refused) and expected in refused.message
    assert 0 < len(refused.message) <= 300 and "\n" not in refused.message


HEAVY = {
    "many": schema({"type": "array", "items": {"type": "integer"}, "minItems": 10**9}),
    "long": schema({"type": "string", "minLength": 10**6}),
    "names": schema({"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(1000)}}),
    "values": schema({"enum": [f"value {number}" for number in range(1800)]}),
    "powers": Constraint("regex", "((a{1,100}){1,100}){1,100}"),
    "doubling": Constraint("regex", "(a|b)*a(a|b){60}"),
    "words": Constraint("regex", "|".join(f"word{number}" for number in range(3600))),
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_form_costs_the_others_little(engine: Engine, name: str) -> None:
    assert len(HEAVY[name].text) <= MOST_BYTES
    constraints, slowest = Constraints(engine), 0.0
    constraints.matcher(Constraint("regex", "a"))
    begun = time.process_time()
    try:
        matcher = constraints.matcher(HEAVY[name])
        slowest = time.process_time() - begun
        for _ in range(40):
            begun = time.process_time()
            matcher.take(int(matcher.allowed()[-1]))
            matcher.take_forced()
            slowest = max(slowest, time.process_time() - begun)
            if matcher.ended:
                break
    except BadConstraint:
        slowest = max(slowest, time.process_time() - begun)
    assert slowest < 0.5


# the driver


def local(home: Path) -> LocalCore:
    return LocalCore(LocalCoreConfig(home=home, slots=4, window=512, threads=1))


def format_of(kind: str, **fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": kind, **fields}}


def tool(name: str = "add", **fields: Any) -> ToolSpec:
    return ToolSpec(name, **{"parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}, **fields})


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("response_format.type", format_of("yaml")),
        ("response_format.json_schema.schema", format_of("json_schema")),
        ("response_format.json_schema.schema", format_of("json_schema", json_schema={"name": "x", "schema": True})),
        ("response_format.choices", format_of("choice", choices=[])),
        ("response_format.choices", format_of("choice", choices=["a", "a"])),
        ("response_format.choices[1]", format_of("choice", choices=["a", ""])),
        ("response_format.pattern", format_of("regex")),
        ("response_format", format_of("json_schema", json_schema={"name": "x", "schema": {"description": "x" * (1 << 20)}})),
        ("tools[0].name", {"tools": (tool("a b"),)}),
        ("tools[1].name", {"tools": (tool(), tool())}),
        ("tools[0].parameters", {"tools": (tool(parameters={"type": "string"}),)}),
        ("tool_choice", {"tools": (tool(),), "tool_choice": "sometimes"}),
        ("tool_choice", {"tools": (tool(),), "tool_choice": {"type": "function", "function": {"name": "sub"}}}),
        ("tool_choice", {"tool_choice": "required"}),
        ("response_format", {"tools": (tool(),), **format_of("json_object")}),
    ],
)
async def test_bad_fields_are_named(tmp_path: Path, field: str, fields: dict[str, Any]) -> None:
    core = local(tmp_path)
    with pytest.raises((Invalid, NoCore)) as refused:
        await core.generate(Candidate(core, running=lambda: 0).call(**fields), ignore)
    assert refused.value.field == field


def test_where_any_text_will_do_there_is_no_constraint() -> None:
    candidate = Candidate(local(Path()), running=lambda: 0)
    for fields in ({}, format_of("text"), {"tools": (tool(),), "tool_choice": "none"}, {"tool_choice": "auto"}):
        assert constraint_of(candidate.call(**fields).request) is None


@pytest.mark.real
@pytest.mark.slow
async def test_bad_forms_and_kills_change_nothing_for_the_others(tmp_path: Path) -> None:
    core = local(tmp_path)
    candidate = Candidate(core, running=lambda: core.statistics().in_flight)
    await core.start(lambda _: None)
    wanted = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
              "required": ["name", "age"], "additionalProperties": False}  # fmt: skip
    form = format_of("json_schema", json_schema={"name": "p", "schema": wanted})

    async def ask(emit: Any = ignore, **fields: Any) -> Completion:
        return await core.generate(candidate.call(**{"seed": 3, "temperature": 0.8, "max_tokens": 90, **form, **fields}), emit)

    undisturbed = await ask()
    said = json.loads(undisturbed.text)
    assert isinstance(said["name"], str) and type(said["age"]) is int

    async def disturb(delta: Delta) -> None:
        with pytest.raises(AiosError) as refused:
            await ask(response_format={"type": "regex", "pattern": "[a&&b]"})
        assert (refused.value.code, refused.value.field) == ("Invalid", "response_format")
        pid = core.health().pid
        if pid is not None and core.health().restarts < 2:
            os.kill(pid, signal.SIGKILL)

    assert (await ask(disturb)).text == undisturbed.text
    assert core.health().restarts == 2

    heard = Heard()
    call = await ask(heard, response_format=None, tools=(tool(),), tool_choice="required", logprobs=True, top_logprobs=2)
    choice = call.choices[0]
    assert (choice.finish, choice.text, choice.tool_calls[0].name) == ("tool_calls", "", "add")
    assert set(json.loads(choice.tool_calls[0].arguments)) <= {"a"}
    pieces = [piece for delta in heard.deltas for piece in delta.tool_calls]
    assert "".join(piece.arguments for piece in pieces) == choice.tool_calls[0].arguments
    assert len(choice.logprobs) == call.usage.output_tokens == len([one for delta in heard.deltas for one in delta.logprobs])
    await core.close()


# calls of functions

CALLS = st.tuples(st.sampled_from(["f", "a/b.c"]), st.dictionaries(st.text('ab}{" é', max_size=4), st.integers(), max_size=3))


@given(call=CALLS, data=st.data())
def test_a_call_is_read_however_its_text_is_cut(call: tuple[str, dict[str, int]], data: st.DataObject) -> None:
    name, arguments = call[0], json.dumps(call[1])
    text = f'{{"name": "{name}", "arguments": {arguments}}}'
    end = data.draw(st.integers(0, len(text)), label="cut off at")
    cuts = sorted({0, end, *(cut for cut in data.draw(st.lists(st.integers(0, len(text)))) if cut < end)})
    reader, told, found = CallReader("id"), "", list[ToolCallDelta]()
    for start, stop in itertools.pairwise(cuts):
        more, pieces = reader.push(text[start:stop], over=False)
        told += more
        found += pieces
    found += reader.push("", over=True)[1]
    assert not told and reader.whole == (end == len(text))
    head = len(text) - len(arguments) - 1
    if end < head:
        assert not found and not reader.calls
    else:
        assert [(piece.id, piece.name) for piece in found if piece.id] == [("id", name)]
        assert "".join(piece.arguments for piece in found) == text[head : min(end, len(text) - 1)] == reader.calls[0].arguments


@given(st.lists(st.text("a{ ", max_size=3)))
def test_what_does_not_begin_with_a_brace_is_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    if not text.startswith("{"):
        reader = CallReader("id")
        assert "".join(reader.push(piece, over=False)[0] for piece in pieces) == text
        assert not reader.calls and not reader.whole
