"""What does the local core cost and keep, beside the engine's own server?

Both read the same workload in the same run, each started cold, in turns; what counts is the CPU time of the process that holds
the model, from after its start. Whether answers depend on what happens around them is asked of the raw logits, with two profiles
that are not exact as controls, and of what callers hear while hosts are killed and stopped.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import msgspec
from msgspec.structs import replace

from aios.drivers.core.local.driver import LocalCore, LocalCoreConfig
from benchmarks.rig import workload
from benchmarks.rig.child import Child
from benchmarks.rig.disturbed import aborts, empty_home, local, slow_readers, strike
from benchmarks.rig.engine_costs import Costs
from benchmarks.rig.exact_rows import F16, ROWS, Reading, Table, count
from benchmarks.rig.preempted import FIFO_FULL, PLAIN, PREEMPTION, WAYS, Beside, round_of
from benchmarks.rig.report import Bar, Findings, Row, main, median
from benchmarks.rig.scoring import topic_and_routing
from benchmarks.rig.usage import cpu_s, rss_bytes
from benchmarks.rig.workload import Ran

BARS = {
    "exact_rows": Bar("at least", 100),
    "control_unified_rows": Bar("at most", 99.9),
    "control_f16_recompute_rows": Bar("at most", 99.9),
    "cpu_vs_server_unshared": Bar("at most", 1.25),
    "cpu_vs_server_shared": Bar("at most", 0.40),
    "prefix_prefill_speedup": Bar("at least", 5),
    "ttft_vs_alone": Bar("at most", 1.3),
    "done_vs_alone": Bar("at most", 2),
    "done_vs_plain": Bar("at most", 0.25),
    "ttft_vs_fifo_full": Bar("at most", 0.125),
    "preempt_batch_loss": Bar("at most", 0.05),
    "suspend_resume_ms": Bar("at most", 5),
    "kill_points": Bar("at least", 100),
    "kill_wrong": Bar("at most", 0),
    "kill_back_s": Bar("at most", 2),
    "local_start_s": Bar("at most", 1),
    "probe_s": Bar("at most", 3),
    "rss_over_kv_mb": Bar("at most", 200),
    "idle_cpu_percent": Bar("at most", 0.5),
    "abort_steps": Bar("at most", 1),
    "slow_readers_cost": Bar("at most", 0.10),
    "topic": Bar("at least", 0.9),
    "routing": Bar("at least", 0.75),
}
MEANINGS = {
    "exact_rows": "rows of raw logits that are the same bit by bit in other slots, batches, chunks, processes, forked, thawed, "
    "recomputed, %",
    "control_unified_rows": "the same in a batch, with a cache in common: must fail, %",
    "control_f16_recompute_rows": "the same recomputed, with a cache of 16 bits: must fail, %",
    "cpu_vs_server_unshared": "CPU of 8 agents and an interactive call ÷ the engine's own server's, nothing shared",
    "cpu_vs_server_shared": "the same, agents share their common beginning",
    "prefix_prefill_speedup": "CPU of reading 8 prompts that have 458 of 474 tokens in common, each by itself ÷ shared",
    "ttft_vs_alone": "first token of an interactive call beside 8 batch ones ÷ alone, in CPU s of the model's process",
    "done_vs_alone": "the same, its last token",
    "done_vs_plain": "its last token ÷ where it is batched with the others, in a slot more",
    "ttft_vs_fifo_full": "its first token ÷ under FIFO where all slots are taken",
    "preempt_batch_loss": "more CPU for all, as a share, for the others having stood back",
    "suspend_resume_ms": "CPU of putting 1,000 tokens aside in memory and back, ms",
    "kill_points": "seeded points at which hosts were killed or stopped (in the quick form fewer)",
    "kill_wrong": "answers that lost, repeated or changed something",
    "kill_back_s": "until answers went on after a kill, at worst, s",
    "local_start_s": "a local core is ready after, what was proved before being known, s",
    "probe_s": "proving exactness, once, s",
    "rss_over_kv_mb": "memory of the process with the model, less the cache, MB",
    "idle_cpu_percent": "its CPU with nothing to do, %",
    "abort_steps": "passes after a call was aborted that may still work for it, at most",
    "slow_readers_cost": "share of its time that 100 callers who do not read cost one who does",
    "topic": "share of texts whose topic, of four, is found by likelihood",
    "routing": "share of requests whose tool, of four, is found by likelihood",
}


class Scale(msgspec.Struct, frozen=True):
    """How much of everything. `lengths`: of the exactness suite's prompts with one thread, `lengths_2` with two. `ways`: of those
    in which an interactive call is served.
    """

    rounds: int
    lengths: tuple[int, ...]
    lengths_2: tuple[int, ...]
    ways: int
    kills: int
    stops: int
    starts: int
    idle_s: float
    aborts: int
    readers_rounds: int


QUICK = Scale(1, (40, 110), (40,), 3, 8, 4, 2, 3.0, 5, 5)
FULL = Scale(5, (40, 230, 600), (40, 230), 4, 88, 14, 3, 5.0, 15, 9)
DECODED = 24
READERS = 100
SEED = 4


def measure(quick: bool) -> tuple[dict[str, float], list[Row]]:
    """All figures of the local core."""
    scale, found = QUICK if quick else FULL, Findings()
    with Child("benchmarks.rig.engine_costs") as engine:
        costs = engine.ask(None, Costs)
    with empty_home() as home:
        asyncio.run(life(home, scale, found))
        asyncio.run(beside_the_server(home, scale, costs, found))
        asyncio.run(urgent(home, scale, found))
        asyncio.run(readers(home, scale, found))
        reading = begin_reading(scale)
        asyncio.run(prefix(home, found))
        asyncio.run(labelled(home, found))
        asyncio.run(aborted(home, scale, found))
        asyncio.run(killed(home, scale, found))
    exact_rows(scale, reading, found)
    engine_costs(costs, found)
    return {name: found.figures[name] for name in [*BARS, *found.figures]}, found.rows


def engine_costs(costs: Costs, found: Findings) -> None:
    """What the engine's process said."""
    found.figures["suspend_resume_ms"] = costs.save_ms + costs.load_ms
    found.row("CPU ms of 1,000 tokens", "put aside and back", save=costs.save_ms, load=costs.load_ms, first_time=costs.first_ms)
    read = {"reading": costs.prefill_per_s, "alone": costs.decode_1_per_s, "eight_at_once": costs.decode_8_per_s}
    found.row("tokens per CPU-second", "one thread, exact profile", **read)


