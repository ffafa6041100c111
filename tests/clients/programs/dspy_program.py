"""DSPy: its model by itself, and ReAct with a tool."""

import dspy
from harness import MODEL, PATIENCE_S, QUESTION, SLOW, SUM, add, play

model = dspy.LM(f"openai/{MODEL}", cache=False, timeout=PATIENCE_S)
dspy.configure(lm=model)


def ask(text):
    (answer,) = model(text)
    return answer if isinstance(answer, str) else answer["text"]


def ids():
    for _ in range(5):
        ask(QUESTION)
    return [entry["response"].id for entry in model.history]


play(
    hello=lambda: ask(QUESTION), tools=lambda: dspy.ReAct("question -> answer", tools=[add])(question=SUM).answer,
    wait=lambda: ask(SLOW), cut=lambda: ask(QUESTION), twice=lambda: [ask(QUESTION), ask(QUESTION)], ids=ids,
)  # fmt: skip
