"""The `openai` SDK by itself, major versions 2 and 3."""

import json

from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play
from openai import OpenAI

client = OpenAI(timeout=PATIENCE_S)
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


def ask(text):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}])


def hello():
    return ask(QUESTION).choices[0].message.content


def stream():
    chunks = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": QUESTION}], stream=True)
    return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]


def tools():
    messages = [{"role": "user", "content": SUM}]
    while True:
        answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL]).choices[0]
        if answer.finish_reason != "tool_calls":
            return answer.message.content
        messages.append(answer.message)
        for call in answer.message.tool_calls:
            result = str(add(**json.loads(call.function.arguments)))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def wait_streaming():
    chunks = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": SLOW}], stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def twice():
    return [hello(), hello()]


play(hello=hello, stream=stream, tools=tools, wait_streaming=wait_streaming, cut=hello, twice=twice)
