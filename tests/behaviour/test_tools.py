"""Functions of an agent's own: told of, checked, run in its child, ended in time."""

import asyncio
from typing import Any

import pytest
from requirements import proves

from aios.abi.account import SetLimit, ShowAccounts
from aios.abi.answers import MAX_RESULT_BYTES
from aios.abi.errors import (
    AiosError,
    Conflict,
    DeadlineExceeded,
    Invalid,
    Killed,
    NotFound,
    OutcomeUnknown,
    TooLarge,
    ToolFailed,
)
from aios.abi.label import FIRST_PARTY
from aios.abi.process import SignalProcess, WaitFor
from aios.abi.request import CallOptions, Done
from aios.abi.tool import MOST_TOOLS, ExecuteTool, ListTools, RegisterTools, ToolManifest
from aios.ports.gate import Gate
from aios.testing import time
from aios.testing.kernel import manifest_of
from aios.testing.transports import World, world

RAN: list[Any] = []
NUMBER = {"type": "integer", "minimum": 0}
ADD = ToolManifest(
    name="add", repeat="repeatable", parameters={
        "type": "object", "properties": {"a": NUMBER, "b": {"$ref": "#/$defs/B"}}, "required": ["a", "b"],
        "additionalProperties": False, "$defs": {"B": {"anyOf": [NUMBER, {"type": "null"}]}},
    },
)  # fmt: skip
PAY = ToolManifest(name="pay", timeout_s=5, parameters={"type": "object", "properties": {"seconds": {"type": "number"}}})
TOOLS: dict[str, Any] = {}


def runs(function: Any) -> Any:
    TOOLS[function.__name__] = function
    return function


@runs
async def add(a: int, b: int | None) -> int:
    RAN.append((a, b))
    return a + (b or 0)


@runs
async def pay(seconds: float = 0) -> str:
    RAN.append(("paid", seconds))
    await asyncio.sleep(seconds)
    if seconds < 0:
        raise ValueError("no money")
    return "paid"


@runs
async def large(size: int) -> str:
    return "x" * size


async def agent(w: World, work: Any) -> Any:
    """What an agent with these functions comes to; its errors are the test's."""
    process = await begun(w, work)
    exit = await w.k.operator.call(WaitFor(pid=process.pid))
    assert exit.outcome == "result", exit.message
    return exit.result


async def begun(w: World, work: Any) -> Any:
    WORK["now"] = work
    return await w.k.spawn("work")


WORK: dict[str, Any] = {}


async def work(gate: Gate) -> Any:
    return await WORK["now"](gate)


def opened(transport: str) -> Any:
    RAN.clear()
    return world(transport, agents={"work": work}, tools=TOOLS)


async def error(gate: Gate, request: Any, **options: Any) -> AiosError:
    try:
        value = await gate.call(request, CallOptions(**options))
    except AiosError as failure:
        return failure
    raise AssertionError(f"it succeeded: {str(value)[:100]}")


@proves("row tool.register", "row tool.list", "row tool.execute")
async def test_an_agents_own_functions(transport: str) -> None:
    async def use(gate: Gate) -> Any:
        assert await gate.call(RegisterTools(tools=(ADD, PAY))) == Done()
        assert (await gate.call(ListTools())).tools == (ADD, PAY)
        five = (await gate.call(ExecuteTool(tool="add", arguments={"a": 2, "b": 3}))).value
        failed = await error(gate, ExecuteTool(tool="pay", arguments={"seconds": -1}))
        return [five, failed.code, failed.message]

    async with opened(transport) as w:
        assert await agent(w, use) == [5, "ToolFailed", "`pay` failed: ValueError: no money"]
        if transport != "socket":  # there the caller itself is an agent
            gate = await w.process()
            refused = await error(gate, RegisterTools(tools=(ADD,)))
            assert type(refused) is Conflict and "not an agent in a child of the kernel" in refused.message
            assert (await gate.call(ListTools())).tools == ()
            assert type(await error(gate, ExecuteTool(tool="add"))) is NotFound


