"""Every row of the table, from a process that was granted it, over every transport."""

import asyncio

import pytest
from requirements import proves

from aios.abi.account import SetLimit, ShowAccounts
from aios.abi.errors import Denied, Draining, Invalid, Killed, NotFound, RateLimited, Unauthenticated
from aios.abi.event import Incident, ProcessChanged, ReadEvents
from aios.abi.lane import ListLanes, UseLane
from aios.abi.llm import Completion, Count, Delta, Embed, Generate, Message, Models, Score, Started
from aios.abi.price import ShowPrices
from aios.abi.process import Exit, Explain, List, Logs, Renice, Self, SignalProcess, Spawn, WaitFor
from aios.abi.request import CallOptions, Done, Trace
from aios.abi.system import (
    AddToken,
    Drain,
    ListCores,
    ListTokens,
    Now,
    RandomBytes,
    ReadStatistics,
    RevokeToken,
    Sleep,
)
from aios.kernel.guard import GuardConfig
from aios.ports.core import Price
from aios.ports.gate import Gate
from aios.testing import Script, ScriptedCore, ScriptedEmbedder, time
from aios.testing.kernel import EPOCH_NS, manifest_of
from aios.testing.transports import ALL, World, world


async def nap(gate: Gate, seconds: float = 1.0) -> str:
    await gate.call(Sleep(seconds=seconds))
    return "slept"


async def again_and_again(gate: Gate) -> None:
    while True:
        await gate.call(Generate(prompt="and now?"))


AGENTS = {"nap": nap}


def napping(w: World, *arguments: object) -> Spawn:
    """A request to start one, which a person has accepted."""
    return Spawn(manifest=w.k.accept(manifest_of("nap", grants=())), arguments=arguments)


@proves("row llm.generate")
async def test_generate(transport: str) -> None:
    async with world(transport, [ScriptedCore("it is héllo")]) as w:
        completion = await (await w.process()).call(Generate(messages=(Message("user", "what is it?"),), max_tokens=2))
        assert (completion.text, completion.choices[0].finish) == ("it is", "length")
        assert (completion.usage.input_tokens, completion.usage.output_tokens) == (3, 2)
        assert (completion.model, completion.core) == ("scripted-1", "scripted")


@proves("stream")
async def test_a_stream_and_a_call_say_the_same(transport: str) -> None:
    async with world(transport, [ScriptedCore("one two three")]) as w:
        gate = await w.process()
        started, *deltas, completion = [event async for event in gate.stream(Generate(prompt="x"))]
        assert type(started) is Started and type(completion) is Completion and started.id == completion.id
        assert all(type(delta) is Delta for delta in deltas)
        assert "".join(delta.text for delta in deltas) == completion.text == (await gate.call(Generate(prompt="x"))).text


@proves("row llm.score")
async def test_score(transport: str) -> None:
    async with world(transport, [ScriptedCore()]) as w:
        gate = await w.process()
        scores = await gate.call(Score(prompt="The sea is", labels=(" wide", " wide and long"), baseline="-"))
        short, long = scores.labels
        assert (short.label, long.label, short.tokens, long.tokens) == (" wide", " wide and long", 1, 3)
        assert short.logprob > long.logprob and scores.best == short
        assert abs(short.probability + long.probability - 1) < 1e-9
        assert (scores.core, scores.model) == ("scripted", "scripted-1")


@proves("row llm.embed")
async def test_embed(transport: str) -> None:
    async with world(transport, embedders=[ScriptedEmbedder(takes_s=2)]) as w:
        gate = await w.process()
        found = await gate.call(Embed(texts=("the wide sea", "a wide sea", "42"), kind="query"))
        sea, also, number = found.floats()
        assert (found.model, found.core, found.dimensions, found.cut, found.usage.input_tokens) == ("words-1", "words", 8, 0, 7)
        assert sum(a * b for a, b in zip(sea, also, strict=True)) > sum(a * b for a, b in zip(sea, number, strict=True))
        assert time() == 2
        (state,) = (await w.k.operator.call(ListCores())).embedders
        assert (state.name, state.tokens, state.running) == ("words", 7, 0)


@proves("row llm.count")
async def test_count(transport: str) -> None:
    async with world(transport, [ScriptedCore()]) as w:
        tokens = await (await w.process()).call(Count(text="one two three"))
        assert (tokens.tokens, tokens.exact) == (3, True)


