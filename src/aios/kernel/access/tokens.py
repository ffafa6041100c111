"""Tokens: 256 random bits that speak for one agent; only their hashes are kept."""

from __future__ import annotations

import functools
import hashlib
import secrets

import msgspec

from aios.abi.errors import Invalid, NotFound, Unauthenticated, Unavailable
from aios.abi.manifest import OPERATOR, check_agent
from aios.abi.request import Class
from aios.abi.system import LOCAL, NewToken, TokenInfo
from aios.ports.clock import Clock
from aios.ports.store import Document

PREFIX = "aios_"


class _Kept(msgspec.Struct, frozen=True):
    info: TokenInfo
    sha256: str
    operator: bool = False


_decoder = msgspec.json.Decoder(list[_Kept])


class Tokens:
    """The tokens that are valid. Looked up by hash, so that the time it takes tells nothing about the value."""

    def __init__(self, document: Document, clock: Clock) -> None:
        self._document = document
        self._clock = clock
        self._by_hash: dict[str, _Kept] = {}
        self._pids: dict[str, str] = {}
        self._weights: dict[tuple[str, str], float] = {}
        content = document.load()
        if content is not None:
            try:
                self._by_hash = {kept.sha256: kept for kept in _decoder.decode(content)}
            except msgspec.DecodeError as error:
                raise Unavailable(f"the token file is damaged ({error}): move it away, and make tokens anew") from None
            self._weigh()

    def add(
        self, agent: str, grants: tuple[str, ...], cls: Class, tenant: str = LOCAL, user: str = "", weight: float | None = None
    ) -> NewToken:
        """Make a token; its value is told this once. Raises `Invalid` for a name that no agent may bear."""
        try:
            check_agent(agent)
        except ValueError as error:
            raise Invalid(str(error), field="agent") from None
        id, now_ns = secrets.token_hex(4), self._clock.now_ns()
        return self._add(TokenInfo(id, agent, now_ns, grants, cls, tenant, user, weight), operator=False)

    def new_operator(self) -> str:
        """Make the operator's token anew; the one before is worthless from now on."""
        self._by_hash = {h: kept for h, kept in self._by_hash.items() if not kept.operator}
        info = TokenInfo(secrets.token_hex(4), OPERATOR, self._clock.now_ns(), (), "interactive")
        return self._add(info, operator=True).value

    def _add(self, info: TokenInfo, operator: bool) -> NewToken:
        value = PREFIX + secrets.token_urlsafe(32)
        self._save({**self._by_hash, _hash(value): _Kept(info, _hash(value), operator)})
        return NewToken(info=info, value=value)

    def find(self, value: str) -> tuple[TokenInfo, bool]:
        """What a token stands for, and whether it is the operator's. Raises `Unauthenticated`."""
        kept = self._by_hash.get(_hash(value))
        if kept is None:
            raise Unauthenticated("this token is not valid: `aios token add --agent NAME` makes one")
        return kept.info, kept.operator

    def issue(self, pid: str) -> str:
        """A token that stands for one process alone. It is nowhere but in memory, and good until it is withdrawn."""
        value = PREFIX + secrets.token_urlsafe(32)
        self._pids[_hash(value)] = pid
        return value

    def withdraw(self, value: str) -> None:
        """Make a token worthless that was issued."""
        self._pids.pop(_hash(value), None)

    def pid(self, value: str) -> str | None:
        """The process that a token was issued for."""
        return self._pids.get(_hash(value))

    def weight(self, tenant: str, user: str = "") -> float:
        """How many parts a tenant gets beside other tenants, or a user beside other users of the tenant: 1 if nobody said."""
        return self._weights.get((tenant, user), 1.0)

    def list(self) -> tuple[TokenInfo, ...]:
        return tuple(kept.info for kept in self._by_hash.values() if not kept.operator)

    def revoke(self, id: str) -> None:
        """Make a token worthless. Raises `NotFound`."""
        left = {h: kept for h, kept in self._by_hash.items() if kept.info.id != id or kept.operator}
        if len(left) == len(self._by_hash):
            raise NotFound(f"there is no token `{id[:80]}`: `aios token ls` lists them", field="id")
        self._save(left)

    def _save(self, tokens: dict[str, _Kept]) -> None:
        self._document.save(msgspec.json.format(msgspec.json.encode(list(tokens.values()))))
        self._by_hash = tokens
        self._weigh()

    def _weigh(self) -> None:
        infos = (kept.info for kept in self._by_hash.values())
        self._weights = {(info.tenant, info.user): info.weight for info in infos if info.weight is not None}


@functools.lru_cache(maxsize=1)  # one request asks several times, and holds the value anyway
def _hash(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