@proves("tool rate")
async def test_a_tool_has_a_rate(transport: str) -> None:
    async def use(gate: Gate) -> Any:
        await gate.call(RegisterTools(tools=(ADD,)))
        three = ExecuteTool(tool="add", arguments={"a": 1, "b": 2})
        first = (await gate.call(three)).value
        refused = await error(gate, three, deadline_s=5.0)
        began = time()
        return [
            first,
            refused.code,
            "`aios budget tool:local/add --calls" in refused.message,
            (await gate.call(three)).value,
            began,
        ]

    async with opened(transport) as w:
        await w.k.operator.call(SetLimit(account="tool:add", unit="calls", amount=1, window="minute"))
        *said, began = await agent(w, use)
        assert said == [3, "RateLimited", True, 3] and time() - began > 1
        (add,) = (await w.k.operator.call(ShowAccounts(account="tool:add"))).accounts
        assert (add.account, add.spent["lifetime"]) == ("tool:local/add", {"money": 0, "tokens": 0, "calls": 2})


@proves("tool arguments")
async def test_arguments_are_checked_before_anything_happens(transport: str) -> None:
    async def use(gate: Gate) -> Any:
        await gate.call(RegisterTools(tools=(ADD,)))
        for arguments, kind, field in (
            ({"a": 1}, Invalid, "arguments.b"),
            ({"a": -1, "b": 2}, Invalid, "arguments.a"),
            ({"a": 1, "b": -2}, Invalid, "arguments.b"),
            ({"a": True, "b": 2}, Invalid, "arguments.a"),
            ({"a": 1, "b": 2, "c": 3}, Invalid, "arguments.c"),
            ({"a": 1, "b": "x" * 300_000}, TooLarge, "arguments"),
        ):
            wrong = await error(gate, ExecuteTool(tool="add", arguments=arguments))
            assert (type(wrong), wrong.field) == (kind, field), wrong
        assert (await gate.call(ExecuteTool(tool="add", arguments={"a": 1, "b": None}))).value == 1
        near = await error(gate, ExecuteTool(tool="ad"))
        return [type(near) is NotFound, "did you mean `add`?" in near.message]

    async with opened(transport) as w:
        assert await agent(w, use) == [True, True] and RAN == [(1, None)]


@proves("tool once")
async def test_what_was_begun_and_has_no_known_end_is_not_run_again(transport: str) -> None:
    async def use(gate: Gate) -> Any:
        await gate.call(RegisterTools(tools=(PAY,)))
        pay = ExecuteTool(tool="pay", arguments={"seconds": 1000})
        codes = [(await error(gate, pay, key="late")).code]
        codes += [(await error(gate, pay, key="late")).code]
        codes += [(await error(gate, pay, key="short", deadline_s=1)).code]
        codes += [(await error(gate, pay, key="short")).code]
        cancelled = asyncio.ensure_future(gate.call(pay, CallOptions(key="given up")))
        await asyncio.sleep(1)
        cancelled.cancel()
        await asyncio.wait((cancelled,))
        await asyncio.sleep(0.1)
        codes += [(await error(gate, pay, key="given up")).code]
        fails = ExecuteTool(tool="pay", arguments={"seconds": -1})  # it says itself that it failed: it may be tried again
        codes += [(await error(gate, fails, key="fails")).code for _ in range(2)]
        done = ExecuteTool(tool="pay", arguments={"seconds": 0})
        return codes + [(await gate.call(done, CallOptions(key="done"))).value for _ in range(2)]

    async with opened(transport) as w:
        assert await agent(w, use) == [*["OutcomeUnknown"] * 5, "ToolFailed", "ToolFailed", "paid", "paid"]
        assert len([ran for ran in RAN if ran == ("paid", 1000)]) == 3 and RAN.count(("paid", 0)) == 1