@proves("row llm.models")
async def test_models(transport: str) -> None:
    cores = [ScriptedCore(models=("small", "large"))]
    async with world(transport, cores, aliases={"cheap": ("small",)}) as w:
        (model,) = (await (await w.process(("use /llm/small",))).call(Models())).models
        assert (model.name, model.cores, model.aliases) == ("small", ("scripted",), ("default", "cheap"))
        assert "stop" in model.features and model.window == 4096


@proves("row process.spawn", "row process.wait")
async def test_spawn_and_wait(transport: str) -> None:
    async with world(transport, agents=AGENTS) as w:
        gate = await w.process(ALL)
        agent = await gate.call(napping(w, 5))
        me = await gate.call(Self())
        assert (agent.agent, agent.kind, agent.parent) == ("nap", "agent", me.pid)
        assert await gate.call(WaitFor(pid=agent.name)) == Exit(pid=agent.pid, outcome="result", result="slept")
        assert time() == 5


@pytest.mark.parametrize("signal", ["stop", "kill"])
@proves("row process.signal")
async def test_signal(transport: str, signal: str) -> None:
    async with world(transport, agents=AGENTS) as w:
        gate = await w.process(ALL)
        agent = await gate.call(napping(w, 1000))
        await asyncio.sleep(1)
        assert await gate.call(SignalProcess(pid=agent.pid, signal=signal)) == Done()  # type: ignore[arg-type]
        exit = await gate.call(WaitFor(pid=agent.pid))
        assert (exit.outcome, exit.error) == ("killed", "Killed") and time() == 1


@proves("suspend")
async def test_suspend_and_resume(transport: str) -> None:
    async with world(transport, agents=AGENTS) as w:
        gate = await w.process(ALL)
        agent = await gate.call(napping(w, 10))
        await asyncio.sleep(1)
        assert await gate.call(SignalProcess(pid=agent.pid, signal="suspend")) == Done()
        await asyncio.sleep(99)
        *_, seen = (await gate.call(List())).processes
        assert (seen.state, seen.word, seen.wait and seen.wait.code) == ("suspended", "suspended", "X")
        assert await gate.call(SignalProcess(pid=agent.pid, signal="resume")) == Done()
        assert (await gate.call(WaitFor(pid=agent.pid))).result == "slept" and time() == pytest.approx(100)


@proves("row process.renice")
async def test_renice(transport: str) -> None:
    async with world(transport, agents=AGENTS) as w:
        gate = await w.process(ALL)
        agent = await gate.call(napping(w, 1000))
        assert await gate.call(Renice(pid=agent.name, cls="batch")) == Done()
        assert (await gate.call(List(ended=False))).processes[-1].cls == "batch"
        with pytest.raises(Denied, match="operator"):
            await gate.call(Renice(pid=agent.pid, cls="standard"))
        await w.k.operator.call(Renice(pid=agent.pid, cls="standard"))
        assert (await gate.call(List(ended=False))).processes[-1].cls == "standard"


@proves("row process.list", "row process.self")
async def test_list_and_self(transport: str) -> None:
    async with world(transport, agents=AGENTS) as w:
        gate = await w.process(ALL)
        await w.process()
        agents = [await gate.call(napping(w, seconds)) for seconds in (1, 50)]
        await gate.call(WaitFor(pid=agents[0].pid))
        me = await gate.call(Self())
        seen = (await gate.call(List(kinds=("agent", "session")))).processes
        assert [process.pid for process in seen] == [me.pid, *(agent.pid for agent in agents)]
        assert [process.word for process in seen] == ["running", "done", "sleeping"]
        living = (await gate.call(List(ended=False))).processes
        assert agents[0].pid not in [process.pid for process in living]


@proves("row process.explain")
async def test_explain(transport: str) -> None:
    async with world(transport, agents=AGENTS) as w:
        gate = await w.process(ALL)
        agent = await gate.call(napping(w, 50))
        await asyncio.sleep(1)
        explanation = await gate.call(Explain(pid=agent.pid))
        (call,) = explanation.calls
        assert (call.row, call.wait and call.wait.code) == ("clock.sleep", "T")
        assert explanation.reason == "`clock.sleep` waits for its timer" and explanation.process.state == "waiting"


