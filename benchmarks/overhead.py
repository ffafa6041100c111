"""What does the kernel add to a model call?

The same client against the same upstream, directly and through the kernel, in turns. CPU is the kernel process's, all threads,
beside floors of the same run: uvicorn with a constant answer plus aiohttp alone, and a bare relay of both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from msgspec.structs import replace

from benchmarks.rig import mailboxes
from benchmarks.rig.boards import Rates
from benchmarks.rig.child import Child, Failed
from benchmarks.rig.client import Client, Outcome, Plan
from benchmarks.rig.floors import ClientPlan
from benchmarks.rig.internal import Costs
from benchmarks.rig.kernel import Core, kernel
from benchmarks.rig.report import Bar, Findings, Row, main, median, percentile
from benchmarks.rig.stage import Stage, plan, stage
from benchmarks.rig.upstream import Counts
from benchmarks.rig.usage import cpu_s, rss_bytes
from benchmarks.rig.work import Work

BARS = {
    "throughput_vs_direct": Bar("at least", 0.98),
    "cpu_vs_floor": Bar("at most", 2.5),
    "chunk_vs_relay": Bar("at most", 1.5),
    "messages_cpu_vs_floor": Bar("at most", 2.5),
    "messages_chunk_vs_relay": Bar("at most", 1.5),
    "responses_cpu_vs_floor": Bar("at most", 3.5),
    "responses_chunk_vs_relay": Bar("at most", 2),
    "cpu_us_per_call": Bar("at most", 500),
    "limited_vs_free": Bar("at most", 1.5),
    "internal_call_us": Bar("at most", 40),
    "socket_call_us": Bar("at most", 150),
    "idle_rss_mb": Bar("at most", 80),
    "start_s": Bar("at most", 1),
    "stream_kb": Bar("at most", 40),
    "mail_kernel_kb": Bar("at most", 25),
    "mail_host_kb": Bar("at most", 10),
    "board_writes_per_s": Bar("at least", 10_000),
}
MEANINGS = {
    "throughput_vs_direct": "calls per second through the kernel ÷ direct, 8 slots, at worst of 64 and 512 agents, 50 and 500 ms",
    "cpu_vs_floor": "CPU of a call ÷ (uvicorn's constant answer + aiohttp's bare call), 64 at once",
    "chunk_vs_relay": "CPU of a streamed token ÷ a bare relay's",
    "messages_cpu_vs_floor": "the same of a call on Anthropic's wire",
    "messages_chunk_vs_relay": "CPU of a streamed token on Anthropic's wire ÷ a bare relay's",
    "responses_cpu_vs_floor": "the same of a call on OpenAI's newer wire, Responses, which the server keeps",
    "responses_chunk_vs_relay": "CPU of a streamed token on that wire ÷ a bare relay's",
    "cpu_us_per_call": "CPU of a call, µs, 64 at once",
    "limited_vs_free": "CPU of a call under a limit ÷ without one: its reservation, its settlement, and their records",
    "cpu_us_per_chunk": "CPU of a streamed token, µs",
    "added_ms_p50": "added to a call that is alone, median, ms",
    "internal_call_us": "CPU of a system call without a door, µs",
    "socket_call_us": "system call from an agent's own process, median, µs",
    "start_s": "a kernel without a local model answers after, s",
    "idle_rss_mb": "its memory, MB",
    "stream_kb": "memory per stream, 2,000 at once, KB",
    "mail_kernel_kb": "kernel's memory per agent that waits for mail, 2,000 at once, KB",
    "mail_host_kb": "its host's memory per agent, over a host with one, KB",
    "board_writes_per_s": "values put on a board per second, without a door",
    "stalled_reader_cost": "share of the others' throughput that a stalled reader costs",
}

DOORS = {"": "/v1/chat/completions", "messages_": "/v1/messages", "responses_": "/v1/responses"}
"""Paths of the doors whose calls and pieces are measured, by what their figures' names begin with."""

