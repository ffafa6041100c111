"""Where a value came from and who may see it; travels with every value."""

from __future__ import annotations

import msgspec

MAX_SOURCES = 64


class Label(msgspec.Struct, frozen=True, omit_defaults=True):
    """`integrity`: 3 kernel, 2 user, 1 first party, 0 untrusted. `confidentiality`: 0 public to 3 secret.

    `readers`: principals who may see the value; None means everyone in the tenant.
    `sources`: ids of the records that it was made from, at most 64, sorted.
    """

    integrity: int = 3
    confidentiality: int = 0
    readers: frozenset[str] | None = None
    sources: tuple[str, ...] = ()

    def join(self, other: Label) -> Label:
        """The label of a value made from both: the lower integrity, the higher secrecy, the common readers."""
        if self == other:
            return self
        if self.readers is None or other.readers is None:
            readers = self.readers if other.readers is None else other.readers
        else:
            readers = self.readers & other.readers
        sources = tuple(sorted({*self.sources, *other.sources}))[:MAX_SOURCES]
        return Label(min(self.integrity, other.integrity), max(self.confidentiality, other.confidentiality), readers, sources)


KERNEL = Label(integrity=3)
USER = Label(integrity=2)
FIRST_PARTY = Label(integrity=1)
UNTRUSTED = Label(integrity=0)