@proves("row process.logs")
async def test_logs(transport: str) -> None:
    async with world(transport, agents=AGENTS) as w:
        gate = await w.process(ALL)
        agent = await gate.call(napping(w, 50))
        waits = asyncio.ensure_future(gate.call(Logs(pid=agent.pid, wait_s=20)))
        await asyncio.sleep(1)
        w.k.kernel.printed(agent.pid, "err", "one\ntwo")
        page = await waits
        assert [(line.stream, line.text) for line in page.lines] == [("err", "one"), ("err", "two")]
        assert (page.next, page.ended) == (2, False)


@proves("row event.read")
async def test_read_events(transport: str) -> None:
    async with world(transport, agents=AGENTS) as w:
        gate = await w.process(ALL)
        cursor = (await gate.call(ReadEvents())).next
        waits = asyncio.ensure_future(gate.call(ReadEvents(after=cursor, wait_s=60, kinds=("process",))))
        await asyncio.sleep(1)
        agent = await gate.call(napping(w, 1))
        (event, *_) = (await waits).events
        assert isinstance(event, ProcessChanged) and (event.pid, event.state) == (agent.pid, "declared")


@proves("row core.list")
async def test_list_cores(transport: str) -> None:
    async with world(transport, [ScriptedCore(Script(hang=True), slots=2)]) as w:
        gate = await w.process(ALL)
        calls = [asyncio.ensure_future(gate.call(Generate(prompt="x"))) for _ in range(3)]
        await asyncio.sleep(1)
        cores = await gate.call(ListCores())
        (core,) = cores.cores
        assert (core.name, core.up, core.slots, core.running, cores.waiting) == ("scripted", True, 2, 2, {"standard": 1})
        for call in calls:
            call.cancel()


@proves("row account.show", "row account.limit")
async def test_accounts(transport: str) -> None:
    async with world(transport, [ScriptedCore("one two")]) as w:
        gate, operator = await w.process(), w.k.operator
        await gate.call(Generate(prompt="what is it"))
        (own,) = (await gate.call(ShowAccounts())).accounts
        assert own.spent["lifetime"] == own.spent["hour"] == {"money": 0, "tokens": 5, "calls": 1}
        assert own.reserved["calls"] == 0 and own.effective == ()
        account = own.account.rpartition("/")[0]
        with pytest.raises(Denied):
            await gate.call(SetLimit(account=account, unit="calls", amount=2))
        with pytest.raises(NotFound):
            await gate.call(ShowAccounts(account="/"))
        state = await operator.call(SetLimit(account=account, unit="calls", amount=2))
        assert [(each.wanted, each.free) for each in state.limits] == [(2, 1)]
        await gate.call(Generate(prompt="what is it"))
        (own,) = (await gate.call(ShowAccounts())).accounts
        assert [(each.account, each.spent, each.free) for each in own.effective] == [(account, 2, 0)]


@proves("row account.prices")
async def test_prices(transport: str) -> None:
    priced = ScriptedCore(name="dear", models=("large",), price=Price(3000, 300, 15_000))
    cores = [priced, ScriptedCore(name="unknown", models=("large", "other"), price=None)]
    async with world(transport, cores) as w:
        gate, nobody = await w.process(("use /llm/large",)), await w.process(())
        dear, unknown = (await gate.call(ShowPrices())).prices
        assert (dear.core, dear.model, unknown.core, unknown.model, unknown.price) == ("dear", "large", "unknown", "large", None)
        assert dear.price is not None and (dear.price.source, dear.price.entry) == ("operator", "dear")
        rates = dear.price.price.rates
        assert (rates.input, rates.cached, rates.output) == (3 * 10**9, 3 * 10**8, 15 * 10**9)
        assert (await nobody.call(ShowPrices())).prices == ()


