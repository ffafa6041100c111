"""The composition root: the one place where drivers, doors and the kernel are joined."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from aios.abi.account import TOP, AccountState, LimitState, SetLimit
from aios.abi.errors import AiosError, Unavailable
from aios.config import Config
from aios.drivers.clock import SystemClock
from aios.drivers.core.local.driver import LocalCore
from aios.drivers.core.openai_chat import OpenAIChat
from aios.drivers.embed.driver import MiniLMEmbedder, find
from aios.drivers.price.book import PriceBook
from aios.drivers.sandbox.landlock import LandlockSandbox, harden_kernel, interpreter_paths
from aios.drivers.store.document import FileDocument
from aios.drivers.store.memory import MemoryStore
from aios.kernel.main import Kernel, Parts
from aios.keys import FILE_SAYS, NONE_HELD, Allowance, Held, Paid, paid_cores, read_allowance, take_keys
from aios.ports.core import Core
from aios.ports.embedder import Embedder
from aios.ports.prices import LOCAL
from aios.ports.sandbox import Sandbox
from aios.server.doors import doors_to
from aios.server.http import HttpServer
from aios.server.listener import raise_descriptors
from aios.server.programs import ConfinedPrograms
from aios.server.socket import SocketHosts
from aios.spending import Spending

log = logging.getLogger("aios.boot")

GRACE_S = 10.0
"""How long running calls may take to end when a signal takes the kernel down."""


YOUNG_OBJECTS = 20_000
"""After so many new objects the collector looks for rings. After 700, as Python has it, a few dozen calls would be walked in each
turn of the loop, only to find that they are still under way."""


@dataclass(frozen=True)
class Address:
    """Where a kernel answers. `keys`: what became of each key, a line each; `budget`: what all of them may spend."""

    http: str
    socket: str
    keys: tuple[str, ...] = ()
    budget: LimitState | None = None


async def serve(config: Config, ready: Callable[[Address], None]) -> None:
    """Run a kernel until it is drained; being cancelled drains it. Raises `Unavailable` with what to do."""
    held = take_keys(os.environ, config)
    with locked(config.home):
        harden_kernel()
        raise_descriptors()
        async with running(config, held) as (kernel, address):
            gc.collect()
            gc.freeze()
            gc.set_threshold(YOUNG_OBJECTS)
            ready(address)
            try:
                await kernel.down.wait()
            except asyncio.CancelledError:
                kernel.drain(GRACE_S)
                await kernel.down.wait()


@asynccontextmanager
async def running(config: Config, held: Held = NONE_HELD) -> AsyncIterator[tuple[Kernel, Address]]:
    """A kernel with its cores and doors, as long as the block runs. `held`: the keys that its cores may have."""
    run = config.home / "run"
    run.mkdir(mode=0o700, exist_ok=True)
    sandbox = LandlockSandbox()
    hosts = SocketHosts(sandbox, config.home / "work", interpreter_paths(), config.home)
    programs = ConfinedPrograms(sandbox, config.home / "work", config.home)
    clock = SystemClock()
    prices = PriceBook(config.prices, clock)
    allowance, paid = read_allowance(config.home), list(paid_cores(config, held.keys))
    if any(core.provider not in ("", LOCAL) for core in (*config.cores, *(each.core for each in paid))):
        prices.info()  # it is read now, and not on the kernel's loop when a call comes
    parts = Parts(
        clock=clock,
        store=MemoryStore(),
        tokens=FileDocument(config.home / "tokens.json"),
        consents=FileDocument(config.home / "consents.json"),
        hosts=hosts,
        programs=programs,
        lane=config.lanes.cores,
        index=config.lanes.index,
        embedders=tuple(embedders(config, sandbox)),
        aliases={alias: (model,) for alias, model in config.aliases.items()},
        prices=prices,
        guard=config.guard,
    )
    async with Kernel(parts) as kernel:
        hosts.serve(kernel)
        operator = kernel.tokens.new_operator()
        budget, spending = None, Spending(kernel, config.home)
        if any(allowance.allows(each.use) for each in paid):
            spending.carry()
            budget = await limited(kernel, operator, allowance)
        for core in cores(config):
            await kernel.add_core(core)
        told = await add_paid(kernel, paid, held, allowance, spending)
        if budget is not None:
            told = (*told, *own_prices(config, paid), *old_prices(prices, paid), *without_price(kernel))
        for alias, models in kernel.pool.lost_aliases().items():
            log.warning("alias `%s` stands for `%s`, which no core has: see `[aliases]`", alias, "`, `".join(models))
        socket = str(run / "aios.sock")
        server = HttpServer(kernel, doors_to(kernel), replace(config.server, socket=socket))
        await server.start()
        programs.serve(kernel, server)
        FileDocument(run / "operator.token").save(operator.encode())
        try:
            async with spending.kept() if budget is not None else nullcontext():
                yield kernel, Address(server.url, socket, told, budget)
        finally:
            await server.close(grace_s=1.0)
    await programs.close()
    await hosts.close()
    sandbox.close()


def cores(config: Config) -> Iterator[Core]:
    """The configured cores that cost nothing, the one that `default` means first: see `config.chosen_core`."""
    if config.local is not None and config.names_model_file:
        yield LocalCore(config.local)
    for endpoint in config.cores:
        if not endpoint.needs_limit:
            yield OpenAIChat(endpoint)
    if config.local is not None and not config.names_model_file:
        yield LocalCore(config.local)


async def limited(kernel: Kernel, operator: str, allowance: Allowance) -> LimitState:
    """Limit what all may spend, as the operator said, before anything is there that costs."""
    request = SetLimit(account=TOP, unit="money", amount=allowance.amount, window=allowance.window)
    state: AccountState = (await kernel.call(kernel.attach(operator), request)).value
    return next(limit for limit in state.limits if (limit.unit, limit.window) == ("money", allowance.window))


async def add_paid(kernel: Kernel, paid: list[Paid], held: Held, allowance: Allowance, spending: Spending) -> tuple[str, ...]:
    """Bring up the cores that cost money and may; a sentence on each. The kernel starts without those that cannot be reached."""

    async def add(each: Paid) -> str:
        if not each.present:
            return f"off: `{each.core.name}`: {held.wrong.get(each.use.variable, f'${each.use.variable} holds no key')}"
        if not allowance.allows(each.use):
            return f"off: {each.use} has no limit: `{each.use.command}` gives it one"
        try:
            core = OpenAIChat(each.core, held.keys.get(each.use.variable), spending.cover)
            await kernel.add_core(core)
        except AiosError as problem:
            return f"off: {each.use}: {problem.message}"
        state = core.health()
        down = "" if state.up else f"; but {state.detail}"
        return f"on: {each.use}, {len(core.info().models)} models on core `{each.core.name}`{down}"

    named = {each.use.variable for each in paid}
    wrong = [f"off: {said}" for variable, said in held.wrong.items() if variable not in named]
    told = (*await asyncio.gather(*map(add, paid)), *wrong)
    for line in told:
        log.log(logging.INFO if line.startswith("on") else logging.WARNING, "%s", line)
    return told


def own_prices(config: Config, paid: list[Paid]) -> Iterator[str]:
    """A sentence on each core whose prices are not the table's: a limit holds as far as its prices are true."""
    for each in paid:
        if each.prices.startswith(FILE_SAYS):
            yield f"note: what core `{each.core.name}` costs is {config.file}'s word, and not that of the table of prices"


