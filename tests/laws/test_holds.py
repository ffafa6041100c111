"""The law of holds: a process is held as long as it or an ancestor of it is, by a word that counts, and by nothing else."""

from hypothesis import given, settings
from hypothesis import strategies as st

from aios.abi.errors import Conflict, Denied
from aios.kernel.deadlines import Deadlines
from aios.kernel.holding import Holds
from aios.kernel.process import Process, ProcessTable
from aios.testing.kernel import VirtualClock

SIZE = 8
parents = st.tuples(*(st.integers(-1, number - 1) for number in range(1, SIZE)))
"""Of the processes 1 to 7; -1: the operator's session."""
steps = st.lists(st.tuples(st.sampled_from(["hold", "lift"]), st.integers(0, SIZE - 1), st.integers(-2, SIZE - 1)), max_size=40)
"""What is done to whom, and by whom; -1: the operator, -2: the kernel."""


def above(process: Process) -> list[Process]:
    return [process, *(above(process.parent) if process.parent is not None else ())]


@given(parents, steps)
@settings(max_examples=300, deadline=None)
async def test_who_is_held_is_who_somebody_holds(tree: tuple[int, ...], acts: list[tuple[str, int, int]]) -> None:
    clock = VirtualClock()
    table = ProcessTable(clock, lambda process: None)
    operator = table.add(kind="session", agent="operator", tenant="t", cls="standard", grants=(), operator=True)
    family: list[Process] = []
    for parent in (-1, *tree):
        by = operator if parent < 0 else family[parent]
        family.append(table.add(kind="agent", agent="a", tenant="t", cls="standard", grants=(), parent=by))
    holds, word = Holds(clock, Deadlines(clock)), dict[Process, Process | None]()
    for act, whom, who in acts:
        process, by = family[whom], operator if who < 0 else family[who]
        before = {each for each in family if each.held is not None}
        try:
            if act == "hold":
                changed = holds.hold(process, None if who == -2 else by, "said so")
                if process not in word or who == -1:
                    word[process] = None if who == -2 else by
            else:
                changed = holds.lift(process, by)
                said = word.pop(process, None)
                assert said is None or by is operator or by in above(said)
        except Denied:
            changed, said = [], word[process]
            assert said is not None and by is not operator and by not in above(said)
        except Conflict:
            changed = []
            assert process not in word and any(each in word for each in above(process))
        after = {each for each in family if any(higher in word for higher in above(each))}
        assert {each for each in family if each.held is not None} == after
        assert set(changed) == before ^ after and len(changed) == len(set(changed))
        for each in after:
            nearest = next(higher for higher in above(each) if higher in word)
            assert each.held is nearest.hold and each.held is not None and each.held.by is word[nearest]
