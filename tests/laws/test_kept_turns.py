"""Laws of what the Responses door keeps: whatever is added, gone on from and forgotten, its books are right."""

from dataclasses import dataclass
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from aios.server import kept
from aios.server.kept import TURN_BYTES, Before, Kept, Turn, Turns

ANSWER = b'{"output":[]}'


@dataclass(eq=False)
class Process:
    pid: str
    name: str = "agent-1"
    alive: bool = True


def held(turns: Turns) -> set[Turn]:
    """The turns that are reachable: those that are listed, and all that they go on from."""
    found: set[Turn] = set()
    for turn in turns.by_id.values():
        left: Turn | None = turn
        while left is not None and left not in found:
            found.add(left)
            left = left.previous
    return found


Step = st.tuples(st.sampled_from(["add", "go on", "begin", "end", "delete"]), st.integers(0, 20), st.integers(0, 3000))


@given(st.lists(Step, max_size=60))
def test_what_is_counted_is_what_is_held_and_a_chain_is_never_broken(steps: list[tuple[str, int, int]]) -> None:
    with patch.object(kept, "MOST_TURNS", 5), patch.object(kept, "MOST_BYTES", 12 * TURN_BYTES):
        everybody = Kept()
        turns = everybody.of(Process("1"), "token", "")
        begun: list[tuple[Turn, list[str]]] = []
        chains: dict[Turn, list[str]] = {}
        for number, (step, which, size) in enumerate(steps):
            listed = list(turns.by_id.values())
            previous = listed[which % len(listed)] if listed and step in ("go on", "begin") else None
            turn = Turn(f"resp_{number}", b'"%b"' % (b"x" * size), ANSWER, previous)
            chain = [*(chains[previous] if previous else []), turn.id]
            if step == "begin":
                begun.append((turn, chain))
                continue
            if step == "delete":
                if listed:
                    turns.forget(listed[which % len(listed)])
            else:
                if step == "end" and begun:
                    turn, chain = begun.pop(which % len(begun))
                if turns.add(turn):
                    chains[turn] = chain
            assert turns.size_bytes == everybody.size_bytes == sum(turn.size_bytes for turn in held(turns))
            assert len(turns.by_id) <= 5 and (turns.size_bytes <= 12 * TURN_BYTES or not turns.by_id)
            for turn in turns.by_id.values():
                assert len(list(Before(turns, turn))) == 2 * len(chains[turn])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3000)), max_size=60))
def test_who_holds_most_loses_its_oldest_and_nobody_else_anything(added: list[tuple[int, int]]) -> None:
    with patch.object(kept, "MOST_BYTES_OF_ALL", 10 * TURN_BYTES):
        everybody = Kept()
        of = [everybody.of(Process(str(n)), f"token {n}", "") for n in range(3)]
        for number, (whose, size) in enumerate(added):
            before = [set(turns.by_id) for turns in of]
            sizes = [turns.size_bytes for turns in of]
            sizes[whose] += size + TURN_BYTES + len(ANSWER) + 2
            of[whose].add(Turn(f"resp_{number}", b'"%b"' % (b"x" * size), ANSWER))
            assert everybody.size_bytes == sum(turns.size_bytes for turns in of) <= 10 * TURN_BYTES
            for n, turns in enumerate(of):
                assert n == whose or before[n] <= set(turns.by_id) or sizes[n] >= 10 * TURN_BYTES / 3


def test_processes_that_have_ended_are_let_go_when_nothing_is_kept_of_them() -> None:
    with patch.object(kept, "SWEEP_AT", 4):
        everybody = Kept()
        processes = [Process(str(n)) for n in range(4)]
        of = [everybody.of(process, f"token {n}", "s") for n, process in enumerate(processes)]
        for n in (0, 1):
            of[n].add(Turn(f"resp_{n}", b'""', ANSWER))
        for n in (0, 2):
            processes[n].alive = False
        everybody.of(Process("5"), "token 5", "")
        assert everybody.of(processes[0], "token 0", "s") is of[0] and everybody.of(processes[3], "token 3", "s") is of[3]
        assert everybody.of(Process("6"), "token 2", "s") is not of[2]


def test_a_session_goes_on_with_what_its_last_process_left() -> None:
    everybody, first, second = Kept(), Process("1"), Process("2")
    turns = everybody.of(first, "token", "s")
    turns.add(Turn("resp_1", b'""', ANSWER))
    assert everybody.of(Process("3"), "token", "another") is not turns
    assert everybody.session("token", "resp_1") == "s" and everybody.session("stranger", "resp_1") is None
    first.alive = False
    assert everybody.of(second, "token", "s") is turns is everybody.of(second, "token", "s")
    assert turns.find("resp_1")