def old_prices(book: PriceBook, paid: list[Paid]) -> Iterator[str]:
    """A sentence on the table of prices, if it is old and any core is paid by it."""
    if any(each.core.provider for each in paid) and (said := book.age()):
        yield f"note: {said}"


def without_price(kernel: Kernel) -> Iterator[str]:
    """A sentence on each core with models that nobody knows the price of: within a limit of money they are refused."""
    for core in kernel.pool.list_cores():
        unknown = [model for model in core.models if kernel.pool.price(core.name, model) is None]
        if unknown:
            which = f"{len(unknown)} of {len(core.models)} models of core `{core.name}`, such as `{unknown[0]}`,"
            yield f"refused: {which} have no known price: set `price` or `provider` in its `[[core]]` (`local` costs nothing)"


def embedders(config: Config, sandbox: Sandbox) -> Iterator[Embedder]:
    """What embeds, if its model is there. Raises `Unavailable` for a model that is named and not there."""
    if config.embedder is None:
        return
    try:
        folder = find(config.embedder.path)
    except Unavailable as missing:
        if config.embedder.path is not None:
            raise
        log.info("nothing embeds here: %s", missing.message)
        return
    yield MiniLMEmbedder(folder, config.embedder, sandbox, interpreter_paths())


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold a home: one kernel at a time. The system lets go of it however the kernel ends. Raises `Unavailable`."""
    run = home / "run"
    run.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(run / "kernel.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Unavailable(f"another kernel runs in {home}: `aios down` ends it") from None
    else:
        yield
    finally:
        os.close(lock)