CALL = Work("eight")
PACED = {delay_ms: Work("eight", delay_ms) for delay_ms in (50, 500)}
EXACT = Work("exact", 50)
TOKENS = Work("eight", pieces=256, gap_ms=3)
MANY = Work("wide", pieces=6, gap_ms=500)
FLOOD = Work("wide", pieces=16_000, size_bytes=1000)
OTHERS = Work("wide")
OTHER_STREAMS = Work("wide", pieces=64, gap_ms=5)

CORES = (
    Core("eight", 8, (CALL, *PACED.values(), TOKENS)),
    Core("exact", 7, (EXACT,)),  # a lane is one wider than the slots of a server that queues by itself: this one is not
    Core("wide", 4000, (OTHERS, OTHER_STREAMS, FLOOD)),
)
STREAMS = 2000
WAITING_AGENTS = 2000
STALL_S, LOOK_S = 30.0, 0.25


class Scale(msgspec.Struct, frozen=True):
    """How much of everything. `waves`: of as many calls as the upstream has slots, by its milliseconds; one more comes first."""

    rounds: int
    rounds_slow: int
    waves: dict[int, int]
    calls: int
    streams: int
    starts: int
    internal_calls: int


QUICK = Scale(2, 1, {50: 12, 500: 2}, 1500, 8, 3, 20_000)
FULL = Scale(5, 3, {50: 100, 500: 12}, 8000, 64, 7, 100_000)


def measure(quick: bool) -> tuple[dict[str, float], list[Row]]:
    """All figures of the kernel's overhead."""
    scale, found = QUICK if quick else FULL, Findings()
    with stage(CORES) as on:
        saturation(on, scale, found)
        width_control(on, scale, found)
        most_calls(on, scale, found)
        call_cost(on, scale, found)
        chunk_cost(on, scale, found)
        stalled_readers(on, scale, found)
        socket_calls(on, scale, found)
    internal_calls(scale, found)
    board_writes(scale, found)
    concurrent_streams(found)
    waiting_agents(found)
    idle_kernel(scale, found)
    return found.figures, found.rows


def in_turns(on: Stage, plan: Plan, rounds: int) -> tuple[list[Outcome], list[Outcome]]:
    """The same plan, directly and through the kernel, so many times each."""
    direct, mediated = [], []
    for _ in range(rounds):
        direct.append(on.direct(plan))
        mediated.append(on.mediated(plan))
    return direct, mediated


def per_s(outcomes: list[Outcome]) -> float:
    return median(outcome.per_s for outcome in outcomes)


def latency_ms(outcomes: list[Outcome], percent: float) -> float:
    return percentile((s for outcome in outcomes for s in outcome.latencies_s), percent) * 1000


def saturation(on: Stage, scale: Scale, found: Findings) -> None:
    """Does the kernel keep the upstream's eight slots busy?"""
    ratios = {}
    for delay_ms, work in PACED.items():
        rounds = scale.rounds_slow if delay_ms == 500 else scale.rounds
        for agents in (8, 64, 512):
            load = plan(work, agents, 8 * scale.waves[delay_ms], warm=8)
            direct, mediated = in_turns(on, load, rounds)
            ratio = ratios[agents, delay_ms] = per_s(mediated) / per_s(direct)
            found.figures[f"throughput_vs_direct_{agents}_{delay_ms}ms"] = ratio
            found.row(
                "saturation", f"{agents} agents, {delay_ms} ms", direct_per_s=per_s(direct), kernel_per_s=per_s(mediated),
                ratio=ratio, direct_p99_ms=latency_ms(direct, 99), kernel_p99_ms=latency_ms(mediated, 99),
            )  # fmt: skip
    found.figures["throughput_vs_direct"] = min(ratio for (agents, _), ratio in ratios.items() if agents > 8)


def width_control(on: Stage, scale: Scale, found: Findings) -> None:
    """The negative control of the lane's width: only as many turns as the upstream has slots."""
    direct, mediated = in_turns(on, plan(EXACT, 64, 8 * scale.waves[50], warm=8), scale.rounds_slow)
    ratio = found.figures["control_width_slots"] = per_s(mediated) / per_s(direct)
    case = "64 agents, 50 ms, lane as wide as the slots"
    found.row("saturation", case, direct_per_s=per_s(direct), kernel_per_s=per_s(mediated), ratio=ratio)


