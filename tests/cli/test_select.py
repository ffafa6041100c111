"""Which processes a person means."""

import click
import msgspec
import pytest
from msgspec.structs import replace

from aios.abi.errors import Conflict, NotFound
from aios.abi.process import ProcessInfo
from aios.abi.request import Class
from aios.abi.waits import State, Wait
from aios.cli.select import matching, named


def process(name: str, pid: str, state: State = "running", cls: Class = "standard", code: str | None = None) -> ProcessInfo:
    wait = Wait(code="S", on="cores", since_ns=0) if code else None
    return ProcessInfo(
        pid=pid, name=name, kind="agent", cls=cls, state=state, word="running", started_ns=0, agent=name.split("-")[0],
        tenant="local", wait=wait,
    )  # fmt: skip


FLEET = [
    process("hello-4", "1001"),
    process("hello-417", "1002", "waiting", "batch", "S"),
    process("triage-9", "2001", "waiting", "interactive"),
]


@pytest.mark.parametrize(
    ("text", "pid"),
    [("hello-4", "1001"), ("hello-417", "1002"), ("hello-41", "1002"), ("tri", "2001"), ("1002", "1002"), ("20", "2001")],
)
def test_a_name_a_pid_or_its_only_beginning_will_do(text: str, pid: str) -> None:
    assert named(FLEET, text).pid == pid


def test_a_beginning_of_several_is_none_of_them_and_says_which() -> None:
    with pytest.raises(Conflict, match=r"`hello-4`, `hello-417`"):
        named(FLEET, "hel")


def test_what_belongs_to_another_tenant_may_be_named_with_it() -> None:
    theirs = msgspec.structs.replace(process("hello-4", "3001"), tenant="acme")
    for text in ("acme/hello-4", "acme/", "acme/hel"):
        assert named([*FLEET, theirs], text).pid == "3001"
    with pytest.raises(NotFound, match="did you mean `acme/hello-4`"):
        named([*FLEET, theirs], "acme/hallo-4")


def test_where_one_of_several_goes_on_it_is_meant() -> None:
    ended = [replace(process("triage-8", "2000"), outcome="result"), replace(process("hello-5", "1003"), outcome="killed")]
    assert named([*ended, *FLEET], "tri").name == "triage-9"
    with pytest.raises(Conflict, match="is the beginning of 3"):
        named([*ended, *FLEET], "hel")


@pytest.mark.parametrize("text", ["hallo-4", ""])
def test_a_name_that_nobody_has_is_not_found(text: str) -> None:
    with pytest.raises(NotFound) as caught:
        named(FLEET, text)
    assert caught.value.exit_code == 4 and "`aios ps --all` lists them" in str(caught.value)
    assert str(caught.value).endswith("; did you mean `hello-4`?") == bool(text)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("state:waiting", ["hello-417", "triage-9"]),
        ("state:waiting class:batch", ["hello-417"]),
        ("class:batch,interactive", ["hello-417", "triage-9"]),
        ("wait:S", ["hello-417"]),
        ("agent:triage", ["triage-9"]),
        ("agent:nobody", []),
        ("", ["hello-4", "hello-417", "triage-9"]),
    ],
)
def test_every_term_of_a_selector_must_hold(query: str, names: list[str]) -> None:
    assert [process.name for process in matching(FLEET, query)] == names


@pytest.mark.parametrize("query", ["waiting", "colour:red", "stat:waiting"])
def test_what_is_no_term_is_wrong_usage(query: str) -> None:
    with pytest.raises(click.UsageError, match="field:value"):
        matching(FLEET, query)


def test_a_name_that_two_tenants_have_is_said_with_the_tenant() -> None:
    fleet = [
        process("hello-1", "1"),
        replace(process("hello-1", "2"), tenant="acme"),
        replace(process("only-1", "3"), tenant="acme"),
    ]
    assert (
        named(fleet, "acme/hello-1").pid == "2" and named(fleet, "local/hello-1").pid == "1" and named(fleet, "only-1").pid == "3"
    )
    with pytest.raises(Conflict, match=r"`local/hello-1`, `acme/hello-1`"):
        named(fleet, "hello-1")
    assert [p.pid for p in matching(fleet, "tenant:acme")] == ["2", "3"]
