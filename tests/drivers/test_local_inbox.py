"""In which order the host of a local model does what it is told."""

from aios.drivers.core.local.inbox import QUICK_S, Inbox
from aios.drivers.core.local.protocol import Abort, Ack, Command, Measure, Open, Ping, Prompt


def opening(call: int) -> Open:
    return Open(call, Prompt("x"), seed=1, temperature=0, top_p=1)


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
    asks = [Measure(ask, Prompt("x")) for ask in range(3)]
    inbox.add([*asks, opening(7), opening(8)])
    assert done(inbox, busy=True) == [opening(7), asks[0], opening(8), asks[1], asks[2]]


def test_what_took_long_is_followed_by_passes_for_as_long() -> None:
    inbox = Inbox()
    inbox.add([Measure(1, Prompt("x")), Measure(2, Prompt("x"))])
    assert inbox.next(busy=True) == Measure(1, Prompt("x"))
    inbox.took(QUICK_S + 0.3)
    assert inbox.next(busy=True) is None
    inbox.passed(0.2)
    assert inbox.next(busy=True) is None and inbox
    inbox.passed(0.2)
    assert inbox.next(busy=True) == Measure(2, Prompt("x"))


def test_without_work_for_passes_nothing_waits() -> None:
    inbox = Inbox()
    inbox.add([Measure(1, Prompt("x"))])
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
