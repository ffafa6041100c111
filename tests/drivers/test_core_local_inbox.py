"""In which order a host does what it is told."""

from hypothesis import given
from hypothesis import strategies as st

from aios.drivers.core.local.inbox import Inbox
from aios.drivers.core.local.protocol import Abort, Ack, Command, Freeze, Measure, Open, Prompt, Thaw

PROMPT = Prompt("")
calls = st.integers(0, 3)
said: st.SearchStrategy[Ack | Abort | Freeze | Thaw | Measure] = st.one_of(
    st.builds(Ack, calls, st.integers(0, 9)),
    st.builds(Abort, calls),
    st.builds(Freeze, calls),
    st.builds(Thaw, calls),
    st.builds(Measure, calls, st.just(PROMPT)),
)


def opening(call: int) -> Open:
    return Open(call, PROMPT, seed=0, temperature=0, top_p=1)


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
