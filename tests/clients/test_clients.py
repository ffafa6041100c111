"""Unmodified clients, each in an environment of its own, at a real server: the same scenes for all.

A client of `make test` is there or the test fails; the others are played where their environment was made
(`make test-clients` makes and plays all of them).
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import pytest
from stage import CLIENTS, HELLO, LIMIT_S, WAITED, Failure, Stage, stage

from aios.abi.account import SetLimit
from aios.abi.llm import Generate
from aios.kernel.ledger.bounds import bound_of
from aios.ports.core import CoreInfo, Price
from aios.server import exchange

ACCOUNT = "/local/client"
"""What the token of the stage is charged to."""
PRICE = Price(10, 1, 100).exact()


@dataclass(frozen=True)
class Client:
    """An environment, and the program that is played in it. `streams`: whether its user sees the pieces of a stream.

    `says_retries`: whether its second try can be told from another call that happens to be equal. `asks_again`: whether it does
    when a stream ends in an error.
    """

    name: str
    program: str
    streams: bool = True
    says_retries: bool = True
    asks_again: bool = False


PLAYED = (
    Client("openai-3", "openai_sdk.py"),
    Client("openai-2", "openai_sdk.py"),
    Client("anthropic", "anthropic_sdk.py"),
    Client("openai-agents", "openai_agents.py"),
    Client("langgraph", "langgraph_agent.py"),
    Client("pydantic-ai", "pydantic_ai_agent.py"),
    Client("agent-framework", "agent_framework_agent.py"),
    Client("autogen", "autogen_agent.py"),
    Client("crewai", "crewai_crew.py"),
    Client("smolagents", "smolagents_agent.py"),
    Client("llama-index", "llama_index_agent.py"),
    Client("dspy", "dspy_program.py", says_retries=False, asks_again=True),
    Client("litellm", "litellm_calls.py"),
    Client("claude-agent-sdk", "claude_agent.py", says_retries=False, asks_again=True),
    Client("codex", "codex_cli.py", streams=False, says_retries=False),
    Client("opencode", "opencode_cli.py", streams=False, says_retries=False),
)
EVERY = bool(os.environ.get("AIOS_TEST_CLIENTS"))
TESTED = ("openai-3", "openai-2", "anthropic", "openai-agents", "langgraph")
SCALE = 60
"""The clients' patience and the server's intervals are both so many times shorter than in life."""


@pytest.fixture(params=[client for client in PLAYED if EVERY or client.name in TESTED], ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    wanted: Client = request.param
    if not (CLIENTS / wanted.name / "lock.sha256").exists():
        raise AssertionError(f"client `{wanted.name}` is not there: `python3 tools/clients.py {wanted.name}` makes it")
    return wanted


async def limit(s: Stage, calls: int) -> None:
    """What the client may do per day."""
    await s.k.operator.call(SetLimit(account=ACCOUNT, unit="calls", amount=calls, window="day"))


def uncountable(s: Stage) -> set[str]:
    """What clients have asked that a core of a provider would be refused for under a limit of money."""
    found: set[str] = set()
    for call in s.core.calls:
        assert isinstance(call.request, Generate)
        far = CoreInfo(name="far", models=("m",), features=frozenset(), slots=1, window=8192, driver=call.request.wire)
        found.update(bound_of(call.request, far, PRICE, "m").unknown)
    return found


@pytest.mark.real
@pytest.mark.slow
async def test_it_says_hello_streams_and_calls_its_tools(client: Client) -> None:
    async with stage() as s:
        got = await s.play(client.name, client.program, ["hello", "tools", *["stream"] * client.streams])
        assert not uncountable(s), "it works under a limit of money"
    assert got["hello"] == HELLO
    assert got["tools"].startswith("the tool said") and "42" in got["tools"]
    assert not client.streams or ("".join(got["stream"]) == HELLO and len(got["stream"]) > 1)


@pytest.mark.real
@pytest.mark.slow
async def test_two_equal_calls_are_two_and_no_id_comes_twice(client: Client) -> None:
    async with stage() as s:
        got = await s.play(client.name, client.program, ["twice", "hello"])
        assert len(s.wire.ids()) == len(s.core.calls) >= 3
    assert got["twice"] == [HELLO, HELLO]


@pytest.mark.real
@pytest.mark.slow
async def test_waiting_in_the_queue_never_looks_like_a_failure(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for interval in ("TICK_S", "COMMENT_S", "BEAT_S"):
        monkeypatch.setattr(exchange, interval, getattr(exchange, interval) / SCALE)
    async with stage(slots=1) as s:
        blocker = asyncio.create_task(s.hold_the_slot(180 / SCALE))
        got = await s.play(
            client.name, client.program, ["wait_streaming"], PATIENCE_S=str(60 / SCALE), CHUNK_PATIENCE_S=str(120 / SCALE)
        )
        await blocker
        assert len(s.core.calls) == 2
    assert got["wait_streaming"] == WAITED


@pytest.mark.real
@pytest.mark.slow
async def test_a_connection_that_is_cut_costs_no_second_call(client: Client) -> None:
    async with stage() as s:
        s.wire.cut = True
        got = await s.play(client.name, client.program, ["cut"])
        assert (s.wire.cuts, len(s.core.calls)) == (1, 1 if client.says_retries else 2)
    assert got["cut"] == HELLO


@pytest.mark.real
@pytest.mark.slow
async def test_a_spent_budget_is_asked_for_once_and_its_user_hears_all_about_it(client: Client) -> None:
    for scene in ("hello", "tools", *["stream"] * client.streams):
        async with stage() as s:
            await limit(s, 1)
            await s.call("spend it")
            got = await s.play(client.name, client.program, [scene])
            assert (s.wire.calls(), len(s.core.calls)) == (1, 1), scene
        assert isinstance(got[scene], Failure), scene
        spent = f"`{ACCOUNT}` has spent 1 call of 1 call per day, and this call may come to 1 call; it begins anew at 20"
        assert spent in got[scene] and f"`aios budget {ACCOUNT} --calls AMOUNT --per day` raises it" in got[scene], scene


@pytest.mark.real
@pytest.mark.slow
async def test_a_budget_that_is_spent_while_a_stream_waits_ends_it_and_no_model_works(client: Client) -> None:
    """What is wrong is told in the stream. Those that ask again all the same hear it at once."""
    async with stage(slots=1) as s:
        blocker = asyncio.create_task(s.hold_the_slot(LIMIT_S))
        playing = asyncio.create_task(s.play(client.name, client.program, ["wait_streaming"]))
        async with asyncio.timeout(LIMIT_S):
            await s.wire.begun.wait()
        await limit(s, 0)
        blocker.cancel()
        got = await playing
        assert (s.wire.calls(), len(s.core.calls)) == (2 if client.asks_again else 1, 1)
    assert isinstance(got["wait_streaming"], Failure) and f"aios budget {ACCOUNT} " in got["wait_streaming"]


@pytest.mark.real
@pytest.mark.slow
async def test_a_long_conversation_loses_no_message() -> None:
    """A framework that merges messages by their ids: one that came twice would take the place of another."""
    async with stage() as s:
        got = await s.play("langgraph", "langgraph_agent.py", ["conversation"])
    ids = got["conversation"]
    assert len(set(ids)) == len(ids) == 50 * 4
