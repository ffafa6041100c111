"""Laws of the guard's tally: it never says more than is true, misses nothing that comes often, and stays small."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.kernel.guard import TALLIED, Tally

things = st.lists(st.integers(0, 3) | st.integers(0, 40), max_size=400)
SETTINGS = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def check(tally: Tally[int], came: list[int]) -> None:
    true: Counter[int] = Counter()
    for number, thing in enumerate(came, 1):
        said = tally.add(thing)
        true[thing] += 1
        assert said <= true[thing], "it says no more than is true"
        assert len(tally._counts) <= TALLIED, "it is small"
        for each, count in true.items():
            assert tally._counts.get(each, 0) >= count - math.floor(number / (TALLIED + 1)), "it misses nothing that comes often"


@given(came=things)
@SETTINGS
def test_a_tally_is_true_and_small_and_misses_nothing_that_comes_often(came: list[int]) -> None:
    check(Tally(), came)


class Greedy(Tally[int]):
    """Counts a newcomer as often as the one that it replaces."""

    def add(self, key: int) -> int:
        if key not in self._counts and len(self._counts) >= TALLIED:
            least = min(self._counts, key=lambda each: self._counts[each])
            self._counts[key] = self._counts.pop(least)
        return super().add(key)


class Keeping(Tally[int]):
    """Keeps all that came."""

    def add(self, key: int) -> int:
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key]


class Forgetting(Tally[int]):
    """Begins anew when it is full."""

    def add(self, key: int) -> int:
        if key not in self._counts and len(self._counts) >= TALLIED:
            self._counts.clear()
        return super().add(key)


@pytest.mark.parametrize("planted", [Greedy, Keeping, Forgetting])
def test_the_law_finds_what_is_planted(planted: type[Tally[int]]) -> None:
    @given(came=things)
    @SETTINGS
    def law(came: list[int]) -> None:
        check(planted(), came)

    with pytest.raises(AssertionError):
        law()
