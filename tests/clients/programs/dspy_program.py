"""DSPy: its model by itself, and ReAct with a tool."""

import dspy
from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play

model = dspy.LM(f"openai/{MODEL}", cache=False, timeout=PATIENCE_S)
dspy.configure(lm=model)


def ask(text):
    (answer,) = model(text)
    return answer if isinstance(answer, str) else answer["text"]


async def pieces(text):
    program = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[dspy.streaming.StreamListener("answer")])
    return [piece.chunk async for piece in program(question=text) if isinstance(piece, dspy.streaming.StreamResponse)]


async def wait_streaming():
    return "".join(await pieces(SLOW))


play(
    hello=lambda: ask(QUESTION),
    stream=lambda: pieces(QUESTION),
    tools=lambda: dspy.ReAct("question -> answer", tools=[add])(question=SUM).answer,
    wait_streaming=wait_streaming,
    cut=lambda: ask(QUESTION),
    twice=lambda: [ask(QUESTION), ask(QUESTION)],
)
