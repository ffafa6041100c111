"""Answers that must have a form: which tokens may come next. The one file that knows llguidance.

All that it does is bounded, so it is done between two passes without a thread: a form of the size that is let through takes
0.2 s at most to be read, usually 1 ms; what may come next takes 0.15 ms beside a pass of 10 ms and more. It depends on the
tokens that came and on nothing else, so a new host goes on as the old one would have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from aios.drivers.core.local.engine import Engine
from aios.drivers.core.local.protocol import MOST_FORCED, Constraint

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=20_000,
    max_grammar_size=50_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
"""Together: 0.1 s to read a form, 20 ms for a token, 40 MB for a call."""

JSON_STYLE = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "lenient": False,
    "coerce_one_of": False,
}
"""One way to write a value: small models lose themselves in white space. What is not understood is refused, not left out."""


TOO_DEEP = "it is nested too deeply"


class BadConstraint(Exception):
    """No answer can have this form, or it cannot be found out: `str` says why, for people."""


class Matcher:
    """The form of one answer, as far as it has come. All of it raises `BadConstraint` where the form is too much."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self.check()

    @property
    def ended(self) -> bool:
        """Whether nothing can follow any more."""
        return self._matcher.is_stopped()

    def allowed(self) -> NDArray[np.intp]:
        """The tokens that may come next, in their order; the end is among them where the answer may end."""
        bits = self._matcher.compute_bitmask()
        self.check()
        tokens = np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little"))
        if not len(tokens):
            raise BadConstraint("no text has this form")
        return tokens

    def take(self, token: int) -> None:
        """This token came."""
        self._matcher.consume_token(token)
        self.check()

    def take_forced(self) -> list[int]:
        """Take the tokens that must come now, at most `MOST_FORCED`, and say which."""
        if self.ended:
            return []
        forced = self._matcher.compute_ff_tokens()[:MOST_FORCED]
        self.replay(forced)
        return forced

    def replay(self, tokens: Sequence[int]) -> None:
        """All these tokens came."""
        if tokens:
            self._matcher.consume_tokens(list(tokens))
        self.check()

    def check(self) -> None:
        """Raises `BadConstraint` where the form has shown to be none."""
        if self._matcher.is_error():
            raise BadConstraint(_reason(self._matcher.get_error()))


class Constraints:
    """Makes matchers for the tokens of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokenizer: LLTokenizer | None = None

    def matcher(self, constraint: Constraint, delivered: Sequence[int] = ()) -> Matcher:
        """A matcher after the tokens that came already. The first takes 0.2 s more. Raises `BadConstraint`."""
        if self._tokenizer is None:
            vocabulary = _Vocabulary(self._engine)
            self._tokenizer = vocabulary.tokenizer = LLTokenizer(vocabulary, eos_token=vocabulary.ends)  # type: ignore[arg-type]  # of its shape
        try:
            grammar = GRAMMARS[constraint.kind](constraint.text)
        except ValueError as problem:
            raise BadConstraint(_reason(str(problem))) from None
        except RecursionError:
            raise BadConstraint(TOO_DEEP) from None
        matcher = Matcher(LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS))
        matcher.allowed()
        matcher.replay(delivered)
        return matcher


class _Vocabulary:
    """The engine's tokens as llguidance asks for them."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tokens = engine.vocabulary()
        self.special_token_ids = [token for token, piece in enumerate(self.tokens) if not piece]
        self.ends = [token for token in range(len(self.tokens)) if engine.ends(token)] or self.special_token_ids[:1] or [0]
        self.eos_token_id = self.ends[0]
        self.tokenizer: LLTokenizer

    def __call__(self, text: str) -> list[int]:
        """The tokens that the model knows a text by; where its tokenizer adds something, the longest that fit."""
        tokens = self._engine.encode(text)
        if b"".join(map(self._engine.piece, tokens)) == text.encode():
            return tokens
        return self.tokenizer.greedy_tokenize(text)


def _schema(text: str) -> str:
    return LLMatcher.grammar_from_json_schema(text, overrides=JSON_STYLE)  # type: ignore[arg-type]  # a TypedDict of the same


def _choice(text: str) -> str:
    return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, json.loads(text))))


def _call(text: str) -> str:
    return LLMatcher.grammar_from_lark(f"start: call\n{_calls(text)}")


def _call_or_text(text: str) -> str:
    """What begins with a brace is a call."""
    return LLMatcher.grammar_from_lark(f"start: TEXT | call\nTEXT: /([^{{](?s:.*))?/\n{_calls(text)}")


def _calls(text: str) -> str:
    functions: list[tuple[str, dict[str, Any]]] = json.loads(text)
    rules = [f"call: {' | '.join(f'call{number}' for number in range(len(functions)))}"]
    for number, (name, schema) in enumerate(functions):
        opening = json.dumps(f'{{"name": {json.dumps(name)}, "arguments": ')
        arguments = json.dumps({**schema, "x-guidance": JSON_STYLE})
        rules.append(f'call{number}: {opening} %json {arguments} "}}"')
    return "\n".join(rules)


GRAMMARS = {
    "schema": _schema,
    "choice": _choice,
    "regex": LLMatcher.grammar_from_regex,
    "call": _call,
    "call_or_text": _call_or_text,
}


def _reason(error: str) -> str:
    """The sentence for people in what llguidance says."""
    lines = [line for line in error.splitlines() if line.strip()]
    if "too many" in error or "Too many" in error:
        return f"it is too complex ({lines[0][:200]})"
    line = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0] if lines else "")
    if "NoExtension" in line:
        return "no text has this form"
    if "recursion limit" in line:
        return TOO_DEEP
    if "coerce_one_of" in line:
        return "`oneOf` is not understood: write `anyOf`"
    if "Unable to determine" in line:
        return "it is too complex (patterns or lengths that have to hold together)"
    if "retriever" in line:
        return "a `$ref` must point into the schema itself: nothing is fetched"
    return line[:300]
