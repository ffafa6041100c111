"""LiteLLM as a library, over chat completions."""

import json

import litellm
from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play

NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
TOOL = {"type": "function", "function": {"name": "add", "description": "Add two numbers.", "parameters": NUMBERS}}


def complete(messages, **options):
    return litellm.completion(model=f"openai/{MODEL}", messages=messages, timeout=PATIENCE_S, max_retries=2, **options)


def user(text):
    return [{"role": "user", "content": text}]


def hello():
    return complete(user(QUESTION)).choices[0].message.content


def pieces(text):
    return [chunk.choices[0].delta.content or "" for chunk in complete(user(text), stream=True) if chunk.choices]


def tools():
    messages = user(SUM)
    while True:
        answer = complete(messages, tools=[TOOL]).choices[0]
        if answer.finish_reason != "tool_calls":
            return answer.message.content
        messages.append(answer.message.model_dump())
        for call in answer.message.tool_calls:
            result = str(add(**json.loads(call.function.arguments)))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


play(
    hello=hello,
    stream=lambda: [piece for piece in pieces(QUESTION) if piece],
    tools=tools,
    wait_streaming=lambda: "".join(pieces(SLOW)),
    cut=hello,
    twice=lambda: [hello(), hello()],
)
