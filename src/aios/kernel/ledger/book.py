"""The book of accounts: the whole, its tenants, their users, their agents, and the processes of each as a tree."""

from __future__ import annotations

from collections.abc import Iterator

from aios.abi.account import MODEL, TOP
from aios.abi.errors import NotFound, QueueFull
from aios.abi.wire import nearest
from aios.kernel.ledger.accounts import Account
from aios.kernel.process import Process

MOST_ACCOUNTS = 200_000


class Book:
    """Accounts by path: `/`, `/TENANT`, `/TENANT/@USER`, `/TENANT/AGENT` or `/TENANT/@USER/AGENT`, below which are its processes.

    A process stands below the one that started it, so that a limit of an agent is one of all that it begins; the first one stands
    below its agent. The account of a process is there as long as that is known; all others stay.
    """

    def __init__(self) -> None:
        self.top = Account(TOP)
        self._accounts: dict[str, Account] = {TOP: self.top}
        self._of: dict[Process, Account] = {}
        self._limited: set[Account] = set()
        self.models: dict[str, Account] = {}
        """Of models that have, or had, a limit: what all calls to them spend."""

    def of(self, process: Process) -> Account:
        """The account of a process. Raises `QueueFull` where there are too many."""
        account = self._of.get(process)
        if account is None:
            account = self._of[process] = self._open(self._above(process), process.name)
        return account

    def _above(self, process: Process) -> Account:
        if process.parent is not None and process.parent.share == process.share:
            return self.of(process.parent)
        tenant = self._open(self.top, process.tenant)
        user = self._open(tenant, f"@{process.user}") if process.user else tenant
        return self._open(user, process.agent)

    def _open(self, above: Account, name: str) -> Account:
        path = f"{above.name.rstrip('/')}/{name}"
        account = self._accounts.get(path)
        if account is None:
            if len(self._accounts) >= MOST_ACCOUNTS:
                raise QueueFull(f"there are {MOST_ACCOUNTS} accounts already: name fewer agents and users", retry_after_s=60.0)
            account = self._accounts[path] = Account(path, above)
        return account

    @property
    def has_limits(self) -> bool:
        """Whether any account has one: if not, nothing has to be looked at before a call."""
        return bool(self._limited)

    @property
    def limits_models(self) -> bool:
        """Whether a model has a limit."""
        return bool(self.models) and not self._limited.isdisjoint(self.models.values())

    def note_limits(self, account: Account) -> None:
        """The limits of an account have changed."""
        (self._limited.add if account.limits else self._limited.discard)(account)

    def forget(self, process: Process) -> None:
        """A process is known no more."""
        account = self._of.pop(process, None)
        if account is not None:
            self._accounts.pop(account.name, None)
            self._limited.discard(account)

    def named(self, path: str) -> Account:
        """An account that there is. Raises `NotFound` with the nearest."""
        account = self.models.get(path.removeprefix(MODEL)) if path.startswith(MODEL) else self._accounts.get(path)
        if account is None:
            raise NotFound(f"there is no account `{path[:200]}`{nearest(path, self._accounts)}", field="account")
        return account

    def limited(self, path: str) -> Account:
        """An account that is to be limited: one of a tenant, a user or an agent need not be there yet. Raises `NotFound`."""
        if path.startswith(MODEL):
            return self.models.setdefault(path.removeprefix(MODEL), Account(path))
        parts = [] if path == TOP else path.removeprefix("/").split("/")
        names = 2 if len(parts) > 1 and parts[1].startswith("@") else 1
        if path in self._accounts or len(parts) > names + 1 or any(part.startswith("@") for part in parts[:1] + parts[2:]):
            return self.named(path)
        account = self.top
        for part in parts:
            account = self._open(account, part)
        return account

    def below(self, account: Account) -> Iterator[Account]:
        """An account and all below it, by name; with the one above all, the models."""
        prefix = account.name.rstrip("/") + "/"
        models = self.models if account is self.top else ()
        yield from (self._accounts[name] for name in sorted(self._accounts) if name.startswith(prefix) or name == account.name)
        yield from (self.models[name] for name in sorted(models))
