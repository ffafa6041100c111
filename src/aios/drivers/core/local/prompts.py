"""What a request says to the model: its turns and texts, checked and bounded before the host hears of them."""

from __future__ import annotations

from pathlib import Path

from aios.abi.errors import Invalid, Unavailable
from aios.abi.llm import Generate, Message
from aios.drivers.core.local.protocol import Prompt, Turn
from aios.drivers.core.local.tools import RESULT_ROLE, told_calls, told_result

MOST_CHARACTERS = 1 << 20
"""Of a prompt, and of all texts that are public."""
MOST_STOP_CHARACTERS = 1024


def prompt_of(messages: tuple[Message, ...], text: str) -> Prompt:
    """The prompt as the host takes it. Raises `Invalid` for a message that the chat template has no words for."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    turns = tuple(_turn(f"messages[{at}]", message, names) for at, message in enumerate(messages))
    prompt = Prompt(whole(text, "prompt"), turns)
    if prompt.turns and prompt.text:
        raise Invalid("give `messages` or a text, not both", field="messages")
    return prompt


def _turn(field: str, message: Message, names: dict[str, str]) -> Turn:
    if isinstance(message.content, str):
        content = message.content
    elif any(part.type != "text" for part in message.content):
        raise Invalid("the local model reads text only", field=f"{field}.content")
    else:
        content = "".join(part.text for part in message.content)
    if message.tool_calls:
        content = whole(told_calls(content, message.tool_calls), f"{field}.tool_calls")
    if message.role == "tool":
        content = told_result(content, names.get(message.tool_call_id or "") or message.name or "")
    return Turn(RESULT_ROLE if message.role == "tool" else message.role, whole(content, f"{field}.content"))


def whole(text: str, field: str) -> str:
    """The text, which must be one: half a surrogate pair is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid("the text holds half a character (a lone surrogate)", field=field) from None
    return text


def check(request: Generate) -> None:
    """Raises `Invalid` for what means nothing to the host or would do harm there, beyond what every request is checked for."""
    if request.prompt == "":
        raise Invalid("an empty `prompt` has nothing to go on with", field="prompt")
    for at, tool in enumerate(request.tools):
        whole(tool.description, f"tools[{at}].description")
    if any(len(whole(text, "stop")) > MOST_STOP_CHARACTERS for text in request.stop):
        raise Invalid(f"a `stop` text has at most {MOST_STOP_CHARACTERS} characters", field="stop")


def texts_of(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """The texts that all tenants may share. Raises `Unavailable` if one cannot be read, or all together are too much."""
    texts: list[str] = []
    for path in paths:
        try:
            texts.append(path.read_text())
        except (OSError, UnicodeDecodeError) as problem:
            raise Unavailable(f"the public text `{path}` cannot be read ({problem}): put it there, or leave it out") from None
        if sum(map(len, texts)) > MOST_CHARACTERS:
            said = f"the public texts, up to `{path}`, have more than {MOST_CHARACTERS} characters: make them shorter"
            raise Unavailable(said)
    return tuple(texts)
