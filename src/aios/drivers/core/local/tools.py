"""How functions are told to a model whose chat template has no form for them, and how its calls are read.

They are listed in the system's turn; a call is the answer `{"name": NAME, "arguments": {...}}` and nothing else, written in this
one way, which the host sees to. Calls and results of earlier turns are told in the same form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from aios.abi.llm import ToolCall, ToolCallDelta, ToolSpec
from aios.drivers.core.local.protocol import Prompt, Turn

RESULT_ROLE = "user"
"""Of turns with results of functions: all templates know this one."""

_HEAD = re.compile(r'\{"name": ("[^"]*"), "arguments": ')


def tell_functions(prompt: Prompt, functions: Sequence[ToolSpec], must: bool) -> Prompt:
    """The conversation with the functions that may be called in its first system turn; `must`: that one is to be called."""
    if not functions or not prompt.turns:
        return prompt
    listed = [f"{tool.name}: {tool.description}\n{msgspec.json.encode(tool.parameters).decode()}" for tool in functions]
    told = "\n\n".join(
        (
            "You can call functions. Each is given by its name, what it does, and the JSON schema of its arguments.",
            *listed,
            f"{'Call' if must else 'If it is needed, call'} a function. To do so, answer with one JSON object and nothing else:\n"
            '{"name": "the function\'s name", "arguments": {"an argument": "its value"}}',
        )
    )
    first, *rest = prompt.turns
    if first.role == "system":
        return Prompt("", (Turn("system", f"{first.content}\n\n{told}"), *rest))
    return Prompt("", (Turn("system", told), *prompt.turns))


def told_calls(content: str, calls: Sequence[ToolCall]) -> str:
    """A turn of the model in which it called functions."""
    said = [f'{{"name": "{call.name}", "arguments": {call.arguments or "{}"}}}' for call in calls]
    return "\n".join([content, *said] if content else said)


def told_result(content: str, name: str) -> str:
    """What a function returned, in a turn of `RESULT_ROLE`."""
    return f"{name or 'The function'} returned: {content}"


def call_id(seed: int, prompt: Prompt) -> str:
    """A call's id: the same for the same question and seed, as the call itself is."""
    return f"call_{blake2b(msgspec.msgpack.encode((seed, prompt)), digest_size=12).hexdigest()}"


class CallReader:
    """Takes an answer apart that is a call, or any text that does not begin with a brace, piece by piece as it comes.

    `text` is all the text there was, `calls` the call there was; `whole`: the call is.
    """

    def __init__(self, id: str) -> None:
        self._id = id
        self._head = ""
        self._name: str | None = None
        self._is_text = False
        self._arguments = ""
        self._told = 0
        self.whole = False

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return (ToolCall(self._id, self._name, self._arguments[: self._told]),) if self._name is not None else ()

    def push(self, text: str, *, over: bool) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """Take a piece, the last one with `over`: the text and the pieces of a call that can be told now."""
        if self._name is not None:
            return "", self._tell(text, over)
        self._head += text
        if self._is_text or (self._head and self._head[0] != "{"):
            self._is_text = True
            return text, ()
        found = _HEAD.match(self._head)
        if not found:
            return "", ()
        self._name = msgspec.json.decode(found[1], type=str)
        opening = ToolCallDelta(index=0, id=self._id, name=self._name)
        return "", (opening, *self._tell(self._head[found.end() :], over))

    def _tell(self, text: str, over: bool) -> tuple[ToolCallDelta, ...]:
        """The last character waits: it may be the brace that closes the call."""
        self._arguments += text
        self.whole = over and _is_json(self._arguments[:-1])
        end = len(self._arguments) - (self.whole or not over)
        start, self._told = self._told, max(self._told, end)
        return (ToolCallDelta(index=0, arguments=self._arguments[start:end]),) if end > start else ()


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True
