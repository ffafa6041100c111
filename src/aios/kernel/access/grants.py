"""Grants: default deny, decided by prefix tables that are built once per process.

A grant names a verb and a resource, exact or everything below a prefix. `own` is not granted but had: the process itself
and its descendants; operators own everything of their tenant.
"""

from __future__ import annotations

from collections.abc import Iterable

from aios.abi.errors import Denied, Invalid
from aios.abi.manifest import Grant
from aios.kernel.process import Process

MOST_KEPT = 200
"""Characters of a resource that is kept with the answer: names are their callers' own, and there are many processes."""

OPERATOR: tuple[Grant, ...] = tuple(Grant(verb, "/*") for verb in ("use", "read", "write", "spawn", "own"))


def parse_grants(texts: Iterable[str]) -> tuple[Grant, ...]:
    """Grants from `verb /resource` texts. Raises `Invalid`."""
    try:
        return tuple(Grant.parse(text) for text in texts)
    except ValueError as error:
        raise Invalid(str(error), field="grants") from None


class GrantTable:
    """The grants of one process, made ready for asking: exact resources in a set, prefixes in a tuple, per verb."""

    __slots__ = ("_allowed", "_asked", "_exact", "_prefixes")

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._exact: dict[str, set[str]] = {}
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._asked: tuple[str, tuple[str, ...]] = ("", ())
        self._allowed: tuple[str, ...] = ()
        for grant in grants:
            if grant.resource.endswith("*"):
                self._prefixes[grant.verb] = (*self._prefixes.get(grant.verb, ()), grant.resource[:-1])
            else:
                self._exact.setdefault(grant.verb, set()).add(grant.resource)

    def allows(self, verb: str, resource: str) -> bool:
        return resource in self._exact.get(verb, ()) or resource.startswith(self._prefixes.get(verb, ()) or ("\0",))

    def allowed(self, verb: str, resources: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the resources that are allowed. What was allowed last is kept: most ask for the same again."""
        if self._asked == (verb, resources):
            return self._allowed
        allowed = tuple([resource for resource in resources if self.allows(verb, resource)])
        if len(resources[0]) <= MOST_KEPT:
            self._asked, self._allowed = (verb, resources), allowed
        return allowed

    def covers(self, grant: Grant) -> bool:
        """Whether everything that `grant` allows is allowed here."""
        if grant.resource.endswith("*"):
            return grant.resource[:-1].startswith(self._prefixes.get(grant.verb, ()) or ("\0",))
        return self.allows(grant.verb, grant.resource)


class Grants:
    """The grant tables of living processes."""

    def __init__(self) -> None:
        self._tables: dict[Process, GrantTable] = {}

    def of(self, process: Process) -> GrantTable:
        table = self._tables.get(process)
        if table is None:
            table = self._tables[process] = GrantTable(process.grants)
        return table

    def forget(self, process: Process) -> None:
        self._tables.pop(process, None)

    def allowed(self, process: Process, verb: str, resources: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the resources that the process may use; any will do. Raises `Denied` when there is none."""
        allowed = self.of(process).allowed(verb, resources)
        if not allowed:
            wanted = f"{verb} {resources[0]}"
            raise Denied(f"`{process.name}` needs `{wanted}`: add it to `grants` in its manifest, or to its token")
        return allowed

    def check_subset(self, parent: Process, child: str, grants: Iterable[Grant]) -> None:
        """Raise `Denied` unless the parent has everything that its child asks for."""
        table = self.of(parent)
        for grant in grants:
            if not table.covers(grant):
                raise Denied(f"`{parent.name}` cannot give `{grant}` to `{child}`: it does not have it itself")
