"""smolagents: its model by itself, and an agent that calls tools."""

from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play
from smolagents import ChatMessage, OpenAIModel, ToolCallingAgent, tool

model = OpenAIModel(MODEL, client_kwargs={"timeout": PATIENCE_S})


@tool
def plus(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the one
        b: the other
    """
    return add(a, b)


plus.name = "add"


def user(text):
    return [ChatMessage(role="user", content=[{"type": "text", "text": text}])]


def hello():
    return model.generate(user(QUESTION)).content


def pieces(text):
    return [delta.content for delta in model.generate_stream(user(text)) if delta.content]


play(
    hello=hello,
    stream=lambda: pieces(QUESTION),
    tools=lambda: str(ToolCallingAgent([plus], model).run(SUM)),
    wait_streaming=lambda: "".join(pieces(SLOW)),
    cut=hello,
    twice=lambda: [hello(), hello()],
)
