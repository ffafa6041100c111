"""Workload W: agents with a common prompt that answer at length, and one short interactive call in their midst.

The same for every system: a system is a function that asks one thing and says when each piece of the answer has come. Times are
the CPU seconds of the process that holds the model, so that neither its neighbours nor its clients count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import msgspec

from aios.abi.llm import Delta, Generate
from aios.drivers.core.local.driver import LocalCore
from aios.ports.core import CoreCall
from benchmarks.rig.child import Failed
from benchmarks.rig.usage import cpu_s

RULE = (
    "The harbour keeps a book of all ships. Whoever writes in it says what a ship is called, who her master is, what she carries "
    "and where she comes from, in one plain sentence, and adds nothing that he has not seen himself. "
)
COMMON = RULE * 9 + "Today the sea is calm once more."
SHIPS = ("Red", "Blue", "Green", "White", "Black", "Brown", "Grey", "Gold")
PROMPTS = tuple(f"{COMMON} {ship} Star came in at noon today. The clerk looked at her and wrote:" for ship in SHIPS)
QUESTION = (
    "A traveller asks the clerk at the gate when the next ship leaves for the islands in the north, and whether there is still "
    "room. The clerk says:"
)
COMMON_TOKENS, PROMPT_TOKENS, QUESTION_TOKENS = 458, 474, 32
ANSWER_TOKENS, REPLY_TOKENS = 40, 16
ARRIVES_AFTER = 10
"""Tokens of every agent's answer, after which the interactive call comes."""

SLOTS, WINDOW = len(PROMPTS) + 1, 1024
TEMPERATURE, TOP_P = 0.8, 0.9


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one call: tokens read, of them `cached`, and made."""

    prompt: int
    cached: int
    made: int


Heard = Callable[[], None]
Ask = Callable[[str, int, int, Heard], Awaitable[Asked]]
"""Ask a prompt, with so many tokens at most and a seed, and tell of each piece that comes."""


@dataclass(frozen=True, slots=True)
class Ran:
    """The CPU seconds of the whole, of the interactive call until its first token and its last, and what the agents asked."""

    cpu_s: float
    first_s: float
    done_s: float
    agents: list[Asked]


async def run(ask: Ask, pid: int, moment: float = 0.5) -> Ran:
    """The workload, on the system that `ask` speaks to and whose model is in process `pid`. Raises `Failed` if it fell short.

    `moment`: where in a pass of the model the interactive call comes, 0 to 1; people do not come when a pass has just ended.
    """
    pieces = dict.fromkeys(PROMPTS, 0)
    arrived, clock = asyncio.Event(), asyncio.get_running_loop().time
    passes = [clock()] * 2

    def count(prompt: str, number: int) -> None:
        pieces[prompt] += number
        if prompt == PROMPTS[0]:
            passes[:] = passes[1], clock()
        if min(pieces.values()) >= ARRIVES_AFTER:
            arrived.set()

    async def agent(number: int, prompt: str) -> Asked:
        try:
            return await ask(prompt, ANSWER_TOKENS, number, lambda: count(prompt, 1))
        finally:
            count(prompt, ARRIVES_AFTER)

    begun = cpu_s(pid)
    agents = [asyncio.ensure_future(agent(number, prompt)) for number, prompt in enumerate(PROMPTS)]
    await arrived.wait()
    await asyncio.sleep(moment * (passes[1] - passes[0]))
    came = cpu_s(pid)
    first: list[float] = []
    reply = await ask(QUESTION, REPLY_TOKENS, len(PROMPTS), lambda: first.append(cpu_s(pid)))
    done = cpu_s(pid)
    found = await asyncio.gather(*agents)
    check([*found, reply])
    return Ran(cpu_s(pid) - begun, first[0] - came, done - came, found)


def check(asked: list[Asked]) -> None:
    """Raises `Failed` if it was not this workload that was done."""
    wanted = [(PROMPT_TOKENS, ANSWER_TOKENS)] * len(PROMPTS) + [(QUESTION_TOKENS, REPLY_TOKENS)]
    found = [(each.prompt, each.made) for each in asked]
    if found != wanted:
        raise Failed(f"the workload asks for {wanted} tokens read and made, but {found} were")


async def prefill(ask: Ask, pid: int) -> float:
    """CPU seconds of reading all agents' prompts, with one token of answer to each."""
    begun = cpu_s(pid)
    await asyncio.gather(*(ask(prompt, 1, number, lambda: None) for number, prompt in enumerate(PROMPTS)))
    return cpu_s(pid) - begun


def of_core(core: LocalCore) -> Ask:
    """Our local core."""

    async def ask(prompt: str, tokens: int, seed: int, heard: Heard) -> Asked:
        def emit(_delta: Delta) -> None:
            heard()

        request = Generate(prompt=prompt, max_tokens=tokens, temperature=TEMPERATURE, top_p=TOP_P)
        call = CoreCall(id=f"{seed}", model=core.config.name, request=request, seed=seed, tenant="acme")
        usage = (await core.generate(call, emit)).usage
        return Asked(usage.input_tokens, usage.cache_read, usage.output_tokens)

    return ask


def of_server(session: aiohttp.ClientSession, port: int) -> Ask:
    """The engine's own server, over its HTTP."""

    async def ask(prompt: str, tokens: int, seed: int, heard: Heard) -> Asked:
        wish = {"prompt": prompt, "n_predict": tokens, "seed": seed, "temperature": TEMPERATURE, "top_p": TOP_P, "stream": True}
        last = {}
        async with session.post(f"http://127.0.0.1:{port}/completion", json=wish) as answer:
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    last = msgspec.json.decode(line[6:])
                    if last.get("tokens"):
                        heard()
        if not last.get("stop"):
            raise Failed(f"the engine's server ended an answer with {last}")
        return Asked(last["tokens_evaluated"], last["timings"]["cache_n"], last["tokens_predicted"])

    return ask
