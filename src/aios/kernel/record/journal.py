"""The journal: numbers records, hands them to the store, and answers a call that was made before."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import lru_cache
from typing import Any

import msgspec

from aios.abi.errors import AiosError, Conflict, Fault, OutcomeUnknown
from aios.abi.label import Label
from aios.abi.record import ABI_VERSION, Kind, Record, Reserved, Settled
from aios.abi.request import Request
from aios.abi.table import TABLE
from aios.kernel.process import Call
from aios.ports.clock import Clock
from aios.ports.store import Store

SHARD = 0

_encoder = msgspec.msgpack.Encoder()
_label_decoder = msgspec.msgpack.Decoder(Label)
_fault_decoder = msgspec.msgpack.Decoder(Fault)


@lru_cache(maxsize=4096)
def _label_bytes(label: Label) -> bytes:
    return _encoder.encode(label)


_reply_decoders = {row.name: msgspec.msgpack.Decoder(row.reply) for row in TABLE}


class Journal:
    """Writes the records of one shard, in order."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._now_ns = clock.now_ns
        self._epoch = store.epoch
        self._lsn = store.count()

    @property
    def store(self) -> Store:
        return self._store

    def recorded(self, call: Call, digest: bytes) -> tuple[Any, Label] | None:
        """The recorded result of this call, if it has one; a call that failed is attempted anew, under the next number.

        Raises `Conflict` if another request was made under the same id, `OutcomeUnknown` if it was begun and nobody knows what
        came of it: that is never attempted again.
        """
        records = self._store.find(call.process.pid, call.path)
        if any(record.digest != digest for record in records):
            raise Conflict("another request was made with this `key`: use a new one", field="key")
        for record in records:
            if record.kind == "result":
                return _reply_decoders[call.row.name].decode(record.body), _label_decoder.decode(record.label)
            if record.kind == "error" and (fault := _fault_decoder.decode(record.body)).code == OutcomeUnknown.__name__:
                raise OutcomeUnknown(fault.message)
        call.attempt = 1 + max((record.attempt for record in records), default=0)
        return None

    def intent(self, call: Call, plan: Any) -> int:
        """Record that a call is about to act, and all that the act depends on."""
        return self._append(call, "intent", call.process.label, _encoder.encode(plan))

    def result(self, call: Call, value: Any, label: Label) -> int:
        """Record what a call came to."""
        return self._append(call, "result", label, _encoder.encode(value))

    def error(self, call: Call, error: AiosError) -> int:
        """Record that a call failed."""
        return self._append(call, "error", call.process.label, _encoder.encode(error.fault()))

    def reservation(self, call: Call, reserved: Reserved) -> int:
        """Record what an attempt may come to, before its intent: where that is durable, this is."""
        return self._append(call, "reservation", call.process.label, _encoder.encode(reserved))

    def settlement(self, call: Call, settled: Settled) -> int:
        """Record what an attempt came to."""
        return self._append(call, "settlement", call.process.label, _encoder.encode(settled))

    def change(self, call: Call, request: Request[Any]) -> int:
        """Record what holds from now on for others too."""
        return self._append(call, "change", call.process.label, _encoder.encode(request))

    def commit(self, lsn: int) -> Awaitable[None] | None:
        """Output commit: nothing leaves the kernel before what it stands on is as durable as the store makes it.

        None where it is, or what to wait for until then.
        """
        return self._store.commit(lsn)

    def _append(self, call: Call, kind: Kind, label: Label, body: bytes) -> int:
        self._lsn += 1
        process = call.process
        self._store.append(
            Record(
                self._lsn, SHARD, self._epoch, process.tenant, process.pid, call.path, call.attempt, kind,
                self._now_ns(), ABI_VERSION, call.digest, _label_bytes(label), "", "msgpack" if body else "none", body,
            )
        )  # fmt: skip
        return self._lsn