@proves("tool bounds")
async def test_tools_are_bounded(transport: str) -> None:
    huge = {"type": "object", "properties": {f"field{n}": {"type": "string", "description": "x" * 100} for n in range(400)}}

    async def use(gate: Gate) -> Any:
        one = ToolManifest(name="one", repeat="repeatable", timeout_s=2, parameters={"type": "object"})
        for tools, kind in (
            (tuple(ToolManifest(name=f"t{n}") for n in range(MOST_TOOLS + 1)), TooLarge),
            ((ToolManifest(name="x", parameters=huge),), TooLarge),
            ((ToolManifest(name="x", parameters={"type": "string"}),), Invalid),
            ((ToolManifest(name="x", parameters={"type": "object", "if": {}}),), Invalid),
            ((ToolManifest(name="x", parameters={"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}),), Invalid),
        ):
            assert type(await error(gate, RegisterTools(tools=tools))) is kind
        assert (await gate.call(ListTools())).tools == ()
        await gate.call(RegisterTools(tools=(PAY, ToolManifest(name="large", parameters={"type": "object"}))))
        too_large = await error(gate, ExecuteTool(tool="large", arguments={"size": MAX_RESULT_BYTES}))
        assert type(too_large) is ToolFailed and "too large" in too_large.message
        begun = time()
        late = ToolManifest(name="pay", repeat="repeatable", timeout_s=3, parameters={"type": "object"})
        await gate.call(RegisterTools(tools=(late, one)))
        assert type(await error(gate, ExecuteTool(tool="pay", arguments={"seconds": 1000}))) is DeadlineExceeded
        return time() - begun

    async with opened(transport) as w:
        assert await agent(w, use) == pytest.approx(3, abs=0.1)


async def test_a_host_that_dies_ends_its_tools_and_what_was_begun_once_stays_unknown() -> None:
    async def use(gate: Gate) -> Any:
        await gate.call(RegisterTools(tools=(PAY,)))
        try:
            return (await gate.call(ExecuteTool(tool="pay", arguments={"seconds": 4}), CallOptions(key="k"))).value
        except OutcomeUnknown as error:
            return error.message

    for transport in ("in process", "socket"):
        async with opened(transport) as w:
            process = await begun(w, use)
            await asyncio.sleep(1)
            w.hosts[0].kill()
            exit = await w.k.operator.call(WaitFor(pid=process.pid))
            assert "was begun, and ended before it could say" in exit.result and RAN == [("paid", 4)]


async def test_a_killed_agents_tools_end_with_it() -> None:
    async def use(gate: Gate) -> Any:
        await gate.call(RegisterTools(tools=(PAY,)))
        await gate.call(ExecuteTool(tool="pay", arguments={"seconds": 4}))

    async with opened("socket") as w:
        process = await begun(w, use)
        await asyncio.sleep(1)
        await w.k.operator.call(SignalProcess(pid=process.pid, signal="kill"))
        assert (await w.k.operator.call(WaitFor(pid=process.pid))).error == Killed.__name__ and time() < 2


async def test_an_agents_functions_are_nobody_elses() -> None:
    async def has(gate: Gate) -> Any:
        await gate.call(RegisterTools(tools=(ADD,)))
        await asyncio.Event().wait()

    async def has_none(gate: Gate) -> Any:
        refused = await error(gate, ExecuteTool(tool="add", arguments={"a": 1, "b": 2}))
        return [refused.code, len((await gate.call(ListTools())).tools)]

    for transport in ("in process", "socket"):
        async with opened(transport) as w:
            first = await begun(w, has)
            await asyncio.sleep(1)
            assert await agent(w, has_none) == ["NotFound", 0] and RAN == []
            await w.k.operator.call(SignalProcess(pid=first.pid, signal="kill"))


async def test_what_an_agents_own_function_says_is_first_party() -> None:
    async def use(gate: Any) -> Any:
        await gate.call(RegisterTools(tools=(ADD,)))
        return (await gate.answer(ExecuteTool(tool="add", arguments={"a": 1, "b": 2}))).label.integrity

    async with opened("in process") as w:
        assert await agent(w, use) == FIRST_PARTY.integrity


def test_a_manifest_says_what_is_wrong_with_it() -> None:
    for wrong, said in (
        ({"name": "a b"}, "name"),
        ({"name": "a", "timeout_s": 0}, "timeout_s"),
        ({"name": "a", "description": "x" * 5000}, "descr"),
    ):
        with pytest.raises(ValueError, match=said):
            ToolManifest(**wrong)
    assert manifest_of("work").agent == "work"