async def life(home: Path, scale: Scale, found: Findings) -> None:
    """How long a core takes to start, and what it uses then; the first start proves exactness."""
    config = LocalCoreConfig(home=home)
    async with local(config) as core:
        found.figures["probe_s"] = core.statistics().probe_s
    starts, used = [], 0.0
    for attempt in range(scale.starts):
        begun = time.perf_counter()
        async with local(config) as core:
            starts.append(time.perf_counter() - begun)
            if not attempt:
                used = cpu_s(pid_of(core))
                await asyncio.sleep(scale.idle_s)
                used = cpu_s(pid_of(core)) - used
    found.figures["local_start_s"] = median(starts)
    found.figures["idle_cpu_percent"] = used / scale.idle_s * 100
    found.row("start, s", "exactness known", median=median(starts), worst=max(starts), probe_apart=found.figures["probe_s"])


async def beside_the_server(home: Path, scale: Scale, costs: Costs, found: Findings) -> None:
    """The workload at the server and at ours, each in a new process, in turns."""
    servers, warm, unshared, shared = [], [], [], []
    over_kv: list[float] = []
    for turn in range(scale.rounds):
        cold, *again = await at_the_server(times=1 if turn else 2)
        servers.append(cold)
        warm += again
        unshared.append(await at_ours(home, costs, over_kv, share=False))
        shared.append(await at_ours(home, costs, over_kv, share=True))
    base_s = median(ran.cpu_s for ran in servers)
    found.figures["cpu_vs_server_unshared"] = median(ran.cpu_s for ran in unshared) / base_s
    found.figures["cpu_vs_server_shared"] = median(ran.cpu_s for ran in shared) / base_s
    found.figures["rss_over_kv_mb"] = max(over_kv)
    server_s = {"first": median(ran.first_s for ran in servers), "done": median(ran.done_s for ran in servers)}
    found.row("an interactive call beside 8 batch ones, CPU s", "the engine's own server", **server_s, all=base_s)
    cases = {"the engine's server": servers, "the same, asked again": warm, "ours, unshared": unshared, "ours, shared": shared}
    for case, ran in cases.items():
        found.row(
            "8 agents and an interactive call, CPU s", case, all=median(each.cpu_s for each in ran),
            least=min(each.cpu_s for each in ran), most=max(each.cpu_s for each in ran),
            interactive_first=median(each.first_s for each in ran), interactive_done=median(each.done_s for each in ran),
        )  # fmt: skip