@proves("rate")
async def test_rates(transport: str) -> None:
    async with world(transport, [ScriptedCore("one two")]) as w:
        gate, operator = await w.process(), w.k.operator
        (own,) = (await gate.call(ShowAccounts())).accounts
        account, left_s = own.account.rpartition("/")[0], 60 - EPOCH_NS // 10**9 % 60
        state = await operator.call(SetLimit(account=account, unit="calls", amount=1, window="minute"))
        assert state.limits[0].resets_ns == EPOCH_NS + left_s * 10**9
        await gate.call(Generate(prompt="what is it"))
        with pytest.raises(RateLimited, match="--per minute` raises it") as refused:
            await gate.call(Generate(prompt="what is it"), CallOptions(deadline_s=5.0))
        assert refused.value.retry_after_s == pytest.approx(left_s, abs=1)
        waits = asyncio.ensure_future(gate.call(Generate(prompt="what is it")))
        while (await operator.call(ShowAccounts(account=account))).accounts[0].waiting == 0:
            await asyncio.sleep(0.01)
        (own,) = (await gate.call(ShowAccounts())).accounts
        assert [(each.window, each.account, each.free) for each in own.effective] == [("minute", account, 0)]
        await waits
        assert time() == pytest.approx(left_s, abs=0.1)
        await operator.call(SetLimit(account=account, unit="calls", amount=3, window="now"))
        (own,) = (await gate.call(ShowAccounts())).accounts
        assert [(each.window, each.spent, each.reserved, each.free) for each in own.effective] == [
            ("minute", 1, 0, 0),
            ("now", 0, 0, 3),
        ]


@proves("tag")
async def test_tags(transport: str) -> None:
    async with world(transport, [ScriptedCore("one two", name="shelf")]) as w:
        gate, operator = await w.process(), w.k.operator
        nightly, soon = CallOptions(trace=Trace(tag="nightly"), deadline_s=1.0), CallOptions(deadline_s=1.0)
        await gate.call(Generate(prompt="what is it"), nightly)
        (job,) = (await operator.call(ShowAccounts(account="job:nightly"))).accounts
        assert (job.account, job.spent["day"]) == ("job:local/nightly", {"money": 0, "tokens": 5, "calls": 1})
        await operator.call(SetLimit(account="job:nightly", unit="calls", amount=1, window="minute"))
        with pytest.raises(RateLimited, match="`aios budget job:local/nightly --calls AMOUNT --per minute` raises it"):
            await gate.call(Generate(prompt="what is it"), nightly)
        await gate.call(Generate(prompt="what is it"))
        for account in ("provider:shelf", "model:scripted-1"):
            await operator.call(SetLimit(account=account, unit="calls", amount=1, window="minute"))
            await gate.call(Generate(prompt="what is it"))
            with pytest.raises(RateLimited, match=f"`{account}`"):
                await gate.call(Generate(prompt="what is it"), soon)
            await operator.call(SetLimit(account=account, unit="calls", amount=None, window="minute"))
        (own,) = (await gate.call(ShowAccounts())).accounts
        assert own.spent["lifetime"]["calls"] == 4
        with pytest.raises(NotFound):
            await gate.call(ShowAccounts(account="job:nightly"))


@proves("runaway")
async def test_a_runaway(transport: str) -> None:
    cores = ScriptedCore("one two")
    async with world(transport, [cores], {"loop": again_and_again}, guard=GuardConfig(same_calls=5)) as w:
        gate, operator = await w.process(ALL), w.k.operator
        told = asyncio.ensure_future(gate.call(ReadEvents(kinds=("incident",), wait_s=60)))
        await gate.call(Spawn(manifest=w.k.accept(manifest_of("loop"))))
        found: list[Incident] = []
        while len(found) < 2:
            await asyncio.sleep(0.1)
            page = await operator.call(ReadEvents(kinds=("incident",)))
            found = [event for event in page.events if isinstance(event, Incident)]
        await asyncio.sleep(10)
        assert [event.change for event in found] == ["lowered", "suspended"] and len(cores.calls) == 10
        explained = await operator.call(Explain(pid=found[0].pid))
        assert explained.process.state == "suspended" and explained.moves == (f"`aios resume {found[0].name}`",)
        await operator.call(SignalProcess(pid=found[0].pid, signal="resume"))
        assert (await told).events[0] == found[0]


