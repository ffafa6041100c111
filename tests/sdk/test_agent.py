"""What makes a function an agent, and what it asks for."""

from pathlib import Path

import pytest

import aios
from aios.abi.errors import Invalid


@aios.agent
async def greet_all(k: aios.Kernel, name: str) -> str:
    """Greets."""
    return await k.ask(f"Greet {name}.")


@aios.agent(name="clerk", model="fast", cls="batch", grants=("use /llm/fast",))
def file_away(k: aios.Kernel) -> int:
    return 7


class Office:
    @aios.agent
    @staticmethod
    async def open_up(k: aios.Kernel) -> None: ...


def test_an_agents_manifest_says_where_it_is_and_what_it_asks_for() -> None:
    manifest = greet_all.manifest()
    assert (manifest.agent, manifest.entry) == ("greet-all", "greet_all")
    assert (manifest.program, manifest.grants) == (str(Path(__file__).resolve()), ("use /llm/*",))
    assert (manifest.cls, manifest.model, manifest.restart) == ("standard", "default", "transient")
    assert aios.agent(restart="permanent")(greet_all.function).manifest().restart == "permanent"
    assert aios.agent(on_budget="fail")(greet_all.function).manifest().on_budget == "fail"
    assert greet_all.manifest().on_budget == "park"
    other = file_away.manifest()
    assert (other.agent, other.entry, other.model, other.cls, other.grants) == (
        "clerk", "file_away", "fast", "batch", ("use /llm/fast",),
    )  # fmt: skip
    assert manifest.hash() == greet_all.manifest().hash() != other.hash()


def test_an_agent_is_still_the_function() -> None:
    assert file_away(None) == 7  # type: ignore[arg-type]  # it needs no kernel
    assert (greet_all.__doc__, greet_all.__name__) == ("Greets.", "greet_all")


def test_a_function_that_no_host_could_find_is_refused_with_what_to_do() -> None:
    @aios.agent
    async def inner(k: aios.Kernel) -> None: ...

    with pytest.raises(Invalid, match="`inner` is found by its name.*define it at the top of a file"):
        inner.manifest()


def test_a_grant_that_is_none_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="'everything' is no grant"):
        aios.agent(grants=("everything",))
