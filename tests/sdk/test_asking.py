"""Typed answers and tools: what the model is told, what it may get wrong, and what the agent gets."""

import asyncio
import dataclasses
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest

import aios
from aios.abi.event import ReadEvents
from aios.abi.process import Explain, List
from aios.sdk.asking import Form
from aios.testing import Script, calls, scripted, time
from aios.testing.agents import FEATURES


class Quote(msgspec.Struct):
    amount: Annotated[float, msgspec.Meta(ge=0)]
    currency: Literal["EUR", "USD"]
    note: str = ""


RATES = {"EUR USD": 1.1, "USD EUR": 0.9}
RAN: list[Any] = []


@aios.tool(repeat="repeatable", risk="read", timeout_s=5)
async def rate(base: str, to: str) -> float:
    """What one unit of `base` costs in `to`."""
    RAN.append((base, to))
    return RATES[f"{base} {to}"]


@aios.tool
def shout(text: str, times: Annotated[int, msgspec.Meta(le=3)] = 1) -> str:
    return text.upper() + "!" * times


@aios.tool
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


@aios.tool(repeat="repeatable", timeout_s=2)
async def late() -> None:
    await asyncio.sleep(1000)


@aios.tool
async def refuse() -> None:
    raise aios.Denied("not you")


@aios.tool
async def unsayable() -> Any:
    return object()


class Tree(msgspec.Struct):
    name: str
    below: list["Tree"] = []


class Pair(TypedDict):
    left: int
    right: int


@dataclasses.dataclass
class Point:
    x: int


@aios.tool
async def add(pair: Pair, point: Point | None = None) -> Point:
    return Point(pair["left"] + pair["right"] + (point.x if point else 0))


@aios.agent(tools=[rate, shout])
async def quote(k: aios.Kernel, text: str) -> Quote:
    return await k.ask(text, out=Quote)


@aios.agent(tools=[rate, shout, late, refuse])
async def chat(k: aios.Kernel, text: str, steps: int = 8) -> str:
    return await k.ask(text, max_steps=steps, system="be brief", max_tokens=9)


@aios.agent
async def typed(k: aios.Kernel, kind: str, repairs: int = 2) -> Any:
    kinds: dict[str, Any] = {
        "quote": Quote,
        "numbers": list[int],
        "word": Literal["yes", "no"],
        "pair": Pair,
        "point": Point,
        "anything": list,
    }
    return await k.ask("say it", out=kinds[kind], repairs=repairs)


@aios.agent
async def uses(k: aios.Kernel, name: str, arguments: dict[str, Any]) -> Any:
    tools = {"rate": rate, "shout": shout, "slow": slow, "late": late, "refuse": refuse, "unsayable": unsayable, "add": add}
    return await k.do(tools[name], **arguments)


