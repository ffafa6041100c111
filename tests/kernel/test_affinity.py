"""A conversation goes on where it was read, if there is room; what begins otherwise goes where there is most."""

import asyncio

import pytest

from aios.abi.llm import Generate, Message, Part
from aios.kernel.cores import affinity
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore
from aios.testing.kernel import RunningKernel, kernel_for_tests


def two_cores(slots: int = 2, first_s: float = 1.0) -> list[ScriptedCore]:
    return [ScriptedCore(Script(text="x", first_s=first_s), name=name, models=("m",), slots=slots) for name in ("a", "b")]


def talk(*texts: str, system: str = "be brief") -> Generate:
    turns = [Message("assistant" if at % 2 else "user", text) for at, text in enumerate(texts)]
    return Generate(messages=(Message("system", system), *turns))


async def core_of(gate: Gate, request: Generate) -> str:
    return (await gate.call(request)).core


async def in_turn(gate: Gate, *requests: Generate) -> list[str]:
    """The cores of requests of which each finds the core of the one before busy."""
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(core_of(gate, request)))
        await asyncio.sleep(0.1)
    return await asyncio.gather(*tasks)


async def test_a_conversation_goes_on_where_it_was_read() -> None:
    async with kernel_for_tests(two_cores()) as k:
        client = await k.session()
        assert await in_turn(client, talk("one"), talk("two")) == ["a", "b"]
        for _ in range(3):
            assert await in_turn(client, talk("two", "x", "more"), talk("one", "x", "more")) == ["b", "a"]


async def test_without_a_common_beginning_work_is_spread() -> None:
    """The control: what is alone would always go to the first."""
    async with kernel_for_tests(two_cores()) as k:
        client = await k.session()
        assert await in_turn(client, talk("one"), talk("two")) == ["a", "b"]
        assert await core_of(client, talk("three")) == "a"
        assert await core_of(client, talk("two", system="be long")) == "a"
        assert await core_of(client, talk("two", "x", "y")) == "b"


async def test_a_conversation_whose_core_is_full_goes_to_another() -> None:
    async with kernel_for_tests(two_cores(slots=1)) as k:
        client = await k.session()
        assert await core_of(client, talk("one")) == "a"
        assert await in_turn(client, talk("one", "x", "y"), talk("one", "x", "z")) == ["a", "b"]


async def test_a_session_with_a_name_goes_on_where_it_was_whatever_it_says() -> None:
    async with kernel_for_tests(two_cores()) as k:
        token = (await k.token()).value
        one, two = k.attach(token, "one"), k.attach(token, "two")
        first = asyncio.create_task(core_of(one, talk("x")))
        await asyncio.sleep(0.1)
        assert (await core_of(two, talk("y")), await first) == ("b", "a")
        assert [await core_of(two, talk(str(number))) for number in range(3)] == ["b"] * 3
        assert await core_of(one, talk("y")) == "a"


async def test_messages_of_parts_and_prompts_have_beginnings_too() -> None:
    async with kernel_for_tests(two_cores()) as k:
        client = await k.session()
        parts = Generate(messages=(Message("user", (Part("text", text="a"), Part("text", text="b"))),))
        assert await in_turn(client, talk("one"), parts) == ["a", "b"]
        assert await core_of(client, parts) == "b"
        assert await in_turn(client, talk("one"), Generate(prompt="go")) == ["a", "b"]
        assert await core_of(client, Generate(prompt="go")) == "b"


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "MOST_KEPT", 2)

    async def remembered(k: RunningKernel, others: int) -> str:
        client = await k.session()
        await in_turn(client, talk("one"), talk("two"))
        for number in range(others):
            await core_of(client, talk(str(number)))
        return await core_of(client, talk("two"))

    async with kernel_for_tests(two_cores()) as k:
        assert await remembered(k, 1) == "b"
    async with kernel_for_tests(two_cores()) as k:
        assert await remembered(k, 2) == "a"
