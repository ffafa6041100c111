"""How the tree is drawn."""

from aios.abi.process import ProcessInfo
from aios.cli.tree import branches


def process(name: str, parent: str | None = None) -> ProcessInfo:
    return ProcessInfo(
        pid=name, name=name, kind="agent", cls="batch", state="running", word="running", started_ns=0, agent="a", tenant="local",
        parent=parent,
    )  # fmt: skip


def test_children_stand_below_their_parents_in_the_order_of_their_start() -> None:
    family = [
        process("a", "a session"),
        process("b"),
        process("aa", "a"),
        process("ab", "a"),
        process("aaa", "aa"),
        process("ba", "b"),
    ]
    assert [branch + shown.name for branch, shown in branches(family)] == [
        "a",
        "├─ aa",
        "│  └─ aaa",
        "└─ ab",
        "b",
        "└─ ba",
    ]
