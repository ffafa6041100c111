"""The book of accounts: the whole, its tenants, their users, their agents, and the processes of each as a tree."""

from __future__ import annotations

from collections.abc import Iterator

from aios.abi.account import JOB, OF_TENANTS, TAGS, TOP
from aios.abi.errors import NotFound, QueueFull
from aios.abi.wire import nearest
from aios.kernel.ledger.accounts import Account
from aios.kernel.process import Call, Process

MOST_ACCOUNTS = 200_000
MOST_OF_TENANT = 1000
"""Jobs and tools of a tenant, of which the book knows what they have spent."""


class Book:
    """Accounts by path: `/`, `/TENANT`, `/TENANT/@USER`, `/TENANT/AGENT` or `/TENANT/@USER/AGENT`, below which are its processes.

    A process stands below the one that started it, so that a limit of an agent is one of all that it begins; the first one stands
    below its agent. The account of a process is there as long as that is known; all others stay.

    Beside the tree stand the accounts of tags: what is spent at a model or a provider, whoever spends it, from their first limit
    on; and for a job or a tool of a tenant. Of too many the one is forgotten that was idle longest and has no limit.
    """

    def __init__(self) -> None:
        self.top = Account(TOP)
        self._accounts: dict[str, Account] = {TOP: self.top}
        self._of: dict[Process, Account] = {}
        self._of_pid: dict[str, Account] = {}
        self._children: dict[Account, set[Account]] = {}
        """Of accounts of processes, those directly below."""
        self._left: dict[Account, Process] = {}
        """Accounts of processes that are known no more, but below which others go on."""
        self._limited: set[Account] = set()
        self._tenants = 0
        """How many there have been."""
        self.knows_for_all = False
        """Whether there is an account of a model or a provider."""
        self.limits_of_all: set[str] = set()
        """Names of the models and providers that have a limit: calls of anybody may be of them."""
        self.tags: dict[str, Account] = {}
        self._of_tenants: dict[str, dict[str, None]] = {}
        """Names of accounts by tenant, the one first that was used least lately."""

    def of(self, process: Process) -> Account:
        """The account of a process. Raises `QueueFull` where there are too many."""
        account = self._of.get(process)
        if account is None:
            above = self._above(process)
            account = self._of[process] = self._of_pid[process.pid] = self._open(above, process.name)
            self._children.setdefault(above, set()).add(account)
            if process.exit is not None:
                self._left[account] = process
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
            if above is self.top:
                self._tenants += 1
        return account

    def tells(self, account: Account, process: Process) -> bool:
        """Whether a process may hear what is spent in an account: not where that is of other tenants as well."""
        return process.operator or bool(account.tenant) or self._tenants <= 1

    @property
    def has_limits(self) -> bool:
        """Whether any account has one: if not, nothing has to be looked at before a call."""
        return bool(self._limited)

    def tagged(self, tag: str, tenant: str, name: str) -> Account:
        """The account of a job or a tool, which is there from now on. Raises `QueueFull` where all are limited or under way."""
        full, names = f"{tag}{tenant}/{name}", self._of_tenants.setdefault(tenant, {})
        account = self.tags.get(full)
        if account is None:
            if len(names) >= MOST_OF_TENANT:
                self._forget_one(tenant)
            account = self.tags[full] = Account(full)
        names.pop(full, None)
        names[full] = None
        return account

    def job_of(self, call: Call) -> str:
        """The name of the account of the job that a call is of: its process's, or else the one that it names; "" for none."""
        process, trace = call.process, call.options.trace
        job = process.job or (trace.tag if trace is not None else "")
        return self.tagged(JOB, process.tenant, job).name if job else ""

    def is_limited(self, account: Account, job: str) -> bool:
        """Whether a limit may hold for calls of an account and a job: theirs, one above it, or one of a model or a provider."""
        return self.limits(account, job) or bool(self.limits_of_all)

    def limits(self, account: Account, job: str) -> bool:
        """Whether an account, one above it, or a job has a limit."""
        if job and job in self.tags and (self.tags[job].limits or self.tags[job].overbilled):
            return True
        for each in account.path:  # of each call more than once
            if each.limits:
                return True
        return False

    def _forget_one(self, tenant: str) -> None:
        for name in self._of_tenants[tenant]:
            account = self.tags[name]
            if not (account.limits or account.overbilled or any(account.reserved)):
                del self.tags[name], self._of_tenants[tenant][name]
                return
        said = f"`{tenant}` has {MOST_OF_TENANT} jobs and tools with limits or calls under way: name fewer"
        raise QueueFull(said, retry_after_s=60.0)

    def note_limits(self, account: Account) -> None:
        """The limits of an account have changed."""
        (self._limited.add if account.limits else self._limited.discard)(account)
        if is_for_all(account):
            (self.limits_of_all.add if account.limits else self.limits_of_all.discard)(account.name)

    def forget(self, process: Process) -> None:
        """A process is known no more. Its account stays as long as there are any below it: who outlives it pays there too."""
        account = self._of.get(process)
        if account is not None:
            self._left[account] = process
        while account in self._left and not self._children.get(account):
            left = self._left.pop(account)
            del self._of[left], self._of_pid[left.pid], self._accounts[account.name]
            self._limited.discard(account)
            self._children.pop(account, None)
            above = account.parent
            if above is not None:
                self._children[above].discard(account)
            account = above

    def named(self, path: str) -> Account:
        """An account that there is. Raises `NotFound` with the nearest."""
        known = self.tags if path.startswith(TAGS) else self._accounts
        account = known.get(path)
        if account is None:
            raise NotFound(f"there is no account `{path[:200]}`{nearest(path, known)}", field="account")
        return account

    def limited(self, path: str) -> Account:
        """An account that is to be limited: only that of a process must be there already. Raises `NotFound`."""
        if path.startswith(OF_TENANTS):
            tag, _, name = path.partition(":")
            return self.tagged(f"{tag}:", *name.split("/"))
        if path.startswith(TAGS):
            self.knows_for_all = True
            return self.tags.setdefault(path, Account(path))
        parts = [] if path == TOP else path.removeprefix("/").split("/")
        names = 2 if len(parts) > 1 and parts[1].startswith("@") else 1
        if path in self._accounts or len(parts) > names + 1 or any(part.startswith("@") for part in parts[:1] + parts[2:]):
            return self.named(path)
        account = self.top
        for part in parts:
            account = self._open(account, part)
        return account

    def of_pid(self, pid: str) -> Account | None:
        """The account of a process that has one."""
        return self._of_pid.get(pid)

    def below(self, account: Account, processes: bool = True) -> Iterator[Account]:
        """An account and all below it, by name; with the one above all, the tags. Without `processes`: of these the limited."""
        yield account
        prefix = account.name.rstrip("/") + "/"
        hidden = frozenset[Account]() if processes else frozenset(self._of.values()) - self._limited
        names = [name for name, each in self._accounts.items() if name.startswith(prefix) and each not in hidden]
        yield from (self._accounts[name] for name in sorted(names) if name != account.name)
        if account is self.top:
            yield from (self.tags[name] for name in sorted(self.tags))


def is_for_all(account: Account) -> bool:
    """Whether calls of anybody may be of an account: that of a model or a provider."""
    return account.name.startswith(TAGS) and not account.name.startswith(OF_TENANTS)
