"""Observation and steering of the kernel, tokens, time and chance."""

from __future__ import annotations

import re

import msgspec

from aios.abi.bounds import within
from aios.abi.request import Class, Done, Reply, Request

LOCAL = "local"
"""The tenant of the operator, and of everything for which nobody named another."""
LEAST_WEIGHT, MOST_WEIGHT = 0.001, 1000.0
_account = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")


def check_account(field: str, name: str) -> None:
    """Raise ValueError for what cannot be the name of a tenant or user: names are typed, and parts of paths."""
    if not _account.fullmatch(name):
        raise ValueError(f"`{field}` must be 1 to 64 letters, digits, `-`, `_`, `.` or `@`, and begin with one of the first two")


class TokenInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token as it is kept: never its value. `agent`: who it speaks for. `created_ns`: UTC. `tenant`, `user`, `weight`: as it
    was made, see `AddToken`.
    """

    id: str
    agent: str
    created_ns: int
    grants: tuple[str, ...]
    cls: Class = "standard"
    tenant: str = LOCAL
    user: str = ""
    weight: float | None = None


class NewToken(Reply, frozen=True):
    """A new token. `value` is shown this once; only its hash is kept."""

    info: TokenInfo
    value: str


class AddToken(Request[NewToken], frozen=True, kw_only=True):
    """Make a token that speaks for one agent. `grants`: its rights; `cls`: the highest class of its calls.

    `tenant`: who it belongs to (None: the caller's own). Tenants know nothing of each other and get equal parts of what is
    scarce; so do the users of a tenant, and of a user the agents. `weight`: how many such parts the account gets that the token
    names last (its user, or else its tenant), 0.001 to 1,000. Of several tokens of an account the newest that says
    one counts, and 1 where none does. Who is no operator makes tokens of its own tenant and user, with weights for users alone.
    """

    agent: str
    grants: tuple[str, ...] = ("use /llm/*",)
    cls: Class = "standard"
    tenant: str | None = None
    user: str = ""
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.tenant is not None:
            check_account("tenant", self.tenant)
        if self.user:
            check_account("user", self.user)
        within("weight", self.weight, LEAST_WEIGHT, MOST_WEIGHT)


class TokenList(Reply, frozen=True):
    """The tokens that are valid."""

    tokens: tuple[TokenInfo, ...]


class ListTokens(Request[TokenList], frozen=True, kw_only=True):
    """The tokens that are valid, without their values; who is no operator sees those of its own tenant and user."""


class RevokeToken(Request[Done], frozen=True, kw_only=True):
    """Make a token worthless at once; its sessions end, their calls with them. `id`: as listed."""

    id: str


class CoreState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A core and its load. `running`: calls; `os_pid`: its host.

    `input_tokens` and `output_tokens`: of all calls that ended well; `cached_tokens`: of the input, those read for other calls.

    `exact`: it was tried that a generation is the same, bit by bit, whatever runs beside it and however often it was begun again.
    `frozen`: calls that stand back now, for more urgent ones or because their quantum was over; `preemptions`: how often one did.
    """

    name: str
    driver: str
    models: tuple[str, ...]
    features: tuple[str, ...]
    up: bool
    slots: int
    window: int
    running: int
    restarts: int = 0
    os_pid: int | None = None
    detail: str = ""
    exact: bool = False
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    frozen: int = 0
    preemptions: int = 0


class EmbedderState(msgspec.Struct, frozen=True, omit_defaults=True):
    """An embedder and its load. `window`: tokens of a text that count; `running`: calls; `tokens`: of all that ended well.

    `os_pid`: of its child, once it is needed.
    """

    name: str
    driver: str
    model: str
    dimensions: int
    window: int
    up: bool
    slots: int
    running: int
    restarts: int = 0
    os_pid: int | None = None
    detail: str = ""
    tokens: int = 0


class CoreList(Reply, frozen=True):
    """All cores, and how many calls wait for one of them, by class; then what embeds."""

    cores: tuple[CoreState, ...]
    waiting: dict[str, int]
    embedders: tuple[EmbedderState, ...] = ()


class ListCores(Request[CoreList], frozen=True, kw_only=True):
    """The cores, their state and load, and the same of what embeds."""


class Statistics(Reply, frozen=True):
    """Figures of the running kernel, since it started. Times in seconds, memory in bytes.

    `loop_lag_max_s`: the longest that the loop was late; `journal_records`: lines in the journal.
    """

    uptime_s: float
    cpu_s: float
    rss_bytes: int
    processes: int
    hosts: int
    calls: int
    calls_failed: int
    calls_running: int
    calls_waiting: int
    input_tokens: int
    output_tokens: int
    events: int
    journal_records: int
    loop_lag_max_s: float
    version: str


class ReadStatistics(Request[Statistics], frozen=True, kw_only=True):
    """Figures of the running kernel."""


class Drain(Request[Done], frozen=True, kw_only=True):
    """Take no new calls, let running ones end for at most `grace_s` seconds, then go down."""

    grace_s: float = 10.0


class Instant(Reply, frozen=True):
    """A moment: nanoseconds UTC."""

    at_ns: int


class Now(Request[Instant], frozen=True, kw_only=True):
    """The time, recorded: the same when the call is answered from the journal."""


class Sleep(Request[Done], frozen=True, kw_only=True):
    """Wait for `seconds`."""

    seconds: float


class Chance(Reply, frozen=True):
    """Random bytes."""

    data: bytes


class RandomBytes(Request[Chance], frozen=True, kw_only=True):
    """`size` random bytes (at most 4,096), recorded."""

    size: int = 32
