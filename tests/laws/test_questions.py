"""The law of what a question may come to: however it is bounded, by bytes, by what is known of its conversation, or by a count,
it never comes to more."""

import json
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from aios.abi.llm import Generate, Message, Part, ToolSpec
from aios.abi.process import ProcessKind
from aios.kernel.cores import conversations
from aios.kernel.cores.conversations import Conversations, Heard, goes_on
from aios.kernel.ledger.bounds import PER_MESSAGE, PER_REQUEST, asked_bound, message_bound
from aios.kernel.process import Process
from aios.ports.core import CoreInfo

texts = st.tuples(st.sampled_from("xé字 "), st.integers(0, 40) | st.integers(0, 3000))
steps = st.lists(
    st.tuples(
        st.integers(0, 2), st.booleans(), st.lists(texts, min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 1),
        st.integers(0, 1),
    ),
    max_size=12,
)  # fmt: skip
"""Who asks, whether it begins anew, what with (a letter and how often), which functions and form, and on which core."""
INFO = CoreInfo(name="0", models=("large",), features=frozenset(), slots=1, window=10**6, driver="scripted")
TOOLS = ((), (ToolSpec("search"),), (ToolSpec("search", "y" * 4000),))
FORMS: tuple[Any, ...] = (None, {"type": "json_schema", "json_schema": {"name": "z" * 4000}})
SETTINGS = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def tokens_of(request: Generate) -> int:
    """What the dearest tokenizer that there can be makes of a question: a token for each byte, and its template's."""
    said = sum(len(str(message.content).encode()) + PER_MESSAGE for message in request.messages)
    listed = sum(len(json.dumps([tool.name, tool.description])) for tool in request.tools)
    return PER_REQUEST // 2 + said + listed + len(json.dumps(request.response_format) if request.response_format else "")


def process(kind: ProcessKind = "session") -> Process:
    return Process("1", "a", kind, "a", "local", "standard", (), 0)


def check(known: Conversations, asked: list[Any]) -> None:
    """Conversations of two processes on two cores, each of which goes on with any before, or begins anew."""
    processes, before = (process(), process()), {who: [()] for who in (0, 1)}
    for at, anew, more, listed, form, core in asked:
        who = at % 2
        begun: tuple[Message, ...] = () if anew else before[who][-1 - at % len(before[who])]
        said = [Message("user", letter * times) for letter, times in more]
        request = Generate(messages=(*begun, *said), tools=TOOLS[listed], response_format=FORMS[form])
        tokens = tokens_of(request) * (core + 1) // 2  # one counts half as many as the other
        assert tokens <= asked_bound(request, INFO, "large"), "by its bytes"
        bound = known.bound(processes[who], str(core), "large", request)
        assert bound is None or tokens <= bound, "by its conversation"
        known.note(processes[who], Heard(str(core), "large", request, tokens, asked_bound(request, INFO, "large")))
        before[who].append(request.messages)
        assert known._bytes == sum(each.size for kept in known._of.values() for each in kept) <= conversations.MOST_BYTES


@given(asked=steps)
@SETTINGS
def test_a_question_never_comes_to_more_than_its_bound(asked: list[Any]) -> None:
    check(Conversations(), asked)


class Characters(Conversations):
    """Takes characters for bytes."""

    def bound(self, process: Process, core: str, model: str, request: Generate) -> int | None:
        found = super().bound(process, core, model, request)
        return found and found - sum(message_bound(each) - PER_MESSAGE - len(str(each.content)) for each in request.messages[-1:])


class AnyCore(Conversations):
    """Takes what one core said for what another counts."""

    def note(self, process: Process, heard: Heard) -> None:
        super().note(process, heard._replace(core="0"))
        super().note(process, heard._replace(core="1"))


class Bare(Conversations):
    """Counts what is new without what a template puts around it."""

    def bound(self, process: Process, core: str, model: str, request: Generate) -> int | None:
        found = super().bound(process, core, model, request)
        kept = [each for each in self._of.get(process, ()) if goes_on(request, each.request)]
        return found and kept and found - PER_MESSAGE * (1 + len(request.messages) - len(kept[-1].request.messages)) or found


@pytest.mark.parametrize("planted", [Characters, AnyCore, Bare])
def test_the_law_finds_what_is_planted(planted: type[Conversations]) -> None:
    with pytest.raises(AssertionError):
        settings(SETTINGS, max_examples=3000, phases=[Phase.generate])(
            given(asked=steps)(lambda asked: check(planted(), asked))
        )()


def test_the_law_finds_what_is_told_beside_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "told", lambda request: ())
    with pytest.raises(AssertionError):
        settings(SETTINGS, max_examples=3000, phases=[Phase.generate])(
            given(asked=steps)(lambda asked: check(Conversations(), asked))
        )()


def test_of_a_picture_that_is_new_a_conversation_says_nothing() -> None:
    """Some models take many more tokens for one than others."""
    known, one = Conversations(), process()
    first = Message("user", "x" * 3000)
    known.note(one, Heard("0", "large", Generate(messages=(first,)), 500, 3000))
    for part, is_known in ((Part("text", "more"), True), (Part("image", image="data:,x"), False), (Part("other"), False)):
        bound = known.bound(one, "0", "large", Generate(messages=(first, Message("user", (part,)))))
        assert (bound is not None) == is_known


def test_of_what_lies_elsewhere_a_conversation_says_nothing_the_second_time_either() -> None:
    """An agent may put a larger picture where a small one was."""
    for image, is_known in (("data:image/png;base64,AAAA", True), ("https://example.com/a", False)):
        known, one = Conversations(), process()
        first = (Message("user", "x" * 3000), Message("user", (Part("text", "what is it"), Part("image", image=image))))
        known.note(one, Heard("0", "large", Generate(messages=first), 500, 3000))
        bound = known.bound(one, "0", "large", Generate(messages=(*first, Message("user", "and now"))))
        assert (bound is not None) == is_known


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "MOST_BYTES", 30_000)
    known, processes = Conversations(), [process() for _ in range(20)]
    for each in processes:
        for at in range(12):
            request = Generate(messages=(Message("user", f"{at}" + "x" * 3000),))
            known.note(each, Heard("0", "large", request, 1, asked_bound(request, INFO, "large")))
    assert known._bytes <= 30_000 and list(known._of) == processes[-1:]
    assert len(known._of[processes[-1]]) == conversations.MOST_OF_PROCESS
    known.forget(processes[-1])
    assert (known._bytes, known._of) == (0, {})
