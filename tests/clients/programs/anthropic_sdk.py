"""The `anthropic` SDK by itself."""

from anthropic import Anthropic
from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play

client = Anthropic(timeout=PATIENCE_S)
TOOL = {
    "name": "add",
    "description": "Add two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


def ask(text):
    return client.messages.create(model=MODEL, max_tokens=200, messages=[{"role": "user", "content": text}])


def pieces(text):
    with client.messages.stream(model=MODEL, max_tokens=200, messages=[{"role": "user", "content": text}]) as stream:
        return list(stream.text_stream)


def hello():
    return ask(QUESTION).content[0].text


def tools():
    messages = [{"role": "user", "content": SUM}]
    while True:
        answer = client.messages.create(model=MODEL, max_tokens=200, messages=messages, tools=[TOOL])
        if answer.stop_reason != "tool_use":
            return answer.content[-1].text
        messages.append({"role": "assistant", "content": answer.content})
        calls = [block for block in answer.content if block.type == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": str(add(**call.input))} for call in calls]
        messages.append({"role": "user", "content": results})


def twice():
    return [hello(), hello()]


play(
    hello=hello,
    stream=lambda: pieces(QUESTION),
    tools=tools,
    wait_streaming=lambda: "".join(pieces(SLOW)),
    cut=hello,
    twice=twice,
)