@aios.tool
async def unreadable(x: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@aios.agent
async def wrong(k: aios.Kernel) -> list[str]:
    said = []
    for how in (
        {"repairs": 11},
        {"max_steps": 0},
        {"out": object},
        {"tools": [rate, aios.tool(rate.function)]},
        {"tools": [spread]},
        {"tools": [unreadable]},
    ):
        try:
            await k.ask("x", **how)
        except aios.Invalid as error:
            said.append(error.message)
    return said


async def spread(*words: str) -> str:
    return " ".join(words)


async def test_an_answer_has_the_type_that_was_asked_for() -> None:
    async with scripted({"amount": 3, "currency": "USD"}, "[1, 2]", '"yes"') as k:
        assert await k.run(typed, "quote") == {"amount": 3, "currency": "USD", "note": ""}
        (asked,) = k.asked
        assert asked.response_format is not None and asked.response_format["json_schema"]["name"] == "Quote"
        schema = asked.response_format["json_schema"]["schema"]
        assert (schema["type"], schema["additionalProperties"], schema["required"]) == ("object", False, ["amount", "currency"])
        assert asked.messages[0].role == "system" and '"enum":["EUR","USD"]' in str(asked.messages[0].content)


@pytest.mark.parametrize(
    ("kind", "answer", "value"),
    [
        ("numbers", {"value": [1, 2]}, [1, 2]),
        ("word", {"value": "no"}, "no"),
        ("pair", {"left": 1, "right": 2}, {"left": 1, "right": 2}),
        ("point", '```json\n{"x": 7}\n```', {"x": 7}),
    ],
)
async def test_any_type_that_json_can_say_will_do(kind: str, answer: Any, value: Any) -> None:
    async with scripted(answer) as k:
        assert await k.run(typed, kind) == value
        schema = (k.asked[0].response_format or {})["json_schema"]["schema"]
        assert schema["type"] == "object" and "$ref" not in schema


async def test_an_answer_that_does_not_fit_is_shown_to_the_model_with_what_is_wrong() -> None:
    async with scripted("hm", {"amount": -1, "currency": "USD"}, {"amount": 1, "currency": "EUR"}) as k:
        assert (await k.run(typed, "quote"))["amount"] == 1
        first, second, third = k.asked
        assert [len(asked.messages) for asked in k.asked] == [2, 4, 6]
        assert str(second.messages[3].content).startswith("That does not fit: JSON is malformed")
        assert "Expected `float` >= 0.0 - at `$.amount`" in str(third.messages[5].content)


async def test_repairs_are_bounded_and_the_error_shows_the_last_answer() -> None:
    async with scripted("one", "two", "three", "four") as k:
        with pytest.raises(aios.OutputInvalid, match="no answer fits `Quote`: JSON is malformed.*the last one begins: 'three'"):
            await k.run(typed, "quote")
        with pytest.raises(aios.OutputInvalid, match="'four'"):
            await k.run(typed, "quote", 0)


async def test_an_answer_that_nobody_can_read_is_mended_too() -> None:
    async with scripted('{"value": ' + "[" * 5000 + "]" * 5000 + "}", {"value": [7]}) as k:
        assert await k.run(typed, "anything") == [7]
        assert "recursion" in str(k.asked[-1].messages[-1].content)


async def test_a_model_that_keeps_to_no_form_is_told_of_it_in_words() -> None:
    async with scripted({"amount": 1, "currency": "EUR"}, features=FEATURES - {"json"}) as k:
        assert (await k.run(typed, "quote"))["currency"] == "EUR"
        assert k.asked[0].response_format is None and "JSON" in str(k.asked[0].messages[0].content)


async def test_a_model_asks_for_tools_until_it_answers() -> None:
    RAN.clear()
    async with scripted(calls(rate, base="EUR", to="USD"), calls(shout, text="hi", times=2), "it is 1.1") as k:
        assert await k.run(chat, "what is it?") == "it is 1.1" and RAN == [("EUR", "USD")]
        first, second, third = k.asked
        assert [tool.name for tool in first.tools] == ["rate", "shout", "late", "refuse"] and first.max_tokens == 9
        assert first.tools[0].description == "What one unit of `base` costs in `to`."
        assert first.tools[0].parameters == {
            "type": "object", "properties": {"base": {"type": "string"}, "to": {"type": "string"}}, "required": ["base", "to"],
            "additionalProperties": False,
        }  # fmt: skip
        assert [(message.role, message.content) for message in third.messages[2:]] == [
            ("assistant", ""), ("tool", "1.1"), ("assistant", ""), ("tool", "HI!!"),
        ]  # fmt: skip
        assert third.messages[3].tool_call_id == second.messages[2].tool_calls[0].id
        rows = [(e.row, e.outcome) for e in (await k.k.call(ReadEvents(kinds=("call",)))).events if e.name.startswith("chat")]
        assert rows.count(("tool.execute", "ok")) == 2 and rows.count(("tool.register", "ok")) == 1


async def test_after_its_tools_an_answer_that_is_not_of_the_form_is_asked_for_once_more() -> None:
    async with scripted(calls(rate, base="EUR", to="USD"), "it is 1.1", {"amount": 1.1, "currency": "USD"}) as k:
        assert (await k.run(quote, "?"))["amount"] == 1.1
        *_, free, formed = k.asked
        assert free.tools and free.response_format is None and formed.response_format and not formed.tools
    async with scripted(calls(rate, base="EUR", to="USD"), {"amount": 1.1, "currency": "USD"}) as k:
        assert (await k.run(quote, "?"))["amount"] == 1.1


async def test_a_model_is_told_what_it_can_mend() -> None:
    wrong = (
        (calls("rote", x=1), "error: NotFound: `chat-2` has no tool `rote`; did you mean `rate`?"),
        (calls(rate, base="EUR"), "error: Invalid: `arguments.to` is missing"),
        (calls(rate, base="EUR", to=7), "error: Invalid: `arguments.to` must be of type string"),
        (calls(rate, base="EUR", to="USD", at=1), "error: Invalid: `arguments.at` must not be there"),
        (calls(shout, text="x", times=1 << 70), "error: Invalid: a `ExecuteTool` cannot be sent: "),
        (calls(shout, text="x", times=4), "error: Invalid: `arguments.times` must be at most 3"),
        (
            Script(text="", tool_calls=(aios.abi.llm.ToolCall("c", "rate", "{"),)),
            "error: Invalid: the arguments of `rate` are no",
        ),
        (calls(rate, base="EUR", to="XXX"), "error: ToolFailed: `rate` failed: KeyError: 'EUR XXX' (test_asking.py, line "),
        (calls(late), "error: DeadlineExceeded: `late` ran for 2 s"),
    )
    async with scripted(*(answer for answer, _ in wrong), "well") as k:
        assert await k.run(chat, "?", 20) == "well"
        told = [str(message.content) for message in k.asked[-1].messages if message.role == "tool"]
        for said, (_, expected) in zip(told, wrong, strict=True):
            assert said.startswith(expected), said


async def test_what_a_model_cannot_mend_ends_the_question() -> None:
    async with scripted(calls(refuse), calls(rate, base="EUR", to="USD"), calls(rate, base="EUR", to="USD")) as k:
        with pytest.raises(aios.Denied, match="`refuse`.*not you|not you"):
            await k.run(chat, "?")
        with pytest.raises(aios.OutputInvalid, match="no answer in 2 steps"):
            await k.run(chat, "?", 2)
        assert [asked.tool_choice for asked in k.asked[-2:]] == [None, "none"]


async def test_tools_that_are_asked_for_together_run_side_by_side() -> None:
    both = Script(text="", tool_calls=tuple(aios.abi.llm.ToolCall(f"c{n}", "slow", '{"seconds":2}') for n in range(3)))
    async with scripted(both, "done") as k:
        assert await k.run(slowly) == "done" and time() == pytest.approx(2, abs=0.1)


@aios.agent
async def slowly(k: aios.Kernel) -> str:
    return await k.ask("go", tools=[slow])


async def test_code_uses_tools_through_the_kernel_too() -> None:
    async with scripted() as k:
        assert await k.run(uses, "rate", {"base": "USD", "to": "EUR"}) == 0.9
        assert await k.run(uses, "add", {"pair": {"left": 1, "right": 2}, "point": {"x": 3}}) == {"x": 6}
        with pytest.raises(aios.Invalid, match="missing a required argument: 'text'"):
            await k.run(uses, "shout", {})
        with pytest.raises(aios.ToolFailed, match="its result is not JSON: a `object` cannot be sent"):
            await k.run(uses, "unsayable", {})
        with pytest.raises(aios.DeadlineExceeded, match="`late` ran for 2 s, which is its limit"):
            await k.run(uses, "late", {})


async def test_a_tool_that_runs_is_seen_and_ends_with_its_agent() -> None:
    async with scripted() as k:
        process = await k.start(uses, "slow", {"seconds": 1000})
        await asyncio.sleep(1)
        assert (await k.k.call(Explain(pid=process.pid))).reason == "`tool.execute` runs `slow`"
        await process.kill()
        with pytest.raises(aios.Killed):
            await process.wait()
        assert time() < 2 and (await k.k.call(List(ended=False))).processes == ()
        ends = [(e.about, e.outcome) for e in (await k.k.call(ReadEvents(kinds=("call",)))).events if e.row == "tool.execute"]
        assert ends == [("slow", "OutcomeUnknown")]  # it is `once`, and nobody knows how far it came


async def test_what_cannot_be_asked_is_refused_where_it_is_written() -> None:
    async with scripted() as k:
        said = await k.run(wrong)
        assert [text.split(" ")[0] for text in said] == ["`repairs`", "`max_steps`", "`out`:", "two", "tool", "tool"]
        with pytest.raises(aios.Conflict, match="`operator-1` is a session, not an agent in a child of the kernel"):
            await k.k.do(rate, "EUR", "USD")


def test_a_tool_is_still_the_function() -> None:
    assert shout("x") == "X!" and shout.__doc__ is None
    manifest = add.manifest
    assert (manifest.repeat, manifest.risk, manifest.timeout_s) == ("once", "external", 60.0)
    assert set(manifest.parameters["$defs"]) == {"Pair", "Point"}


def test_a_form_that_refers_to_itself_keeps_its_definition() -> None:
    schema = Form(Tree).schema
    assert (schema["type"], schema["$defs"]["Tree"]["additionalProperties"]) == ("object", False)
    assert Form(Tree).read('{"name": "a", "below": [{"name": "b"}]}') == Tree("a", [Tree("b")])