@proves("row lane.list", "row lane.use")
async def test_lanes(transport: str) -> None:
    core = ScriptedCore(Script(text="x", first_s=1), slots=1)
    async with world(transport, [core]) as w:
        gate, low, high = await w.process(ALL), await w.process(cls="batch"), await w.process(cls="interactive")
        calls = [asyncio.ensure_future(gate.call(Generate(prompt="first")))]
        for caller, name in ((low, "low"), (high, "high")):
            await asyncio.sleep(0.1)
            calls.append(asyncio.ensure_future(caller.call(Generate(prompt=name))))
        await asyncio.sleep(0.1)
        cores, index = (await gate.call(ListLanes())).lanes
        assert (cores.name, cores.policy, cores.width, cores.running, cores.waiting) == (
            "cores", "elas", 1, 1, {"batch": 1, "interactive": 1}
        )  # fmt: skip
        assert (index.name, index.width) == ("index", 0)
        assert await gate.call(UseLane(lane="cores", policy="fifo")) == Done()
        await asyncio.gather(*calls)
        assert [call.request.prompt for call in core.calls] == ["first", "low", "high"]
        with pytest.raises(NotFound, match="no lane `core`, but `cores`"):
            await gate.call(UseLane(lane="core", policy="fifo"))
        with pytest.raises(Invalid, match="did you mean `fair`") as refused:
            await gate.call(UseLane(lane="cores", policy="fare"))
        assert refused.value.field == "policy"


@proves("row token.add", "row token.list", "row token.revoke")
async def test_tokens(transport: str) -> None:
    async with world(transport) as w:
        gate = await w.process(ALL)
        token = await gate.call(AddToken(agent="triage", cls="batch"))
        assert (await w.k.attach(token.value).call(Self())).agent == "triage"
        other = await gate.call(AddToken(agent="triage", user="ann", weight=2.5))
        me = await w.k.attach(other.value).call(Self())
        assert (me.tenant, other.info.tenant, other.info.user, other.info.weight) == ("local", "local", "ann", 2.5)
        listed = (await gate.call(ListTokens())).tokens
        assert other.info in listed
        assert token.info in listed and token.value not in str(listed)
        assert await gate.call(RevokeToken(id=token.info.id)) == Done()
        with pytest.raises(Unauthenticated):
            w.k.attach(token.value)


@proves("row kernel.statistics")
async def test_statistics(transport: str) -> None:
    async with world(transport, [ScriptedCore("one two")]) as w:
        gate = await w.process(ALL)
        await gate.call(Generate(prompt="x"))
        figures = await gate.call(ReadStatistics())
        assert (figures.output_tokens, figures.input_tokens, figures.calls_running) == (2, 1, 1)
        assert figures.rss_bytes > 10**6 and figures.version


@proves("row kernel.drain")
async def test_drain(transport: str) -> None:
    async with world(transport, [ScriptedCore(Script(text="done", first_s=3))]) as w:
        gate = await w.process(ALL)
        call = asyncio.ensure_future(gate.call(Generate(prompt="x")))
        await asyncio.sleep(1)
        assert await gate.call(Drain(grace_s=9)) == Done()
        with pytest.raises(Draining):
            await gate.call(Generate(prompt="x"))
        assert (await call).text == "done"
        await w.k.kernel.down.wait()
        assert time() == (10 if transport == "socket" else 3)  # there the caller itself is an agent that runs on


@proves("row clock.now", "row clock.sleep")
async def test_time(transport: str) -> None:
    async with world(transport) as w:
        gate = await w.process()
        assert await gate.call(Sleep(seconds=7.5)) == Done()
        assert (await gate.call(Now())).at_ns == EPOCH_NS + 7_500_000_000


@proves("row random.bytes")
async def test_random_bytes(transport: str) -> None:
    async with world(transport) as w:
        gate = await w.process()
        drawn = [(await gate.call(RandomBytes(size=16))).data for _ in range(2)]
        assert len(set(drawn)) == 2 and {len(data) for data in drawn} == {16}


@proves("kill")
async def test_a_killed_agents_slot_is_free_at_once(transport: str) -> None:
    async def ask(gate: Gate) -> None:
        await gate.call(Generate(prompt="x"))

    core = ScriptedCore(lambda call: Script(hang=True) if len(core.calls) == 1 else "next", slots=1)
    async with world(transport, [core], {"ask": ask}) as w:
        gate = await w.process(ALL)
        agent = await gate.call(Spawn(manifest=w.k.accept(manifest_of("ask"))))
        await asyncio.sleep(1)
        waits = asyncio.ensure_future(gate.call(Generate(prompt="y")))
        await asyncio.sleep(1)
        assert not waits.done()
        await gate.call(SignalProcess(pid=agent.pid, signal="kill"))
        assert (await waits).text == "next" and time() == 2
        assert (await gate.call(WaitFor(pid=agent.pid))).error == Killed.__name__
