"""Who may do what: grants, ownership, acceptance, tokens, sessions, and models by name and by alias."""

import asyncio

import pytest
from scenes import ENDLESS, ask, begin, error_of, held, slow, turns

from aios.abi.errors import (
    AiosError,
    Conflict,
    Denied,
    Invalid,
    NeedsApproval,
    NoCore,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from aios.abi.event import ReadEvents
from aios.abi.llm import Count, Models, ToolSpec
from aios.abi.manifest import Manifest
from aios.abi.process import Explain, List, Logs, Self, SignalProcess, Spawn, WaitFor
from aios.abi.request import Class, Done
from aios.abi.system import AddToken, Drain, ListCores, ListTokens, ReadStatistics, RevokeToken, Sleep
from aios.ports.gate import Gate
from aios.testing import ScriptedCore, time
from aios.testing.kernel import kernel_for_tests, manifest_of


async def nap(gate: Gate, seconds: float = 1.0) -> str:
    await gate.call(Sleep(seconds=seconds))
    return "slept"


AGENTS = {"nap": nap}


def manifest(**fields: object) -> Manifest:
    return manifest_of("nap", **{"grants": (), **fields})


async def test_what_was_not_granted_is_denied_with_the_grant_that_is_missing() -> None:
    async with kernel_for_tests([ScriptedCore()]) as k:
        client = await k.session(grants=())
        for request, wanted in [
            (ask(), "use /llm/default"),
            (Count(text="x"), "use /llm/default"),
            (Spawn(manifest=manifest()), "spawn /agents/nap"),
            (ReadEvents(), "read /events"),
            (ListCores(), "read /cores"),
            (AddToken(agent="x"), "own /tokens"),
            (ListTokens(), "own /tokens"),
            (RevokeToken(id="x"), "own /tokens"),
            (ReadStatistics(), "read /kernel"),
            (Drain(), "own /kernel"),
        ]:
            with pytest.raises(Denied, match=wanted) as denied:
                await client.call(request)
            assert "manifest" in denied.value.message
        assert not k.kernel.down.is_set()


async def test_a_process_of_others_does_not_exist() -> None:
    """The answer is the same as for a process that never was, but for the name that was asked for."""
    async with kernel_for_tests(agents=AGENTS) as k:
        other = await k.spawn("nap", 1000)
        await turns()
        client = await k.session()
        for make in (
            lambda pid: WaitFor(pid=pid), lambda pid: SignalProcess(pid=pid, signal="kill"), lambda pid: Explain(pid=pid),
            lambda pid: Logs(pid=pid),
        ):  # fmt: skip
            said = []
            for pid in (other.pid, other.name, "4711", "nap-4711"):
                with pytest.raises(NotFound) as missing:
                    await client.call(make(pid))
                said.append((missing.value.message.replace(pid, "X"), missing.value.field))
            assert len(set(said)) == 1
        assert (await k.operator.call(Explain(pid=other.pid))).process.state == "waiting"


async def test_a_process_sees_itself_and_those_below_it_and_nobody_else() -> None:
    async def parent(gate: Gate) -> list[str]:
        child = await gate.call(Spawn(manifest=manifest(), arguments=(1,)))
        await gate.call(WaitFor(pid=child.pid))
        return [seen.agent for seen in (await gate.call(List())).processes]

    async with kernel_for_tests(agents={**AGENTS, "parent": parent}) as k:
        await k.spawn("nap")
        top = await k.spawn("parent", grants=("spawn /agents/nap",))
        assert (await k.operator.call(WaitFor(pid=top.pid))).result == ["parent", "nap"]
        assert [seen.agent for seen in (await k.operator.call(List())).processes] == ["nap", "parent", "nap"]


async def test_a_grandchild_is_its_grandparents_own() -> None:
    async def child(gate: Gate, grants: list[str]) -> str:
        if not grants:
            await gate.call(Sleep(seconds=100))
        spawned = await gate.call(Spawn(manifest=manifest_of("child", grants=()), arguments=([],)))
        await gate.call(WaitFor(pid=spawned.pid))
        return ""

    async def top(gate: Gate) -> list[str]:
        below = await gate.call(Spawn(manifest=manifest_of("child", grants=("spawn /agents/child",)), arguments=(["spawn"],)))
        await asyncio.sleep(1)
        seen = (await gate.call(List())).processes
        await gate.call(SignalProcess(pid=seen[-1].pid, signal="kill"))
        exit = await gate.call(WaitFor(pid=seen[-1].pid))
        await gate.call(WaitFor(pid=below.pid))
        return [*(one.agent for one in seen), exit.outcome]

    async with kernel_for_tests(agents={"top": top, "child": child}) as k:
        agent = await k.spawn("top", grants=("spawn /agents/child",))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == ["top", "child", "child", "killed"]


@pytest.mark.parametrize(
    ("mine", "asked", "given"),
    [
        (("use /llm/*",), ("use /llm/small",), True),
        (("use /llm/small",), ("use /llm/*",), False),
        (("use /llm/small",), ("use /llm/small",), True),
        (("use /llm/*",), ("read /events",), False),
        (("use /llm/*",), ("read /llm/*",), False),
        (("use /llm/a*",), ("use /llm/ab*",), True),
        (("use /llm/ab*",), ("use /llm/a*",), False),
        ((), ("use /llm/small",), False),
    ],
)
async def test_a_child_gets_no_more_than_its_parent_has(mine: tuple[str, ...], asked: tuple[str, ...], given: bool) -> None:
    async def parent(gate: Gate) -> str:
        try:
            await gate.call(Spawn(manifest=manifest(grants=asked)))
        except Denied as error:
            assert asked[0] in error.message
            return "denied"
        return "given"

    async with kernel_for_tests(agents={**AGENTS, "parent": parent}) as k:
        agent = await k.spawn("parent", grants=("spawn /agents/*", *mine))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == ("given" if given else "denied")


@pytest.mark.parametrize(
    ("parent", "child", "got"),
    [("batch", "interactive", "batch"), ("interactive", "batch", "batch"), ("standard", "standard", "standard")],
)
async def test_a_childs_class_is_at_most_its_parents(parent: Class, child: Class, got: Class) -> None:
    async def spawner(gate: Gate) -> str:
        return (await gate.call(Spawn(manifest=manifest(cls=child)))).cls

    async with kernel_for_tests(agents={**AGENTS, "spawner": spawner}) as k:
        agent = await k.spawn("spawner", cls=parent, grants=("spawn /agents/nap",))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == got


async def test_an_agent_starts_agents_of_its_own_program_alone() -> None:
    async def spawner(gate: Gate) -> str:
        try:
            await gate.call(Spawn(manifest=manifest(program="/bin/sh")))
        except Denied as error:
            return error.code
        return "spawned"

    async with kernel_for_tests(agents={**AGENTS, "spawner": spawner}) as k:
        agent = await k.spawn("spawner", grants=("spawn /agents/*",))
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == "Denied"


# --- acceptance -------------------------------------------------------------------------------------------------------


async def test_a_manifest_is_accepted_once_by_a_person_who_is_shown_what_it_asks_for() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        asked = manifest(grants=("use /llm/*",))
        with pytest.raises(NeedsApproval, match=f"use /llm/\\*.*{asked.hash()}"):
            await k.operator.call(Spawn(manifest=asked))
        await k.operator.call(Spawn(manifest=asked, accepted=asked.hash()))
        await k.operator.call(Spawn(manifest=asked))


@pytest.mark.parametrize("change", [{"grants": ("use /llm/*", "read /events")}, {"cls": "interactive"}, {"program": "/x.py"}])
async def test_a_manifest_that_asks_for_something_else_is_asked_about_again(change: dict[str, object]) -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        first = manifest(grants=("use /llm/*",))
        await k.operator.call(Spawn(manifest=first, accepted=first.hash()))
        with pytest.raises(NeedsApproval):
            await k.operator.call(Spawn(manifest=manifest(**{"grants": ("use /llm/*",), **change})))


async def test_the_hash_of_another_manifest_accepts_nothing() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        with pytest.raises(NeedsApproval):
            await k.operator.call(Spawn(manifest=manifest(grants=("use /llm/*",)), accepted=manifest().hash()))


async def test_a_person_cannot_accept_what_they_do_not_have_themselves() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        client = await k.session(grants=("spawn /agents/*",))
        asked = manifest(grants=("use /llm/*",))
        with pytest.raises(Denied, match="cannot give"):
            await client.call(Spawn(manifest=asked, accepted=asked.hash()))


async def test_a_client_starts_what_a_person_has_accepted_and_nothing_else() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        client = await k.session(grants=("spawn /agents/*",))
        asked = manifest()
        with pytest.raises(NeedsApproval):
            await client.call(Spawn(manifest=asked, accepted=asked.hash()))
        await k.operator.call(Spawn(manifest=asked, accepted=asked.hash()))
        assert (await client.call(Spawn(manifest=asked))).agent == "nap"


async def test_a_relative_program_is_refused() -> None:
    async with kernel_for_tests(agents=AGENTS) as k:
        with pytest.raises(Invalid) as refused:
            await k.operator.call(Spawn(manifest=manifest(program="agent.py")))
        assert refused.value.field == "manifest.program"


# --- tokens and sessions ----------------------------------------------------------------------------------------------


async def test_a_token_speaks_for_its_agent_and_its_value_is_kept_nowhere() -> None:
    async with kernel_for_tests() as k:
        token = await k.token("triage")
        client = k.attach(token.value)
        me = await client.call(Self())
        assert (me.agent, me.kind, me.cls) == ("triage", "session", "standard")
        assert token.value not in str(await k.operator.call(ListTokens()))
        assert k.tokens.content is not None and token.value.encode() not in k.tokens.content


@pytest.mark.parametrize("value", ["", "aios_", "nonsense", "aios_" + "A" * 43, "\ud800", "x" * 10_000])
async def test_what_is_no_token_is_nobody(value: str) -> None:
    async with kernel_for_tests() as k:
        with pytest.raises(Unauthenticated, match="aios token add"):
            k.attach(value)


async def test_a_revoked_token_ends_its_calls_its_streams_and_its_agents() -> None:
    async with kernel_for_tests([ScriptedCore(ENDLESS, slots=1)], AGENTS) as k:
        token = await k.token(grants=("use /llm/*", "spawn /agents/*"))
        client = k.attach(token.value)
        agent = await k.spawn("nap", 1000, by=client, grants=())
        acts, waits = begin(client), begin(client)
        await turns()
        await k.operator.call(RevokeToken(id=token.info.id))
        assert [type(await error_of(call)) for call in (acts, waits)] == [Unauthenticated] * 2
        assert await held(k) == (0, 0)
        assert (await k.operator.call(WaitFor(pid=agent.pid))).outcome == "killed"
        with pytest.raises(Unauthenticated):
            k.attach(token.value)
        with pytest.raises(Conflict):
            await client.call(Self())


async def test_revoking_one_token_leaves_the_others() -> None:
    async with kernel_for_tests([slow(slots=2)]) as k:
        one, two = await k.token(), await k.token()
        call = begin(k.attach(two.value))
        await turns()
        await k.operator.call(RevokeToken(id=one.info.id))
        assert (await call).text
        with pytest.raises(NotFound):
            await k.operator.call(RevokeToken(id=one.info.id))


async def test_nobody_gives_a_token_more_than_they_have() -> None:
    async with kernel_for_tests([ScriptedCore()]) as k:
        clerk = await k.session("clerk", grants=("own /tokens", "use /llm/small"), cls="batch")
        for grants in (("use /llm/*",), ("own /kernel",), ("read /events",)):
            with pytest.raises(Denied, match="cannot give"):
                await clerk.call(AddToken(agent="puppet", grants=grants))
        made = await clerk.call(AddToken(agent="puppet", grants=("use /llm/small",), cls="interactive"))
        assert made.info.cls == "batch"


@pytest.mark.parametrize("agent", ["", "a b", "a/b", "\x1b[2J", "x" * 65, "a\n", "operator"])
async def test_a_token_for_a_name_that_cannot_be_typed_is_refused(agent: str) -> None:
    async with kernel_for_tests() as k:
        with pytest.raises(Invalid) as refused:
            await k.operator.call(AddToken(agent=agent))
        assert refused.value.field == "agent"


async def test_the_operators_token_is_made_anew_and_cannot_be_listed_or_revoked() -> None:
    async with kernel_for_tests() as k:
        first = k.kernel.tokens.new_operator()
        second = k.kernel.tokens.new_operator()
        with pytest.raises(Unauthenticated):
            k.attach(first)
        operator = k.attach(second)
        assert (await operator.call(ListTokens())).tokens == ()
        assert (await operator.call(Self())).agent == "operator"


async def test_tokens_outlive_the_kernel_and_a_damaged_file_says_so() -> None:
    async with kernel_for_tests() as k:
        token = await k.token("triage")
        kept = k.tokens.content
    async with kernel_for_tests(tokens=kept) as k:
        assert (await k.attach(token.value).call(Self())).agent == "triage"
    with pytest.raises(Unavailable, match="damaged"):
        async with kernel_for_tests(tokens=b"[{]"):
            raise AssertionError


async def test_a_session_is_one_process_for_as_long_as_it_is_used() -> None:
    async with kernel_for_tests() as k:
        token = (await k.token()).value
        first = await k.attach(token).call(Self())
        assert (await k.attach(token).call(Self())).pid == first.pid
        assert (await k.attach(token, "other").call(Self())).pid != first.pid
        await asyncio.sleep(1700)
        assert (await k.attach(token).call(Self())).pid == first.pid
        await asyncio.sleep(1900)
        assert (await k.attach(token).call(Self())).pid != first.pid
        operator = k.attach(k.kernel.tokens.new_operator())  # the first one's session was idle too
        ended = [p for p in (await operator.call(List(kinds=("session",)))).processes if p.state == "ended"]
        assert first.pid in [process.pid for process in ended]


async def test_a_session_with_a_call_or_an_agent_under_way_is_not_idle() -> None:
    async with kernel_for_tests([ScriptedCore()], AGENTS) as k:
        token = (await k.token(grants=("spawn /agents/*",))).value
        waiting, parent = k.attach(token, "waiting"), k.attach(token, "parent")
        call = begin(waiting, Sleep(seconds=2500))
        agent = await k.spawn("nap", 2500, by=parent, grants=())
        await asyncio.sleep(2400)
        assert k.attach(token, "waiting").process is waiting.process
        assert await k.attach(token, "parent").call(WaitFor(pid=agent.pid))
        assert await call == Done() and time() == 2500


# --- models -----------------------------------------------------------------------------------------------------------


async def test_a_model_is_found_by_name_by_alias_and_by_default() -> None:
    cores = [ScriptedCore("s", name="one", models=("tiny",)), ScriptedCore("b", name="two", models=("huge",))]
    async with kernel_for_tests(cores, aliases={"small": ("tiny",), "both": ("huge", "tiny")}) as k:
        client = await k.session()
        answers = {name: (await client.call(ask(model=name))).model for name in ("tiny", "huge", "small", "both", "default")}
        assert answers == {"tiny": "tiny", "huge": "huge", "small": "tiny", "both": "tiny", "default": "tiny"}


@pytest.mark.parametrize(
    ("grants", "served"),
    [
        (("use /llm/*",), {"tiny", "huge", "small", "default"}),
        (("use /llm/tiny",), {"tiny", "small", "default"}),
        (("use /llm/small",), {"small"}),
        (("use /llm/default",), {"default"}),
        (("use /llm/huge",), {"huge", "default"}),
        ((), set()),
    ],
)
async def test_a_grant_on_a_name_is_for_what_it_stands_for(grants: tuple[str, ...], served: set[str]) -> None:
    """A grant on an alias does for the alias; a grant on a model does for every name that may mean it, but for it alone."""
    cores = [ScriptedCore("s", name="one", models=("tiny",)), ScriptedCore("b", name="two", models=("huge",))]
    async with kernel_for_tests(cores, aliases={"small": ("tiny",)}) as k:
        client = await k.session(grants=grants)
        got = {}
        for name in ("tiny", "huge", "small", "default"):
            try:
                got[name] = (await client.call(ask(model=name))).model
                assert (await client.call(Count(model=name, text="a b"))).tokens == 2
            except Denied:
                continue
        assert got.keys() == served
        if grants == ("use /llm/huge",):
            assert got["default"] == "huge"
        listed = (await client.call(Models())).models
        assert {model.name for model in listed} == {
            model for model in ("tiny", "huge") if model in got or any(got.get(name) == model for name in got)
        } or grants == ("use /llm/default",)


async def test_an_unknown_model_is_not_found_and_the_nearest_is_named() -> None:
    async with kernel_for_tests([ScriptedCore(models=("smollm2-135m",))]) as k:
        with pytest.raises(NotFound, match="did you mean `smollm2-135m`") as missing:
            await k.operator.call(ask(model="smolm2-135m"))
        assert missing.value.field == "model"


async def test_what_no_core_can_do_is_refused_with_the_list_of_those_that_can() -> None:
    able = ScriptedCore(name="two", models=("able",), features=frozenset({"chat", "completion", "tools"}))
    async with kernel_for_tests([ScriptedCore(models=("plain",)), able]) as k:
        with pytest.raises(NoCore, match="`plain` cannot do `tools`; models that can: able") as refused:
            await k.operator.call(ask(model="plain", tools=(ToolSpec(name="f"),)))
        assert refused.value.field == "tools"
        assert (await k.operator.call(ask(model="default", tools=(ToolSpec(name="f"),)))).model == "able"
        with pytest.raises(NoCore, match="no core of this kernel can"):
            await k.operator.call(ask(logprobs=True))


@pytest.mark.parametrize("request_", [ask(), Count(text="x")])
async def test_a_kernel_without_a_core_says_so(request_: object) -> None:
    async with kernel_for_tests() as k:
        with pytest.raises(NoCore, match="aios doctor"):
            await k.operator.call(request_)  # type: ignore[arg-type]


@pytest.mark.parametrize("request_", [ask(model="ghost"), Count(model="ghost", text="x")])
async def test_an_alias_for_nothing_says_what_it_stands_for(request_: object) -> None:
    async with kernel_for_tests([ScriptedCore()], aliases={"ghost": ("gone",)}) as k:
        with pytest.raises(NoCore, match="`ghost` stands for: gone"):
            await k.operator.call(request_)  # type: ignore[arg-type]


async def test_what_default_means_stands_in_the_manifest() -> None:
    cores = [ScriptedCore("s", name="one", models=("tiny",)), ScriptedCore("b", name="two", models=("huge",))]

    async def work(gate: Gate) -> list[str]:
        return [(await gate.call(ask())).model, (await gate.call(ask(model="tiny"))).model]

    async with kernel_for_tests(cores, {"work": work}) as k:
        agent = await k.spawn("work", model="huge")
        assert (await k.operator.call(WaitFor(pid=agent.pid))).result == ["huge", "tiny"]


async def test_a_count_that_hangs_ends_at_its_deadline() -> None:
    class Hanging(ScriptedCore):
        async def count(self, request: Count, model: str):  # type: ignore[no-untyped-def]
            await asyncio.sleep(10_000)

    async with kernel_for_tests([Hanging()]) as k:
        error = await error_of(begin(k.operator, Count(text="x")))
        assert error.code == "DeadlineExceeded" and time() == 30


async def test_an_agent_of_a_token_runs_with_what_the_token_may() -> None:
    async def work(gate: Gate) -> str:
        try:
            return (await gate.call(ask(model="tiny"))).text
        except AiosError as error:
            return error.code

    async with kernel_for_tests([ScriptedCore("yes", models=("tiny",))], {"work": work}) as k:
        client = await k.session(grants=("spawn /agents/work", "use /llm/tiny"))
        results = []
        for grants in ((), ("use /llm/tiny",)):
            agent = await k.spawn("work", by=client, grants=grants)
            results.append((await client.call(WaitFor(pid=agent.pid))).result)
        assert results == ["Denied", "yes"]