async def urgent(home: Path, scale: Scale, found: Findings) -> None:
    """What the interactive call waits and takes beside the agents, by what a kernel does for it."""
    beside = Beside()
    for turn in range(scale.rounds):
        await round_of(home, beside, list(WAYS)[: scale.ways], (turn + 0.5) / scale.rounds)
    preempted, full, plain = (beside.ran[way] for way in (PREEMPTION, FIFO_FULL, PLAIN))
    first_s, done_s = median(ran.first_s for ran in preempted), median(ran.done_s for ran in preempted)
    alone_s = tuple(map(median, zip(*beside.alone, strict=True)))
    found.figures["ttft_vs_alone"] = first_s / alone_s[0]
    found.figures["done_vs_alone"] = done_s / alone_s[1]
    found.figures["done_vs_plain"] = done_s / median(ran.done_s for ran in plain)
    found.figures["ttft_vs_fifo_full"] = first_s / median(ran.first_s for ran in full)
    found.figures["preempt_batch_loss"] = median(ran.cpu_s for ran in preempted) / median(ran.cpu_s for ran in plain) - 1
    found.row("an interactive call beside 8 batch ones, CPU s", "alone", first=alone_s[0], done=alone_s[1])
    for way, runs in beside.ran.items():
        if runs:
            found.row(
                "an interactive call beside 8 batch ones, CPU s", way, first=median(ran.first_s for ran in runs),
                done=median(ran.done_s for ran in runs), all=median(ran.cpu_s for ran in runs),
            )  # fmt: skip


async def at_the_server(times: int) -> list[Ran]:
    """The workload at a new server; the second time it finds all prompts in its slots."""
    with Child("benchmarks.rig.engine_server", str(workload.SLOTS), str(workload.WINDOW)) as server:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            ask = workload.of_server(session, server.port)
            return [await workload.run(ask, server.pid) for _ in range(times)]


async def at_ours(home: Path, costs: Costs, over_kv: list[float], *, share: bool) -> Ran:
    """The workload at a new core. All calls have slots, so nothing is in the store and its memory is the cache's and its own."""
    async with local(beside(home, share)) as core:
        ran = await workload.run(workload.of_core(core), pid_of(core))
        cache_bytes = workload.SLOTS * workload.WINDOW * costs.bytes_per_token
        over_kv.append((rss_bytes(pid_of(core)) - cache_bytes) / 1e6)
    return ran


async def prefix(home: Path, found: Findings) -> None:
    """Reading eight prompts, each by itself and shared."""
    spent = {}
    for share in (False, True):
        async with local(beside(home, share)) as core:
            spent[share] = await workload.prefill(workload.of_core(core), pid_of(core))
    ratio = found.figures["prefix_prefill_speedup"] = spent[False] / spent[True]
    found.row("CPU s of reading 8 prompts", "458 of 474 tokens shared", apart=spent[False], shared=spent[True], ratio=ratio)


def beside(home: Path, share: bool) -> LocalCoreConfig:
    """The core that is compared with the server."""
    return LocalCoreConfig(home=home, slots=workload.SLOTS, reserve=0, window=workload.WINDOW, threads=1, probe_s=0, share=share)


