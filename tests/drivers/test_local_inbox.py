"""In which order the host of a local model does what it is told."""

from hypothesis import given
from hypothesis import strategies as st

from aios.drivers.core.local.inbox import QUICK_S, Inbox
from aios.drivers.core.local.protocol import Abort, Ack, Command, Freeze, Measure, Open, Ping, Prompt, Thaw

PROMPT = Prompt("x")
calls = st.integers(0, 3)
said: st.SearchStrategy[Ack | Abort | Freeze | Thaw | Measure] = st.one_of(
    st.builds(Ack, calls, st.integers(0, 9)),
    st.builds(Abort, calls),
    st.builds(Freeze, calls),
    st.builds(Thaw, calls),
    st.builds(Measure, calls, st.just(PROMPT)),
)


def opening(call: int) -> Open:
    return Open(call, PROMPT, seed=1, temperature=0, top_p=1)


def done(inbox: Inbox, *, busy: bool) -> list[Command]:
    """What is done before the next pass, where each takes no time."""
    found = []
    while command := inbox.next(busy=busy):
        found.append(command)
    return found


def test_what_takes_no_time_is_done_in_its_order() -> None:
    inbox = Inbox()
    commands: list[Command] = [opening(1), opening(2), Ack(9, 1), opening(4)]
    inbox.add(commands)
    assert done(inbox, busy=True) == [Ack(9, 1), opening(1), opening(2), opening(4)]
    assert not inbox


def test_many_questions_of_size_do_not_keep_a_call_waiting() -> None:
    inbox = Inbox()
    asks = [Measure(ask, PROMPT) for ask in range(3)]
    inbox.add([*asks, opening(7), opening(8)])
    assert done(inbox, busy=True) == [opening(7), asks[0], opening(8), asks[1], asks[2]]


def test_what_took_long_is_followed_by_passes_for_as_long() -> None:
    inbox = Inbox()
    inbox.add([Measure(1, PROMPT), Measure(2, PROMPT)])
    assert inbox.next(busy=True) == Measure(1, PROMPT)
    inbox.took(QUICK_S + 0.3)
    assert inbox.next(busy=True) is None
    inbox.passed(0.2)
    assert inbox.next(busy=True) is None and inbox
    inbox.passed(0.2)
    assert inbox.next(busy=True) == Measure(2, PROMPT)


def test_without_work_for_passes_nothing_waits() -> None:
    inbox = Inbox()
    inbox.add([Measure(1, PROMPT)])
    inbox.took(60)
    assert inbox.next(busy=True) is None
    assert inbox.next(busy=False) is not None


def test_signs_of_life_and_ends_of_other_calls_overtake_and_the_own_opening_comes_first() -> None:
    inbox = Inbox()
    inbox.took(60)
    inbox.add([opening(7), Abort(7), Ping(), Abort(1), Ack(2, 5)])
    assert done(inbox, busy=True) == [Ping(), Abort(1), Ack(2, 5)]
    inbox.passed(60)
    assert done(inbox, busy=True) == [opening(7), Abort(7)]
    inbox.add([Abort(7)])
    inbox.took(60)
    assert done(inbox, busy=True) == [Abort(7)]


@given(data=st.data())
def test_what_is_said_of_a_call_is_done_in_order_and_at_once_after_its_opening(data: st.DataObject) -> None:
    inbox = Inbox()
    told: list[Command] = [opening(call) for call in data.draw(st.permutations(range(4)))]
    for command in data.draw(st.lists(said, max_size=20)):
        first = 0 if isinstance(command, Measure) else told.index(opening(command.call)) + 1
        told.insert(data.draw(st.integers(first, len(told))), command)
    done: list[Command] = []
    untold = list(told)
    while untold or inbox:
        some = data.draw(st.integers(min(1, len(untold)), len(untold)))
        inbox.add(untold[:some])
        del untold[:some]
        while (command := inbox.next(busy=True)) is not None:
            done.append(command)
            if isinstance(command, Open):
                inbox.took(data.draw(st.floats(0, 5)))
        arrived = [each for each in told[: len(told) - len(untold)] if not isinstance(each, Measure)]
        opened = {each.call for each in done if isinstance(each, Open)}
        for call in opened:  # now is when a pass would be made
            assert of(call, done) == of(call, arrived)
        inbox.passed(data.draw(st.floats(1, 5)))
    assert sorted(map(repr, done)) == sorted(map(repr, told))


def of(call: int, commands: list[Command]) -> list[Command]:
    return [each for each in commands if not isinstance(each, Measure) and getattr(each, "call", None) == call]