def most_calls(on: Stage, scale: Scale, found: Findings) -> None:
    """How many calls go through a kernel when the upstream takes no time?"""
    for agents in (8, 64, 512):
        direct, mediated = in_turns(on, plan(CALL, agents, scale.calls, warm=agents), scale.rounds_slow)
        found.row(
            "saturation", f"{agents} agents, 0 ms", direct_per_s=per_s(direct), kernel_per_s=per_s(mediated),
            direct_p99_ms=latency_ms(direct, 99), kernel_p99_ms=latency_ms(mediated, 99),
        )  # fmt: skip


def call_cost(on: Stage, scale: Scale, found: Findings) -> None:
    """CPU of one call beside the floors, and what a call that is alone is kept waiting."""
    with Child("benchmarks.rig.floors", "server") as server, Child("benchmarks.rig.floors", "client") as client:
        for agents, mark in ((64, ""), (1, "_c1")):
            loads = {door: plan(CALL, agents, scale.calls, path=path) for door, path in DOORS.items()}
            upstream = ClientPlan(port=on.upstream.port, work=CALL, agents=agents, calls=scale.calls)
            ours: dict[str, list[float]] = {door: [] for door in DOORS}
            servers, clients, owns, limited = [], [], [], []
            for _ in range(scale.rounds):
                with limit(on):
                    on.mediated(loads[""])
                    limited.append(on.cpu_us)
                for door, load in loads.items():
                    on.mediated(load)
                    ours[door].append(on.cpu_us)
                servers.append(cost_us(on, server, loads[""]))
                clients.append(client.ask(upstream, float) * 1e6)
                owns.append(client.ask(replace(upstream, own=True), float) * 1e6)
            server_us, client_us = median(servers), median(clients)
            dearer = found.figures[f"limited_vs_free{mark}"] = median(limited) / median(ours[""])
            found.row("CPU of a call, µs", f"under a limit, {agents} at once", kernel=median(limited), ratio=dearer)
            for door, costs in ours.items():
                ratio = found.figures[f"{door}cpu_vs_floor{mark}"] = median(costs) / (server_us + client_us)
                found.figures[f"{door}cpu_us_per_call{mark}"] = median(costs)
                found.row(
                    "CPU of a call, µs", f"{DOORS[door]}, {agents} at once", kernel=median(costs), uvicorn=server_us,
                    aiohttp=client_us, ratio=ratio, own_client=median(owns),
                )  # fmt: skip
    direct, mediated = in_turns(on, plan(CALL, 1, scale.calls // 2), scale.rounds)
    for percent in (50, 99):
        ours_ms, theirs_ms = latency_ms(mediated, percent), latency_ms(direct, percent)
        found.figures[f"added_ms_p{percent}"] = ours_ms - theirs_ms
        found.row("latency of a call, ms", f"alone, p{percent}", kernel=ours_ms, direct=theirs_ms)


@contextmanager
def limit(on: Stage) -> Iterator[None]:
    """A limit above all calls that is never reached: each reserves and settles, and both are recorded."""
    tokens = {"account": "/", "unit": "tokens", "window": "day"}
    on.kernel.call("account.limit", **tokens, amount=2**50)
    yield
    on.kernel.call("account.limit", **tokens, amount=None)


def cost_us(on: Stage, child: Child, load: Plan) -> float:
    """CPU microseconds of a floor's process per call."""
    begun = cpu_s(child.pid)
    outcome = on.at(child.port, load)
    return (cpu_s(child.pid) - begun) / outcome.calls * 1e6


def chunk_cost(on: Stage, scale: Scale, found: Findings) -> None:
    """CPU of one streamed token, eight streams at once, each token a write of its own, beside a relay that reads nothing."""
    loads = {door: plan(TOKENS, 8, scale.streams, stream=True, path=path) for door, path in DOORS.items()}
    ours: dict[str, list[float]] = {door: [] for door in DOORS}
    lags: dict[str, list[float]] = {door: [] for door in DOORS}
    relays, relay_lags = [], []
    with Child("benchmarks.rig.floors", "relay", str(on.upstream.port)) as relay:
        for _ in range(scale.rounds):
            for door, load in loads.items():
                lags[door] += on.mediated(load).lags_s
                ours[door].append(on.cpu_us / TOKENS.pieces)
            begun = cpu_s(relay.pid)
            relayed = on.at(relay.port, loads[""])
            relays.append((cpu_s(relay.pid) - begun) / relayed.pieces * 1e6)
            relay_lags += relayed.lags_s
    for door, path in DOORS.items():
        cost, case = median(ours[door]), f"{path}, 8 streams of 333 tokens/s"
        ratio = found.figures[f"{door}chunk_vs_relay"] = cost / median(relays)
        found.figures[f"{door}cpu_us_per_chunk"] = cost
        found.row("CPU of a token, µs", case, kernel=cost, relay=median(relays), ratio=ratio)
        for percent in (50, 99):
            late = {"kernel": percentile(lags[door], percent) * 1000, "relay": percentile(relay_lags, percent) * 1000}
            found.row("how late a token is, ms", f"{path}, p{percent}", **late)


def stalled_readers(on: Stage, scale: Scale, found: Findings) -> None:
    """What do readers who ask for a flood and read nothing cost those who read?"""
    rates: dict[int, list[float]] = {0: [], 1: [], 50: []}
    lags: dict[int, list[float]] = {0: [], 1: [], 50: []}
    memory = dict.fromkeys(rates, 0.0)
    calls = on.through_kernel(plan(OTHERS, 16, scale.calls))
    streams = on.through_kernel(plan(OTHER_STREAMS, 8, scale.streams, stream=True))
    for _ in range(scale.rounds_slow):
        for readers in rates:
            with stalled(on, readers):
                rates[readers].append(on.client.run(calls).per_s)
                lags[readers] += on.client.run(streams).lags_s
                memory[readers] = rss_bytes(on.kernel.pid) / 1e6
    for readers in rates:
        kept = median(rates[readers]) / median(rates[0])
        late_ms = percentile(lags[readers], 99) * 1000
        found.row(
            "stalled readers", str(readers), kernel_per_s=median(rates[readers]), ratio=kept, lag_p99_ms=late_ms,
            rss_mb=memory[readers],
        )  # fmt: skip
    found.figures["stalled_reader_cost"] = 1 - median(rates[1]) / median(rates[0])
    found.figures["stalled_50_readers_cost"] = 1 - median(rates[50]) / median(rates[0])


@contextmanager
def stalled(on: Stage, readers: int) -> Iterator[None]:
    """So many stalled readers, as long as the block runs; then the upstream must have aborted them and nothing else."""
    before = on.settled()
    with Client() as client:
        if readers:
            client.begin(on.through_kernel(Plan(port=0, work=FLOOD, stream=True, agents=readers, stalled=True)))
            wait_until_stalled(on, readers)
        yield
    after = on.settled()
    if after.aborted - before.aborted != readers or after.started - before.started != after.finished - before.finished + readers:
        raise Failed(f"{readers} readers hung up, but the upstream counts {before} and then {after}")


def wait_until_stalled(on: Stage, readers: int) -> None:
    """Return when the upstream has been able to write nothing more for a while. Raises `Failed` if it always can."""
    give_up = time.monotonic() + STALL_S
    counts = Counts()
    while time.monotonic() < give_up:
        before, counts = counts, on.counts()
        if counts.paused == readers and counts.pieces == before.pieces:
            return
        time.sleep(LOOK_S)
    raise Failed(f"{readers} readers do not read, but the upstream writes on: {counts}")


def socket_calls(on: Stage, scale: Scale, found: Findings) -> None:
    """`clock.now` from an agent's own process, beside a bare echo over a socketpair."""
    figures = []
    with Child("benchmarks.rig.echo") as echo:
        for _ in range(scale.rounds):
            figures.append((on.kernel.run_agent("clock_call_us", scale.calls), echo.ask(scale.calls, float)))
    ours, floor = median(ours for ours, _ in figures), median(floor for _, floor in figures)
    found.figures["socket_call_us"] = ours
    found.row("system call over a socketpair, µs, p50", "one agent", kernel=ours, echo=floor, ratio=ours / floor)


def internal_calls(scale: Scale, found: Findings) -> None:
    """`clock.now` of an agent in the kernel's own process: the call path with its record, and no door."""
    with Child("benchmarks.rig.internal") as child:
        costs = [child.ask(scale.internal_calls, Costs) for _ in range(scale.rounds + 1)]
    ours, floor = median(c.call_us for c in costs), median(c.floor_us for c in costs)
    found.figures["internal_call_us"] = ours
    found.row("system call without a door, µs CPU", "recorded", kernel=ours, function=floor)


def board_writes(scale: Scale, found: Findings) -> None:
    """`board.put` of an agent in the kernel's own process, over 100 keys, beside a dict that is written as often."""
    with Child("benchmarks.rig.boards") as child:
        rates = [child.ask(scale.internal_calls, Rates) for _ in range(scale.rounds + 1)]
    ours, floor = median(r.puts_per_s for r in rates), median(r.floor_per_s for r in rates)
    found.figures["board_writes_per_s"] = ours
    found.row("values put on a board per second", "recorded", kernel=ours, dict=floor)


def concurrent_streams(found: Findings) -> None:
    """Memory of a kernel for 2,000 streams at once, over what it had with its code warm and nothing under way."""
    with stage((Core("wide", 4000, (MANY,)),)) as on:
        on.mediated(plan(MANY, 64, 64, stream=True))
        idle = most = rss_bytes(on.kernel.pid)
        before = on.counts()
        on.client.begin(on.through_kernel(plan(MANY, STREAMS, STREAMS, stream=True)))
        while on.counts().finished < before.finished + STREAMS // 2:
            most = max(most, rss_bytes(on.kernel.pid))
            time.sleep(0.05)
        outcome = on.client.end()[0]
    found.figures["stream_kb"] = (most - idle) / STREAMS / 1000
    lag = {"lag_p50_ms": percentile(outcome.lags_s, 50) * 1000, "lag_p99_ms": percentile(outcome.lags_s, 99) * 1000}
    found.row("streams at once", f"{STREAMS}, 2 tokens/s each", kb_each=found.figures["stream_kb"], rss_mb=most / 1e6, **lag)


def waiting_agents(found: Findings) -> None:
    """Memory of a kernel and its hosts for 2,000 agents that wait for mail; each gets its own in the end."""
    with kernel() as running:
        costs = mailboxes.measure(running, WAITING_AGENTS)
    found.figures["mail_kernel_kb"], found.figures["mail_host_kb"] = costs.kernel_kb, costs.host_kb
    case = f"{WAITING_AGENTS}, in {costs.hosts} hosts"
    found.row("agents that wait for mail, KB each", case, kernel=costs.kernel_kb, host=costs.host_kb)


def idle_kernel(scale: Scale, found: Findings) -> None:
    """How long until a kernel without cores answers, and its memory then, beside the server library alone."""
    starts, sizes, bare = [], [], []
    for _ in range(scale.starts):
        with kernel() as running:
            starts.append(running.start_s)
            sizes.append(rss_bytes(running.pid) / 1e6)
        begun = time.perf_counter()
        with Child("benchmarks.rig.floors", "server"):
            bare.append(time.perf_counter() - begun)
    found.figures["start_s"], found.figures["idle_rss_mb"] = median(starts), median(sizes)
    found.row("start, s", "until it answers", kernel=median(starts), server=median(bare), rss_mb=median(sizes))


if __name__ == "__main__":
    main("overhead", "What does the kernel add to a model call?", measure, BARS)