def pid_of(core: LocalCore) -> int:
    """The process that holds the model."""
    pid = core.health().pid
    assert pid is not None
    return pid


async def readers(home: Path, scale: Scale, found: Findings) -> None:
    """A caller beside many who do not read."""
    alone_s, beside_s = await slow_readers(home, READERS, scale.readers_rounds)
    found.figures["slow_readers_cost"] = beside_s / alone_s - 1
    found.row("an answer of 48 tokens, s", f"{READERS} callers who do not read", alone=alone_s, beside=beside_s)


async def aborted(home: Path, scale: Scale, found: Findings) -> None:
    """Calls that are aborted beside others."""
    passes = await aborts(home, scale.aborts, SEED)
    found.figures["abort_steps"] = max(passes)
    found.row("passes after an abort", "two calls beside it", aborts=len(passes), median=median(passes), most=max(passes))


async def killed(home: Path, scale: Scale, found: Findings) -> None:
    """Hosts that are killed and stopped in the midst of answers."""
    config = LocalCoreConfig(home=home, slots=4, reserve=0, window=256, threads=1, probe_s=0, freeze_s=0.3)
    struck = await strike(config, scale.kills, scale.stops, SEED)
    found.figures["kill_points"] = struck.points
    found.figures["kill_wrong"] = struck.wrong
    found.figures["kill_back_s"] = max(struck.killed_back_s)
    for case, back in {"killed": struck.killed_back_s, "stopped, silence of 0.3 s": struck.stopped_back_s}.items():
        found.row("until answers go on, s", case, points=len(back), median=median(back), worst=max(back))


async def labelled(home: Path, found: Findings) -> None:
    """The committed items, labelled by likelihood."""
    async with local(LocalCoreConfig(home=home, threads=1, probe_s=0)) as core:
        for name, accuracy in (await topic_and_routing(core)).items():
            found.figures[name] = accuracy.calibrated
            found.row(
                "items labelled rightly", name, raw=accuracy.raw, calibrated=accuracy.calibrated, raw_cpu_s=accuracy.raw_cpu_s,
                calibrated_cpu_s=accuracy.calibrated_cpu_s,
            )  # fmt: skip


def begin_reading(scale: Scale) -> Reading:
    """The exactness suite with one thread, in a process of its own: only CPU time is measured beside it, and what takes none."""
    return Reading(Table(tuple(ROWS), scale.lengths, decoded=DECODED))


def exact_rows(scale: Scale, reading: Reading, found: Findings) -> None:
    """What the suite has found, the same with two threads, which need both cores, and the controls."""
    wide = Table(tuple(ROWS), scale.lengths_2, threads=2, decoded=DECODED)
    one, two = reading.wait(), Reading(wide).wait()
    again, again_2 = Reading(Table((), scale.lengths, decoded=DECODED)).wait(), Reading(replace(wide, rows=())).wait()
    threads = {
        "1 thread": {**one.same, "another process": count(one.alone, again.alone)},
        "2 threads": {**two.same, "another process": count(two.alone, again_2.alone)},
    }
    for case, rows in threads.items():
        found.row("rows of raw logits that are the same, %", case, **{name: percent(*row) for name, row in sorted(rows.items())})
    counts = [row for rows in threads.values() for row in rows.values()]
    found.figures["exact_rows"] = percent(sum(same for same, _ in counts), sum(of for _, of in counts))
    unified = Reading(Table(("batch",), (40, 70), decoded=8, kv_type=F16, unified=True)).wait()
    f16 = Reading(Table(("recompute 5",), (40, 70), decoded=8, kv_type=F16, flash=0)).wait()
    found.figures["control_unified_rows"] = percent(*unified.same["batch"])
    found.figures["control_f16_recompute_rows"] = percent(*f16.same["recompute 5"])


def percent(same: int, of: int) -> float:
    return 100 * same / of


if __name__ == "__main__":
    main("local", "What does the local core cost and keep, beside the engine's own server?", measure, BARS)
