"""Which account a person means: its path, or a process of which it is."""

from __future__ import annotations

from collections.abc import Sequence

from aios.abi.account import TAGS, TOP, ShowAccounts
from aios.abi.errors import NotFound, TooLarge
from aios.cli.select import find, full_name
from aios.sdk.client import Client


def path_of(kernel: Client, text: str) -> str:
    """The path of an account that was named by it, or by a process. Raises `NotFound`, `Conflict`."""
    if text.startswith(("/", *TAGS)):
        return text
    found = kernel.call(ShowAccounts(account=TOP, below=True, processes=False)).accounts
    check_no_agent([each.account for each in found], text)
    process = find(kernel, text)
    try:
        return kernel.call(ShowAccounts(process=process.pid)).accounts[0].account
    except NotFound:
        agent = f"`/{process.tenant}/{process.agent}`"
        said = f"`{full_name(process)}` has asked no model yet: limit its agent, {agent}"
        raise NotFound(said, field="account") from None


def check_no_agent(paths: Sequence[str], text: str) -> None:
    """Raise `NotFound` where a text names agents or users, which are said by their accounts."""
    agents = [path for path in paths if path.rsplit("/", 1)[-1].removeprefix("@") == text and not is_process(path)]
    if text and agents:
        some = ", ".join(f"`{path}`" for path in agents[:5])
        raise NotFound(f"`{text[:80]}` names no process: say the account, as {some}", field="account")


def is_process(account: str) -> bool:
    """Whether an account is a process's, or of what it began: `/TENANT/AGENT/PROCESS`, with a user or none."""
    return depth_of(account) > 2 and not account.startswith(TAGS)


def alike(kernel: Client, path: str) -> list[str]:
    """The accounts that may have been meant by a path that is not there yet. See `same_name`; none where there are too many."""
    try:
        accounts = kernel.call(ShowAccounts(account=TOP, below=True)).accounts
    except TooLarge:
        return []
    return same_name([each.account for each in accounts], path)


def same_name(paths: Sequence[str], path: str) -> list[str]:
    """Of a path that is none of `paths` those of its tenant that end in its name, with a user's `@` or without; 5 at most."""
    _, tenant, *names = path.split("/") if path.startswith("/") else ("", "")
    if not names or path in paths:
        return []
    name = names[-1].removeprefix("@")
    return [each for each in paths if each.startswith(f"/{tenant}/") and each.rsplit("/", 1)[-1].removeprefix("@") == name][:5]


def depth_of(account: str) -> int:
    """How many names are in a path, that of a user not counted."""
    return account.count("/") - ("/@" in account)
